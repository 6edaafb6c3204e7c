"""What stands out in an image as blobs, and chains of like blobs: the first half of finding a row of repeated features.

The image is cut at several grey levels and at several levels above and below its local background; the connected
stretches of one cut are its blobs. Two like neighbours give a direction and a step, and every like blob near their line
joins them (`row_blobs` makes a row of it). Everything here is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from .tool_row import off_line

LEVELS = 7  # global grey levels; not in paper
SURROUND = (0.035, 0.1)  # deviation of the local background / shorter side; not in paper
STANDOUT = (7, 14, 26, 45)  # grey levels from the local background; not in paper
AREA = 7, 0.03  # px at least, share of the shorter side squared at most; not in paper
MAX_BLOBS, MAX_ALIKE = 400, 60  # more are a texture; not in paper
AREAS, LENGTHS, WIDTHS = 1.7, 1.45, 1.7  # ratios up to which two blobs are alike; not in paper
SOLID = 0.6  # area / area of the ellipse of the same spread, at least; not in paper
NEIGHBOURS = 4  # like neighbours that a blob is paired with; not in paper
PAIRS = 10  # of a cut that are followed; not in paper
NEAR = 6.0  # steps from a pair within which others speak for it; not in paper
ASIDE = 0.65  # steps off the line at most; not in paper
GAP = 2.5  # steps between neighbours at most: one may be missing, and the next one shifted; not in paper
UNEVEN, BENT, UNLIKE = 0.25, 0.06, 0.2  # of gaps, aside, log area: a row is a third as clear; not in paper
CLEAR = 20.0  # grey levels of contrast, beyond which more counts no more; not in paper
ALONE = 1.5  # power of the share of like blobs that the row holds; not in paper
MIN_FEATURES = 5  # not in paper


@dataclass(frozen=True)
class Blobs:
    """Blobs of one cut: centres (n, 2) px, area px, length and width (main axes of the ellipse, px), spread (n, 2, 2)
    about the centre (px squared), contrast in grey levels, whether it fills
    its ellipse (a ring or a branching line does not); and 1 for bright ones, -1 for dark ones."""

    centres: np.ndarray
    area: np.ndarray
    length: np.ndarray
    width: np.ndarray
    spread: np.ndarray
    contrast: np.ndarray
    solid: np.ndarray
    sign: int


@dataclass(frozen=True)
class Chain:
    """Blobs in a row: their indices in order, the blobs, how clear the row is, the places of the features (n, 2) px,
    their contrast, their share of the blobs like them, and how far they stand out beyond their ends (0..1)."""

    members: np.ndarray
    blobs: Blobs
    score: float
    places: np.ndarray
    contrast: float
    alone: float
    ends: float = 1.0


def cuts(grey: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(mask uint8, height above the background float32, sign) of every cut of a float32 grey image (H, W)."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 0.8)
    side = min(grey.shape)
    wide = None
    for share in SURROUND:
        wide = smooth - cv2.GaussianBlur(smooth, (0, 0), share * side)
        for sign in (1, -1):
            height = wide if sign > 0 else -wide
            for level in STANDOUT:
                yield (height > level).astype(np.uint8), height, sign
    assert wide is not None
    low, high = np.percentile(smooth[::3, ::3], (1, 99))
    for level in np.linspace(low, high, LEVELS + 2)[1:-1]:
        above = (smooth > level).astype(np.uint8)
        yield above, wide, 1
        yield 1 - above, -wide, -1


def blobs_of(mask: np.ndarray, height: np.ndarray, sign: int) -> Blobs | None:
    """The connected stretches of a cut of fitting size; None for none or a texture."""
    number, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=4)
    area, side = stats[:, cv2.CC_STAT_AREA], min(mask.shape)
    fits = (area >= AREA[0]) & (area <= AREA[1] * side * side)
    left, top, wide, high = stats[:, :4].T
    fits &= (left > 0) & (top > 0) & (left + wide < mask.shape[1]) & (top + high < mask.shape[0])
    keep = np.flatnonzero(fits)
    if not 3 <= len(keep) <= MAX_BLOBS:
        return None
    at = np.flatnonzero(fits[labels.ravel()])
    label, (y, x) = labels.ravel()[at], np.unravel_index(at, mask.shape)
    dx, dy = x - centres[label, 0], y - centres[label, 1]
    xx, yy, xy, up = (
        np.bincount(label, v, number)[keep] / area[keep] for v in (dx * dx, dy * dy, dx * dy, height.ravel()[at])
    )
    spread = np.stack([xx + 1 / 12, xy, xy, yy + 1 / 12], 1).reshape(-1, 2, 2)  # a pixel is a square, not a point
    small, large = np.linalg.eigvalsh(spread).T
    solid = area[keep] / (4 * np.pi * np.sqrt(large * small))
    return Blobs(
        centres[keep], area[keep].astype(float), 4 * np.sqrt(large), 4 * np.sqrt(small), spread, up, solid > SOLID, sign
    )


def alike(b: Blobs) -> np.ndarray:
    """(n, n) whether two blobs are of like size and shape."""
    near = b.solid[:, None] & b.solid
    for values, ratio in ((b.area, AREAS), (b.length, LENGTHS), (b.width, WIDTHS)):
        log = np.log(values)
        near &= np.abs(log[:, None] - log) < np.log(ratio)
    return near


def chains(b: Blobs) -> Iterator[Chain]:
    """Rows of one cut."""
    like = alike(b)
    many = like.sum(1)
    apart = np.hypot(*(b.centres[:, None] - b.centres).transpose(2, 0, 1))
    free = np.where(like & (apart > 0), apart, np.inf)
    free[(many > MAX_ALIKE) | (many < MIN_FEATURES - 1)] = np.inf
    close = np.argsort(free, 1)[:, :NEIGHBOURS]
    pairs = np.stack([np.repeat(np.arange(len(many)), close.shape[1]), close.ravel()])
    pairs = np.unique(np.sort(pairs[:, np.isfinite(free[pairs[0], pairs[1]])], 0), axis=1)
    tried: set[tuple[int, int]] = set()
    for i, j in promising(b, like, *pairs):
        if (i, j) in tried:
            continue
        members = follow(b, like[i], i, j)
        if len(members) < MIN_FEATURES - 1:
            continue
        tried.update((min(p, q), max(p, q)) for p, q in zip(members[:-1].tolist(), members[1:].tolist(), strict=True))
        alone = len(members) / median(many[members])
        contrast, places = median(b.contrast[members]), b.centres[members]
        yield Chain(members, b, score(places, b.area[members], contrast, alone), places, contrast, alone)


def promising(b: Blobs, like: np.ndarray, first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """The pairs with the most like blobs close to their line and few elsewhere."""
    if not len(first):
        return []
    origin, step = b.centres[first], b.centres[second] - b.centres[first]
    rest = (b.centres[None] - origin[:, None]) / (step**2).sum(1)[:, None, None]  # (pairs, n, 2)
    along = np.einsum("pni,pi->pn", rest, step) - 0.5
    aside = rest[..., 1] * step[:, :1] - rest[..., 0] * step[:, 1:]
    near = (like[first] & (np.abs(aside) < 0.1 + 0.05 * np.abs(along)) & (np.abs(along) < NEAR)).sum(1)
    near = np.where(near >= 3, near / np.sqrt(like[first].sum(1)), 0)
    order = np.argsort(-near, kind="stable")
    return [(int(first[k]), int(second[k])) for k in order[:PAIRS] if near[k]]


def follow(b: Blobs, like: np.ndarray, i: int, j: int) -> np.ndarray:
    """Indices, in order, of the like blobs along the line through blobs i and j."""
    origin, step = b.centres[i], b.centres[j] - b.centres[i]
    members = np.array([i, j])
    for reach in (4.0, np.inf):  # a pair gives the direction roughly: the near ones mend it
        pitch = float(np.hypot(*step))
        if pitch < 1:  # side by side, not one after another
            return members[:0]
        unit = step / pitch
        rest = b.centres - origin
        along, aside = rest @ unit, rest @ np.array([-unit[1], unit[0]])
        near = np.flatnonzero(like & (np.abs(aside) < ASIDE * pitch) & (np.abs(along - pitch / 2) < reach * pitch))
        near = near[np.argsort(along[near])]
        if len(near) < 3:
            return near
        cut = np.concatenate([[0], np.cumsum(np.diff(along[near]) > GAP * pitch)])
        members = near[cut == cut[np.abs(along[near] - pitch / 2).argmin()]]
        if len(members) < 3:
            return members
        x, y = along[members], aside[members]
        p, q = np.triu_indices(len(x), 1)
        slope = median((y[q] - y[p]) / np.maximum(x[q] - x[p], 1e-6))
        origin = origin + np.median(y - slope * x) * np.array([-unit[1], unit[0]])
        step = median(np.diff(x)) * (unit + slope * np.array([-unit[1], unit[0]]))
    return members


def score(p: np.ndarray, area: np.ndarray, contrast: float, alone: float) -> float:
    """How clear a row is: many features at p (n, 2), even, straight, of like area (n,), of a contrast in grey levels,
    and few others like them (`alone`: their share of those)."""
    along, aside = along_line(p)
    gaps = np.diff(along)
    pitch = median(gaps)
    if pitch < 1:
        return 0.0
    uneven = median(np.abs(gaps / pitch - 1))
    bent = median(np.abs(aside)) / pitch
    unlike = median(np.abs(np.log(area / median(area))))
    flat = float(np.exp(-uneven / UNEVEN - bent / BENT - unlike / UNLIKE))
    return (len(p) - 2) * flat * min(alone, 1.0) ** ALONE * float(np.clip(contrast / CLEAR, 0, 1)) ** 0.5


def median(values: np.ndarray) -> float:
    """np.median without its checks: many are asked for."""
    ordered, n = np.sort(values), len(values)
    return float(ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def along_line(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) along and aside of the line through most points (Theil-Sen)."""
    unit = (p[-1] - p[0]) / max(float(np.hypot(*(p[-1] - p[0]))), 1e-6)
    x, y = (p - p[0]) @ unit, (p - p[0]) @ np.array([-unit[1], unit[0]])
    return x, off_line(x, y)
