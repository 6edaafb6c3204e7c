"""What stands out of its surroundings, at every size, and which of it is no part of the product.

Residuals against the median of each pyramid level, in units of the local deviation, give candidates. A product has
edges, holes and prints of its own that stand out as much as a mark does. Its own features mostly come more than once;
a mark is alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from .tool_result import Window, graded

ANALYSIS_SIDE = 1280  # longer regions are searched at an integer reduction (speed); not in paper
LEVELS = 5  # pyramid levels, blobs up to about 4 * 2**4 px; not in paper
SMALL_FIRST = (1.0, 1.0, 0.5, 0.3, 0.2)  # level weights: large things show in the global view anyway; not in paper
ANY_SIZE = (0.7, 1.0, 1.0, 1.0, 1.0)  # level weights when nothing small stands out; not in paper
CLEAR = 7.5  # score from which a small thing stands out; not in paper
TWINS = 1.2  # penalty exponent of repeated features; not in paper
COMPARED, COMPARED_SIDE = 8, 10  # candidates looked for elsewhere, px to which they are reduced; not in paper
ALIKE, REPEATED = 0.8, 12.0  # correlation from which two places are alike, and what it costs; not in paper
EDGE = 0.3  # how much the steps of the background around a residual count against it; not in paper
CLARITY = (("low", 7.5), ("medium", 12.0), ("high", 25.0))  # local deviations up to which; not in paper


@dataclass(frozen=True)
class Candidate:
    """One thing that stands out. `window` is in pixels of the analysed image.

    `score` is its residual in local deviations, `lead` its ratio to the weakest peak kept at its level, `twins` how
    many peaks of the level look like it, `repeats` the best correlation with another place of the picture (0 where that
    was not looked for).
    """

    x: float
    y: float
    score: float
    window: Window
    level: int
    lead: float = 1.0
    twins: int = 0
    repeats: float = 0.0

    @property
    def clarity(self) -> str:
        """`clarity high`, as the observations write it."""
        return f"clarity {graded(self.score, CLARITY, 'extreme')}"


def candidates(image: np.ndarray, window: Window, keep: int = 5, without: Window | None = None) -> list[Candidate]:
    """Local outliers inside a pixel window of the image, best first, windows in pixels of the image; none has its peak
    in the window `without`."""
    left, top, right, bottom = window
    patch = image[top:bottom, left:right]
    factor = -(-max(patch.shape[:2]) // ANALYSIS_SIDE)
    if factor > 1:
        size = (max(patch.shape[1] // factor, 1), max(patch.shape[0] // factor, 1))
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    found: list[Candidate] = []
    hole = tuple((v - at) / factor for v, at in zip(without, (left, top) * 2, strict=True)) if without else None
    for first, plane in _planes(patch):
        found += _search(plane, first, hole)
    return [_shift(c, factor, left, top) for c in _suppress(_rank(found, patch), keep)]


def _rank(found: list[Candidate], patch: np.ndarray) -> list[Candidate]:
    """Best first: what is small and clear if there is such a thing, else what leads its level most.

    Repeated features belong to the part, an outlier is alone: twins count against both, and so does, for the
    `COMPARED` best, any place of the picture that looks the same.
    """

    def small(c: Candidate) -> float:
        return c.score * SMALL_FIRST[c.level] / (1 + c.twins) ** TWINS

    def any_size(c: Candidate) -> float:
        return c.score * ANY_SIZE[c.level] / (1 + c.twins) ** TWINS * c.lead**0.5

    def salience(c: Candidate) -> float:
        return kind(c) * np.exp(-REPEATED * max(c.repeats - ALIKE, 0))

    kind = small if max(map(small, found), default=0.0) >= CLEAR else any_size
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
    best = sorted(found, key=salience, reverse=True)[:COMPARED]
    compared = [replace(c, repeats=_repeats(grey, c.window)) for c in best]
    return sorted(compared, key=salience, reverse=True)


def _repeats(grey: np.ndarray, window: Window) -> float:
    """Best correlation of what lies at `window` with any other place of the picture, -1 to 1; 0 where it is too flat or
    too large to be compared."""
    side = max(window[2] - window[0], window[3] - window[1])
    factor, margin = max(side / COMPARED_SIDE, 1.0), round(0.4 * side) + 1
    if factor > 1:
        size = (max(int(grey.shape[1] / factor), 8), max(int(grey.shape[0] / factor), 8))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    x1, y1, x2, y2 = (round((v + m) / factor) for v, m in zip(window, (-margin, -margin, margin, margin), strict=True))
    x1, y1 = max(x1, 0), max(y1, 0)
    piece = grey[y1:y2, x1:x2]
    high, wide = piece.shape
    if min(high, wide) < 3 or piece.std() < 0.5 or high > grey.shape[0] - 3 or wide > grey.shape[1] - 3:
        return 0.0
    found = cv2.matchTemplate(grey, piece, cv2.TM_CCOEFF_NORMED)
    found[max(y1 - high // 2 - 1, 0) : y1 + high // 2 + 2, max(x1 - wide // 2 - 1, 0) : x1 + wide // 2 + 2] = -1
    return float(found.max())


def _shift(c: Candidate, factor: int, left: int, top: int) -> Candidate:
    x1, y1, x2, y2 = (v * factor for v in c.window)
    window = (x1 + left, y1 + top, x2 + left, y2 + top)
    return replace(c, x=c.x * factor + left, y=c.y * factor + top, window=window)


def _planes(patch: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(first pyramid level, float32 plane): luminance, and two opponent colours at half size when there is colour."""
    luminance = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if min(patch.shape[:2]) < 32:
        return [(0, luminance)]
    half = cv2.resize(patch, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.int16)
    red, green, blue = half[..., 0], half[..., 1], half[..., 2]
    planes = [(0, luminance)]
    for plane in (red - green, blue - green):
        if plane.max() - plane.min() > 12:
            planes.append((1, plane.astype(np.float32)))
    return planes


