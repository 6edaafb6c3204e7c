"""What the offline teacher does with tools: makes calls from the image alone, runs them, and judges what they show.

Only the judging knows the annotation. A call's arguments are a function of the image, made the same way for a normal
and an anomalous one; the annotated box is never an argument. Thresholds are ours (not in paper).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import boxes, images, sight, taxonomy, tools
from . import teacher_words as words
from .row_search import read_best
from .samples import Box, Sample
from .sight import WHOLE, Look, Mark
from .tool_row import ODD_GAP
from .tools import ToolResult

SINGLE = {
    "crop": (*["crop:whole"] * 6, "crop:part", "crop:spot"),
    "enhance": (*["enhance:texture"] * 6, "enhance:clahe", "enhance:edges"),
    "measure": ("measure:row",),
    "prior": ("prior:ask",),
}
"""Flavours of each tool (how its arguments are made), repeated by how often they are tried; not in paper."""
ASK_AND_LOOK = "prior:ask+crop:signs"
NONE = "none"

GAIN = 1.3  # a tool helps when the mark shows this much better than in the view; not in paper
MAP_SHOWN = 1.5  # visibility in an enhanced image, where the grain is amplified too; not in paper
SPOT_SCORE = 8.0  # of the crop tool: something regular stands out on a normal part; not in paper
MIDDLE = 0.5  # of the rows are pointed at roughly, so that the corpus has rows found elsewhere; not in paper
_SIGN = re.compile(
    r"\b(?:(?:dark|bright|black|white|pale|short|small|printed|round) ){1,3}(?:dot|ring|bar|cross|mark)\b"
)
_BY_DESIGN = frozenset({"marking fault", "part identity"})
"""Faults that only the product's design can tell from a feature: to see such a mark is not yet to know it is wrong."""


@dataclass(frozen=True)
class Finding:
    """What one tool call gave. `shown`: it shows the annotated mark. `gain`: its visibility against the view's."""

    tool: str
    call: dict[str, Any]
    result: ToolResult
    shown: bool = False
    gain: float = 0.0
    slots: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """A sample with everything the teacher looks at. `box`, `mark`, `mask` None for a normal sample."""

    sample: Sample
    image: np.ndarray
    look: Look
    box: Box | None = None
    mark: Mark | None = None
    mask: np.ndarray | None = None

    @property
    def by_design(self) -> bool:
        """Whether the mark is wrong only by what the product should be: then the prior alone can show it."""
        tree, node = taxonomy.load(), self.sample.node
        return bool(self.sample.label) and node in tree.nodes() and bool(_BY_DESIGN & set(tree.path(node)))

    @property
    def visible(self) -> bool:
        """Whether the view itself shows that something is wrong."""
        return self.mark is not None and self.mark.score >= sight.VISIBLE and not self.by_design


def rng_for(seed: int, *keys: str) -> np.random.Generator:
    """Random numbers that depend on the seed and names only: a resumed build draws the same."""
    return np.random.default_rng([seed, *(zlib.crc32(k.encode()) for k in keys)])


def open_scene(sample: Sample) -> Scene:
    """Load a sample. Raises ValueError for one without label, ImageError for a broken file."""
    if sample.label is None:
        raise ValueError(f"sample {sample.id}: the teacher needs a label; this one is unknown")
    if sample.label and not sample.boxes:
        raise ValueError(f"sample {sample.id}: anomalous without a mask or box; the teacher cannot place it")
    image = images.load_image(sample.image, sample.tile)
    look = sight.look(image)
    if not sample.label:
        return Scene(sample, image, look)
    mask = images.load_mask(sample.mask, image.shape, sample.tile) if sample.mask else None
    box = target_box(sample.boxes)
    return Scene(sample, image, look, box, sight.visibility(image, box, mask), mask)


def target_box(truths: Sequence[Box]) -> Box:
    """The box to answer with: the hull of a cluster, else the largest one."""
    hull = boxes.hull(truths)
    if boxes.area(hull) <= 2 * sum(boxes.area(b) for b in truths):  # not in paper
        return tuple(int(v) for v in hull)  # type: ignore[return-value]
    return max(truths, key=boxes.area)


# --- tools --------------------------------------------------------------------------------------------------------


