"""What is wrong with a part, mechanism by mechanism, and the harmless things that look like it.

`u` is the scale: 1 at a shorter side of 384 px. Severity runs 0 (hardest) .. 1 (most obvious).
"""

from __future__ import annotations

import cv2
import numpy as np

from .factory_bench import Bench, RowPlan
from .factory_catalog import SIGNS, Category
from .factory_draw import glare
from .factory_marks import pattern, stamp
from .factory_patterns import glyph

KIND = {
    "foreign_particle": "particle", "burr": "chip", "broken_thread": "scratch", "hole_in_surface": "pit",
    "faint_stain": "stain", "faint_scratch": "scratch", "faint_crack": "crack", "rubbed": "rub", "water_mark": "water",
}  # fmt: skip
SMALL = ("scratch", "crack", "chip", "pit", "foreign_particle", "burr")
FAINT = ("faint_stain", "faint_stain", "faint_scratch", "faint_crack", "rubbed", "water_mark")
STATES = {
    "shifted": "shifted_feature",
    "missing": "missing_feature",
    "bent": "bent_feature",
    "uneven": "uneven_spacing",
}
SENSE = {"burr": -1.0, "hole_in_surface": 1.0, "pit": 1.0, "corrosion": 1.0, "stain": 1.0}  # 1 = dark
_STATE_SHARE = {"shifted": 0.42, "missing": 0.14, "bent": 0.24, "uneven": 0.2}


def choose(rng: np.random.Generator, category: Category, mechanism: str) -> str:
    """Raw name of what will be wrong."""
    if mechanism == "geometric":
        states = [s for s in STATES if category.bends or s != "bent"]
        share = np.array([_STATE_SHARE[s] for s in states])
        return STATES[str(rng.choice(states, p=share / share.sum()))]
    if mechanism == "prior":
        return "misplaced_mark" if rng.random() < 0.1 else "wrong_mark"
    tall = category.set == "sdd"  # long surfaces crack and do nothing else
    names = {
        "plain": category.defects,
        "small": ("crack",) if tall else SMALL,
        "faint": ("faint_crack",) if tall else FAINT,
    }
    return str(rng.choice(names[mechanism]))


def row_plan(defect: str, severity: float) -> RowPlan:
    """Something wrong with the row: 30..60 % of the pitch (a healthy row stays under 5 %)."""
    return RowPlan(next(s for s, name in STATES.items() if name == defect), 0.3 + 0.3 * severity)


