"""What if: forbid or force a tool, move the crop, rewrite the prior, and let the agent go on from there.

The first thinking stays as it was, word for word; what changes are the calls and what they return. Only a forbidden
tool that the agent had called sends it back to the start, since it must then route again. Both trajectories stand side
by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import ipywidgets as widgets

from . import boxes, images, loop, parsing, protocol, tools, trace_html, trace_steps, trace_theme
from .episodes import Episode
from .policies import Policy
from .profiles import Profile
from .samples import Box, Sample
from .tool_enhance import METHODS
from .tool_measure import KINDS
from .trace_player import TracePlayer, message, with_twin
from .trace_stage import Stage

CHOSEN, FORBID, FORCE = "as the agent chose", "forbid", "force"
Call = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What to do otherwise.

    Attributes:
        forbid: Tools the agent may not call.
        force: Calls made whatever the agent chose; each replaces the agent's own calls of that tool.
        crop: Region that every crop is moved to, cut exactly there; None = where the agent asked.
        prior: Text that the prior tool answers with; None = what it really says.
    """

    forbid: frozenset[str] = frozenset()
    force: tuple[tuple[str, dict[str, Any]], ...] = ()
    crop: Box | None = None
    prior: str | None = None

    def __post_init__(self) -> None:
        both = self.forbid & {name for name, _ in self.force}
        if both:
            raise ValueError(f"{', '.join(sorted(both))}: a tool cannot be forbidden and forced at once")


def calls_after(calls: Sequence[Call], change: Change) -> list[Call]:
    """The calls of round one once `change` is made: forbidden ones gone, crops moved, forced ones in their place."""
    forced = {name: dict(arguments) for name, arguments in change.force}
    kept = [call for call in calls if call["name"] not in change.forbid and call["name"] not in forced]
    if change.crop is not None:
        moved = {"region": list(change.crop), "refine": False}
        kept = [{**call, "arguments": moved} if call["name"] == "crop" else call for call in kept]
    return kept + [{"name": name, "arguments": arguments} for name, arguments in forced.items()]


def rerun(policy: Policy, sample: Sample, episode: Episode, change: Change, *, profile: Profile) -> Episode:
    """The trajectory under `change`.

    Args:
        policy: Who goes on; should be the one that made `episode`.
        sample: What is inspected.
        episode: The trajectory to depart from, mode `agent`.
        change: What to do otherwise; an empty one gives the same trajectory for a deterministic policy.
        profile: Prompt wording and lengths.

    Raises:
        ValueError: The episode has no turns to depart from, or is a baseline's (mode `direct`).
    """
    if episode.mode != "agent" or not episode.turns:
        raise ValueError(f"{episode.sample_id}: only an agent's trajectory with at least one turn can be changed")
    base = episode
    if change.forbid & {call.name for call in episode.calls}:
        allowed = [name for name in tools.TOOLS if name not in change.forbid]
        (base,) = loop.inspect(policy, [sample], profile=profile, allowed_tools=allowed, seed=episode.seed)
        if base.error or not (change.force or change.crop or change.prior is not None):
            return base
    made = [{"name": call.name, "arguments": call.arguments} for call in base.turns[0].calls]
    wanted = calls_after(made, change)
    if made and not wanted:  # it insists on what is forbidden, and was refused
        return base
    first = base.turns[0].text if wanted == made else _first_turn(base.turns[0].text, wanted)
    image = images.load_image(sample.image, sample.tile)
    results = [(call, _result(call, image, sample, change)) for call in wanted]
    again = loop.decide(policy, sample, first, results, profile=profile)
    if not again.turns:
        return again
    opening = replace(base.turns[0], text=first, calls=again.turns[0].calls, margin=again.turns[0].margin)
    return replace(again, turns=(opening, *again.turns[1:]))  # round one was paid once: keep its time and tokens


def _first_turn(text: str, calls: Sequence[Call]) -> str:
    """The first turn with other calls; its thinking kept, with tags in it made harmless."""
    think = parsing.parse_turn(text).think.replace("<", "(").replace(">", ")")
    return protocol.turn_text(think, protocol.tool_tail(calls))


def _result(call: Call, image: Any, sample: Sample, change: Change) -> tools.ToolResult:
    result = loop.run_call(call, image, sample)
    if call["name"] == "prior" and change.prior is not None:
        return replace(result, ok=True, text=change.prior)
    return result


