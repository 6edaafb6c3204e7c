"""Tables the paper lacks: paired differences, other metrics, mechanisms, localisation, and the timings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from . import benchmarks, localisation, metrics, paper, report
from .benchmarks import Board, Runs
from .episodes import Episode
from .metrics import Outcomes
from .paired import Difference, p_value, paired_difference
from .samples import Sample
from .tables import Row, Table, percent, percents, rounded
from .tools import TOOLS
from .variants import VARIANTS

P_VALUE = (
    "p: McNemar's exact test of right answers, whatever their class (with several seeds a permutation test of each "
    "image's mean). It asks for more than the interval where one run says nearly always the same: what it gains on one "
    "class it loses on the other."
)
MECHANISM_TOOL = {"small": "crop", "faint": "enhance", "geometric": "measure", "prior": "prior"}
TITLES = {"balanced_accuracy": "balanced accuracy", "f1": "F1", "recall": "recall"}


def difference_name(better: str, worse: str, metric: str) -> str:
    """Row heading of a difference."""
    return f"{better} - {worse} ({TITLES.get(metric, metric)})"


def wanted_differences() -> list[tuple[str, str, str]]:
    """(better, worse, table id) of every difference the claims are about, each once."""
    pairs = [(c["better"], c["worse"], c["table"]) for c in paper.load()["claims"] if "better" in c]
    pairs += [("full", run, "table3_modules") for run in benchmarks.OWN_ABLATIONS if run != "full"]
    pairs += [("sft", run, "table3_modules") for run, variant in VARIANTS.items() if variant.share < 1]
    pairs.append(("no_tools", "sft_no_tools", "table3_modules"))  # what RL makes of an agent taught without tools
    first: dict[tuple[str, str, str], tuple[str, str, str]] = {}
    for better, worse, table_id in pairs:
        first.setdefault((better, worse, paper.table(table_id)["metric"]), (better, worse, table_id))
    return list(first.values())


def difference_table(runs: Runs, profile: str, config_hash: str) -> Table:
    """Paired differences in points, on common samples, with the paper's difference and McNemar's p beside them."""
    boards = benchmarks.board(runs)
    rows: list[Row] = []
    for better, worse, table_id in wanted_differences():
        if better in boards and worse in boards:
            rows += _difference_rows(better, worse, table_id, boards)
    notes = (
        "Points of percent; the same images under both runs, paired bootstrap over images and seeds.",
        P_VALUE,
    )
    return Table("differences", "Paired differences between runs", profile, config_hash, tuple(rows), notes)


def _difference_rows(better: str, worse: str, table_id: str, boards: Board) -> list[Row]:
    metric = paper.table(table_id)["metric"]
    pair = benchmarks.common({better: boards[better], worse: boards[worse]})
    shared = [c for c in benchmarks.columns_of(boards) if c in pair[better] and c in pair[worse]]
    shared = [c for c in shared if pair[better][c].n_normal and pair[better][c].n_anomalous]  # else it has none
    found = {c: paired_difference(pair[better][c], pair[worse][c], metric) for c in shared}
    name = difference_name(better, worse, metric)
    rows = [_difference_row(name, metric, c, found[c], pair[better][c], pair[worse][c]) for c in shared]
    rows = [_with_reported(row, better, worse, table_id) for row in rows]
    if set(paper.COLUMNS) <= set(shared):
        rows.append(_with_reported(_average_difference(name, rows, found), better, worse, table_id))
    return rows


def _average_difference(name: str, rows: Sequence[Row], found: Mapping[str, Difference]) -> Row:
    """Macro-average over the five data sets, draws averaged."""
    five = [row for row in rows if row.column in paper.COLUMNS]
    mean = float(np.mean([found[c].value for c in paper.COLUMNS]))
    spreads = [found[c].draws for c in paper.COLUMNS]
    bounds = metrics.average_interval(spreads, [(row.n_normal, row.n_anomalous) for row in five], mean, -1.0)
    return Row(
        row=name,
        column=paper.AVERAGE,
        value=percent(mean),
        ci=percents(bounds),
        n_normal=sum(row.n_normal for row in five),
        n_anomalous=sum(row.n_anomalous for row in five),
        n_unparsed=sum(row.n_unparsed for row in five),
        seeds=min(row.seeds for row in five),
    )


def _difference_row(name: str, metric: str, column: str, found: Difference, a: Outcomes, b: Outcomes) -> Row:
    note = f"p={p_value(a, b):.3g}" if metric == "balanced_accuracy" else ""  # the test is on right answers
    return Row(
        name, column, percent(found.value), percents(found.ci), a.n_normal, a.n_anomalous,
        a.n_unparsed + b.n_unparsed, min(len(a.seeds), len(b.seeds)), note=note,
    )  # fmt: skip


def _with_reported(row: Row, better: str, worse: str, table_id: str) -> Row:
    """The paper's difference: both numbers from the same table, else the better one from Table 1."""
    fallback = "table1_balanced_accuracy" if paper.table(table_id)["metric"] == "balanced_accuracy" else table_id
    entries = [paper.row_of_run(table_id, run) or paper.row_of_run(fallback, run) for run in (better, worse)]
    numbers = [entry["values"].get(row.column) if entry else None for entry in entries]
    return row if None in numbers else replace(row, reported=rounded(numbers[0] - numbers[1]))


