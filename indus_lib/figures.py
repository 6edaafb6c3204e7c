"""Figures of the benchmark: radar, tool usage, ablations, operating curve, reliability, robustness.

Each takes tables or episodes and returns a matplotlib `Figure` (made without pyplot: no window, no global state).
Colours are Okabe and Ito's; line style and marker repeat what the colour says. Reported numbers are hollow and dashed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import calibration, paper
from .episodes import Episode
from .tables import WARNINGS, Row, Table
from .trace_picture import Picture
from .trace_theme import OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = tuple(OKABE_ITO[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "grey"))
MARKERS = "osD^vP*"
STYLES = ("-", (0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (5, 1, 1, 1, 1, 1)), "-")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")


def new(width: float = 7.0, height: float = 4.2) -> Figure:
    """An empty white figure that lays itself out."""

    return Picture(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure: Figure, path: Path | str, dpi: int = 110) -> Path:
    """Write a PNG under a temporary name, then rename; no date or version inside, so equal figures are equal files."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=dpi, metadata={"Software": None})
    os.replace(part, path)
    return path


def caveat(figure: Figure, profile: str) -> None:
    """The profile's warning as a line under the figure."""
    if profile in WARNINGS:
        figure.supxlabel(WARNINGS[profile], fontsize=7.5, color="#555555")


def _plain(axis: Axes) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)


def radar(table: Table, rows: Sequence[str], *, reported: Sequence[str] = ()) -> Figure:
    """Balanced accuracy over the five data sets.

    Args:
        table: Table 1.
        rows: Rows whose measured value is drawn (solid, filled marker), named as `paper.ours` names it.
        reported: Rows whose reported number is drawn (dashed, hollow marker).

    Returns:
        The figure. A series with a missing value has a gap there; an empty one is left out.
    """
    figure = new(6.6, 5.6)
    axis = figure.add_subplot(projection="polar", theta_offset=np.pi / 2, theta_direction=-1)
    series = [(name, False, _along(table, name, "value")) for name in rows]
    series += [(name, True, _along(table, name, "reported")) for name in reported]
    angles = np.linspace(0, 2 * np.pi, len(paper.COLUMNS) + 1)
    drawn = [s for s in series if not np.isnan(s[2]).all()]
    colours = {name: i for i, name in enumerate(dict.fromkeys(name for name, _, _ in drawn))}  # a row keeps its colour
    for name, printed, values in drawn:
        ours = paper.ours(name, table.profile) if not np.isnan(_along(table, name, "reported")).all() else name
        label = f"{name} (reported)" if printed else ours
        _spoke(axis, angles, values, label, colours[name], printed)
    axis.plot(np.linspace(0, 2 * np.pi, 200), np.full(200, 50.0), color="#777777", linewidth=1, linestyle=":")
    axis.set(
        ylim=(_floor(v for _, _, s in drawn for v in s), 100), yticks=(50, 60, 70, 80, 90, 100), xticks=angles[:-1]
    )
    axis.set_xticklabels(paper.COLUMNS)
    axis.tick_params(axis="y", labelsize=7)
    axis.tick_params(axis="x", pad=10)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, fontsize=8, frameon=False)
    axis.set_title("Balanced accuracy (%), dotted = chance", fontsize=11)
    caveat(figure, table.profile)
    return figure


def _along(table: Table, row: str, field: str) -> np.ndarray:
    cells = [table.get(row, column) for column in paper.COLUMNS]
    return np.array([np.nan if c is None or getattr(c, field) is None else getattr(c, field) for c in cells], float)


def _spoke(axis: Axes, angles: np.ndarray, values: np.ndarray, label: str, i: int, printed: bool) -> None:
    closed = np.append(values, values[0])
    colour = COLOURS[i % len(COLOURS)]
    style = {"linestyle": (0, (4, 2)), "markerfacecolor": "white"} if printed else {"linestyle": "-"}
    axis.plot(angles, closed, color=colour, marker=MARKERS[i % len(MARKERS)], linewidth=1.8, label=label, **style)
    if not printed and not np.isnan(values).any():
        axis.fill(angles, closed, color=colour, alpha=0.08)