def compare_html(before: Episode, after: Episode, sample: Sample) -> str:
    """Table of both outcomes, and whether the verdict turned."""
    rows = ""
    for name, value in (("verdict", _says), ("tools", _tools), ("margin", _margin), ("time", _time), ("box", _box)):
        old, new = value(before, sample), value(after, sample)
        tone = "" if old == new else ' style="font-weight:600"'
        rows += f"<tr><th>{name}</th><td>{escape(old)}</td><td{tone}>{escape(new)}</td></tr>"
    turned = "the verdict turned" if _verdict(before) != _verdict(after) else "the same verdict"
    head = "<tr><th></th><th>as it was</th><th>what if</th></tr>"
    return f'<p><b class="outcome">{turned}</b></p><table>{head}{rows}</table>'


def _verdict(episode: Episode) -> bool | None:
    return None if episode.verdict is None else episode.verdict.anomalous


def _says(episode: Episode, sample: Sample) -> str:
    says, _, outcome = trace_steps.verdict_words(episode, sample)
    return says + ("" if outcome == "unknown" else f", {outcome}") + (f"; {episode.error}" if episode.error else "")


def _tools(episode: Episode, sample: Sample) -> str:
    return ", ".join(call.name + ("" if call.ok else " (refused)") for call in episode.calls) or "none"


def _margin(episode: Episode, sample: Sample) -> str:
    return "not known" if episode.margin is None else f"{episode.margin:+.2f}"


def _time(episode: Episode, sample: Sample) -> str:
    return f"{1000 * sum(t.seconds for t in episode.turns) + sum(c.ms for c in episode.calls):.0f} ms"


def _box(episode: Episode, sample: Sample) -> str:
    return str(list(episode.verdict.box)) if episode.verdict and episode.verdict.box else "none"


def static_html(before: Episode, after: Episode, sample: Sample) -> str:
    """Both trajectories without scripts: the comparison, then one below the other."""
    table = f'<div class="indus"><style>{trace_theme.CSS}</style>{compare_html(before, after, sample)}</div>'
    return table + trace_html.static_html(before, sample) + trace_html.static_html(after, sample)


