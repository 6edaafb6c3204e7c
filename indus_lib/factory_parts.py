"""Generic parts and rows of repeated features for the pre-training scenes (never used for the products)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .factory_draw import blob, ellipse, fill, gear, rect, regular, solid, stroke, turn
from .factory_surfaces import tone

Paint = np.ndarray
Sun = tuple[float, float]
Part = Callable[[np.random.Generator, np.ndarray, Paint, Sun], np.ndarray]
"""(rng, image changed in place, paint, sun) -> coverage (H, W)."""


def sun_direction(rng: np.random.Generator) -> Sun:
    """Direction to the lamp: mostly from above."""
    a = rng.normal(-np.pi / 2, 0.8)
    return float(np.cos(a)), float(np.sin(a))


def _place(rng: np.random.Generator, image: np.ndarray, low: float, high: float) -> tuple[float, float, float]:
    h, w = image.shape[:2]
    return w * rng.uniform(0.4, 0.6), h * rng.uniform(0.4, 0.6), min(h, w) * rng.uniform(low, high)


def _bevel(rng: np.random.Generator, image: np.ndarray) -> dict[str, float]:
    u = min(image.shape[:2]) / 256
    return {"bevel": rng.uniform(0.8, 6) * u, "height": rng.uniform(10, 70), "shadow": rng.uniform(0, 0.5)}


def plate(rng: np.random.Generator, image: np.ndarray, paint: Paint, sun: Sun) -> np.ndarray:
    """Rounded plate, sometimes with corner holes."""
    cx, cy, s = _place(rng, image, 0.5, 0.9)
    w, h, a = s, s * rng.uniform(0.5, 1.0), rng.choice([0.0, rng.uniform(-30, 30)])
    outlines = [rect(cx, cy, w, h, a, s * rng.uniform(0, 0.2))]
    if rng.random() < 0.4:
        r, inset = s * rng.uniform(0.02, 0.07), rng.uniform(0.32, 0.42)
        for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            x, y = turn(np.array([[sx * inset * w, sy * inset * h]]), a)[0]
            outlines.append(ellipse(cx + x, cy + y, r))
    return solid(image, outlines, paint, sun, **_bevel(rng, image))


def disc(rng: np.random.Generator, image: np.ndarray, paint: Paint, sun: Sun) -> np.ndarray:
    """Disc, ring or washer."""
    cx, cy, s = _place(rng, image, 0.28, 0.45)
    outlines = [ellipse(cx, cy, s, s * rng.choice([1.0, rng.uniform(0.7, 1)]))]
    if rng.random() < 0.5:
        outlines.append(ellipse(cx, cy, s * rng.uniform(0.15, 0.6)))
    return solid(image, outlines, paint, sun, **_bevel(rng, image))


def polygon(rng: np.random.Generator, image: np.ndarray, paint: Paint, sun: Sun) -> np.ndarray:
    """Nut-like polygon with or without bore."""
    cx, cy, s = _place(rng, image, 0.28, 0.45)
    outlines = [regular(cx, cy, s, int(rng.integers(3, 9)), rng.uniform(0, 90))]
    if rng.random() < 0.5:
        outlines.append(ellipse(cx, cy, s * rng.uniform(0.2, 0.5)))
    return solid(image, outlines, paint, sun, **_bevel(rng, image))


def cog(rng: np.random.Generator, image: np.ndarray, paint: Paint, sun: Sun) -> np.ndarray:
    """Toothed disc."""
    cx, cy, s = _place(rng, image, 0.3, 0.46)
    teeth, depth = int(rng.integers(8, 30)), rng.uniform(0.08, 0.25)
    outlines = [gear(cx, cy, s, teeth, depth, rng.uniform(0, 90)), ellipse(cx, cy, s * rng.uniform(0.1, 0.4))]
    return solid(image, outlines, paint, sun, **_bevel(rng, image))


def angle_piece(rng: np.random.Generator, image: np.ndarray, paint: Paint, sun: Sun) -> np.ndarray:
    """L, T, U or cross profile."""
    cx, cy, s = _place(rng, image, 0.3, 0.42)
    t = rng.uniform(0.3, 0.6)
    shapes = (
        [[-1, -1], [-1 + t, -1], [-1 + t, 1 - t], [1, 1 - t], [1, 1], [-1, 1]],
        [[-1, -1], [1, -1], [1, -1 + t], [t / 2, -1 + t], [t / 2, 1], [-t / 2, 1], [-t / 2, -1 + t], [-1, -1 + t]],
        [[-1, -1], [-1 + t, -1], [-1 + t, 1 - t], [1 - t, 1 - t], [1 - t, -1], [1, -1], [1, 1], [-1, 1]],
    )
    outline = np.array(shapes[int(rng.integers(3))]) * s * rng.uniform(0.7, 1.1, 2)
    return solid(
        image, turn(outline, rng.choice([0, 90, 180, rng.uniform(0, 360)]), cx, cy), paint, sun, **_bevel(rng, image)
    )


def bar(rng: np.random.Generator, image: np.ndarray, paint: Paint, sun: Sun) -> np.ndarray:
    """Rod, capsule or strip, shaded as a cylinder."""
    cx, cy, s = _place(rng, image, 0.6, 1.3)
    thick, a = s * rng.uniform(0.12, 0.4), rng.choice([0.0, 90.0, rng.uniform(0, 180)])
    outline = rect(cx, cy, s, thick, a, thick * rng.choice([0, 0.5]))
    return solid(
        image,
        outline,
        paint,
        sun,
        bevel=thick * rng.uniform(0.1, 0.3),
        height=rng.uniform(30, 90),
        shadow=rng.uniform(0, 0.5),
    )


def pebble(rng: np.random.Generator, image: np.ndarray, paint: Paint, sun: Sun) -> np.ndarray:
    """Irregular natural outline."""
    cx, cy, s = _place(rng, image, 0.25, 0.42)
    return solid(image, blob(rng, cx, cy, s, rng.uniform(0.05, 0.35), 48), paint, sun, **_bevel(rng, image))


def scatter(rng: np.random.Generator, image: np.ndarray, paint: Paint, sun: Sun) -> np.ndarray:
    """Several small equal parts."""
    h, w = image.shape[:2]
    s, total, look = min(h, w) * rng.uniform(0.05, 0.11), np.zeros((h, w), np.float32), _bevel(rng, image)
    sides, ratio = int(rng.integers(3, 9)), rng.uniform(0.3, 1)
    for _ in range(int(rng.integers(3, 12))):
        x, y, a = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h, rng.uniform(0, 360)
        outline = regular(x, y, s, sides, a) if sides < 7 else rect(x, y, 2 * s, 2 * s * ratio, a, s * ratio)
        total = np.maximum(total, solid(image, outline, paint, sun, **look))
    return total


def board(rng: np.random.Generator, image: np.ndarray, paint: Paint, sun: Sun) -> np.ndarray:
    """Circuit-like clutter: tracks and blocks."""
    h, w = image.shape[:2]
    u, track = min(h, w) / 256, tone(rng)
    for _ in range(int(rng.integers(4, 14))):
        x, y = rng.uniform(0, w), rng.uniform(0, h)
        d = rng.uniform(20, 120) * u
        points = np.array([[x, y], [x + d, y], [x + d * 1.3, y + d * 0.3 * rng.choice([-1, 1])]])
        patch = stroke(image.shape, turn(points - (x, y), 90 * rng.integers(4), x, y), rng.uniform(1.5, 4) * u)
        if patch is not None:
            view = image[patch.window()]
            view += (track - view) * (0.7 * patch.alpha)[..., None]
    for _ in range(int(rng.integers(3, 10))):
        outline = rect(rng.uniform(0, w), rng.uniform(0, h), rng.uniform(8, 60) * u, rng.uniform(8, 60) * u, 0, 2 * u)
        solid(image, outline, tone(rng), sun, bevel=1.5 * u, height=30, shadow=0.3)
    return np.ones((h, w), np.float32)


PARTS: dict[str, Part] = {
    "plate": plate, "disc": disc, "polygon": polygon, "cog": cog, "angle piece": angle_piece, "rod": bar,
    "pebble": pebble, "scattered parts": scatter, "board": board,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of repeated features: its end points (the first and last nominal centre), what is off.

    `state` is even, missing, shifted, bent or uneven; `odd` the index concerned (-1 when even or uneven).
    """

    ends: tuple[float, float, float, float]
    centres: np.ndarray  # (n, 2) px, where the features really are; a missing one keeps its place
    state: str
    odd: int
    shape: str
    pitch: float