def usage_bars(table: Table) -> Figure:
    """Table 7 as bars: share of images per tool and data set, the paper's share as a hollow diamond."""
    columns = [c for c in paper.COLUMNS if any(r.column == c for r in table.rows)]
    tools = [r for r in dict.fromkeys(row.row for row in table.rows) if r.endswith("(% of images)")]
    figure = new(7.6, 4.2)
    axis = figure.add_subplot()
    _grouped(axis, [[table.get(tool, c) for c in columns] for tool in tools], [t.split(" (")[0] for t in tools])
    calls = [table.get("calls per image", c) for c in columns]
    shown = [
        f"{c}\n{r.value:.2f} calls" if r and r.value is not None else c for c, r in zip(columns, calls, strict=True)
    ]
    axis.set_xticks(range(len(columns)), shown)
    axis.set(ylabel="share of images (%)", ylim=(0, 104), title="Which tools the agent calls")
    axis.legend(fontsize=8, frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    caveat(figure, table.profile)
    return figure


def _grouped(axis: Axes, groups: Sequence[Sequence[Row | None]], names: Sequence[str]) -> None:
    """One cluster of bars per position, one bar per group, whiskers = interval, hollow diamond = reported."""
    width = 0.8 / max(1, len(groups))
    for i, (cells, name) in enumerate(zip(groups, names, strict=True)):
        at = np.arange(len(cells)) + (i - (len(groups) - 1) / 2) * width
        values = [np.nan if c is None or c.value is None else c.value for c in cells]
        axis.bar(
            at, values, width * 0.92, color=COLOURS[i % 7], hatch=HATCHES[i % 7], edgecolor="white", linewidth=0.5,
            label=name,
        )  # fmt: skip
        for x, cell in zip(at, cells, strict=True):
            _whisker(axis, x, cell)
        printed = [np.nan if c is None or c.reported is None else c.reported for c in cells]
        label = "reported" if i == len(groups) - 1 and not np.isnan(printed).all() else None
        axis.scatter(at, printed, marker="D", s=22, facecolor="white", edgecolor="black", zorder=4, label=label)
    _plain(axis)


def _whisker(axis: Axes, x: float, cell: Row | None) -> None:
    if cell is not None and cell.value is not None and cell.ci:
        axis.plot([x, x], cell.ci, color="black", linewidth=1.1, zorder=3)


def ablation_bars(table: Table, columns: Sequence[str] = ()) -> Figure:
    """An ablation table (3, 4, 5, 8, 9): rows as bars per data set with 95 % intervals, reported as diamonds."""
    have = {r.column for r in table.rows if r.value is not None} or {r.column for r in table.rows}
    shown = [c for c in (columns or (*paper.COLUMNS, paper.AVERAGE)) if c in have]
    rows = list(dict.fromkeys(r.row for r in table.rows))
    figure = new(min(12.0, max(6.5, 0.5 * len(shown) + 0.25 * len(rows) * len(shown))), 4.2)
    axis = figure.add_subplot()
    names = [paper.ours_of(table.id, row, table.profile) for row in rows]
    _grouped(axis, [[table.get(row, c) for c in shown] for row in rows], names)
    axis.axhline(50, color="#777777", linewidth=1, linestyle=":")
    axis.set_xticks(range(len(shown)), shown)
    low = _floor(v for r in table.rows for v in (r.value, r.reported, *(r.ci or ())))
    axis.set(ylabel="balanced accuracy (%)", ylim=(low, 104), title=table.title)
    axis.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    caveat(figure, table.profile)
    return figure


def operating_curves(runs: Mapping[str, Sequence[Episode]], profile: str = "") -> Figure:
    """Recall against false alarms per run; the cross is where the verdicts themselves stand."""
    figure = new(5.6, 4.8)
    axis = figure.add_subplot()
    for i, (name, episodes) in enumerate(runs.items()):
        curve = calibration.operating_curve(episodes)
        colour = COLOURS[i % 7]
        if curve is not None:
            axis.plot(100 * curve.false_alarm, 100 * curve.recall, color=colour, linestyle=STYLES[i % 7], label=name)
        alarm = np.mean([not e.correct for e in episodes if not e.label])
        recall = np.mean([e.correct for e in episodes if e.label])
        axis.plot(100 * alarm, 100 * recall, marker="X", markersize=9, color=colour, markeredgecolor="black")
    axis.plot([0, 100], [0, 100], color="#777777", linewidth=1, linestyle=":")
    _plain(axis)
    axis.set(xlabel="false alarms (% of normal images)", ylabel="recall (% of anomalous images)", xlim=(-1, 101))
    axis.set(ylim=(-1, 101), title="Operating curve; cross = the verdicts as given")
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    caveat(figure, profile)
    return figure


def reliability_diagram(runs: Mapping[str, Sequence[Episode]], profile: str = "") -> Figure:
    """Observed share of anomalies against P(anomalous), with the counts below; on the diagonal = calibrated."""
    figure = new(5.6, 5.2)
    axis, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    found = {name: calibration.reliability(episodes) for name, episodes in runs.items()}
    for i, (name, part) in enumerate((n, p) for n, p in found.items() if p is not None):
        style = {"color": COLOURS[i % 7], "marker": MARKERS[i % 7], "linestyle": STYLES[i % 7]}
        kept = part.count > 0
        axis.plot(part.predicted[kept], part.observed[kept], label=f"{name}: ECE {100 * part.ece:.1f}", **style)
        centres = (np.arange(len(part.count)) + 0.5) / len(part.count)
        below.step(centres, part.count, where="mid", color=COLOURS[i % 7], linestyle=STYLES[i % 7])
    axis.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle=":")
    _plain(axis)
    _plain(below)
    axis.set(ylabel="observed share anomalous", xlim=(0, 1), ylim=(-0.03, 1.03), title="Reliability of the margin")
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    below.set(xlabel="P(anomalous) = sigmoid(margin)", ylabel="answers")
    caveat(figure, profile)
    return figure


