"""Case studies: the base model beside the agent on the same photograph, with boxes and what the tools showed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from . import figures, images, loop, selection
from .episodes import Episode
from .samples import Sample
from .tools import ToolResult
from .trace_theme import MARK_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = 34  # characters a column holds at 8 points
_TAG = re.compile(r"</?[a-z_]+>")
DASH = {"truth": (0, (5, 3)), "prediction": "-", "tool": (0, (1, 1.5))}


def choose(
    base: Sequence[Episode], agent: Sequence[Episode], n: int = 4, only: Sequence[str] = ("rescued", "broken")
) -> list[tuple[Episode, Episode, str]]:
    """Pairs (base, agent, outcome) on the same sample, tools used, taken in turn from the outcomes in `only`.

    Outcomes: `rescued` (base wrong, agent right), `broken` (the reverse), `both right`, `both wrong`. Showing broken
    cases beside rescued ones is the default, so that the figure is no advertisement. Of each product only the first by
    sample id is taken, and of these an even share, in the order of data set and name.
    """
    other = {(e.dataset, e.sample_id): e for e in base}
    groups: dict[str, dict[tuple[str, str], tuple[Episode, Episode, str]]] = {name: {} for name in only}
    for episode in sorted(agent, key=lambda e: (e.dataset, e.sample_id)):
        before = other.get((episode.dataset, episode.sample_id))
        if before is not None and episode.calls:
            name = outcome(before, episode)
            if name in groups:
                groups[name].setdefault((episode.dataset, episode.category), (before, episode, name))
    found = [[group[key] for key in sorted(group)] for group in groups.values() if group]
    shown = [selection.spread(pairs, -(-n // len(found))) for pairs in found]
    return [pair for turn in zip_longest(*shown) for pair in turn if pair is not None][:n]


def outcome(base: Episode, agent: Episode) -> str:
    """What the agent made of the base model's answer."""
    if base.correct == agent.correct:
        return "both right" if agent.correct else "both wrong"
    return "rescued" if agent.correct else "broken"


def case_studies(pairs: Sequence[tuple[Episode, Episode, str]], samples: Mapping[tuple[str, str], Sample]) -> Figure:
    """One row per case: base model's answer, agent's answer, what the tools returned, what the agent said.

    Args:
        pairs: As `choose` gives them; several runs in one figure make the reader blind, four rows are enough.
        samples: By (data set, sample id). Raises KeyError naming a missing one.
    """
    figure = figures.new(11.5, 3.1 * max(1, len(pairs)) + 0.3)
    grid = figure.subplots(max(1, len(pairs)), 4, squeeze=False, width_ratios=(1, 1, 1, 1.25))
    for axes, (base, agent, name) in zip(grid, pairs, strict=False):
        _case(axes, base, agent, name, samples[agent.dataset, agent.sample_id])
    if not pairs:
        for axis in grid[0]:
            axis.set_axis_off()
        grid[0, 0].text(0, 0.5, "no case of this kind in the run")
    figure.suptitle("solid: answered box; dashed: ground truth; dotted: where a tool looked", fontsize=9)
    figures.caveat(figure, pairs[0][1].profile if pairs else "")
    return figure


def _case(axes: Sequence[Axes], base: Episode, agent: Episode, name: str, sample: Sample) -> None:
    photograph = images.load_image(sample.image, sample.tile)
    regions = [box for call in agent.calls for box in call.regions]
    _photo(axes[0], photograph, sample, base, (), f"base: {_says(base)}")
    _photo(axes[1], photograph, sample, agent, regions, f"agent: {_says(agent)}  [{name}]")
    results = [(call.name, loop.run_call({"name": call.name, "arguments": call.arguments}, photograph, sample))
               for call in agent.calls]  # fmt: skip
    _returned(axes[2], results)
    _words(axes[3], agent, sample, results)


def _says(episode: Episode) -> str:
    if episode.verdict is None:
        return "no verdict (wrong)"
    return f"{'anomalous' if episode.verdict.anomalous else 'normal'} ({'right' if episode.correct else 'wrong'})"


def _photo(
    axis: Axes, photograph: np.ndarray, sample: Sample, episode: Episode, regions: Sequence[Sequence[int]], title: str
) -> None:
    height, width = photograph.shape[:2]
    axis.imshow(photograph, extent=(0, 1000, 1000, 0), aspect=height / width)
    answered = episode.verdict.box if episode.verdict else None
    for kind, found in (("truth", sample.boxes), ("tool", regions), ("prediction", [answered] if answered else [])):
        for x1, y1, x2, y2 in found:
            path = ([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1])
            axis.plot(*path, color="black", linewidth=3, alpha=0.5)
            axis.plot(*path, color=MARK_COLOUR[kind], linewidth=1.7, linestyle=DASH[kind])
    axis.set(xlim=(0, 1000), ylim=(1000, 0))
    axis.set_axis_off()
    axis.set_title(title, fontsize=9, loc="left")


def _returned(axis: Axes, results: Sequence[tuple[str, ToolResult]]) -> None:
    """The first image a tool returned, else its text."""
    axis.set_axis_off()
    picture = next(((name, result.images[0]) for name, result in results if result.images), None)
    if picture is not None:
        axis.imshow(picture[1])
        axis.set_title(f"{picture[0]} returned", fontsize=9, loc="left")
        return
    text = "\n".join(textwrap.fill(result.text, LINE) for _, result in results)
    axis.text(0, 1, "\n".join(text.splitlines()[:11]), va="top", fontsize=8, transform=axis.transAxes, parse_math=False)
    axis.set_title("returned", fontsize=9, loc="left")


def _words(axis: Axes, agent: Episode, sample: Sample, results: Sequence[tuple[str, ToolResult]]) -> None:
    """Calls, last thought, margin before and after."""
    axis.set_axis_off()
    truth = f"anomalous: {sample.defect or sample.node}" if sample.label else "normal"
    lines = [f"{sample.dataset}, {sample.category or sample.id}", f"truth: {truth}"]
    lines += ["", *(result.text if result.images else f"{name}: see left" for name, result in results), ""]
    lines += [_TAG.sub(" ", agent.turns[-1].text).strip() if agent.turns else "", ""]
    if agent.margin is not None and agent.margin_before is not None:
        lines.append(f"margin for Yes: {agent.margin_before:+.2f} before the tools, {agent.margin:+.2f} after")
    wrapped = [part for line in lines for part in textwrap.wrap(line, 46) or [""]]
    axis.text(0, 1, "\n".join(wrapped[:17]), va="top", fontsize=7.5, transform=axis.transAxes, parse_math=False)
