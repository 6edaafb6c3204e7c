"""Reward waterfall: how an episode's reward came about, term by term, and what other weights would have made of it.

All numbers come from `rewards.combined`; this file only lines them up and draws them. The gate is drawn as a gate: a
wrong answer shows the terms it would have earned, struck out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from . import rewards, trace_theme
from .episodes import Episode
from .rewards import RewardParts, RewardWeights
from .samples import Sample
from .trace_player import with_twin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLIDERS = {"alpha": (0.0, 2.0), "beta": (0.0, 2.0), "gamma": (0.0, 2.0), "lam": (0.0, 1.0), "eta": (0.0, 0.5)}
GREEK = {"alpha": "α location", "beta": "β type", "gamma": "γ tool", "lam": "λ useful call", "eta": "η per call"}
COLOURS = {
    "accuracy": trace_theme.OKABE_ITO["green"],
    "location": trace_theme.OKABE_ITO["sky"],
    "type": trace_theme.OKABE_ITO["purple"],
    "tool": trace_theme.OKABE_ITO["orange"],
    "format": trace_theme.OKABE_ITO["vermillion"],
    "total": trace_theme.OKABE_ITO["grey"],
}


@dataclass(frozen=True)
class Bar:
    """One bar: it begins at `start` and adds `value`; `withheld` is what the gate kept back."""

    name: str
    formula: str
    start: float
    value: float
    withheld: float = 0.0


@dataclass(frozen=True)
class Ranked:
    """One rollout of a group under some weights. `rank` 1 is best; equal rewards share a rank."""

    index: int
    parts: RewardParts
    advantage: float
    rank: int


def bars(parts: RewardParts, weights: RewardWeights) -> list[Bar]:
    """The waterfall of `parts`: accuracy, the three gated terms, format, total. Values add up to `parts.total`."""
    terms = (("location", "α·R_loc", weights.alpha, parts.loc), ("type", "β·R_type", weights.beta, parts.type))
    terms += (("tool", "γ·R_tool", weights.gamma, parts.tool),)
    shaping = sum(weight * value for _, _, weight, value in terms)
    share = (parts.gated - parts.acc) / shaping if shaping else parts.acc  # what the gate lets through, 0..1
    found, level = [Bar("accuracy", f"R_acc = {parts.acc:g}", 0.0, parts.acc)], parts.acc
    for name, formula, weight, value in terms:
        full = weight * value
        words = f"{formula} = {weight:g} × {value:.2f}"
        found.append(Bar(name, words, level, share * full, (1 - share) * full))
        level += share * full
    found.append(Bar("format", f"R_format = {parts.format + 0.0:g}", level, parts.format))
    return [*found, Bar("total", "R", 0.0, parts.total)]


def rank(group: Sequence[tuple[Episode, Sample]], weights: RewardWeights, similarity: Any = None) -> list[Ranked]:
    """Rewards, group advantages (section 6) and ranks of a group of rollouts, in the order given.

    Args:
        group: Rollouts of one prompt; with a single one its advantage is 0.
        weights: Of the reward.
        similarity: As for `rewards.combined`.

    Raises:
        ValueError: A sample has no label.
    """
    parts = [rewards.combined(episode, sample, weights, similarity) for episode, sample in group]
    totals = [part.total for part in parts]
    gains = rewards.advantages(totals, len(totals)) if len(totals) > 1 else [0.0]
    ranks = [1 + sum(other > total + 1e-9 for other in totals) for total in totals]
    return [Ranked(i, p, float(a), r) for i, (p, a, r) in enumerate(zip(parts, gains, ranks, strict=True))]


def signed(value: float) -> str:
    """Two decimals with a sign; never -0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"


