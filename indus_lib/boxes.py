"""Box geometry. Relative units (0..1000) everywhere a model reads or writes; pixels only inside tools."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .samples import Box

STRIP = 100  # times as long as wide, the most that is shown; not in paper
SCALE = 1000


def to_pixels(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Relative box -> pixel window (x1, y1, x2, y2), clipped, at least one pixel wide and high."""
    x1, y1, x2, y2 = (min(max(float(v), 0.0), SCALE) for v in box)
    left, top = int(x1 * width // SCALE), int(y1 * height // SCALE)
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = -int(-x2 * width // SCALE), -int(-y2 * height // SCALE)  # ceil: a box never loses its edge
    return left, top, max(right, left + 1), max(bottom, top + 1)


def no_strip(window: Sequence[int], width: int, height: int) -> tuple[int, int, int, int]:
    """The pixel window, its shorter side grown about its centre to at least 1/`STRIP` of the longer one where the image
    allows: vision processors refuse thin strips (Qwen's from 1:200)."""
    least = -(-max(window[2] - window[0], window[3] - window[1]) // STRIP)
    spans = []
    for low, high, limit in ((window[0], window[2], width), (window[1], window[3], height)):
        size = min(max(high - low, least), limit)
        start = low if size <= high - low else min(max((low + high - size) // 2, 0), limit - size)
        spans.append((start, start + size))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def to_relative(window: Sequence[float], width: int, height: int) -> Box:
    """Pixel window -> relative box with integer corners, never empty."""
    x1, y1, x2, y2 = window
    left, top = round(x1 * SCALE / width), round(y1 * SCALE / height)
    left, top = min(max(left, 0), SCALE - 1), min(max(top, 0), SCALE - 1)
    right, bottom = min(round(x2 * SCALE / width), SCALE), min(round(y2 * SCALE / height), SCALE)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def area(box: Sequence[float]) -> float:
    """Area in squared units; 0 for an inverted box."""
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union, 0..1; 0 when both are empty."""
    overlap = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - overlap
    return overlap / union if union > 0 else 0.0


def best_iou(box: Sequence[float], truths: Sequence[Sequence[float]]) -> float:
    """Largest IoU of `box` with any of `truths`, or with their hull (one answer may cover a cluster)."""
    if not truths:
        return 0.0
    return max([iou(box, t) for t in truths] + [iou(box, hull(truths))])


def hull(boxes: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Smallest box around all `boxes` (at least one)."""
    xs1, ys1, xs2, ys2 = zip(*boxes, strict=True)
    return min(xs1), min(ys1), max(xs2), max(ys2)


def valid(box: Sequence[float]) -> bool:
    """Four numbers inside 0..1000 with positive area."""
    return len(box) == 4 and all(0 <= v <= SCALE for v in box) and box[2] > box[0] and box[3] > box[1]


def snap(box: Sequence[float], step: int = 10, *, outward: bool = True) -> Box:
    """Round a box to multiples of `step`: outward, or to the nearest but never empty."""
    low = math.floor if outward else round
    high = math.ceil if outward else round
    x1, y1 = (int(min(max(low(v / step) * step, 0), SCALE - step)) for v in box[:2])
    x2, y2 = (int(min(max(high(v / step) * step, 0), SCALE)) for v in box[2:])
    return x1, y1, max(x2, x1 + step), max(y2, y1 + step)


def coarse_text(window: Sequence[float], width: int, height: int) -> str:
    """A pixel window as an observation writes where something lies: relative, in tens (1 %), `[120,40,300,90]`."""
    return "[" + ",".join(map(str, snap(to_relative(window, width, height), outward=False))) + "]"
