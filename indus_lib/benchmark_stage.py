"""All tables and figures of a benchmark run in one call: what the benchmark notebook shows and the reference keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import (
    audit_claims,
    audit_consistency,
    benchmarks,
    calibration,
    cards,
    comparisons,
    figures,
    figures_cases,
    figures_pipeline,
    paper,
)
from .benchmarks import Runs
from .episodes import Episode
from .profiles import Profile
from .samples import Sample
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("base", "sft", "full")
ABLATIONS = ("table3_modules", "table4_rewards", "table5_weights", "table8_tools", "table9_group_size")


def card_notes(samples: Mapping[str, Sequence[Sample]], standins: bool) -> tuple[str, ...]:
    """One line per data set: the protocol card's hash, and whether the set is whole, a variant or partial.

    Args:
        samples: Samples that were inspected, by data set.
        standins: Against the procedural stand-ins' counts instead of the official ones.
    """
    lines = []
    for dataset, found in samples.items():
        card = cards.load_card(dataset, standins)
        counted = cards.check_counts(card, found)
        lines.append(f"{paper.column_of(dataset)}: card {card.hash()}, {counted.label}")
    return ("Data: " + "; ".join(lines) + ".",) if lines else ()


def all_tables(
    runs: Runs,
    samples: Mapping[str, Sequence[Sample]],
    profile: Profile,
    *,
    mechanisms: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Table]:
    """Tables 1-9, differences, other metrics, mechanisms, localisation, calibration, own ablations, claims,
    consistency and timings, by id.

    Args:
        runs: `{run: {data set: episodes}}`, run names as in `data/paper.json`.
        samples: What was inspected, by data set (boxes and masks for localisation).
        profile: Of the runs.
        mechanisms: As `comparisons.read_mechanisms` gives them, None or empty where there are none.
        notes: Put under every measured table, usually `card_notes`.
    """
    key = (profile.name, profile.hash)
    shown = {run: runs[run] for run in runs if run in SHOWN or run not in _ablations()}
    made = [
        *benchmarks.build(runs, *key).values(),
        comparisons.difference_table(runs, *key),
        comparisons.metrics_table(shown, *key),
        comparisons.localisation_table(shown, samples, *key),
        calibration.table(shown, *key),
        benchmarks.own_ablation_table(runs, *key),
        comparisons.timings_table(runs, *key),
    ]
    if mechanisms:
        made.append(comparisons.mechanism_table(runs, mechanisms, *key))
        made.append(comparisons.mechanism_difference_table(runs, mechanisms, *key))
    found = {table.id: replace(table, notes=(*table.notes, *notes)) for table in made if table.rows}
    return found | {
        "claims": audit_claims.audit(found, *key),
        "consistency": audit_consistency.table(*key),
    }


def _ablations() -> set[str]:
    return (benchmarks.all_paper_runs() | set(benchmarks.OWN_ABLATIONS)) - set(SHOWN)


def all_figures(
    runs: Runs, tables: Mapping[str, Table], samples: Mapping[str, Sequence[Sample]], profile: Profile
) -> dict[str, Figure]:
    """Figures by file stem. A figure whose runs are missing is left out."""
    main = paper.row_of_run("table1_balanced_accuracy", "full")["row"]
    base = paper.row_of_run("table1_balanced_accuracy", "base")["row"]
    labels = {main: "full agent (ours)", base: "untrained base (ours)", "sft": "SFT only (ours)"}
    found = {
        "pipeline": figures_pipeline.overview(profile),
        "radar": figures.radar(
            tables["table1_balanced_accuracy"], [base, "sft", main], reported=[base, main], labels=labels
        ),
        "tool_usage": figures.usage_bars(tables["table7_tool_usage"]),
    }
    found |= {name: figures.ablation_bars(tables[name]) for name in ABLATIONS if _measured(tables.get(name))}
    pooled = {run: [e for episodes in runs[run].values() for e in episodes] for run in SHOWN if run in runs}
    if pooled:
        found["operating_curve"] = figures.operating_curves(pooled, profile.name)
        found["reliability"] = figures.reliability_diagram(pooled, profile.name)
    if "base" in pooled and "full" in pooled:
        found["cases"] = cases(pooled["base"], pooled["full"], samples)
    return found


def cases(base: Sequence[Episode], agent: Sequence[Episode], samples: Mapping[str, Sequence[Sample]]) -> Figure:
    """Case studies of one seed: rescued and broken in turn."""
    seed = min(e.seed for e in agent)
    pairs = figures_cases.choose(base, [e for e in agent if e.seed == seed])
    return figures_cases.case_studies(pairs, {(s.dataset, s.id): s for found in samples.values() for s in found})


def _measured(table: Table | None) -> bool:
    return table is not None and any(row.value is not None for row in table.rows)


def write(tables: Mapping[str, Table], drawn: Mapping[str, Figure], folder: Path | str) -> list[Path]:
    """`<folder>/tables/<id>.json|csv` and `<folder>/figures/<name>.png`; returns what was written."""
    folder = Path(folder)
    written = [table.write(folder / "tables") for table in tables.values()]
    return written + [figures.save(figure, folder / "figures" / f"{name}.png") for name, figure in drawn.items()]
