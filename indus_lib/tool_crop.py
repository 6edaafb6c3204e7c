"""T_crop: a high-resolution patch of what stands out in the asked region, cut from the original (paper section 2).

Unsupervised foreground extraction, never ground truth: background estimation (median of each pyramid level),
image differencing, a robust local scale so that textures do not win, Otsu threshold and morphology for the extent,
and a centre crop when nothing stands out. A median keeps the straight edge of the part itself, so the outline,
which is usually the strongest contrast in the picture, leaves almost no residual.
"""

from __future__ import annotations

from dataclasses import asdict

import cv2
import numpy as np

from . import boxes
from .samples import Box
from .tool_outliers import Candidate, candidates
from .tool_result import ToolResult, Window
from .tool_shape import blob_shape

MIN_WINDOW = 28  # px, of the original; not in paper
MIN_SIDE = 96  # px of what is returned: a smaller window is enlarged to it; not in paper
MARGIN = 1.6  # window side / blob side; not in paper
FAR_MORE = 2.0  # times the local deviations of a sign; not in paper
KEPT = 8  # candidates; not in paper
MIN_SCORE = 3.5  # local deviations; below: nothing stands out, centre crop; not in paper


def crop(image: np.ndarray, region: Box, refine: bool = True, signs: bool = False) -> ToolResult:
    """Cut a window of the original around what stands out in `region`.

    Args:
        image: uint8 H x W x 3.
        region: Asked region, relative units, valid.
        refine: False returns the asked region itself.
        signs: A find in the form of a printed sign comes first, unless another one stands out `FAR_MORE` than it: what
            a prior speaks of, on a part whose own edges stand out too.

    Returns:
        One image (native pixels, enlarged by an integer factor only when its longer side is under `MIN_SIDE`).
        `details`: method, score, blob (relative box or None), candidates [[box, score], ...], and of a find with an
        outline shape (`tool_shape.Shape`) and named (its name or "").
    """
    height, width = image.shape[:2]
    asked = boxes.to_pixels(region, width, height)
    found = []
    if not refine:
        method, window = "asked region", asked
    elif max(asked[2] - asked[0], asked[3] - asked[1]) < 1.5 * MIN_SIDE:
        method, window = "asked region", _at_least(asked, MIN_WINDOW, width, height)
    else:
        found = candidates(image, asked, keep=KEPT)
        if signs:
            found = _sign_first(image, found)
        if found and found[0].score >= MIN_SCORE:
            method, window = "foreground extraction", _around(found[0].window, width, height)
        else:
            method, window = "centre fallback", _centre(asked, width, height)
    window = boxes.no_strip(window, width, height)
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
            details |= {"shape": asdict(shape), "named": shape.name}
        text += f", {found[0].clarity}"
    return ToolResult(True, text, [_cut(image, window)], (final,), details=details)


def _sign_first(image: np.ndarray, found: list[Candidate]) -> list[Candidate]:
    sign = next((c for c in found if c.score >= MIN_SCORE and _is_sign(image, c)), None)
    if sign is None or found[0].score >= FAR_MORE * sign.score:
        return found
    return [sign, *(c for c in found if c is not sign)]


def _is_sign(image: np.ndarray, found: Candidate) -> bool:
    shape = blob_shape(image, found.window)
    return shape is not None and bool(shape.name)


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