def metrics_table(runs: Runs, profile: str, config_hash: str) -> Table:
    """Pooled balanced accuracy beside the variants other papers print, with Wilson intervals of the two rates."""
    rows: list[Row] = []
    for run, sets in runs.items():
        for dataset, episodes in sets.items():
            rows += _metric_rows(f"{run}, {paper.column_of(dataset)}", episodes)
    notes = (
        "Recall and specificity of one seed: Wilson intervals; category mean: Student's t over categories; others: "
        "bootstrap. AUROC, AP: of the margin, missing = worst.",
    )
    return Table("metrics", "Other metrics per run and data set", profile, config_hash, tuple(rows), notes)


def _metric_rows(name: str, episodes: Sequence[Episode]) -> list[Row]:
    data, ranked = metrics.outcomes(episodes), report.ranking(episodes)
    rows = [benchmarks.cell(name, c, data, m) for m, c in (("balanced_accuracy", "BA"), ("f1", "F1"))]
    rows.append(_over_products(replace(rows[0], column="BA, category mean"), data))
    plain = {
        "accuracy": metrics.value(data, "accuracy"),
        "AUROC": ranked.auroc,
        "AP": ranked.ap,
    }
    rows += [replace(rows[0], column=c, value=percent(v), ci=None) for c, v in plain.items()]
    for metric, n in (("recall", data.n_anomalous), ("specificity", data.n_normal)):
        rate, several = metrics.value(data, metric), len(data.seeds) > 1
        bounds = metrics.interval(data, metric) if rate is None or several else metrics.wilson(round(rate * n), n)
        rows.append(replace(rows[0], column=metric, value=percent(rate), ci=percents(bounds)))
    return rows


def _over_products(row: Row, data: Outcomes) -> Row:
    """The same row with the mean over products and the interval that other products leave open."""
    mean, bounds, n = metrics.category_mean(data)
    return replace(row, value=percent(mean), ci=percents(bounds), note=f"{n} products")


def mechanism_table(runs: Runs, mechanisms: Mapping[str, str], profile: str, config_hash: str) -> Table:
    """Balanced accuracy by defect mechanism over all data sets, so that a tool's absence shows where it should.

    Args:
        runs: As everywhere.
        mechanisms: `<dataset>:<sample id>` -> mechanism; anomalous samples of a mechanism are set against the normal
            samples of that mechanism, or against all normal samples when none carries it.
    """
    names = sorted(set(mechanisms.values()) - {""})
    rows = []
    for run, sets in runs.items():
        every = [e for episodes in sets.values() for e in episodes]
        for name in names:
            part = mechanism_episodes(every, mechanisms, name)
            if any(e.label for e in part) and any(not e.label for e in part):
                data = metrics.outcomes(part)
                rows.append(benchmarks.cell(run, name, data, "balanced_accuracy"))
                rows.append(_over_products(replace(rows[-1], column=f"{name}, products"), data))
    notes = (
        "Mechanism: " + "".join(f"{name} -> {tool}, " for name, tool in MECHANISM_TOOL.items()) + "plain -> none.",
        "Intervals are over images of these products; `products`: the mean over products, and its interval over them.",
    )
    return Table("mechanisms", "Balanced accuracy by mechanism", profile, config_hash, tuple(rows), notes)


def mechanism_difference_table(runs: Runs, mechanisms: Mapping[str, str], profile: str, config_hash: str) -> Table:
    """What each missing tool costs on each mechanism: full minus run, paired, on common images over all data sets."""
    rows: list[Row] = []
    full = [e for episodes in runs.get("full", {}).values() for e in episodes]
    fewer = [name for name in runs if VARIANTS[name].tools != TOOLS and VARIANTS[name].mode == "agent"]
    for run in fewer if full else ():
        other = [e for episodes in runs[run].values() for e in episodes]
        for name in sorted(set(mechanisms.values()) - {""}):
            rows += _mechanism_difference(run, name, full, other, mechanisms)
    notes = ("Points of balanced accuracy lost without the tool; paired bootstrap on the same images.", P_VALUE)
    return Table("mechanism_losses", "What a missing tool costs", profile, config_hash, tuple(rows), notes)


