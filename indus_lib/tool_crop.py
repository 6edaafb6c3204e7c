"""T_crop: a high-resolution patch of what stands out in the asked region, cut from the original (paper section 2).

Unsupervised foreground extraction, never ground truth: background estimation (median of each pyramid level),
image differencing, a robust local scale so that textures do not win, Otsu threshold and morphology for the extent,
and a centre crop when nothing stands out. A median keeps the straight edge of the part itself, so the outline,
which is usually the strongest contrast in the picture, leaves almost no residual.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np

from . import boxes
from .samples import Box
from .tool_result import ToolResult, Window
from .tool_shape import blob_shape

MIN_WINDOW = 28  # px, of the original; not in paper
MIN_SIDE = 96  # px of what is returned: a smaller window is enlarged to it; not in paper
MARGIN = 1.6  # window side / blob side; not in paper
ANALYSIS_SIDE = 1280  # longer regions are searched at an integer reduction (speed); not in paper
LEVELS = 5  # pyramid levels, blobs up to about 4 * 2**4 px; not in paper
SMALL_FIRST = (1.0, 1.0, 0.5, 0.3, 0.2)  # level weights: large things show in the global view anyway; not in paper
ANY_SIZE = (0.7, 1.0, 1.0, 1.0, 1.0)  # level weights when nothing small stands out; not in paper
CLEAR = 7.5  # score from which a small thing stands out; not in paper
TWINS = 0.7  # penalty exponent of repeated features; not in paper
EDGE = 0.3  # how much the steps of the background around a residual count against it; not in paper
MIN_SCORE = 3.5  # local deviations; below: nothing stands out, centre crop; not in paper


@dataclass(frozen=True)
class Candidate:
    """One thing that stands out. `window` is in pixels of the analysed image.

    `score` is its residual in local deviations, `lead` its ratio to the weakest peak kept at its level, `twins` how
    many peaks of the level look like it.
    """

    x: float
    y: float
    score: float
    window: Window
    level: int
    lead: float = 1.0
    twins: int = 0


def crop(image: np.ndarray, region: Box, refine: bool = True) -> ToolResult:
    """Cut a window of the original around what stands out in `region`.

    Args:
        image: uint8 H x W x 3.
        region: Asked region, relative units, valid.
        refine: False returns the asked region itself.

    Returns:
        One image (native pixels, enlarged by an integer factor only when its longer side is under `MIN_SIDE`).
        `details`: method, score, blob (relative box or None), candidates [[box, score], ...], shape (`tool_shape`).
    """
    height, width = image.shape[:2]
    asked = boxes.to_pixels(region, width, height)
    found: list[Candidate] = []
    if not refine:
        method, window = "asked region", asked
    elif max(asked[2] - asked[0], asked[3] - asked[1]) < 1.5 * MIN_SIDE:
        method, window = "asked region", _at_least(asked, MIN_WINDOW, width, height)
    else:
        found = candidates(image, asked)
        if found and found[0].score >= MIN_SCORE:
            method, window = "foreground extraction", _around(found[0].window, width, height)
        else:
            method, window = "centre fallback", _centre(asked, width, height)
    final = boxes.to_relative(window, width, height)
    details = {
        "method": method,
        "window_px": list(window),
        "score": round(found[0].score, 2) if found else 0.0,
        "blob": list(boxes.to_relative(found[0].window, width, height)) if found else None,
        "candidates": [[list(boxes.to_relative(c.window, width, height)), round(c.score, 2)] for c in found],
    }
    source = "around the asked region's centre" if method == "centre fallback" else f"from {method}"
    text = f"crop [{','.join(map(str, final))}] {source}"
    if method == "foreground extraction":
        text += f", it lies at {boxes.coarse_text(found[0].window, width, height)}"
        if (shape := blob_shape(image, found[0].window)) is not None:
            text += f", {shape.text}"
            details["shape"] = asdict(shape)
    return ToolResult(True, text, [_cut(image, window)], (final,), details=details)


def _cut(image: np.ndarray, window: Window) -> np.ndarray:
    left, top, right, bottom = window
    patch = image[top:bottom, left:right]
    factor = -(-MIN_SIDE // max(patch.shape[:2]))
    if factor == 1:
        return patch.copy()
    return cv2.resize(patch, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def _at_least(window: Window, side: int, width: int, height: int) -> Window:
    """Grow `window` about its centre to at least `side` px where the image allows, shifted to lie inside."""
    spans = []
    for low, high, limit in ((window[0], window[2], width), (window[1], window[3], height)):
        size = min(max(high - low, side), limit)
        start = min(max((low + high - size) // 2, 0), limit - size)
        spans.append((start, start + size))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _around(blob: Window, width: int, height: int) -> Window:
    side = max(MIN_WINDOW, round(MARGIN * max(blob[2] - blob[0], blob[3] - blob[1])))
    cx, cy = (blob[0] + blob[2]) // 2, (blob[1] + blob[3]) // 2
    return _at_least((cx, cy, cx, cy), side, width, height)


def _centre(asked: Window, width: int, height: int) -> Window:
    cx, cy = (asked[0] + asked[2]) // 2, (asked[1] + asked[3]) // 2
    half_w, half_h = (asked[2] - asked[0]) // 4, (asked[3] - asked[1]) // 4
    return _at_least((cx - half_w, cy - half_h, cx + half_w, cy + half_h), MIN_WINDOW, width, height)


# --- what stands out ---------------------------------------------------------------------------------------------


def candidates(image: np.ndarray, window: Window, keep: int = 5) -> list[Candidate]:
    """Local outliers inside a pixel window of the image, best first, windows in pixels of the image."""
    left, top, right, bottom = window
    patch = image[top:bottom, left:right]
    factor = -(-max(patch.shape[:2]) // ANALYSIS_SIDE)
    if factor > 1:
        size = (max(patch.shape[1] // factor, 1), max(patch.shape[0] // factor, 1))
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    found: list[Candidate] = []
    for first, plane in _planes(patch):
        found += _search(plane, first)
    return [_shift(c, factor, left, top) for c in _suppress(_rank(found), keep)]


def _rank(found: list[Candidate]) -> list[Candidate]:
    """Best first: what is small and clear if there is such a thing, else what leads its level most.

    Repeated features belong to the part, an outlier is alone: twins count against both.
    """

    def small(c: Candidate) -> float:
        return c.score * SMALL_FIRST[c.level] / (1 + c.twins) ** TWINS

    def any_size(c: Candidate) -> float:
        return c.score * ANY_SIZE[c.level] / (1 + c.twins) ** TWINS * c.lead**0.5

    clear = max(map(small, found), default=0.0) >= CLEAR
    return sorted(found, key=small if clear else any_size, reverse=True)


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


def _search(plane: np.ndarray, first: int) -> list[Candidate]:
    found: list[Candidate] = []
    for level in range(first, LEVELS):
        if min(plane.shape) < 12:
            break
        found += _peaks(plane, level)
        plane = cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return found


def _peaks(plane: np.ndarray, level: int, keep: int = 6) -> list[Candidate]:
    """Strongest residuals of one level, in units of the local deviation."""
    background = cv2.medianBlur(plane, 5)
    residual = plane - background
    size = np.abs(residual)
    steps = cv2.morphologyEx(background, cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8))
    usual = _local_scale(size)
    steps = np.maximum(steps - 8 * usual, 0)  # a texture's own steps are already in its deviation
    score = size / (usual + EDGE * steps)
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
