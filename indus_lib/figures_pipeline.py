"""The pipeline overview, drawn from a profile's real configuration: what is in the boxes is what will run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import figures, tools
from .profiles import Profile
from .rewards import RewardWeights
from .trace_theme import OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 2.5, 1.5
STAGE, LOOP, TRAIN = OKABE_ITO["sky"], OKABE_ITO["orange"], OKABE_ITO["green"]


def overview(profile: Profile, weights: RewardWeights | None = None) -> Figure:
    """Data flow from pool to tables (top) and the two rounds of one inspection (bottom).

    Args:
        profile: Every number in the figure is read from it.
        weights: Reward weights shown, the defaults of `rewards` when not given.
    """
    figure = figures.new(12.5, 5.4)
    axis = figure.add_subplot()
    axis.set(xlim=(0, 15.4), ylim=(0, 5.7))
    axis.set_axis_off()
    _row(axis, 4.3, training(profile, weights or RewardWeights()))
    _row(axis, 1.6, inspection(profile))
    axis.text(0.1, 5.4, f"Training and evaluation, profile {profile.name} (configuration {profile.hash})", fontsize=11)
    axis.text(0.1, 2.7, "One inspection: the same loop in evaluation, corpus, RL and widgets", fontsize=11)
    _short_cut(axis)
    figures.caveat(figure, profile.name)
    return figure


Stage = tuple[str, list[str], str]
"""(heading, lines, colour)."""


def training(profile: Profile, weights: RewardWeights) -> list[Stage]:
    """The five stages of the upper row."""
    corpus, sft, rl = profile.corpus, profile.sft, profile.grpo
    length = "one epoch" if rl.steps < 0 else f"{rl.steps} steps"
    kind = "LoRA" if profile.model.lora else "full"
    limit = f"{profile.data.limit} images a set" if profile.data.limit else "all test images"
    return [
        ("Pool", [f"Real-IAD layout: {profile.data.pool}", "overlapping categories", "removed"], STAGE),
        ("Indus-CoT", [f"{corpus.n} trajectories", f"teacher: {corpus.teacher}", "tools really run"], STAGE),
        ("SFT", [f"{kind}, {sft.epochs:g} epoch(s)", f"lr {sft.learning_rate:g}", "generated tokens only"], TRAIN),
        (
            "Gated GRPO",
            [f"G = {rl.group}, {length}", f"α {weights.alpha:g}, β {weights.beta:g}, γ {weights.gamma:g}",
             f"λ {weights.lam:g}, η {weights.eta:g}, KL {rl.beta:g}"],
            TRAIN,
        ),
        ("Benchmark", ["5 data sets, zero-shot", limit, "tables, audits, traces"], STAGE),
    ]  # fmt: skip


def inspection(profile: Profile) -> list[Stage]:
    """The five stages of the lower row."""
    look = profile.inspection
    names = list(tools.TOOLS)
    named = "with product name" if look.name_category else "no product name"
    return [
        ("Image + question", ["no reference image", named, f"prompt: {look.detail}"], STAGE),
        ("Round 1: route", ["evidence, region, scale,", "cue, suspicion,", f"≤ {look.max_new_tokens} tokens"], LOOP),
        ("Tools", [", ".join(names[:2]), ", ".join(names[2:]), f"≤ {look.max_calls} calls, original image"], LOOP),
        ("Round 2: decide", ["think on the observation", "location, type", "answer Yes | No"], LOOP),
        ("Episode", ["verdict, margins,", "calls, timings", "unparsed = wrong"], STAGE),
    ]


def _row(axis: Axes, y: float, stages: list[Stage]) -> None:
    from matplotlib.patches import FancyBboxPatch

    for i, (heading, lines, colour) in enumerate(stages):
        x = 0.1 + i * (WIDTH + 0.65)
        style = {"boxstyle": "round,pad=0.06", "facecolor": colour, "alpha": 0.22, "edgecolor": "none"}
        axis.add_patch(FancyBboxPatch((x, y - HEIGHT / 2), WIDTH, HEIGHT, **style))
        outline = {"boxstyle": "round,pad=0.06", "facecolor": "none", "edgecolor": "#333333", "linewidth": 1}
        axis.add_patch(FancyBboxPatch((x, y - HEIGHT / 2), WIDTH, HEIGHT, **outline))
        axis.text(x + WIDTH / 2, y + 0.47, heading, ha="center", va="center", fontsize=10.5, weight="bold")
        text = "\n".join(lines)
        axis.text(x + WIDTH / 2, y - 0.18, text, ha="center", va="center", fontsize=8.5, parse_math=False)
        if i:
            axis.annotate("", (x - 0.08, y), (x - 0.57, y), arrowprops={"arrowstyle": "-|>", "color": "#333333"})


def _short_cut(axis: Axes) -> None:
    """An answer that needs no tool ends the inspection in round one."""
    step = WIDTH + 0.65
    start, end = 0.1 + step + WIDTH / 2, 0.1 + 4 * step + WIDTH / 2
    low = 1.6 - HEIGHT / 2 - 0.08
    arrow = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.1", "linestyle": "--", "color": "#555555"}
    axis.annotate("", (end, low), (start, low), arrowprops=arrow)
    axis.text((start + end) / 2, low - 0.62, "no tool needed: answer at once", ha="center", fontsize=8, color="#333333")