class WhatIf(widgets.VBox):
    """Controls over one trajectory; `run` makes the other one and shows both.

    Args:
        policy: Who goes on.
        episode: The trajectory to depart from.
        sample: What was inspected.
        profile: As it was inspected.

    Raises:
        images.ImageError: The image file does not read.
    """

    def __init__(self, policy: Policy, episode: Episode, sample: Sample, profile: Profile):
        self.policy, self.episode, self.sample, self.profile = policy, episode, sample, profile
        self.after: Episode | None = None
        self.before_player, self.after_player = TracePlayer(episode, sample), None
        self.modes = {
            name: widgets.ToggleButtons(options=(CHOSEN, FORBID, FORCE), description=name) for name in tools.TOOLS
        }
        for buttons in self.modes.values():
            buttons.style.button_width, buttons.style.description_width = "auto", "62px"
            buttons.layout.width = "460px"
        self._make_crop()
        self.method = widgets.Dropdown(options=METHODS, description="enhance by")
        self.kind = widgets.Dropdown(options=KINDS, description="measure")
        self.points = widgets.Text("[[100, 500], [900, 500]]", description="points")
        self.prior = widgets.Textarea(
            placeholder="empty: what the prior tool really says", description="prior says", rows=3
        )
        self.go = widgets.Button(description="what if?", button_style="primary", icon="play")
        self.status, self.outcome = widgets.HTML(), widgets.HTML()
        self.players = widgets.Box(layout=widgets.Layout(flex_flow="row wrap", grid_gap="12px"))
        super().__init__(self._arrange())
        self.add_class("indus")
        self.go.on_click(lambda _: self.run())

    def _make_crop(self) -> None:
        """Image to draw the crop on, and the same four numbers to type."""
        image = self.before_player.trace.image
        own = [trace_steps.as_box(call.arguments.get("region")) for call in self.episode.calls if call.name == "crop"]
        self.own_crop = list(boxes.snap(next((box for box in own if box), (375, 375, 625, 625)), 1))
        self.stage = Stage(drawing=True, box=self.own_crop)
        with self.stage.hold_sync():
            self.stage.size = [image.shape[1], image.shape[0]]
            self.stage.frames = [{"overlay": "", "label": "drag to draw the crop region", "target": []}]
            self.stage.image = trace_html.jpeg(image, 1024)
        self.corners = [
            widgets.BoundedIntText(v, 0, 1000, description=n, layout=widgets.Layout(width="150px"))
            for n, v in zip(("x1", "y1", "x2", "y2"), self.own_crop, strict=True)
        ]
        self.stage.observe(lambda _: self._from_stage(), "box")
        for corner in self.corners:
            corner.observe(lambda _: self._from_numbers(), "value")

    def _from_stage(self) -> None:
        for corner, value in zip(self.corners, self.stage.box, strict=True):
            corner.value = value

    def _from_numbers(self) -> None:
        values = [corner.value for corner in self.corners]
        if values[2] > values[0] and values[3] > values[1]:  # half-typed boxes are not drawn
            self.stage.box = values

    def _arrange(self) -> list[widgets.Widget]:
        wide = widgets.Layout(width="440px")
        for control in (self.points, self.prior):
            control.layout = wide
        crop = widgets.HBox(self.corners[:2]), widgets.HBox(self.corners[2:])
        column = [*self.modes.values(), *crop, self.method, self.kind, self.points, self.prior, self.go, self.status]
        row = widgets.Layout(flex_flow="row wrap", grid_gap="16px")
        style = widgets.HTML(f"<style>{trace_theme.CSS}</style>")
        return [style, widgets.Box([self.stage, widgets.VBox(column)], layout=row), self.outcome, self.players]

    @property
    def change(self) -> Change:
        """The change as the controls stand. Raises ValueError for points or a box that do not read."""
        chosen = {name: buttons.value for name, buttons in self.modes.items()}
        box = tuple(corner.value for corner in self.corners)
        if not (box[2] > box[0] and box[3] > box[1]):
            raise ValueError(f"crop box {list(box)}: x2 must exceed x1 and y2 exceed y1")
        arguments = {
            "crop": {"region": list(box), "refine": False},
            "prior": {},
            "enhance": {"method": self.method.value},
        }
        if chosen["measure"] == FORCE:
            arguments["measure"] = {"kind": self.kind.value, "points": _points(self.points.value)}
        return Change(
            frozenset(name for name, mode in chosen.items() if mode == FORBID),
            tuple((name, arguments[name]) for name, mode in chosen.items() if mode == FORCE),
            box if list(box) != self.own_crop else None,
            self.prior.value.strip() or None,
        )

    def run(self) -> None:
        """Make the other trajectory and show both; what goes wrong is said beside the button."""
        self.go.disabled, self.status.value = True, message("the agent goes on ...")
        try:
            self.after = rerun(self.policy, self.sample, self.episode, self.change, profile=self.profile)
        except ValueError as error:
            self.status.value = message(str(error), bad=True)
            return
        except Exception as error:
            self.status.value = message(f"{type(error).__name__}: {error}", bad=True)  # else only the log would know
            raise
        finally:
            self.go.disabled = False
        self.status.value = message("done")
        self._show()

    def _show(self) -> None:
        self.outcome.value = f'<div class="indus">{compare_html(self.episode, self.after, self.sample)}</div>'
        if self.after_player is None:
            self.after_player = TracePlayer(self.after, self.sample)
        else:
            self.after_player.load(self.after, self.sample)
        for player in (self.before_player, self.after_player):
            player.layout = widgets.Layout(flex="1 1 480px", min_width="320px")
        self.players.children = [self.before_player, self.after_player]
        self.before_player.step, self.after_player.step = (p.slider.max for p in self.players.children)

    def static_html(self) -> str:
        """Twin of what is shown: both trajectories once there are two."""
        if self.after is None:
            return self.before_player.static_html()
        return static_html(self.episode, self.after, self.sample)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget with its static twin."""
        return with_twin(super()._repr_mimebundle_(**kwargs), self.static_html(), f"what if: {self.sample.id}")


def _points(text: str) -> list[list[float]]:
    try:
        points = trace_steps.as_points(json.loads(text))
    except ValueError:
        points = ()
    if not points:
        raise ValueError(f"points {text!r}: write pairs such as [[100, 500], [900, 500]]")
    return [list(point) for point in points]