def _search(plane: np.ndarray, first: int, hole: tuple[float, ...] | None) -> list[Candidate]:
    found: list[Candidate] = []
    for level in range(first, LEVELS):
        if min(plane.shape) < 12:
            break
        found += _peaks(plane, level, hole)
        plane = cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return found


def _peaks(plane: np.ndarray, level: int, hole: tuple[float, ...] | None, keep: int = 6) -> list[Candidate]:
    """Strongest residuals of one level, in units of the local deviation, outside a `hole` in px of level 0."""
    background = cv2.medianBlur(plane, 5)
    residual = plane - background
    size = np.abs(residual)
    steps = cv2.morphologyEx(background, cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8))
    usual = _local_scale(size)
    steps = np.maximum(steps - 8 * usual, 0)  # a texture's own steps are already in its deviation
    score = size / (usual + EDGE * steps)
    if hole:
        x1, y1, x2, y2 = (max(round(v / 2**level), 0) for v in hole)
        score[y1:y2, x1:x2] = 0
    found, looks = [], []
    for _ in range(keep):
        _, peak, _, (x, y) = cv2.minMaxLoc(score)
        if peak < 1:
            break
        blob = _extent(residual, x, y)
        looks.append((float(residual[y, x]), max(blob[2] - blob[0], blob[3] - blob[1])))
        f = 2**level
        found.append(Candidate((x + 0.5) * f, (y + 0.5) * f, float(peak), tuple(v * f for v in blob), level))
        score[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = 0
        score[blob[1] : blob[3], blob[0] : blob[2]] = 0
    weakest = max(found[-1].score, 1.0) if found else 1.0
    return [replace(c, lead=c.score / weakest, twins=_twins(looks, i)) for i, c in enumerate(found)]


def _twins(looks: list[tuple[float, int]], i: int) -> int:
    """How many other peaks look like peak `i`: repeated features belong to the part, an outlier is alone."""
    value, side = looks[i]
    alike = [0.7 < v / value < 1.4 and 0.6 < s / side < 1.7 for v, s in looks]
    return sum(alike) - 1


def _local_scale(size: np.ndarray) -> np.ndarray:
    """Robust local deviation of a residual: what is usual around here, noise or texture alike."""
    height, width = size.shape
    cell = max(min(height, width) // 32, 2)
    rows, cols = max(height // cell, 1), max(width // cell, 1)
    cut = np.ascontiguousarray(size[: rows * cell, : cols * cell])
    means = cv2.resize(cut, (cols, rows), interpolation=cv2.INTER_AREA)
    peaks = cv2.dilate(cut, np.ones((cell, cell), np.uint8))[cell // 2 :: cell, cell // 2 :: cell]
    usual = np.maximum(1.25 * means, peaks / 3)
    kernel = min(11, (min(rows, cols) - 1) // 2 * 2 + 1)
    quantised = np.clip(usual * 4, 0, 255).astype(np.uint8)
    local = cv2.medianBlur(quantised, kernel) if kernel >= 3 else quantised
    smooth = cv2.resize(local.astype(np.float32) / 4, (width, height), interpolation=cv2.INTER_LINEAR)
    return smooth + 0.5


def _extent(residual: np.ndarray, x: int, y: int, radius: int = 12) -> Window:
    """Box of the blob at a peak: Otsu on the residual of its own sign, closing, the component at the peak."""
    top, left = max(y - radius, 0), max(x - radius, 0)
    patch = residual[top : y + radius + 1, left : x + radius + 1] * np.sign(residual[y, x])
    scaled = np.clip(patch * (255 / patch.max()), 0, 255).astype(np.uint8)
    _, mask = cv2.threshold(scaled, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    mask[y - top, x - left] = 1
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    bx, by, bw, bh = stats[labels[y - top, x - left]][:4]
    return int(left + bx), int(top + by), int(left + bx + bw), int(top + by + bh)


def _suppress(found: list[Candidate], keep: int) -> list[Candidate]:
    """The best of each group of overlapping candidates."""
    kept: list[Candidate] = []
    for c in found:
        if all(max(abs(c.x - k.x), abs(c.y - k.y)) > 8 for k in kept):
            kept.append(c)
        if len(kept) == keep:
            break
    return kept