def make_call(flavour: str, scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments from the image alone, the same way whatever the label."""
    name, kind = flavour.split(":")
    arguments: dict[str, Any] = {}
    if name == "crop":
        spot = scene.look.spot
        part = scene.look.part if scene.look.part != WHOLE else (100, 100, 900, 900)
        near = sight.around(spot.box) if spot else WHOLE
        arguments["region"] = list({"whole": WHOLE, "part": part, "spot": near, "signs": WHOLE}[kind])
        if kind == "signs":  # to be compared with the prior's
            arguments["signs"] = True
    elif name == "enhance":
        arguments["method"] = kind
    elif name == "measure":
        arguments = {"kind": "row", "points": _row_points(scene, rng.random() < MIDDLE)}
    else:
        query = words.QUERIES[int(rng.integers(len(words.QUERIES)))]
        arguments = {"query": query} if query else {}
    return {"name": name, "arguments": arguments}


def _row_points(scene: Scene, middle: bool) -> list[list[int]]:
    """Ends of the clearest row, or the middle of the image in the row's direction, as who sees a small view points; the
    part's middle line where there is no row."""
    found = read_best(scene.image)
    if found and middle:
        (x1, y1), (x2, y2) = found[0].points
        height, width = scene.image.shape[:2]
        lying = abs(x2 - x1) * width >= abs(y2 - y1) * height
        return [[100, 500], [900, 500]] if lying else [[500, 100], [500, 900]]
    if found:
        return [list(p) for p in found[0].points]
    x1, y1, x2, y2 = scene.look.part
    level = round((y1 + y2) / 20) * 10
    return [[x1 + 50, level], [x2 - 50, level]]


def use(flavour: str, scene: Scene, rng: np.random.Generator) -> Finding:
    """Run one tool and judge, with the annotation at hand, whether its result shows the mark."""
    call = make_call(flavour, scene, rng)
    s = scene.sample
    result = tools.run(call["name"], call["arguments"], scene.image, category=s.category, view=s.view,
                       mm_per_pixel=s.mm_per_pixel)  # fmt: skip
    judge = {"crop": _judge_crop, "enhance": _judge_enhance, "measure": _judge_row, "prior": _judge_prior}
    shown, gain, slots = judge[call["name"]](scene, call, result)
    return Finding(call["name"], call, result, shown, gain, slots)


def _judge_crop(scene: Scene, call: dict[str, Any], result: ToolResult) -> tuple[bool, float, dict[str, Any]]:
    if scene.box is None or scene.mark is None or scene.by_design:
        return False, 0.0, {"spot": result.details["score"] >= SPOT_SCORE}
    window = result.regions[0]
    inner = _relative_to(scene.box, window)
    covered = boxes.area(inner) * boxes.area(window) / 1e6 / boxes.area(scene.box) if boxes.valid(inner) else 0.0
    if covered < 0.6:
        return False, 0.0, {}
    mask = None
    if scene.mask is not None:
        x1, y1, x2, y2 = boxes.to_pixels(window, scene.image.shape[1], scene.image.shape[0])
        mask = scene.mask[y1:y2, x1:x2]
    mark = sight.visibility(result.images[0], inner, mask)
    gain = mark.score / max(scene.mark.score, 0.05)
    return mark.score >= sight.VISIBLE, gain, {"inside": sight.place(inner), "tone": mark.tone}


def _relative_to(box: Sequence[float], window: Sequence[float]) -> Box:
    width, height = window[2] - window[0], window[3] - window[1]
    x1, x2 = (round(min(max((v - window[0]) * 1000 / width, 0), 1000)) for v in (box[0], box[2]))
    y1, y2 = (round(min(max((v - window[1]) * 1000 / height, 0), 1000)) for v in (box[1], box[3]))
    return x1, y1, x2, y2


def _judge_enhance(scene: Scene, call: dict[str, Any], result: ToolResult) -> tuple[bool, float, dict[str, Any]]:
    slots = {"method": call["arguments"]["method"]}
    if scene.box is None or scene.mark is None or scene.by_design:
        return False, 0.0, slots
    mark = sight.visibility(result.images[0], scene.box, scene.mask)
    gain = mark.score / max(scene.mark.score, 0.05)
    tone = mark.tone if mark.tone in ("dark", "bright") else "distinct"
    return mark.score >= MAP_SHOWN, gain, {**slots, "tone": tone}


def _judge_row(scene: Scene, call: dict[str, Any], result: ToolResult) -> tuple[bool, float, dict[str, Any]]:
    d = result.details
    count, deviation, offset = len(d.get("centres", ())), d.get("deviation", 0.0), d.get("offset", 0.0)
    read = count >= 4 and deviation <= 110 and offset <= 110  # beyond, features were lost and not the product's fault
    odd = read and max(deviation, offset) >= ODD_GAP
    slots = {"count": count, "deviation": round(deviation), "offset": round(offset), "read": read, "odd": odd}
    if scene.box is None or not odd:
        return False, 0.0, slots
    region = result.regions[0]
    reach = 40
    grown = (region[0] - reach, region[1] - reach, region[2] + reach, region[3] + reach)
    near = boxes.iou(grown, scene.box) > 0
    return near, 2.0 if near else 0.0, slots


def _judge_prior(scene: Scene, call: dict[str, Any], result: ToolResult) -> tuple[bool, float, dict[str, Any]]:
    known = bool(result.details.get("known"))
    named = _SIGN.search(result.text.casefold())
    sign = named[0] if named else ""
    if scene.mark is None or not known or scene.mark.score < 0.6 * sight.VISIBLE:
        return False, 0.0, {"known": known, "sign": sign}
    about = scene.by_design
    return about, 2.0 if about else 0.0, {"known": known, "sign": sign}


def survey(sample: Sample, seed: int) -> dict[str, Any]:
    """Which choices would show an anomalous sample's mark: `visible`, `gain`, and flavours that are `shown`, `useful`.

    One flavour of each tool is tried, drawn without regard to the image.
    """
    scene = open_scene(sample)
    draw = rng_for(seed, sample.id, "flavours")
    flavours = [options[int(draw.integers(len(options)))] for options in SINGLE.values()]
    tried = {f: use(f, scene, rng_for(seed, sample.id, f)) for f in flavours}
    score = scene.mark.score if scene.mark and not scene.by_design else 0.0
    helps = [f for f, x in tried.items() if x.shown and (not scene.visible or x.gain >= GAIN)]
    return {
        "visible": score,
        "tried": flavours,
        "shown": [f for f, x in tried.items() if x.shown],
        "gain": {f: round(x.gain, 3) for f, x in tried.items()},
        "useful": helps + [NONE] * (score >= 1.5 * sight.VISIBLE),
    }
