"""Figures of a corpus: balance over categories, tool mix, lengths, diversity. Each returns a matplotlib Figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .corpus_stats import thoughts, tools_of
from .protocol import TOOL_NAMES
from .quality import rough_tokens
from .trace_picture import Picture

Record = dict[str, Any]
NORMAL, ANOMALOUS = "#4c78a8", "#e45756"
MOST_BARS = 50  # categories that can still be read as bars


def corpus_figures(records: Sequence[Record]) -> Figure:
    """Four panels: categories by label, tools by label, length of each thinking, types of anomaly.

    Raises:
        ValueError: No records.
    """
    if not records:
        raise ValueError("corpus_figures: there are no records to draw")
    figure = Picture(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    _categories(axes[0, 0], records)
    _tools(axes[0, 1], records)
    _lengths(axes[1, 0], records)
    _types(axes[1, 1], records)
    normal = sum(not r["label"] for r in records)
    figure.suptitle(f"Indus-CoT: {len(records)} trajectories, {normal / len(records):.0%} normal")
    return figure


def _stacked(axis: Axes, names: Sequence[str], normal: Sequence[float], anomalous: Sequence[float]) -> None:
    axis.barh(names, normal, color=NORMAL, label="normal")
    axis.barh(names, anomalous, left=normal, color=ANOMALOUS, label="anomalous")
    axis.invert_yaxis()
    axis.legend(frameon=False)


def _categories(axis: Axes, records: Sequence[Record]) -> None:
    counts = Counter((r["category"], r["label"]) for r in records)
    names = sorted({r["category"] for r in records})
    if len(names) > MOST_BARS:
        return _pairs(axis, [(counts[n, False], counts[n, True]) for n in names])
    _stacked(axis, names, [counts[n, False] for n in names], [counts[n, True] for n in names])
    axis.set(title="Balance: both labels of every category", xlabel="trajectories")
    axis.tick_params(axis="y", labelsize=7 if len(names) > 15 else 9)
    return None


def _pairs(axis: Axes, pairs: Sequence[tuple[int, int]]) -> None:
    """(normal, anomalous) of each category as discs, as large as there are categories of that pair."""
    at = Counter(pairs)
    x, y = zip(*at, strict=True)
    axis.axline((0, 0), slope=1, color="grey", lw=0.8)
    axis.scatter(x, y, s=[12 * n for n in at.values()], color=NORMAL, alpha=0.6)
    axis.set(title=f"Balance: both labels of {len(pairs)} categories (area: how many)",
             xlabel="normal trajectories", ylabel="anomalous", aspect="equal")  # fmt: skip


def _tools(axis: Axes, records: Sequence[Record]) -> None:
    """Side by side, so that a difference between the labels (a leak) would be seen."""
    names, width = (*TOOL_NAMES, "none"), 0.4
    for label, colour, shift in ((False, NORMAL, -width / 2), (True, ANOMALOUS, width / 2)):
        used = [tools_of(r) or ("none",) for r in records if r["label"] == label]
        shares = [100 * sum(n in u for u in used) / max(len(used), 1) for n in names]
        axis.bar(np.arange(len(names)) + shift, shares, width, color=colour, label="anomalous" if label else "normal")
    axis.set_xticks(range(len(names)), names)
    axis.set(title="Tool mix: the same for both labels", ylabel="% of trajectories")
    axis.legend(frameon=False)


def _lengths(axis: Axes, records: Sequence[Record]) -> None:
    spoken = [thoughts(r) for r in records]
    for turn, name in ((0, "first thinking"), (1, "after the observation")):
        lengths = [rough_tokens(t[turn]) for t in spoken if len(t) > turn]
        if lengths:
            axis.hist(
                lengths,
                bins=np.arange(min(lengths), max(lengths) + 2) - 0.5,
                alpha=0.65,
                label=f"{name}, median {np.median(lengths):.0f}",
            )
    axis.set(title="Length of the thinking", xlabel="tokens (as the tiny tokenizer splits)", ylabel="turns")
    axis.legend(frameon=False)


def _types(axis: Axes, records: Sequence[Record]) -> None:
    counts = Counter(r["node"] or "unknown" for r in records if r["label"]).most_common(20)
    axis.barh([n for n, _ in counts], [c for _, c in counts], color=ANOMALOUS)
    axis.invert_yaxis()
    axis.set(title="Types of anomaly", xlabel="trajectories")
    axis.tick_params(axis="y", labelsize=8)
