"""The picture twin of a trace: one matplotlib figure for README, nbviewer and a printed page."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from . import trace_steps, trace_theme
from .episodes import Episode
from .samples import Sample
from .trace_steps import Mark, Step, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_INCHES = 3.6
WRAP = 46  # characters a column holds at 8 points
LINES = 12


def static_figure(episode: Episode, sample: Sample | None = None) -> Figure:
    """The whole trace as a figure: a column per step with the image, what a tool returned, text and margin.

    Raises:
        images.ImageError: The image file does not read.
    """
    return figure(trace_steps.build(episode, sample))


def figure(trace: Trace) -> Figure:
    """See `static_figure`; made without pyplot, so that no window or global state is touched."""
    from .trace_picture import Picture  # matplotlib: 0.3 s, and only the picture twin needs it

    count = len(trace.steps)
    said = [_lines(step) for step in trace.steps]
    height, width = trace.image.shape[:2]
    heights = (COLUMN_INCHES * min(height / width, 1.6), 0.35 + 0.155 * max(map(len, said)), 0.75)
    sheet = Picture(figsize=(COLUMN_INCHES * count, sum(heights) + 0.9), layout="constrained", facecolor="white")
    axes = sheet.subplots(3, count, squeeze=False, height_ratios=heights)
    for column, step in enumerate(trace.steps):
        _draw_picture(axes[0, column], step, trace)
        _draw_text(axes[1, column], step, said[column])
        _draw_margin(axes[2, column], step)
        axes[0, column].set_title(f"{column}  {step.title}", fontsize=10, loc="left", parse_math=False)
    says, truth, outcome = trace_steps.verdict_words(trace.episode, trace.sample)
    product = trace.sample.category or trace.sample.id
    sheet.suptitle(
        f"{product}: agent says {says}; truth: {truth}" + (f"; {outcome}" if outcome != "unknown" else ""),
        fontsize=12,
        parse_math=False,
    )
    return sheet


def _draw_picture(axis: Axes, step: Step, trace: Trace) -> None:
    """The whole image with its marks; beside it what the tool returned, when it returned something to look at."""
    height, width = trace.image.shape[:2]
    stride = max(1, max(height, width) // 700)  # a column is about 700 px wide in print
    axis.imshow(trace.image[::stride, ::stride], extent=(0, 1000, 1000, 0), aspect=height / width)
    for mark in step.marks:
        _draw_mark(axis, mark)
    axis.set(xlim=(0, 1000), ylim=(1000, 0))
    axis.set_axis_off()
    if step.images:
        corner = axis.inset_axes((0.52, 0.0, 0.48, 0.48))
        corner.imshow(step.images[0])
        corner.set(xticks=[], yticks=[])
        for spine in corner.spines.values():
            spine.set(color=trace_theme.MARK_COLOUR["tool"], linewidth=2.5)


def _draw_mark(axis: Axes, mark: Mark) -> None:
    x1, y1, x2, y2 = mark.box or (0, 0, 0, 0)
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    path = np.array(corners if mark.box else mark.points, float).reshape(-1, 2)
    dash = [float(v) / 2.5 for v in trace_theme.MARK_DASH[mark.kind].split()]
    style = (0, tuple(dash)) if dash else "-"
    axis.plot(*path.T, color="black", alpha=0.5, linewidth=3.5)
    marker = "" if mark.box else "o"
    axis.plot(
        *path.T, color=trace_theme.MARK_COLOUR[mark.kind], linestyle=style, linewidth=2, marker=marker, fillstyle="none"
    )
    if mark.label and len(path):
        y = y2 + 12 if mark.kind in ("truth", "asked") else path[:, 1].min() - 12
        axis.text(
            float(np.clip(path[:, 0].min(), 0, 850)),
            float(np.clip(y, 30, 985)),
            mark.label,
            fontsize=7,
            color="white",
            va="top" if mark.kind in ("truth", "asked") else "bottom",
            bbox={"facecolor": "black", "alpha": 0.6, "pad": 1, "edgecolor": "none"},
            parse_math=False,
        )


def _lines(step: Step) -> list[str]:
    said = [f"given: {step.given}"] * bool(step.given) + [f"returned: {step.returned}"] * bool(step.returned)
    said += [step.thinking] * bool(step.thinking) or ([] if said else list(step.notes))
    lines = [line for text in said for line in textwrap.wrap(text, WRAP) or [""]]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], "[...]"]


def _draw_text(axis: Axes, step: Step, lines: list[str]) -> None:
    axis.text(0, 1, "\n".join(lines), va="top", fontsize=8, family="monospace", parse_math=False)
    axis.text(0, 0, f"{step.calls} calls, {step.ms:.0f} ms", va="bottom", fontsize=7, color="#555")
    axis.set_axis_off()


def _draw_margin(axis: Axes, step: Step) -> None:
    known = [(name, value) for name, value in (("after", step.after), ("before", step.before)) if value is not None]
    if not known:
        words = "" if step.kind == "look" else "no margin from this policy"
        axis.text(0.5, 0.5, words, ha="center", fontsize=8, color="#555")
        axis.set_axis_off()
        return
    colours = [trace_theme.YES if value > 0 else trace_theme.NO for _, value in known]
    bars = axis.barh([name for name, _ in known], [value for _, value in known], color=colours, height=0.6)
    axis.bar_label(bars, [f"{value:+.2f}" for _, value in known], fontsize=8, padding=2)
    reach = max(2.0, *(abs(value) for _, value in known)) * 1.5
    axis.set_xlim(-reach, reach)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("No  <  log p(Yes) - log p(No)  >  Yes", fontsize=7)
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
