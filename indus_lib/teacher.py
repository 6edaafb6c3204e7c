"""The offline teacher: trajectories from an annotation and from what the tools really returned (paper section 4).

How it departs from the paper, which asks a frontier VLM in two prompts (`teacher_endpoint` does that): sentences come
from a grammar, filled with measured facts. The rules that keep supervision out of the text:

- The tool is chosen outside (`teacher_plan`), in the same proportions for normal and anomalous images of a category.
- A tool's arguments are a function of the image alone. The annotated box is never an argument.
- Round one speaks of a mark only when it can be seen in the small view (`sight.visibility`); else it has no hunch, or
  a false one, as often as on a normal image.
- A final Yes rests on something visible: in the view, or in what a tool returned. Where neither shows the mark there is
  no honest trajectory, and the sample is refused.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from . import boxes, protocol, sight
from . import teacher_words as words
from .episodes import ToolCall, Turn
from .samples import Box, Sample
from .sight import WHOLE
from .teacher_tools import NONE, Finding, Scene, open_scene, rng_for, use
from .teacher_words import Hunch

NAME = "offline"
FALSE_ALARM = (0.06, 0.3)  # hunches about something harmless, where nothing or something stands out; not in paper
SAME_PLACE = 0.1  # IoU from which the tool's box is the answer: so that to copy it is the rule; not in paper
_BOX = re.compile(r"\[(\d+),(\d+),(\d+),(\d+)\]")
_SCALES = {"crop": ("tiny", "small"), "enhance": ("unknown", "medium"), "measure": ("small", "medium")}


class Refused(ValueError):
    """There is no honest trajectory for this sample and choice; the message is the reason's name."""


def write(sample: Sample, choice: str, seed: int, *, detail: str = "short", drafts: int = 3) -> list[tuple[Turn, ...]]:
    """Draft trajectories of one sample with the tools of `choice` (flavours joined by "+", or "none").

    Raises:
        Refused: The tools contradict the label, or nothing shows the mark.
    """
    scene = open_scene(sample)
    flavours = [] if choice == NONE else choice.split("+")
    found = [use(f, scene, rng_for(seed, sample.id, f)) for f in flavours]
    _refuse(scene, found)
    return [_draft(scene, found, rng_for(seed, sample.id, choice, str(k)), detail) for k in range(drafts)]


def type_text(node: str) -> str:
    """What goes into `<type>`: the taxonomy node in words."""
    return node.replace("_", " ").strip() or "anomaly"


def _refuse(scene: Scene, found: list[Finding]) -> None:
    if scene.sample.label:
        if not (scene.visible or any(f.shown for f in found)):
            raise Refused("mark_not_shown")
    elif any(f.slots.get("odd") for f in found):
        raise Refused("reading_contradicts_label")


def _draft(scene: Scene, found: list[Finding], rng: np.random.Generator, detail: str) -> tuple[Turn, ...]:
    label = bool(scene.sample.label)
    kind = type_text(scene.sample.node)
    box = _named(found, boxes.snap(scene.box, outward=False)) if scene.box else None
    hunch, sure = _hunch(scene, rng, certain=not found)
    fields = _fields(scene, found, hunch, sure, rng, detail)
    if not found:
        if label and hunch:
            slots = {"tone": hunch.tone, "place": hunch.place, "kind": kind}
            fields["evidence"] = words.plain_evidence(rng, scene.look, slots)
        fields["preliminary"] = "Yes" if label else "No"
        fields["evidence"] = protocol.finding(kind if label else "") + ", " + fields["evidence"]
        return (Turn(protocol.format_turn1(fields, anomalous=label, box=box, type=kind)),)
    fields["evidence"] = protocol.finding(hunch.noun if hunch else "") + ", " + fields["evidence"]
    text = protocol.format_turn1(fields, [f.call for f in found])
    calls = tuple(_recorded(f) for f in found)
    think = _conclusion(scene, found, hunch if fields["preliminary"] == "Yes" else None, kind, rng)
    think = protocol.finding(kind if label else "") + ", " + think
    return Turn(text, calls), Turn(protocol.format_final(think, label, box, kind))


def _named(found: list[Finding], box: Box) -> Box:
    """The box that a tool named, where it is about the right one: an inspector repeats what the tool said."""
    said = [tuple(map(int, numbers)) for f in found for numbers in _BOX.findall(f.result.text)]
    best = max(said, key=lambda b: boxes.iou(b, box), default=box)
    return best if boxes.iou(best, box) >= SAME_PLACE else box  # type: ignore[return-value]


