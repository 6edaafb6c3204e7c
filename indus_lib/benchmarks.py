"""Tables 1-9 from runs: `{run name: {data set: episodes}}` in, `Table` out, the paper's numbers beside ours.

Which run answers which row of the paper stands in `data/paper.json` (`run`). Runs the paper has no row for (always-yes,
random, another model) are appended to Tables 1, 2 and 6; our own ablations have the table `own_ablations`. The average
needs all five data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from . import metrics, paper, report
from .episodes import Episode
from .metrics import Outcomes
from .tables import Row, Table, percent, rounded

Runs = Mapping[str, Mapping[str, Sequence[Episode]]]
Board = dict[str, dict[str, Outcomes]]
OWN_ABLATIONS = {  # run -> row; ours, not in paper
    "full": "full (gated reward)",
    "additive": "additive reward instead of the gate",
    "soft_gate": "soft gate",
    "no_delta": "calls only cost, no delta_conf bonus",
    "sft": "SFT only, whole corpus",
    "sft_50": "SFT only, half of the corpus",
    "sft_25": "SFT only, a quarter of the corpus",
    "sft_no_tools": "SFT only, verdicts at first sight",
    **{f"no_{tool}_at_inference": f"full without {tool} at inference" for tool in report.TOOL_NAMES},
}
OPEN_TABLES = ("table1_balanced_accuracy", "table2_recall", "table6_f1")


def board(runs: Runs) -> Board:
    """Outcomes per run and column heading, columns in the paper's order, then others by name."""
    found: Board = {}
    for run, sets in runs.items():
        order = sorted(sets, key=lambda d: (paper.DATASETS.index(d) if d in paper.DATASETS else 99, d))
        found[run] = {paper.column_of(name): metrics.outcomes(sets[name]) for name in order}
    return found


def common(boards: Board) -> Board:
    """Every run cut down to the samples that all runs with that data set share (ablations may take a subset)."""
    shared: dict[str, set[str]] = {}
    for sets in boards.values():
        for column, data in sets.items():
            shared[column] = shared.get(column, set(data.ids)) & set(data.ids)
    kept = {run: {c: np.isin(d.ids, sorted(shared[c])) for c, d in sets.items()} for run, sets in boards.items()}
    return {run: {c: metrics.select(d, kept[run][c]) for c, d in sets.items()} for run, sets in boards.items()}


def columns_of(boards: Board) -> list[str]:
    """All columns that any run has, the paper's first."""
    seen = {column for sets in boards.values() for column in sets}
    return [c for c in paper.COLUMNS if c in seen] + sorted(seen - set(paper.COLUMNS))


def has_average(sets: Mapping[str, Outcomes]) -> bool:
    """The macro-average needs all five data sets."""
    return set(paper.COLUMNS) <= set(sets)


def cell(row: str, column: str, data: Outcomes, metric: str, reported: float | None = None) -> Row:
    """One measured cell, in percent with one decimal."""
    bounds = metrics.interval(data, metric)
    return Row(
        row=row,
        column=column,
        value=percent(metrics.value(data, metric)),
        ci=bounds and _percents(bounds),
        n_normal=data.n_normal,
        n_anomalous=data.n_anomalous,
        n_unparsed=data.n_unparsed,
        seeds=len(data.seeds),
        reported=reported,
    )


def _percents(bounds: tuple[float, float]) -> tuple[float, float]:
    return percent(bounds[0]), percent(bounds[1])


def average_cell(row: str, sets: Mapping[str, Outcomes], metric: str, reported: float | None = None) -> Row:
    """Macro-average over the five data sets; its interval averages the bootstrap draws of the sets."""
    five = [sets[column] for column in paper.COLUMNS]
    values = [metrics.value(data, metric) for data in five]
    spreads = [metrics.draws(data, metric) for data in five]
    sizes = [(d.n_normal, d.n_anomalous) for d in five]
    mean = None if None in values else float(np.mean(values))
    bounds = None if mean is None else metrics.average_interval(spreads, sizes, mean)
    return Row(
        row=row,
        column=paper.AVERAGE,
        value=percent(mean),
        ci=bounds and _percents(bounds),
        n_normal=sum(normal for normal, _ in sizes),
        n_anomalous=sum(anomalous for _, anomalous in sizes),
        n_unparsed=sum(d.n_unparsed for d in five),
        seeds=min(len(d.seeds) for d in five),
        reported=reported,
        note=_each_seed(five, metric),
    )


def _each_seed(five: Sequence[Outcomes], metric: str) -> str:
    """The average under each of several seeds, since two or three tell less of others than an interval seems to."""
    per_seed = [metrics.METRICS[metric](metrics.rates(data)) for data in five]
    if len({len(values) for values in per_seed}) > 1 or len(per_seed[0]) < 2:
        return ""
    return "by seed " + ", ".join(f"{percent(float(v)):.1f}" for v in np.mean(per_seed, axis=0))


def _run_rows(name: str, sets: Mapping[str, Outcomes], metric: str, printed: Mapping[str, float]) -> list[Row]:
    rows = [cell(name, column, data, metric, printed.get(column)) for column, data in sets.items()]
    absent = [c for c in printed if c not in sets and c != paper.AVERAGE]
    rows += [Row(name, column, reported=printed[column]) for column in absent]
    if has_average(sets):
        rows.append(average_cell(name, sets, metric, printed.get(paper.AVERAGE)))
    elif paper.AVERAGE in printed:
        rows.append(Row(name, paper.AVERAGE, reported=printed[paper.AVERAGE]))
    return rows


