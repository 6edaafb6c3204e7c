"""A row of repeated features anywhere in an image, from what stands out: blobs, pairs of like blobs, chains of them.

The image is cut at several grey levels and at several levels above and below its local background; the connected
stretches of one cut are its blobs. Two like neighbours give a direction and a step, and every like blob near their line
joins them. The clearest chain of all cuts is the row, or none is clear enough. Everything here is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .tool_row import FEATURE, ODD_GAP, Row, odd_place, off_line

LONG_SIDE = 640  # px of the searched view at most; not in paper
LEVELS = 7  # global grey levels; not in paper
SURROUND = (0.035, 0.1)  # deviation of the local background / shorter side; not in paper
STANDOUT = (7, 14, 26, 45)  # grey levels from the local background; not in paper
AREA = 7, 0.03  # px at least, share of shorter side squared at most; not in paper
MAX_BLOBS, MAX_ALIKE = 400, 60  # more are a texture; not in paper
AREAS, LENGTHS, WIDTHS = 1.7, 1.45, 1.7  # ratios up to which two blobs are alike; not in paper
SOLID = 0.6  # area / area of the ellipse of the same spread, at least; not in paper
PAIRS = 10  # of a cut that are followed; not in paper
NEAR = 6.0  # steps from a pair within which others speak for it; not in paper
NEIGHBOURS = 4  # like neighbours that a blob is paired with; not in paper
ASIDE = 0.65  # steps off the line at most; not in paper
GAP = 2.5  # steps between neighbours at most: one may be missing, and the next one shifted; not in paper
CHANGED = 1.9  # ratio of area or height up to which a blob in line is a feature all the same; not in paper
HIGH = 1.35  # ratio of height up to which a blob is features grown together; not in paper
MAX_GROWN = 3  # features grown together at most; not in paper
ALONE = 1.5  # power of the share of like blobs that the row holds; not in paper
MIN_FEATURES = 5  # not in paper
KEEP = 8  # clearest chains that are completed; not in paper
MIN_SCORE = 1.4  # not in paper
POINTED = 0.5  # share of it that is enough where the points say that there is a row; not in paper
BESIDE = 0.12  # shorter sides by which the points may lie beside the row; not in paper
SLENDER = 1.6  # length / width from which a feature has a direction; not in paper
TURNED = 5.0  # degrees off the others' direction; not in paper
MIN_SIDE = 32  # px of an image; not in paper


@dataclass(frozen=True)
class Blobs:
    """Blobs of one cut: centres (n, 2) px, area px, length and width (main axes of the ellipse, px), spread (n, 2, 2)
    about the centre (px squared), contrast in grey levels; and 1 for bright ones, -1 for dark ones."""

    centres: np.ndarray
    area: np.ndarray
    length: np.ndarray
    width: np.ndarray
    spread: np.ndarray
    contrast: np.ndarray
    sign: int


@dataclass(frozen=True)
class Chain:
    """Blobs in a row: their indices in order, the blobs, how clear the row is, the places of the features (n, 2) px,
    their contrast, and their share of the blobs like them."""

    members: np.ndarray
    blobs: Blobs
    score: float
    places: np.ndarray
    contrast: float
    alone: float


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
    xx, yy, xy, up = (np.bincount(label, v, number)[keep] / area[keep] for v in (dx * dx, dy * dy, dx * dy, height.ravel()[at]))
    spread = np.stack([xx + 1 / 12, xy, xy, yy + 1 / 12], 1).reshape(-1, 2, 2)  # a pixel is a square, not a point
    small, large = np.linalg.eigvalsh(spread).T
    solid = area[keep] > SOLID * 4 * np.pi * np.sqrt(large * small)  # a ring or a branching line is no feature
    order = keep[solid]
    return Blobs(
        centres[order], area[order].astype(float), 4 * np.sqrt(large[solid]), 4 * np.sqrt(small[solid]), spread[solid],
        up[solid], sign,
    )  # fmt: skip


def alike(b: Blobs) -> np.ndarray:
    """(n, n) whether two blobs are of like size and shape."""
    near = np.ones((len(b.area), len(b.area)), bool)
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
    flat = float(np.exp(-uneven / 0.25 - bent / 0.06 - unlike / 0.2))
    return (len(p) - 2) * flat * min(alone, 1.0) ** ALONE * float(np.clip(contrast / 20, 0, 1)) ** 0.5


def median(values: np.ndarray) -> float:
    """np.median without its checks: many are asked for."""
    ordered, n = np.sort(values), len(values)
    return float(ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def along_line(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) along and aside of the line through most points (Theil-Sen)."""
    unit = (p[-1] - p[0]) / max(float(np.hypot(*(p[-1] - p[0]))), 1e-6)
    x, y = (p - p[0]) @ unit, (p - p[0]) @ np.array([-unit[1], unit[0]])
    return x, off_line(x, y)