def _floor(values: Iterable[float | None]) -> float:
    """Lower end of an axis of accuracies: 30, or below the lowest value: an agent that answers nothing shows too."""
    return min([30.0, *(v - 3 for v in values if v is not None and not np.isnan(v))])


def robustness_curves(table: Table) -> Figure:
    """Balanced accuracy against strength, one panel per disturbance, intervals shaded; dashes = undisturbed."""
    curves: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.column == "balanced accuracy" and row.row != "undisturbed":
            curves.setdefault(row.row.rsplit(" ", 1)[0], []).append(row)
    clean = table.get("undisturbed", "balanced accuracy")
    figure = new(8.4, 4.6)
    for i, (name, rows) in enumerate(curves.items()):
        axis = figure.add_subplot(2, -(-len(curves) // 2), i + 1)
        strength = [0.0] + [float(r.row.rsplit(" ", 1)[1]) for r in rows]
        cells = [clean, *rows]
        axis.plot(strength, [c.value for c in cells], color=COLOURS[0], marker="o", markersize=4)
        low, high = zip(*[c.ci or (c.value, c.value) for c in cells], strict=True)
        axis.fill_between(strength, low, high, color=COLOURS[0], alpha=0.18)
        axis.axhline(clean.value, color=COLOURS[1], linewidth=1, linestyle=(0, (5, 3)))
        axis.axhline(50, color="#777777", linewidth=1, linestyle=":")
        _plain(axis)
        axis.set(title=name, ylim=(_floor([clean.value, *low]), 102))
        axis.title.set_fontsize(10)
    figure.supylabel("balanced accuracy (%)", fontsize=9)
    caveat(figure, table.profile)
    return figure