def _feature(
    rng: np.random.Generator,
    image: np.ndarray,
    shape: str,
    at: np.ndarray,
    size: float,
    long: float,
    angle: float,
    colours: np.ndarray,
    sun: Sun,
    lean: float,
) -> None:
    x, y = at
    if shape == "hole":
        fill(image, ellipse(x, y, size / 2), colours[1])
    elif shape == "bead":
        solid(image, ellipse(x, y, size / 2), colours[0], sun, bevel=size * 0.3, height=60, shadow=0.3)
    elif shape == "pad":
        solid(image, rect(x, y, size, size, angle, size * 0.1), colours[0], sun, bevel=1, height=20, shadow=0)
    elif shape == "slot":
        fill(image, rect(x, y, size, long, angle, size / 2), colours[1])
    elif shape == "tooth":
        wedge = np.array([[-0.5 * size, 0.5 * long], [0, -0.5 * long], [0.5 * size, 0.5 * long]])
        solid(image, turn(wedge, angle + lean) + at, colours[0], sun, bevel=1, height=30, shadow=0.1)
    else:
        pin = np.array([[-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5], [0.5, 0.5]]) * (size, long)
        pin[1:3, 0] += np.tan(np.deg2rad(lean)) * long
        solid(image, turn(pin, angle) + at, colours[0], sun, bevel=size * 0.2, height=40, shadow=0.2)