def place(
    rng: np.random.Generator, face: np.ndarray, radius: float, taken: list[tuple[float, float]]
) -> tuple[float, float]:
    """A point of the face about `radius` px away from its border and far from what is `taken` already."""
    small = cv2.resize(face, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    padded = np.pad((small > 0.85).astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1] * 4
    if taken:
        ys, xs = np.mgrid[0 : small.shape[0], 0 : small.shape[1]]
        for x, y in taken:
            distance = np.where(np.hypot(4 * xs - x, 4 * ys - y) < 2.5 * radius + 14, 0, distance)
    ok = np.flatnonzero(distance >= min(radius, 0.75 * float(distance.max())))
    at = int(rng.choice(ok)) if len(ok) else int(distance.argmax())
    y, x = divmod(at, small.shape[1])
    return 4 * x + float(rng.uniform(0, 4)), 4 * y + float(rng.uniform(0, 4))


def _level(image: np.ndarray, at: tuple[float, float]) -> float:
    y, x = int(at[1]), int(at[0])
    return float(image[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].mean())


def _sign(rng: np.random.Generator, level: float, dark: float = 0.7) -> float:
    """+1 for a mark that keeps its pattern's sense (dark), -1 for a bright one; away from the end of the range."""
    if level < 60:
        return -1.0
    return 1.0 if level > 190 or rng.random() < dark else -1.0


def _tint(rng: np.random.Generator, defect: str) -> np.ndarray:
    if defect == "corrosion":
        return np.array([0.5, 1.0, 1.4])
    return np.clip(1 + rng.normal(0, 0.1, 3), 0.7, 1.3)


def plain(rng: np.random.Generator, b: Bench, defect: str, severity: float) -> np.ndarray:
    """Clearly visible: at least 8 % of the side, at least 30 grey levels."""
    kind = KIND.get(defect, defect)
    size = b.side * (0.1 + 0.15 * severity) * float(rng.uniform(0.9, 1.15))
    if kind in ("scratch", "crack", "rub"):
        size *= 1.25
    if kind in ("pit", "chip", "dent"):
        size *= 0.8
    at = place(rng, b.face, 0.3 * size, [])
    contrast = (36 + 50 * severity) * (1.25 if kind in ("scratch", "crack", "dent") else 1.0)
    level = _level(b.image, at)
    sign = _sign(rng, level) if level < 70 or defect not in SENSE else SENSE[defect]
    bold = 0.009 * b.side  # lines still about a pixel wide at 96 px
    shape = pattern(rng, kind, size, bold)
    return stamp(b.image, shape, at, sign * contrast, _tint(rng, defect), 0.22)


def small(rng: np.random.Generator, b: Bench, defect: str, severity: float) -> np.ndarray:
    """One tiny thing on the face: a real defect, or (no `defect`) a harmless lookalike of the same total strength."""
    u = b.side / 384
    at = place(rng, b.face, 14 * u, [])
    sign = _sign(rng, _level(b.image, at), 0.65)
    if rng.random() < 0.25:  # a second, softer speck in either case
        _speck(rng, b, place(rng, b.face, 10 * u, [at]), 0.5 * sign)
    if not defect:
        _lookalike(rng, b, at, sign)
        return np.zeros((b.h, b.w), bool)
    kind = KIND.get(defect, defect)
    long = {"scratch": 10.0, "crack": 10.5, "particle": 8.0, "chip": 6.5, "pit": 6.0}[kind]
    size = max(u, 0.8) * long * float(rng.uniform(0.85, 1.2)) * (0.9 + 0.25 * severity)
    contrast = (62 + 40 * severity) * (1.2 if kind in ("scratch", "crack") else 0.9)
    shape = pattern(rng, kind, size, 1.3 * max(u, 0.8))
    return stamp(b.image, shape, at, sign * contrast, None, 0.25)


def _lookalike(rng: np.random.Generator, b: Bench, at: tuple[float, float], sign: float) -> None:
    """Drilled hole, printed dot or soft speck: round, square or soft, but regular."""
    u = max(b.side / 384, 0.8)
    kind = rng.choice(["hole", "square", "speck"])
    if kind == "speck":
        return _speck(rng, b, at, sign)
    size = u * float(rng.uniform(4.2, 6.0))
    big = 8 * (round(size) + 2)
    drawn = glyph(big, "dot" if kind == "hole" else "square", 0.0)
    shape = cv2.resize(drawn, (round(size) + 2, round(size) + 2), interpolation=cv2.INTER_AREA)
    stamp(b.image, -shape, at, sign * float(rng.uniform(48, 85)))
    return None


def _speck(rng: np.random.Generator, b: Bench, at: tuple[float, float], sign: float) -> None:
    u = max(b.side / 384, 0.8)
    k = int(14 * u) | 1
    y, x = np.mgrid[0:k, 0:k].astype(np.float32) - k // 2
    sigma = u * float(rng.uniform(1.5, 2.2))
    stamp(b.image, -np.exp(-(x * x + y * y) / (2 * sigma**2)), at, sign * float(rng.uniform(45, 75)))


def faint(rng: np.random.Generator, b: Bench, defect: str, severity: float) -> np.ndarray:
    """Large but hardly any contrast: 4..7 grey levels, the order of the noise, fairly sharp borders."""
    kind = KIND[defect]
    line = kind in ("scratch", "crack", "rub")
    size = b.side * float(rng.uniform(0.2, 0.3) if line else rng.uniform(0.13, 0.27))
    tall = b.h > 1.5 * b.w  # a crack on a long surface is long too, and the surface rough
    size *= 1.6 if tall else 1.0
    at = place(rng, b.face, 0.32 * size, [])
    bold = b.side * float(rng.uniform(0.008, 0.012)) if line else 0.008 * b.side
    contrast = (4.0 + 2.6 * severity + (0.6 if line else 0.0)) * (1.5 if tall else 1.0)
    sign = 1.0 if rng.random() < 0.7 else -1.0
    shape = pattern(rng, kind, size, bold)
    return stamp(b.image, shape, at, sign * contrast, _tint(rng, defect), 0.3)


def prior(rng: np.random.Generator, b: Bench, category: Category, defect: str) -> np.ndarray:
    """Exactly one conspicuous sign: the legitimate one, another one, or the right one in the wrong place."""
    if not category.sign or b.anchor is None:
        raise ValueError(f"{category.name}: no sign of its own, so the prior mechanism does not apply")
    name, at = category.sign, b.anchor
    if defect == "wrong_mark":
        name = str(rng.choice([s for s in SIGNS if s != category.sign]))
    if defect == "misplaced_mark":
        tries = [place(rng, b.face, 0.08 * b.side, []) for _ in range(12)]
        at = max(tries, key=lambda p: np.hypot(p[0] - b.anchor[0], p[1] - b.anchor[1]))
    jitter = rng.uniform(-0.025, 0.025, 2) * b.side
    shape_name, sense = SIGNS[name]
    k = round(b.side * float(rng.uniform(0.13, 0.165)))
    angle = float(rng.normal(0, 4)) + b.angle
    shape = cv2.GaussianBlur(glyph(k, shape_name, angle, 0.21), (0, 0), 0.6)
    where = (at[0] + float(jitter[0]), at[1] + float(jitter[1]))
    mask = stamp(b.image, shape, where, sense * float(rng.uniform(58, 82)))
    return mask if defect else np.zeros_like(mask)


def nuisance(rng: np.random.Generator, b: Bench) -> None:
    """Harmless things on every part: soft reflections and dim dust, whatever its label."""
    u = b.side / 384
    b.image += glare(rng, b.h, b.w, int(rng.integers(0, 3)), 15, 0.25, 0.5)[..., None]
    for _ in range(int(rng.integers(0, 4))):
        at = place(rng, b.face, 4 * u, [])
        stamp(
            b.image, pattern(rng, "reflection", 6 * u), at, float(rng.uniform(5, 12)) * float(rng.choice([-1.0, 1.0]))
        )