def waterfall_svg(found: Sequence[Bar], gate: str = "hard") -> str:
    """The waterfall as inline SVG with every number written out."""
    low = min(0.0, *(min(b.start, b.start + b.value) for b in found))
    high = max(1.0, *(b.start + max(b.value, b.value + b.withheld) for b in found))
    scale = 300 / (high - low)
    x = lambda value: 230 + (value - low) * scale  # noqa: E731
    rows = "".join(_bar_row(bar, 14 + 30 * i, x, scale) for i, bar in enumerate(found))
    height = 20 + 30 * len(found)
    axis = f'<line x1="{x(0):.1f}" y1="4" x2="{x(0):.1f}" y2="{height - 6}" stroke="currentColor"/>'
    shut = found[0].value == 0 and gate != "additive"
    state = f"gate ({gate}): " + ("shut, R_acc = 0: hatched terms are not paid" if shut else "open")
    brace = '<path d="M222 46h-6v78h6" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    spoken = "; ".join(f"{bar.name} {signed(bar.value)}" for bar in found)
    hatch = (
        '<defs><pattern id="in-hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><line y2="6" stroke="currentColor" stroke-width="1.5"/></pattern></defs>'
    )
    return (
        f'<svg class="bar" viewBox="0 0 640 {height}" width="100%" style="max-width:720px" role="img" '
        f'aria-label="{escape(spoken)}">{hatch}{axis}{brace}{rows}</svg><div class="muted">{state}</div>'
    )


def _bar_row(bar: Bar, y: int, x: Any, scale: float) -> str:
    left, width = x(min(bar.start, bar.start + bar.value)), max(abs(bar.value) * scale, 1)
    solid = f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="20" fill="{COLOURS[bar.name]}"/>'
    hatched, end = "", max(x(bar.start), x(bar.start + bar.value))
    if abs(bar.withheld) > 1e-9:
        first = min(bar.start, bar.start + bar.withheld)
        size = abs(bar.withheld) * scale
        hatched = (
            f'<rect x="{x(first):.1f}" y="{y}" width="{size:.1f}" height="20" fill="url(#in-hatch)" '
            f'stroke="{COLOURS[bar.name]}" stroke-dasharray="4 3"/>'
        )
        end = max(end, x(first) + size)
    value = signed(bar.value) + (f" (withheld {signed(bar.withheld)})" if hatched else "")
    return (
        f'<text x="0" y="{y + 15}"><tspan font-weight="600">{bar.name}</tspan> {escape(bar.formula)}</text>'
        f'{hatched}{solid}<text x="{min(end + 6, 540):.1f}" y="{y + 15}">{value}</text>'
    )


def table_html(ranked: Sequence[Ranked], names: Sequence[str], chosen: int) -> str:
    """The group, best first, with rewards, terms and advantages; `chosen` is marked."""
    head = "<tr><th>rank</th><th>rollout</th>" + "".join(
        f'<th class="num">{name}</th>' for name in ("acc", "loc", "type", "tool", "format", "R", "advantage")
    )
    rows = ""
    for item in sorted(ranked, key=lambda r: (r.rank, r.index)):
        p = item.parts
        numbers = (p.acc, p.loc, p.type, p.tool, p.format, p.total, item.advantage)
        mark = "<b>▸</b> " if item.index == chosen else ""
        cells = "".join(f'<td class="num">{signed(value)}</td>' for value in numbers)
        rows += f"<tr><td>{item.rank}</td><td>{mark}{escape(names[item.index])}</td>{cells}</tr>"
    return f'<table class="ranking">{head}</tr>{rows}</table>'


def rollout_name(index: int, episode: Episode) -> str:
    """Short words that tell rollouts of a group apart."""
    verdict = episode.verdict
    says = "unparsed" if verdict is None else "Yes" if verdict.anomalous else "No"
    return f"{index}: {says}, " + ("+".join(call.name for call in episode.calls) or "no tool")