def accuracy_table(table_id: str, boards: Board, profile: str, config_hash: str) -> Table:
    """Any of Tables 1-6, 8, 9. A row we did not run keeps its reported numbers and an empty value."""
    source = paper.table(table_id)
    if table_id not in OPEN_TABLES:  # an ablation compares rows: the same images in each
        boards = common({run: sets for run, sets in boards.items() if run in paper.runs(table_id)})
    metric, rows, done = source["metric"], [], set()
    for entry in source["rows"]:
        run = entry.get("run", "")
        rows += _run_rows(entry["row"], boards.get(run, {}), metric, entry["values"])
        done.add(run)
    if table_id in OPEN_TABLES:
        ablations = (all_paper_runs() | set(OWN_ABLATIONS)) - {"base", "full", "sft"}
        wanted = {run for run in boards if run not in ablations}
        rows += [r for run in boards if run in wanted - done for r in _run_rows(run, boards[run], metric, {})]
    columns = [*columns_of(boards), *(c for c in source["columns"] if c not in columns_of(boards))]
    order = [*(c for c in columns if c != paper.AVERAGE), paper.AVERAGE]
    rows.sort(key=partial(_place, list(dict.fromkeys(r.row for r in rows)), order))
    return Table(table_id, source["title"], profile, config_hash, tuple(rows), _notes(source, boards))


def _place(names: list[str], order: list[str], row: Row) -> tuple[int, int]:
    return names.index(row.row), order.index(row.column)


def all_paper_runs() -> set[str]:
    """Every run name that some table of the paper asks for."""
    return {run for table_id in paper.tables() for run in paper.runs(table_id)}


def _notes(source: Mapping, boards: Board) -> tuple[str, ...]:
    notes = [f"Metric: {source['metric'].replace('_', ' ')}, percent. Reported: the paper's {source['section']}."]
    ours = [f"{e['row']} = run `{e['run']}`" for e in source["rows"] if e.get("run") in boards]
    if ours:
        notes.append(f"Our column is this profile's own run, not the paper's model: {'; '.join(dict.fromkeys(ours))}.")
    later = [entry["row"] for entry in source["rows"] if "source" in entry]
    if later:
        notes.append(f"Published by others, not in the paper's table: {', '.join(later)}.")
    missing = [r for r in dict.fromkeys(e.get("run") for e in source["rows"]) if r and r not in boards]
    if missing:
        notes.append(f"Not run here: {', '.join(missing)}.")
    return tuple(notes)


def usage_table(runs: Runs, profile: str, config_hash: str, run: str = "full") -> Table:
    """Table 7: share of images per tool, calls per image, success, of one run."""
    source = paper.table("table7_tool_usage")
    measured = {paper.column_of(d): episodes for d, episodes in runs.get(run, {}).items()}
    rows = []
    for entry in source["rows"]:
        for column in [c for c in paper.COLUMNS if c in measured or c in entry["values"]]:
            found = entry["values"].get(column)
            known = column in measured
            rows.append(
                _usage_row(entry, column, measured[column], found)
                if known
                else Row(entry["row"], column, reported=found)
            )
    return Table("table7_tool_usage", source["title"], profile, config_hash, tuple(rows), _notes(source, dict(runs)))


def _usage_row(entry: Mapping, column: str, episodes: Sequence[Episode], reported: float | None) -> Row:
    used, data = report.usage(episodes), metrics.outcomes(episodes)
    images, what = len(data.ids), entry["measure"]
    bounds = None
    if what in used.share:
        shown = percent(used.share[what])
        bounds = metrics.wilson(round(used.share[what] * images), images)
    elif what == "success":
        shown = percent(used.success)
        calls = used.calls // len(data.seeds)  # seeds see the same images
        bounds = calls and metrics.wilson(round(used.success * calls), calls)
    else:
        shown = rounded(used.calls_per_image, 2)
    return Row(
        entry["row"],
        column,
        shown,
        _percents(bounds) if bounds else None,
        data.n_normal,
        data.n_anomalous,
        data.n_unparsed,
        len(data.seeds),
        reported,
    )


def own_ablation_table(runs: Runs, profile: str, config_hash: str) -> Table:
    """Our own ablations, on the images that all of them saw: balanced accuracy, and calls per image beside it."""
    chosen = {run: runs[run] for run in OWN_ABLATIONS if run in runs}
    boards = common(board(chosen))
    rows: list[Row] = []
    for run, sets in boards.items():
        rows += _run_rows(OWN_ABLATIONS[run], sets, "balanced_accuracy", {})
        kept = {i for data in sets.values() for i in data.ids}
        every = [e for episodes in chosen[run].values() for e in episodes if f"{e.dataset}:{e.sample_id}" in kept]
        data = metrics.outcomes(every)
        calls = rounded(report.usage(every).calls_per_image, 2)
        counts = (data.n_normal, data.n_anomalous, data.n_unparsed, len(data.seeds))
        rows.append(Row(OWN_ABLATIONS[run], "calls per image", calls, None, *counts))
    notes = ("Ours, not in the paper. Balanced accuracy in percent; calls per image over all data sets.",)
    return Table("own_ablations", "Gate, bonus and corpus size", profile, config_hash, tuple(rows), notes)


def build(runs: Runs, profile: str, config_hash: str, only: Sequence[str] = ()) -> dict[str, Table]:
    """Tables 1-9 by id. `only` limits to some ids. Raises KeyError for an unknown id."""
    wanted = list(only or paper.tables())
    boards = board(runs)
    found = {}
    for table_id in wanted:
        paper.table(table_id)
        if table_id == "table7_tool_usage":
            found[table_id] = usage_table(runs, profile, config_hash)
        else:
            found[table_id] = accuracy_table(table_id, boards, profile, config_hash)
    return found