def _recorded(found: Finding) -> ToolCall:
    """As an episode keeps it, without the time it took: the same build gives the same bytes."""
    r = found.result
    regions = tuple(tuple(b) for b in r.regions)
    return ToolCall(found.call["name"], found.call["arguments"], r.ok, r.text, regions, len(r.images))


def _hunch(scene: Scene, rng: np.random.Generator, certain: bool) -> tuple[Hunch | None, bool]:
    """What the first look notices, and whether it is plain to see. `certain`: no tool will be asked."""
    chance = rng.random()
    if scene.visible and scene.box is not None and scene.mark is not None:
        clear = scene.mark.score >= 2 * sight.VISIBLE
        if certain or chance < (0.9 if clear else 0.65):
            noun = words.noun_for(rng, scene.box)
            return Hunch(scene.mark.tone, noun, sight.place(scene.box), sight.size_word(scene.box)), clear or certain
        return None, False
    spot = scene.look.spot
    if certain or spot is None or chance >= FALSE_ALARM[spot.score >= sight.VISIBLE]:
        return None, False
    return Hunch(spot.tone, words.noun_for(rng, spot.box), spot.place, sight.size_word(spot.box)), False


def _fields(
    scene: Scene, found: list[Finding], hunch: Hunch | None, sure: bool, rng: np.random.Generator, detail: str
) -> dict[str, Any]:
    tool = found[0].tool if found else NONE
    scale = hunch.scale if hunch else words.pick(rng, _SCALES.get(tool, ("unknown",)))
    suspicion = ("high" if sure else "medium") if hunch else words.pick(rng, ("low", "low", "medium"))
    fields: dict[str, Any] = {
        "evidence": words.first_evidence(rng, scene.look, hunch, tool, sure),
        "target": words.pick(rng, words.TARGETS[tool]),
        "region": _region(scene, hunch),
        "scale": scale,
        "cue": words.pick(rng, words.CUES[tool]),
        "suspicion": suspicion if found or hunch else "low",
        "preliminary": "Yes" if hunch and (sure or rng.random() < 0.6) else "No",
    }
    if detail == "short":  # a tiny context: the whole image goes without saying
        del fields["target"]
        if fields["region"] == WHOLE:
            del fields["region"]
    return fields


def _region(scene: Scene, hunch: Hunch | None) -> Box:
    """The ninth of the image that a hunch names (never the annotated box), else the part."""
    if hunch is None:
        return scene.look.part
    column = 350 * ("right" in hunch.place) * 2 or (0 if "left" in hunch.place else 350)
    row = next((v for k, v in (("upper", 0), ("top", 0), ("lower", 700), ("bottom", 700)) if k in hunch.place), 350)
    return min(column, 650), min(row, 650), min(column, 650) + 350, min(row, 650) + 350


def _conclusion(scene: Scene, found: list[Finding], hunch: Hunch | None, kind: str, rng: np.random.Generator) -> str:
    if not scene.sample.label:
        parts = [words.clear(rng, _clear_key(f), scene.look, f.slots) for f in found]
    else:
        assert scene.box is not None and scene.mark is not None
        base = {"tone": scene.mark.tone, "noun": words.noun_for(rng, scene.box), "kind": kind,
                "place": sight.place(scene.box), "inside": "centre"}  # fmt: skip
        shown = [f for f in found if f.shown]
        if shown:
            parts = [words.found(rng, _found_key(f), {**base, **f.slots}) for f in shown]
        else:
            parts = [words.not_helped(rng, f.tool, {**base, **f.slots}) for f in found[:1]]
            parts.append(words.stands(rng, base))
    parts.append(words.closing(rng, bool(scene.sample.label), hunch))
    return ", ".join(p for p in parts if p)


def _clear_key(found: Finding) -> str:
    if found.tool == "measure" and not found.slots["read"]:
        return "unread"
    if found.tool == "prior":
        return "unknown" if not found.slots["known"] else "sign" if found.slots["sign"] else "prior"
    return "spot" if found.slots.get("spot") else found.tool


def _found_key(found: Finding) -> str:
    if found.tool == "prior" and found.slots["sign"]:
        return "sign"
    return "bent" if found.tool == "measure" and found.slots["offset"] > found.slots["deviation"] else found.tool