ROW_SHAPES = ("hole", "bead", "pad", "slot", "tooth", "pin")


def row(rng: np.random.Generator, image: np.ndarray, sun: Sun, tilt: float | None = None) -> Row:
    """Draw a row of 4..12 features in place, half of the rows with one feature displaced, missing or bent."""
    h, w = image.shape[:2]
    n, side = int(rng.integers(4, 13)), min(h, w)
    length = side * rng.uniform(0.4, 0.8)
    base = rng.choice([0.0, 90.0]) if rng.random() < 0.75 else rng.uniform(0, 180)
    angle = base + (rng.uniform(-8, 8) if tilt is None else tilt)
    pitch = length / (n - 1)
    centre = np.array([w * rng.uniform(0.42, 0.58), h * rng.uniform(0.3, 0.7)])
    if 45 < angle % 180 < 135:
        centre = np.array([w * rng.uniform(0.3, 0.7), h * rng.uniform(0.42, 0.58)])
    along = turn(np.array([[1.0, 0.0]]), angle)[0]
    side_ways = np.array([-along[1], along[0]])
    nominal = centre + (np.arange(n) - (n - 1) / 2)[:, None] * pitch * along
    centres = nominal + rng.normal(0, rng.uniform(0, 0.02), (n, 2)) * pitch
    state = str(rng.choice(["even", "missing", "shifted", "bent", "uneven"], p=[0.5, 0.14, 0.14, 0.12, 0.1]))
    odd = int(rng.integers(1, n - 1)) if state in ("missing", "shifted", "bent") else -1
    off = rng.uniform(0.2, 0.6) * pitch * rng.choice([-1, 1])
    if state == "shifted":
        centres[odd] += off * (along if rng.random() < 0.6 else side_ways)
    elif state == "uneven":
        centres[1:-1] += rng.uniform(-0.3, 0.3, (n - 2, 1)) * pitch * along
    shape = str(rng.choice(ROW_SHAPES))
    size = pitch * rng.uniform(0.3, 0.62)
    long = min(size * rng.uniform(1.2, 4), 0.3 * side)
    ground = float(cv2.mean(image)[0])
    bright = tone(rng, 120, 235) if ground < 140 else tone(rng, 25, 90)
    colours = np.stack([bright, tone(rng, 10, 60) if ground > 90 else tone(rng, 150, 235)])
    for k, at in enumerate(centres):
        if not (state == "missing" and k == odd):
            lean = rng.uniform(15, 35) * rng.choice([-1, 1]) if state == "bent" and k == odd else 0.0
            _feature(rng, image, shape, at, size, long, angle, colours, sun, lean)
    ends = (*nominal[0], *nominal[-1])
    return Row(tuple(float(v) for v in ends), centres, state, odd, shape, float(pitch))
