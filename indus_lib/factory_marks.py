"""Marks on an image: a pattern of `factory_patterns` scaled to a size and a contrast, stamped, with its exact mask."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .factory_patterns import PATTERNS


@dataclass(frozen=True)
class Mark:
    """One mark on an image.

    Attributes:
        kind: One word of `KINDS`.
        box: Pixel window (x1, y1, x2, y2), exclusive end.
        mask: (H, W) bool.
        contrast: Grey levels that were asked for, signed.
    """

    kind: str
    box: tuple[int, int, int, int]
    mask: np.ndarray
    contrast: float = 0.0


KINDS = tuple(PATTERNS)
SOFT = ("smear", "reflection", "dust", "dent")


def pattern(rng: np.random.Generator, kind: str, size: float, width: float = 1.0) -> np.ndarray:
    """Signed pattern of `kind` about `size` px wide, its lines at least `width` px thick, largest absolute value 1."""
    side = max(2, round(size))
    factor = max(1, -(-64 // side))
    drawn = PATTERNS[kind](rng, side * factor, factor * width)
    drawn = np.pad(drawn, factor)
    if factor > 1:
        drawn = cv2.resize(drawn.astype(np.float32), (side + 2, side + 2), interpolation=cv2.INTER_AREA)
    return np.clip(drawn / max(float(np.abs(drawn).max()), 1e-6), -1, 1).astype(np.float32)


def stamp(
    image: np.ndarray,
    shape: np.ndarray,
    centre: tuple[float, float],
    contrast: float,
    colour: np.ndarray | None = None,
    threshold: float = 0.25,
) -> np.ndarray:
    """Add `contrast` x `shape` at `centre` in place and return the (H, W) bool mask of what it covers."""
    h, w = image.shape[:2]
    k = shape.shape[0]
    x0, y0 = round(centre[0] - k / 2), round(centre[1] - k / 2)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + k, w), min(y0 + k, h)
    mask = np.zeros((h, w), bool)
    if right <= left or bottom <= top:
        return mask
    part = shape[top - y0 : bottom - y0, left - x0 : right - x0]
    tinted = np.ones(3, np.float32) if colour is None else np.asarray(colour, np.float32)
    image[top:bottom, left:right] += (contrast * part)[..., None] * tinted
    mask[top:bottom, left:right] = np.abs(part) > threshold
    return mask


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Pixel window of a non-empty mask."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def add(
    rng: np.random.Generator, image: np.ndarray, kind: str, centre: tuple[float, float], size: float, contrast: float
) -> Mark | None:
    """Draw one mark in place; None when nothing of it lies on the image.

    Args:
        rng: Source of every choice.
        image: (H, W, 3) float32, changed.
        kind: One of `KINDS`.
        centre: (x, y) px.
        size: Extent in px.
        contrast: Grey levels; a negative value swaps dark and bright.
    """
    tinted = np.clip(1 + rng.normal(0, 0.12, 3), 0.6, 1.4)
    if kind == "corrosion":
        tinted = np.array([0.55, 1.0, 1.45]) * rng.uniform(0.9, 1.1)
    shape = pattern(rng, kind, size)
    mask = stamp(image, shape, centre, contrast, tinted, 0.35 if kind in SOFT else 0.25)
    return Mark(kind, bounds(mask), mask, contrast) if mask.any() else None
