"""An episode as a list of steps with everything there is to show. Pure state: no widget, no HTML.

look -> route -> one step per tool call -> decide. An episode stores no images, so the ones a tool returned are made
again by `tools.run`, which is a pure function of image and arguments.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import boxes, images, tools
from .episodes import Episode, ToolCall, Turn
from .protocol import TAGS
from .samples import Sample

_OPEN = re.compile(rf"<({'|'.join(TAGS)})>")


@dataclass(frozen=True)
class Mark:
    """Something drawn on the image, in 0..1000: a box, or points joined by a line.

    Attributes:
        kind: A key of `trace_theme.MARK_COLOUR`.
        box: Corners, None for points.
        points: Points of a measurement, empty for a box.
        label: Short words beside it.
    """

    kind: str
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Step:
    """One stop of the player.

    Attributes:
        kind: `look`, `route`, `tool` or `decide`.
        title: One line.
        thinking: What the agent thought here.
        thought_before: What it had thought until here.
        message: The agent's message, as written.
        given: Arguments a tool was given, as JSON; "" where there is none.
        returned: Text the tool returned.
        ok: False when the tool refused the call.
        images, captions: What the tool returned to look at, uint8 HxWx3 each, and a line on each.
        marks: What to draw on the image at this step.
        before, after: log p(Yes) - log p(No) before and after what this step brings; None when not known.
        calls, ms: Tool calls and milliseconds (model and tools) spent up to and including this step.
        notes: Remarks of ours, never the agent's words.
    """

    kind: str
    title: str
    thinking: str = ""
    thought_before: str = ""
    message: str = ""
    given: str = ""
    returned: str = ""
    ok: bool = True
    images: tuple[np.ndarray, ...] = ()
    captions: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    before: float | None = None
    after: float | None = None
    calls: int = 0
    ms: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """An episode ready to show: its steps and the full-resolution image (uint8 HxWx3)."""

    episode: Episode
    sample: Sample
    image: np.ndarray
    steps: tuple[Step, ...] = field(default=())


def sample_of(episode: Episode) -> Sample:
    """A sample as far as an episode alone knows it: no true boxes, no view."""
    return Sample(episode.sample_id, Path(episode.image), episode.dataset, episode.category, episode.label)


def build(episode: Episode, sample: Sample | None = None, image: np.ndarray | None = None) -> Trace:
    """All steps of `episode`.

    Args:
        episode: What happened.
        sample: What is known about the image; without it there are no ground-truth boxes.
        image: The original, uint8 HxWx3, when it is at hand; read from `sample.image` otherwise.

    Raises:
        images.ImageError: The image file does not read.
    """
    sample = sample or sample_of(episode)
    image = images.load_image(sample.image, sample.tile) if image is None else image
    truth = tuple(Mark("truth", box, label=sample.defect or "true defect") for box in sample.boxes)
    steps = [_look(episode, sample, truth)]
    for number, turn in enumerate(episode.turns):
        steps.append(_turn_step(episode, number, steps[-1], truth))
        after = _margin_after(episode, number)
        for call in turn.calls:
            steps.append(_tool_step(call, turn, steps[-1], after, truth, sample, image))
    return Trace(episode, sample, image, tuple(steps))


def segments(text: str) -> Iterator[tuple[str, str]]:
    """(tag, body) pieces of a message in order, "" for text outside tags. Total on any string; nothing is lost."""
    position = 0
    while match := _OPEN.search(text, position):
        if outside := text[position : match.start()].strip():
            yield "", outside
        close = f"</{match[1]}>"
        end = text.find(close, match.end())
        end, position = (len(text), len(text)) if end < 0 else (end, end + len(close))
        yield match[1], text[match.end() : end].strip()
    if rest := text[position:].strip():
        yield "", rest


def probability(margin: float) -> float:
    """p(Yes) against p(No) of a margin; never overflows."""
    return 0.5 * (1 + math.tanh(margin / 2))


def verdict_words(episode: Episode, sample: Sample) -> tuple[str, str, str]:
    """(what the agent says, the truth, `right` | `wrong` | `unknown`)."""
    verdict = episode.verdict
    says = "no readable answer" if verdict is None else "Yes: anomalous" if verdict.anomalous else "No: normal"
    if verdict and verdict.anomalous and verdict.type:
        says += f" ({verdict.type})"
    label = episode.label if sample.label is None else sample.label
    if label is None:
        return says, "unknown", "unknown"
    truth = ("anomalous" + (f" ({sample.defect})" if sample.defect else "")) if label else "normal"
    return says, truth, "right" if verdict is not None and verdict.anomalous == label else "wrong"


def as_box(value: Any) -> tuple[float, float, float, float] | None:
    """`value` as a box when it is one; model-made arguments may be anything."""
    numbers = _numbers(value, 4)
    return numbers if numbers and boxes.valid(numbers) else None  # type: ignore[return-value]


def as_points(value: Any) -> tuple[tuple[float, float], ...]:
    """`value` as points in 0..1000 when it is a list of pairs, else empty."""
    pairs = [_numbers(item, 2) for item in value] if isinstance(value, (list, tuple)) else []
    return () if None in pairs else tuple(pairs)  # type: ignore[arg-type]


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v) for v in value):
        return None
    return tuple(float(v) for v in value)


def _look(episode: Episode, sample: Sample, truth: tuple[Mark, ...]) -> Step:
    words = ", ".join(word for word in (sample.category or "unknown product", sample.dataset, sample.view) if word)
    notes = (words, *((f"no answer: {episode.error}",) if episode.error else ()))
    return Step("look", "The image, before anything was said", marks=truth, notes=notes)


def _margin_before(episode: Episode, number: int) -> float | None:
    """Margin before turn `number` was said: without tools for the first (section 6), else at the turn before it."""
    if number:
        return episode.turns[number - 1].margin
    known = episode.margin_before
    return None if known == episode.turns[0].margin else known  # the loop takes both at the same place


def _margin_after(episode: Episode, number: int) -> float | None:
    """Margin once the observations of turn `number` were read: the next turn's, or the final one."""
    following = episode.turns[number + 1 : number + 2]
    if following and following[0].margin is not None:
        return following[0].margin
    return episode.margin if number + 2 >= len(episode.turns) else None