def completed(c: Chain) -> Chain:
    """The chain with what was unlike its blobs: features grown together (split again), or changed by a fault."""
    b = c.blobs
    p, usual = b.centres[c.members], median(b.area[c.members])
    unit = p[-1] - p[0]
    unit = unit / max(float(np.hypot(*unit)), 1e-6)
    normal = np.array([-unit[1], unit[0]])
    along, pitch = (b.centres - p[0]) @ unit, median(np.diff((p - p[0]) @ unit))
    aside = (b.centres - p[0]) @ normal
    aside -= np.median(aside[c.members])
    across, wide = (np.sqrt(np.einsum("nij,i,j->n", b.spread, v, v)) for v in (normal, unit))
    high = across / np.median(across[c.members])
    count = np.round(b.area / usual).astype(int).clip(1, MAX_GROWN)
    fits = (np.abs(aside) < ASIDE * pitch) & (b.area > usual / CHANGED) & (b.area < usual * (MAX_GROWN + 0.5))
    fits &= (high < np.where(count > 1, HIGH, CHANGED)) & (high > 1 / np.where(count > 1, HIGH, CHANGED))
    fits[c.members] = True
    count[c.members] = 1
    own = median(wide[c.members]) ** 2
    places, areas, index = [], [], []
    for k in np.flatnonzero(fits).tolist():
        n = int(count[k])
        half = np.sqrt(max(wide[k] ** 2 - own, 0.0) * 3 / (n * n - 1)) if n > 1 else 0.0  # of a gap
        for t in np.arange(1 - n, n, 2).tolist():
            slant = float(unit @ b.spread[k] @ normal) / max(wide[k] ** 2 - own, 1.0) if n > 1 else 0.0
            places.append(b.centres[k] + t * half * (unit + np.clip(slant, -0.5, 0.5) * normal))
            areas.append(b.area[k] / n)
            index.append(k)
    order = np.argsort((np.array(places) - p[0]) @ unit)
    x = ((np.array(places) - p[0]) @ unit)[order]
    run = np.concatenate([[0], np.cumsum(np.diff(x) > GAP * pitch)])
    middle = median(along[c.members])
    order = order[run == run[np.abs(x - middle).argmin()]]
    if len(order) < len(c.members):  # the line through the middle of the chain is no line of these
        return c
    return Chain(np.array(index)[order], b, score(np.array(places)[order], np.array(areas)[order], c.contrast, c.alone),
                 np.array(places)[order], c.contrast, c.alone)  # fmt: skip


@lru_cache(maxsize=4)
def _chains(pixels: bytes, shape: tuple[int, ...]) -> tuple[list[Chain], float]:
    """Clearest rows of an image, best first, and the scale of the searched view."""
    image = np.frombuffer(pixels, np.uint8).reshape(shape)
    scale = min(LONG_SIDE / max(shape[:2]), 1.0)
    part = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32)
    found: list[Chain] = []
    for cut in cuts(grey):
        b = blobs_of(*cut)
        if b is not None and len(b.area) >= MIN_FEATURES - 1:
            found += chains(b)
    found.sort(key=lambda c: -c.score)
    whole = [c for c in map(completed, found[:KEEP]) if len(c.places) >= MIN_FEATURES]
    return sorted(whole, key=lambda c: -c.score), scale


def find_blobs(image: np.ndarray, start: np.ndarray | None = None, end: np.ndarray | None = None) -> Row | None:
    """The clearest row of an image (uint8 H x W x 3), or the clearest along the points (px); None where none is clear.

    The last images are remembered: the teacher asks for the points, then measures there.
    """
    if min(image.shape[:2]) < MIN_SIDE:
        return None
    found, scale = _chains(image.tobytes(), image.shape)
    if start is None or end is None:
        return to_row(found[0], scale) if found and found[0].score >= MIN_SCORE else None
    side = float(min(image.shape[:2]))
    for c in found:
        if c.score >= MIN_SCORE * POINTED and lies_along(c.places / scale, start, end, side):
            return to_row(c, scale)
    return None


def lies_along(p: np.ndarray, start: np.ndarray, end: np.ndarray, side: float) -> bool:
    """Whether a row at p (n, 2) is what the points mean: about their direction, near their line, beside them."""
    unit = (end - start) / np.hypot(*(end - start))
    rest = p - start
    along, aside = rest @ unit, rest @ np.array([-unit[1], unit[0]])
    first, last = sorted((float(along[0]), float(along[-1])))
    span, length = last - first, float(np.hypot(*(end - start)))
    common = min(last, length) - max(first, 0.0)
    straight = span > 0.9 * np.hypot(*(p[-1] - p[0]))
    return bool(straight and abs(np.median(aside)) < BESIDE * side and common > 0.5 * min(span, length))


def to_row(c: Chain, scale: float) -> Row:
    """What is measured on a chain; px of the original."""
    b, p = c.blobs, c.places
    along, aside = along_line(p)
    gaps = np.diff(along)
    pitch = median(gaps)
    excess, sideways = gaps / pitch - 1, aside / pitch
    unit = (p[-1] - p[0]) / np.hypot(*(p[-1] - p[0]))
    normal = np.array([-unit[1], unit[0]])
    at, off = odd_place(along, aside, excess, sideways)
    origin = p[0] + normal * np.median((p - p[0]) @ normal - aside)
    high = 2 * np.sqrt(np.einsum("nij,i,j->n", b.spread[c.members], normal, normal))
    half = np.abs(unit) * FEATURE / 2 * pitch + np.abs(normal) * median(high)
    odd = origin + at * unit + off * normal
    return Row(
        p / scale, pitch / scale, float(np.abs(excess).max() * 100), float(np.abs(sideways).max() * 100),
        "bright" if b.sign > 0 else "dark", tuple(float(v) for v in (*(odd - half), *(odd + half)) / np.float64(scale)),
        c.score, int((np.abs(excess) * 100 > ODD_GAP).sum()), turned(b, c.members),
    )  # fmt: skip


def turned(b: Blobs, members: np.ndarray) -> int:
    """How many features lie askew to the others; 0 for round ones and those grown together."""
    single = members[[(members == k).sum() == 1 for k in members]]
    if len(single) < 4 or median(b.length[single] / b.width[single]) < SLENDER:
        return 0
    spread = b.spread[single]
    double = np.arctan2(2 * spread[:, 0, 1], spread[:, 0, 0] - spread[:, 1, 1])
    usual = np.angle(np.median(np.cos(double)) + 1j * np.median(np.sin(double)))
    away = np.degrees(np.abs(np.angle(np.exp(1j * (double - usual))))) / 2
    return int((away > TURNED + 4 * median(away)).sum())
