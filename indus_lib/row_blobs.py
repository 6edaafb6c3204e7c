"""The row of repeated features of an image from its chains of like blobs: completed, chosen, measured.

A chain lacks what is unlike its blobs: features grown together, or changed by a fault. The clearest chain, or the
clearest along given points, is the row; where none is clear enough there is none. Everything here is ours.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np

from .row_chains import ASIDE, GAP, MIN_FEATURES, Blobs, Chain, along_line, blobs_of, chains, cuts, median, score
from .tool_row import FEATURE, ODD_GAP, Row, odd_place

LONG_SIDE = 640  # px of the searched view at most; not in paper
MIN_SIDE = 32  # px of an image; not in paper
KEEP = 12  # clearest chains that are completed; not in paper
CHANGED = 1.9  # ratio of area or height up to which a blob in line is a feature all the same; not in paper
HIGH = 1.35  # ratio of height up to which a blob is features grown together; not in paper
MAX_GROWN = 3  # features grown together at most; not in paper
MIN_SCORE = 1.1  # of a row; not in paper
POINTED = 0.5  # share of it that is enough where the points say that there is a row; not in paper
BESIDE = 0.12  # shorter sides by which the points may lie beside the row; not in paper
SLENDER = 1.6  # length / width from which a feature has a direction; not in paper
TURNED = 5.0  # degrees off the others' direction; not in paper


def ends_stand_out(c: Chain, smooth: np.ndarray) -> float:
    """0.1..1: whether the grey image (H, W) changes beyond an end of the features, across the row. The gaps of a row
    of long features stand out from their neighbours too, but not from what is beyond their ends."""
    b, p = c.blobs, c.places
    unit = (p[-1] - p[0]) / max(float(np.hypot(*(p[-1] - p[0]))), 1e-6)
    normal = np.array([-unit[1], unit[0]])
    high = 2.4 * median(np.sqrt(np.einsum("nij,i,j->n", b.spread[c.members], normal, normal))) + 2.0
    at = [(p + t * high * normal).round().astype(int) for t in (-1, 0, 1)]
    levels = [smooth[q[:, 1].clip(0, smooth.shape[0] - 1), q[:, 0].clip(0, smooth.shape[1] - 1)] for q in at]
    change = median(np.maximum(*(b.sign * (levels[1] - v) for v in levels[::2])))
    return float(np.clip(change / max(0.5 * c.contrast, 1.0), 0.1, 1.0))


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
    count[c.members[wide[c.members] < 1.4 * np.median(wide[c.members])]] = 1
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
    p, area = np.array(places)[order], np.array(areas)[order]
    return replace(c, members=np.array(index)[order], places=p, score=score(p, area, c.contrast, c.alone))


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
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    found = [replace(c, ends=ends_stand_out(c, smooth)) for c in found]
    found.sort(key=lambda c: -c.score * c.ends)
    whole = [c for c in map(completed, found[:KEEP]) if len(c.places) >= MIN_FEATURES]
    whole = [replace(c, score=c.score * c.ends) for c in whole]
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
