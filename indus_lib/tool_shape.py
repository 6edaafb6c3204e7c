"""Blob analysis of what the crop tool has found: how large, how long, how solid (machine vision's oldest measurement).

A drilled hole, a printed square and a speck of dust are as long as they are wide and fill their outline; a crack, a
chip or a fibre are not. A find in the form of a printed sign is named as the priors name one, so that the two can be
compared in words. At eight pixels a small vision tower tells them apart poorly; a gradient-boosted tree over
these three numbers does better, AUROC 0.87 on categories it was not fitted on (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.measure import label, regionprops

from .tool_result import Window, graded, rounded

MAX_ZOOM = 6  # times, so that the outline of a few px has a shape; not in paper
ZOOMED = 96  # px to which a blob is enlarged; not in paper
LEAST = 3.0  # grey levels; fainter blobs have no outline; not in paper
MAX_LONGER = 400  # %, beyond a line is a line; not in paper
SIZES = (("tiny", 8), ("small", 16), ("medium", 40))  # px across up to which; larger is large; not in paper
SOLID = 85  # % of its hull; below, an outline is ragged or open; not in paper
FULL = 0.9  # of its filled outline; below, it encloses something; not in paper
ROUND = 12  # % longer than wide up to which; not in paper
LENGTHS = (("round", ROUND), ("oval", 150))  # % longer than wide up to which; beyond, it is a line; not in paper
BAR = (75, 130)  # % longer than wide, of a bar twice as long as wide; not in paper
STRAIGHT = 30  # % fourfold up to which it is one: a rectangle so long has 17, an ellipse 46; not in paper
CROSS = 50  # % fourfold from which a ragged round thing is a cross, which has 71; not in paper


@dataclass(frozen=True)
class Shape:
    """`across`: px, side of the square of the same area; `longer`: % by which the main axis exceeds the other one;
    `solid`: % of its convex hull that it fills; `dark` against what is around; `hollow`: it encloses something else;
    `fourfold`: % of its fourth moment that four quarter turns leave (`_fourfold`)."""

    across: int
    longer: int
    solid: int
    dark: bool
    hollow: bool
    fourfold: int

    @property
    def tone(self) -> str:
        """Against what is around."""
        return "dark" if self.dark else "bright"

    @property
    def name(self) -> str:
        """`dark dot`, `bright ring`, `dark bar` or `bright cross`, say, by the words that the priors have for printed
        signs; "" where it has the form of none. A small square is a dot to them too."""
        even, solid = self.longer <= ROUND, self.solid >= SOLID and not self.hollow
        if even:
            form = "dot" if solid else "ring" if self.hollow else "cross" if self.fourfold >= CROSS else ""
        else:
            form = "bar" if solid and BAR[0] <= self.longer <= BAR[1] and self.fourfold <= STRAIGHT else ""
        return form and f"{self.tone} {form}"

    @property
    def words(self) -> str:
        """`small dark bar`, or `tiny dark ragged oval` where it has no name: easier to reason with than numbers."""
        size, length = graded(self.across, SIZES, "large"), graded(self.longer, LENGTHS, "line")
        body = "hollow" if self.hollow else "solid" if self.solid >= SOLID else "ragged"
        return f"{size} {self.name or f'{self.tone} {body} {length}'}"

    @property
    def text(self) -> str:
        """As the observation writes it."""
        across = self.across if self.across < 20 else rounded(self.across)
        solid, longer = rounded(self.solid), rounded(self.longer)
        return f"{self.words}, {across} px across, {solid} % solid, {longer} % longer than wide"


def blob_shape(image: np.ndarray, blob: Window) -> Shape | None:
    """Shape at half height of what stands out in a pixel window; None when it has no outline.

    image: uint8 (H, W, 3); blob: (x1, y1, x2, y2) px of it.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    x1, y1, x2, y2 = blob
    reach = max(round(0.6 * max(x2 - x1, y2 - y1)), 5)
    cx, cy = (x1 + x2) // 2, (y1 + y2) // 2
    left, top = max(cx - 2 * reach, 0), max(cy - 2 * reach, 0)
    cut = grey[top : min(cy + 2 * reach + 1, height), left : min(cx + 2 * reach + 1, width)].astype(np.float32)
    ys, xs = np.ogrid[: cut.shape[0], : cut.shape[1]]
    around = cut[np.maximum(np.abs(xs + left - cx), np.abs(ys + top - cy)) > reach]
    residual = cut - np.median(around if around.size else cut)
    inner = np.zeros_like(residual)
    inside = (slice(max(y1 - top, 0), y2 - top), slice(max(x1 - left, 0), x2 - left))
    inner[inside] = residual[inside]
    y, x = np.unravel_index(int(np.abs(inner).argmax()), inner.shape)
    return _at_peak(residual, int(y), int(x), max(x2 - x1, y2 - y1))


def _fourfold(blob: np.ndarray) -> float:
    """|sum of z^4| / sum of |z|^4 over a blob's pixels, z = x + iy from its centroid; blob: bool (H, W)."""
    y, x = np.nonzero(blob)
    z = (x - x.mean()) + 1j * (y - y.mean())
    return float(abs((z**4).sum()) / max((abs(z) ** 4).sum(), 1e-9))


def _at_peak(residual: np.ndarray, y: int, x: int, size: int) -> Shape | None:
    dark = bool(residual[y, x] < 0)
    residual = -residual if dark else residual
    zoom = int(np.clip(ZOOMED // max(size, 1), 1, MAX_ZOOM))
    large = cv2.resize(residual, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    near = large[max(zoom * (y - 1), 0) : zoom * (y + 2), max(zoom * (x - 1), 0) : zoom * (x + 2)]
    peak = float(np.percentile(near, 90))
    parts = label(large > peak / 2)
    own = parts[zoom * y + zoom // 2, zoom * x + zoom // 2]
    if peak < LEAST or own == 0:
        return None
    found = regionprops((parts == own).astype(np.uint8))[0]
    longer = found.axis_major_length / max(found.axis_minor_length, 1e-3) - 1
    across, solid = max(round(np.sqrt(found.area) / zoom), 1), round(100 * found.solidity)
    fourfold = round(100 * _fourfold(found.image))
    hollow = bool(found.area < FULL * found.area_filled)
    return Shape(across, min(round(100 * longer), MAX_LONGER), solid, dark, hollow, fourfold)
