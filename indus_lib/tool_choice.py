"""Does the agent ask for the tool that an image calls for, and what is it worth where it does?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from . import comparisons, metrics
from .benchmarks import Runs
from .metrics import Outcomes
from .tables import Row, Table, percent, percents

FITTING = {"small": ("crop",), "faint": ("enhance",), "geometric": ("measure",), "prior": ("prior", "crop")}


def table(runs: Runs, mechanisms: Mapping[str, str], profile: str, config_hash: str) -> Table:
    """How often the full agent asks for the tool that an image's mechanism calls for, and how right it is where it does
    and where it does not (balanced accuracy, percent). `mechanisms`: as for `comparisons.mechanism_table`."""
    every = [e for episodes in runs.get("full", {}).values() for e in episodes]
    rows: list[Row] = []
    for name, tools in FITTING.items():
        part = comparisons.mechanism_episodes(every, mechanisms, name)
        if len({bool(e.label) for e in part}) < 2:
            continue
        data = metrics.outcomes(part)
        asks = {
            (e.seed, f"{e.dataset}:{e.sample_id}"): set(tools) <= {call.name for call in e.calls} for e in part
        }  # every seed's agent asks on images of its own
        asked = np.array([[asks[seed, i] for i in data.ids] for seed in data.seeds])
        row, share = f"{name}: {' and '.join(tools)}", float(asked.mean())
        bounds = metrics.wilson(round(share * len(data.ids)), len(data.ids))
        rows.append(_row(row, "asked for", data, np.ones_like(asked), (share, bounds)))
        for column, where in (("right with it", asked), ("right without it", ~asked)):
            found = balanced_where(data, where)
            if found[0] is not None:
                rows.append(_row(row, column, data, where, found))
    notes = (
        "Shares of the full agent's images, balanced accuracy with and without the fitting tool.",
        "Counts: images on which any seed did.",
    )
    return Table("tool_choice", "Does it ask for the fitting tool?", profile, config_hash, tuple(rows), notes)


def _row(
    row: str, column: str, data: Outcomes, where: np.ndarray, found: tuple[float | None, metrics.Interval | None]
) -> Row:
    value, bounds = found
    normal, anomalous = (int((where.any(axis=0) & (data.label == label)).sum()) for label in (False, True))
    unparsed = int((data.unparsed & where).sum())
    return Row(row, column, percent(value), percents(bounds), normal, anomalous, unparsed, len(data.seeds))


def balanced_where(data: Outcomes, where: np.ndarray) -> tuple[float | None, metrics.Interval | None]:
    """Balanced accuracy on the inspections where `where` (S, n) is True, mean over seeds, and its 95 % interval over
    images and seeds; None where a class is empty under a seed (of a resample, for the interval)."""

    def rates_of(weights: np.ndarray) -> np.ndarray:
        hits, totals = ((weights[:, None, :] * part) for part in (data.correct & where, where))
        sides = [hits[..., c].sum(axis=2) / totals[..., c].sum(axis=2) for c in (data.label, ~data.label)]
        return (sides[0] + sides[1]) / 2

    with np.errstate(invalid="ignore", divide="ignore"):
        found = float(rates_of(np.ones((1, len(data.label)), dtype=np.float32)).mean())
        drawn = (rates_of(metrics.sample_weights(data)) * metrics.seed_weights(len(data.seeds))).sum(axis=1)
    return (None, None) if np.isnan(found) else (found, metrics.percentile_interval(drawn))