def _turn_step(episode: Episode, number: int, previous: Step, truth: tuple[Mark, ...]) -> Step:
    turn, last = episode.turns[number], number == len(episode.turns) - 1
    spoken = list(segments(turn.text))
    thinking = "\n".join(body for tag, body in spoken if tag == "think" or (not tag and episode.mode == "direct"))
    after = episode.margin if last and episode.margin is not None else turn.margin
    names = ", ".join(call.name for call in turn.calls)
    title = f"Decides to call {names}" if names else "Decides" if last else "Goes on without a tool"
    marks = truth
    if last and episode.verdict and episode.verdict.box:
        overlap = boxes.best_iou(episode.verdict.box, [m.box for m in truth if m.box])
        label = episode.verdict.type + (f" IoU {overlap:.2f}" if truth else "")
        marks = (*truth, Mark("prediction", episode.verdict.box, label=label.strip()))
    notes = tuple(f"format violation: {name}" for name in episode.violations) if last else ()
    return Step(
        "decide" if last and not names else "route",
        title,
        thinking=thinking,
        thought_before=_thought(previous),
        message=turn.text,
        marks=marks,
        before=_margin_before(episode, number),
        after=after,
        calls=previous.calls,
        ms=previous.ms + 1000 * turn.seconds,
        notes=notes,
    )


def _thought(step: Step) -> str:
    return "\n".join(text for text in (step.thought_before, step.thinking) if text)


def _tool_step(
    call: ToolCall,
    turn: Turn,
    previous: Step,
    after: float | None,
    truth: tuple[Mark, ...],
    sample: Sample,
    image: np.ndarray,
) -> Step:
    pictures: tuple[np.ndarray, ...] = ()
    details: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if call.ok and call.name in tools.TOOLS and (call.n_images or call.name == "measure"):
        again = tools.run(
            call.name,
            call.arguments,
            image,
            category=sample.category,
            view=sample.view,
            mm_per_pixel=sample.mm_per_pixel,
        )
        pictures, details = tuple(again.images), again.details
        if again.text != call.text:
            notes = ("the stored text is not what the tool says today: it was changed by hand or by a newer version",)
    if len(turn.calls) > 1:
        notes = (*notes, f"the agent reads the {len(turn.calls)} observations of this turn together")
    return Step(
        "tool",
        f"{call.name}: " + ("result" if call.ok else "refused"),
        thought_before=_thought(previous),
        given=json.dumps(call.arguments, ensure_ascii=False),
        returned=call.text,
        ok=call.ok,
        images=pictures,
        captions=tuple(_caption(call, details, picture) for picture in pictures),
        marks=(*truth, *_tool_marks(call, details, image)),
        before=turn.margin,
        after=after,
        calls=previous.calls + 1,
        ms=previous.ms + call.ms,
        notes=notes,
    )


def _caption(call: ToolCall, details: dict[str, Any], picture: np.ndarray) -> str:
    height, width = picture.shape[:2]
    what = {"crop": "cut from the original", "enhance": str(call.arguments.get("method", "enhanced"))}
    shown = f"{width} x {height} px"
    if window := details.get("window_px"):
        x1, y1, x2, y2 = window
        cut = f"{x2 - x1} x {y2 - y1} px"
        shown = cut if cut == shown else f"{cut}, enlarged to {shown}"
    return f"{what.get(call.name, call.name)}, {shown}"


def _tool_marks(call: ToolCall, details: dict[str, Any], image: np.ndarray) -> tuple[Mark, ...]:
    """Asked region, the region really used, and measured points; nothing for arguments that are not geometry."""
    marks = []
    if asked := as_box(call.arguments.get("region")):
        marks.append(Mark("asked", asked, label="asked"))
    if call.name == "measure":
        if points := as_points(call.arguments.get("points")):
            marks.append(Mark("measure", points=points, label=str(call.arguments.get("kind", ""))))
        height, width = image.shape[:2]
        found = tuple((x * 1000 / width, y * 1000 / height) for x, y in as_points(details.get("centres")))
        if found:  # a row: the features that the tool itself found, in pixels
            marks.append(Mark("measure", points=found, label=f"{len(found)} found"))
    else:
        marks += [Mark("tool", box, label=call.name) for box in map(as_box, call.regions) if box]
    return tuple(marks)


def visible(marks: Sequence[Mark], kinds: Sequence[str]) -> tuple[Mark, ...]:
    """Marks of the chosen `kinds` only."""
    return tuple(mark for mark in marks if mark.kind in kinds)