def _mechanism_difference(
    run: str, name: str, full: Sequence[Episode], other: Sequence[Episode], mechanisms: Mapping[str, str]
) -> list[Row]:
    shared = {(e.dataset, e.sample_id) for e in full} & {(e.dataset, e.sample_id) for e in other}
    parts = [
        mechanism_episodes([e for e in every if (e.dataset, e.sample_id) in shared], mechanisms, name)
        for every in (full, other)
    ]
    if len({bool(e.label) for e in parts[0]}) < 2:
        return []
    a, b = (metrics.outcomes(part) for part in parts)
    return [_difference_row(f"full - {run}", "balanced_accuracy", name, paired_difference(a, b), a, b)]


def read_mechanisms(root: Path | str, samples: Mapping[str, Sequence[Sample]]) -> dict[str, str]:
    """`<dataset>:<sample id>` -> mechanism, from the stand-ins' sidecars; empty for real data sets, which have none.

    Args:
        root: Folder that holds one folder per data set.
        samples: Samples by data set.
    """
    found: dict[str, str] = {}
    for dataset, known in samples.items():
        base = Path(root) / dataset
        path = base / "mechanisms.json"
        if path.is_file():
            names = json.loads(path.read_text(encoding="utf-8"))
            keys = {s.id: s.image.resolve().relative_to(base.resolve()).as_posix() for s in known}
            found |= {f"{dataset}:{i}": names[key] for i, key in keys.items() if names.get(key)}
    return found


def mechanism_episodes(episodes: Sequence[Episode], mechanisms: Mapping[str, str], name: str) -> list[Episode]:
    """Episodes that count for a mechanism (see `mechanism_table`)."""
    own = [e for e in episodes if mechanisms.get(f"{e.dataset}:{e.sample_id}") == name]
    if any(not e.label for e in own):
        return own
    return [e for e in own if e.label] + [e for e in episodes if not e.label]


def localisation_table(runs: Runs, samples: Mapping[str, Sequence[Sample]], profile: str, config_hash: str) -> Table:
    """IoU, pointing, type and pixel metrics of true positives; `samples` by data set."""
    rows: list[Row] = []
    for run, sets in runs.items():
        for dataset, episodes in sets.items():
            known = {s.id: s for s in samples.get(dataset, ())}
            if known and any(e.verdict and e.verdict.box for e in episodes):
                rows += _localisation_rows(f"{run}, {paper.column_of(dataset)}", episodes, known)
    notes = (
        "Of true positives whose box or type is known, which are the N; a Yes without box or type scores 0.",
        "Pixel metrics: the box as a map over all images.",
    )
    return Table("localisation", "Where and what", profile, config_hash, tuple(rows), notes)


def _localisation_rows(name: str, episodes: Sequence[Episode], samples: Mapping[str, Sample]) -> list[Row]:
    found, data = localisation.localisation(episodes, samples), metrics.outcomes(episodes)
    auroc, pro = localisation.pixel_scores(episodes, samples)
    values = {
        "IoU": found.iou,
        "names no box": found.missing / found.n if found.n else None,
        "pointing": found.pointing,
        "type exact": found.exact,
        "type same family": found.parent,
        "pixel AUROC": auroc,
        "AUPRO": pro,
    }
    rows = []
    for column, value in values.items():
        typed, pixels = column.startswith("type"), column in ("pixel AUROC", "AUPRO")
        if typed and not any(e.verdict and e.verdict.type for e in episodes):
            continue  # a detector that names none
        n = (found.n_typed if typed else found.n) // len(data.seeds)  # seeds see the same images
        bounds = None if pixels or not n or value is None else metrics.wilson(round(value * n), n)
        bounds = found.iou_interval if column == "IoU" else bounds
        behind = (data.n_normal, data.n_anomalous, data.n_unparsed) if pixels else (0, n, 0)
        rows.append(Row(name, column, percent(value), percents(bounds), *behind, len(data.seeds)))
    return rows


def timings_table(runs: Runs, profile: str, config_hash: str) -> Table:
    """Seconds, tokens and tool time per image. The one table that differs from run to run."""
    rows = []
    for run, sets in runs.items():
        for dataset, episodes in sets.items():
            data, spent = metrics.outcomes(episodes), report.cost(episodes)
            counts = (data.n_normal, data.n_anomalous, data.n_unparsed, len(data.seeds))
            name = f"{run}, {paper.column_of(dataset)}"
            values = {
                "seconds": rounded(spent.seconds, 4),
                "prompt tokens": rounded(spent.prompt_tokens),
                "completion tokens": rounded(spent.completion_tokens),
                "tool ms": rounded(spent.tool_ms, 2),
            }
            rows += [Row(name, column, value, None, *counts) for column, value in values.items()]
    return Table("timings", "Cost per image", profile, config_hash, tuple(rows), ("Means per image; wall clock.",))
