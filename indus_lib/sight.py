"""What a careful eye can say about a photograph: the facts that the offline teacher grounds its sentences in.

Two kinds, kept apart on purpose. `look` uses the image alone, the same way for a normal and an anomalous one; only
`visibility` takes an annotated region, to tell whether a mark could be seen at the size the model sees.
Every threshold here is ours (not in paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from . import boxes
from .samples import Box
from .tool_outliers import candidates

VIEW_PIXELS = 96 * 96  # what a glance keeps of the image: less than the miniature's 144 x 144, it is to ask when unsure
WHOLE: Box = (0, 0, 1000, 1000)
VISIBLE = 1.5  # `Mark.score` above which a mark can be seen in the view

_ROWS = ("upper", "", "lower")
_COLUMNS = ("left", "", "right")


@dataclass(frozen=True)
class Spot:
    """Something that stands out: relative box, where and how in words, visibility (as of a `Mark`)."""

    box: Box
    place: str
    tone: str
    score: float


@dataclass(frozen=True)
class Look:
    """Annotation-free facts. `grey` and `grain` are levels 0..255 of the part; `part` its box, WHOLE for a surface."""

    colour: str
    texture: str
    grey: int
    grain: float
    part: Box
    spot: Spot | None


@dataclass(frozen=True)
class Mark:
    """How an annotated region differs from its surroundings at a given size.

    Attributes:
        contrast: Mean difference in grey levels, inside minus around (signed).
        score: Visibility: difference over the surroundings' spread, growing with the number of pixels; above
            `VISIBLE` it can be seen.
        tone: The difference in words.
    """

    contrast: float
    score: float
    tone: str


def small_view(image: np.ndarray, pixels: int = VIEW_PIXELS) -> np.ndarray:
    """The image reduced to about `pixels` pixels, aspect kept (uint8 H x W x 3); never enlarged."""
    height, width = image.shape[:2]
    scale = min((pixels / (height * width)) ** 0.5, 1.0)
    size = (max(round(width * scale), 8), max(round(height * scale), 8))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def look(image: np.ndarray) -> Look:
    """Facts of an image (uint8 H x W x 3) from its small view."""
    view = small_view(image)
    part = part_box(view)
    x1, y1, x2, y2 = boxes.to_pixels(part, view.shape[1], view.shape[0])
    inside = view[y1:y2, x1:x2]
    grey = cv2.cvtColor(inside, cv2.COLOR_RGB2GRAY)
    grain = float(np.median(np.abs(cv2.Laplacian(grey.astype(np.float32), cv2.CV_32F)))) / 2
    level = float(np.median(grey))
    return Look(_colour(inside), _texture(grain), round(level / 10) * 10, round(grain, 1), part, _spot(view))


def part_box(view: np.ndarray) -> Box:
    """Box of what differs from the image border, WHOLE when the surface fills the frame. Snapped to 50."""
    lab = cv2.cvtColor(view, cv2.COLOR_RGB2LAB).astype(np.float32)
    border = np.concatenate([lab[:3].reshape(-1, 3), lab[-3:].reshape(-1, 3), lab[:, :3].reshape(-1, 3)])
    distance = np.abs(lab - np.median(border, 0)).sum(2)
    spread = float(np.median(np.abs(border - np.median(border, 0)).sum(1)))
    mask = cv2.morphologyEx((distance > 4 * spread + 12).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    if not 0.04 < mask.mean() < 0.8:
        return WHOLE
    ys, xs = np.nonzero(mask)
    x1, x2 = np.percentile(xs, [1, 99])
    y1, y2 = np.percentile(ys, [1, 99])
    box = boxes.to_relative((x1, y1, x2 + 1, y2 + 1), view.shape[1], view.shape[0])
    return boxes.snap(box, 50)


def place(box: Sequence[float], within: Sequence[float] = WHOLE) -> str:
    """Where a box lies, in one of nine words."""
    column = _third((box[0] + box[2]) / 2, within[0], within[2])
    row = _third((box[1] + box[3]) / 2, within[1], within[3])
    if not _ROWS[row] and not _COLUMNS[column]:
        return "centre"
    if not _COLUMNS[column]:
        return "top" if row == 0 else "bottom"
    return f"{_ROWS[row]} {_COLUMNS[column]}".strip()


def _third(value: float, low: float, high: float) -> int:
    return int(min(max((value - low) * 3 // max(high - low, 1), 0), 2))


def around(box: Sequence[float], side: int = 500, step: int = 50) -> Box:
    """A large region around a box: `side` wide and high (or the box's own), shifted inside, snapped."""
    spans = []
    for low, high in ((box[0], box[2]), (box[1], box[3])):
        size = min(max(side, high - low), 1000)
        start = min(max((low + high - size) / 2, 0), 1000 - size)
        spans.append((start, start + size))
    return boxes.snap((spans[0][0], spans[1][0], spans[0][1], spans[1][1]), step)


def size_word(box: Sequence[float]) -> str:
    """Routing scale of a region, by the side of the square of equal area."""
    side = boxes.area(box) ** 0.5
    return "tiny" if side < 60 else "small" if side < 150 else "medium" if side < 350 else "large"


def visibility(
    image: np.ndarray, box: Sequence[float], mask: np.ndarray | None = None, pixels: int = VIEW_PIXELS
) -> Mark:
    """How well an annotated region shows in a view of about `pixels` pixels.

    Args:
        image: uint8 H x W x 3.
        box: Its box, relative.
        mask: bool H x W where known: a thin scratch fills little of its box.
        pixels: Size of the view; pass the image's own size for the original.
    """
    view = small_view(image, pixels).astype(np.float32)
    height, width = view.shape[:2]
    inside = np.zeros((height, width), np.float32)
    x1, y1, x2, y2 = boxes.to_pixels(box, width, height)
    inside[y1:y2, x1:x2] = 1.0
    if mask is not None:
        inside *= cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    reach = max(round(0.5 * max(x2 - x1, y2 - y1)), 3)
    grown = np.zeros((height, width), bool)
    grown[max(y1 - reach, 0) : y2 + reach, max(x1 - reach, 0) : x2 + reach] = True
    ring = grown & (inside < 0.02)
    if inside.sum() <= 0 or ring.sum() < 4:
        return Mark(0.0, 0.0, "hardly visible")
    return _compare(view, inside, ring)


def _compare(view: np.ndarray, inside: np.ndarray, ring: np.ndarray) -> Mark:
    weights = inside / inside.sum()
    around_mean = view[ring].mean(0)
    difference = (view * weights[..., None]).sum((0, 1)) - around_mean  # (3,) RGB
    residual = np.abs(view - around_mean).mean(2)
    spread = float(np.median(residual[ring])) + 2.0  # two levels: noise of sensor and eye
    excess = (
        float((residual * weights).sum()) - spread + 2.0
    )  # also a mark that is dark on one side, bright on the other
    strength = max(float(np.abs(difference).mean()), excess, 0.0)
    area = float(min(inside.sum(), 25.0))
    score = strength / spread * area**0.5 / 2.5
    return Mark(float(difference.mean()), round(score, 3), _tone(difference, strength))


def _tone(difference: np.ndarray, strength: float) -> str:
    mean = float(difference.mean())
    if float(np.abs(difference - mean).max()) > max(1.2 * abs(mean), 8.0):
        return ("reddish", "greenish", "bluish")[int(np.argmax(difference - mean))]
    if strength < 5:
        return "faint"
    if abs(mean) < 0.35 * strength:
        return "uneven"
    return "dark" if mean < 0 else "bright"


def _spot(view: np.ndarray) -> Spot | None:
    """The strongest local outlier of the view."""
    height, width = view.shape[:2]
    found = candidates(view, (0, 0, width, height), keep=1)
    if not found:
        return None
    box = boxes.to_relative(found[0].window, width, height)
    mark = visibility(view, box)
    return Spot(box, place(box), mark.tone, mark.score)


def _colour(patch: np.ndarray) -> str:
    hue, saturation, value = (np.median(c) for c in cv2.split(cv2.cvtColor(patch, cv2.COLOR_RGB2HSV)))
    if saturation < 45:
        return "dark" if value < 80 else "grey" if value < 180 else "pale"
    names = ((8, "red"), (20, "brown" if value < 170 else "orange"), (34, "yellow"), (85, "green"), (130, "blue"))
    return next((name for limit, name in names if hue < limit), "purple" if hue < 165 else "red")


def _texture(grain: float) -> str:
    return "smooth" if grain < 1.0 else "fine" if grain < 3.0 else "grainy" if grain < 8.0 else "coarse"