def static_html(
    group: Sequence[tuple[Episode, Sample]],
    weights: RewardWeights | None = None,
    chosen: int = 0,
    similarity: Any = None,
) -> str:
    """Waterfall of rollout `chosen` and the ranking of its group, without scripts."""
    weights = weights or RewardWeights()
    ranked = rank(group, weights, similarity)
    names = [rollout_name(i, episode) for i, (episode, _) in enumerate(group)]
    given = ", ".join(f"{GREEK[name]} {getattr(weights, name):g}" for name in SLIDERS)
    picture = waterfall_svg(bars(ranked[chosen].parts, weights), weights.gate)
    return (
        f'<div class="indus"><style>{trace_theme.CSS}</style><p><b>Reward of rollout {escape(names[chosen])}</b></p>'
        f'{picture}<p class="muted">{given}</p>{table_html(ranked, names, chosen)}</div>'
    )


def static_figure(parts: RewardParts, weights: RewardWeights | None = None) -> Figure:
    """The waterfall as a matplotlib figure."""
    from .trace_picture import Picture  # matplotlib: 0.3 s, and only the picture twin needs it

    weights = weights or RewardWeights()
    found = bars(parts, weights)[::-1]
    sheet = Picture(figsize=(7, 3), layout="constrained", facecolor="white")
    axis = sheet.subplots()
    labels = [f"{bar.name}  {bar.formula}" for bar in found]
    withheld = [bar.withheld for bar in found]
    starts = [bar.start for bar in found]
    axis.barh(labels, withheld, left=starts, facecolor="white", edgecolor="#555", hatch="///")
    drawn = axis.barh(labels, [b.value for b in found], left=starts, color=[COLOURS[b.name] for b in found])
    axis.bar_label(drawn, [signed(b.value) for b in found], padding=3, fontsize=8)
    axis.axvline(0, color="black", linewidth=0.8)
    shut = parts.acc == 0 and weights.gate != "additive"
    axis.set_title(f"R = {parts.total:.2f}; gate ({weights.gate}) " + ("shut" if shut else "open"), fontsize=10)
    axis.margins(x=0.15)
    return sheet


class RewardWaterfall(widgets.VBox):
    """Sliders for the weights; waterfall and ranking follow at once.

    Args:
        group: Rollouts of one prompt with their sample (one is enough).
        weights: Where the sliders begin; the paper's by default. Switches without a slider stay as given.
        similarity: As for `rewards.combined`.

    Raises:
        ValueError: The group is empty or a sample has no label.
    """

    def __init__(
        self, group: Sequence[tuple[Episode, Sample]], weights: RewardWeights | None = None, similarity: Any = None
    ):
        if not group:
            raise ValueError("a waterfall needs at least one (episode, sample)")
        self.group, self._first, self._similarity = list(group), weights or RewardWeights(), similarity
        self.sliders = {name: self._slider(name) for name in SLIDERS}
        names = [(rollout_name(i, episode), i) for i, (episode, _) in enumerate(self.group)]
        self.choice = widgets.Dropdown(options=names, value=0, description="rollout")
        self.reset = widgets.Button(description="paper's weights", tooltip="back to the weights at the beginning")
        self.view = widgets.HTML()
        row = widgets.Layout(flex_flow="row wrap", align_items="center")
        controls = widgets.Box([self.choice, *self.sliders.values(), self.reset], layout=row)
        super().__init__([controls, self.view])
        self.add_class("indus")
        for control in (self.choice, *self.sliders.values()):
            control.observe(lambda _: self._show(), "value")
        self.reset.on_click(lambda _: self._reset())
        self._show()

    @property
    def weights(self) -> RewardWeights:
        """The weights as the sliders stand."""
        return replace(self._first, **{name: slider.value for name, slider in self.sliders.items()})

    def _slider(self, name: str) -> widgets.FloatSlider:
        low, high = SLIDERS[name]
        value = getattr(self._first, name)
        return widgets.FloatSlider(value, min=low, max=max(high, value), step=0.05, description=GREEK[name])

    def _reset(self) -> None:
        for name, slider in self.sliders.items():
            slider.value = getattr(self._first, name)

    def _show(self) -> None:
        self.view.value = static_html(self.group, self.weights, self.choice.value, self._similarity)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget with its static twin."""
        return with_twin(super()._repr_mimebundle_(**kwargs), self.view.value, "reward waterfall")
