"""What a tool says of a pre-training scene, beside what is really there (`base_data`).

A large model can read: it finds a number in a sentence, knows a ring for something hollow and sees whether a crop
shows a crack or nothing. The miniature has to be taught that too, on scenes that belong to no product. What is told is
what was drawn: the kind of a mark, a sign, how a row runs; never whether that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from . import boxes, tool_measure
from .base_talk import NAMES, NOTHING, Report, mark_name
from .factory_base import BaseScene
from .factory_marks import Mark
from .samples import Box
from .tool_result import ToolError, ToolResult

HIT = 0.12  # IoU of a mark's box with the one that a tool names, or share of that filled by the mark: it was found
JITTER = 15.0  # relative units by which the asked end points of a row are off

_BOX = re.compile(r" at (\[[\d,]+\])")


def of_crop(result: ToolResult, marks: Sequence[Mark], shape: tuple[int, ...]) -> Report | None:
    """The crop's own words and what lies at the box they name; None where they name none. shape: (H, W, ..) px."""
    return _at(result.text, marks, shape, "it")


def of_map(result: ToolResult, marks: Sequence[Mark], shape: tuple[int, ...]) -> Report | None:
    """The same of an enhanced map and its strongest response."""
    return _at(result.text, marks, shape, "the strongest")


def of_row(scene: BaseScene, image: np.ndarray) -> Report | None:
    """What the caliper says of the row of a scene, and how the row was drawn; None without one."""
    if scene.row is None:
        return None
    high, wide = image.shape[:2]
    rng = np.random.default_rng(int(sum(scene.row)) + len(scene.marks))
    ends = np.array(scene.row).reshape(2, 2) / (wide, high) * boxes.SCALE + rng.uniform(-JITTER, JITTER, (2, 2))
    try:
        text = _asked(tool_measure.measure(image, "row", np.clip(ends, 0, boxes.SCALE).tolist()).text)
    except ToolError:
        return None
    return Report(text, f"{scene.row_state or 'even'} row", _box(text), "the worst")


def _at(text: str, marks: Sequence[Mark], shape: tuple[int, ...], what: str) -> Report | None:
    text = _asked(text)
    box = _box(text)
    if not box:
        return None
    x1, y1, x2, y2 = boxes.to_pixels(box, shape[1], shape[0])
    best, name = HIT, NOTHING
    for mark in marks:
        filled = float(mark.mask[y1:y2, x1:x2].mean())
        share = max(filled, boxes.iou(boxes.to_relative(mark.box, shape[1], shape[0]), box))
        if share > best and mark.kind in NAMES:
            best, name = share, mark_name(mark.kind, mark.contrast > 0)
    return Report(text, name, box, what)


def _asked(text: str) -> str:
    """What a tool was asked for, without what stands out besides (`tool_besides`)."""
    return text.partition("; ")[0]


def _box(text: str) -> Box | tuple[()]:
    found = _BOX.findall(text)
    return tuple(int(v) for v in found[-1].strip("[]").split(",")) if found else ()  # type: ignore[return-value]
