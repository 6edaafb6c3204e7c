"""Materials of the factory: each draws a plain defect-free surface (h, w, 3) float32 around a given colour."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .factory_draw import fractal, smooth_noise

Material = Callable[[np.random.Generator, int, int, np.ndarray], np.ndarray]


def tone(rng: np.random.Generator, low: float = 50, high: float = 205, muted: float = 0.6) -> np.ndarray:
    """Random base colour (3,): mostly greys and muted hues as industrial parts have them."""
    value = rng.uniform(low, high)
    saturation = rng.beta(1.2, 3.5) * 0.3 if rng.random() < muted else rng.uniform(0.15, 0.75)
    return hue(rng.uniform(0, 360), saturation, value)


def hue(angle: float, saturation: float, value: float) -> np.ndarray:
    """HSV (degrees, 0..1, 0..255) -> RGB float32 (3,)."""
    hsv = np.array([[[angle % 360, saturation, value / 255]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255


def tint(rng: np.random.Generator, pattern: np.ndarray, base: np.ndarray, amplitude: float) -> np.ndarray:
    """Colour a zero-mean pattern (h, w): `base` plus `amplitude` grey levels per unit, slightly off-hue."""
    direction = amplitude * (base / max(float(base.mean()), 1.0)) * rng.uniform(0.85, 1.15, 3)
    return cv2.merge([pattern.astype(np.float32) * float(d) + float(b) for d, b in zip(direction, base, strict=True)])


def _rotated(
    rng: np.random.Generator, h: int, w: int, draw: Callable[[int, int], np.ndarray], angle: float
) -> np.ndarray:
    """Draw on a larger canvas and cut out a turned window."""
    if abs(angle) < 0.5:
        return draw(h, w)
    side = int(np.hypot(h, w)) + 4
    turned = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1.0)
    turned[:, 2] += ((w - side) / 2, (h - side) / 2)
    return cv2.warpAffine(
        draw(side, side).astype(np.float32), turned, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def _angle(rng: np.random.Generator) -> float:
    """Mostly along an axis, sometimes anything."""
    return float(rng.choice([0.0, 90.0, rng.uniform(0, 180)], p=[0.4, 0.3, 0.3]))


def smooth(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Painted or moulded: nearly even."""
    slow = smooth_noise(rng, h, w, 0.5 * min(h, w))
    return tint(rng, slow, base, rng.uniform(0.5, 5))


def satin(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Fine isotropic grain, as bead-blasted metal."""
    u = min(h, w) / 256
    grain = smooth_noise(rng, h, w, rng.uniform(1.0, 2.2) * u)
    return tint(rng, grain + 0.5 * fractal(rng, h, w, 40 * u, 2), base, rng.uniform(2, 8))


def brushed(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Brushed metal: streaks along one direction."""
    u = min(h, w) / 256
    length, fine = rng.uniform(60, 300) * u, rng.uniform(1.0, 1.8) * u

    def draw(hh: int, ww: int) -> np.ndarray:
        return smooth_noise(rng, hh, ww, fine, length) + 0.6 * smooth_noise(rng, hh, ww, 4 * fine, 2 * length)

    return tint(rng, _rotated(rng, h, w, draw, _angle(rng)), base, rng.uniform(3, 14))


def turned(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Lathe-turned: concentric fine rings with an anisotropic sheen."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    cx, cy = w * rng.uniform(0.3, 0.7), h * rng.uniform(0.3, 0.7)
    r, t = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)
    profile = cv2.GaussianBlur(
        rng.standard_normal((1, int(max(h, w) * 1.6)), dtype=np.float32), (0, 0), rng.uniform(0.6, 1.6)
    )
    rings = profile[0, np.minimum(r.astype(np.int32), profile.shape[1] - 1)]
    sheen = np.cos(2 * (t - rng.uniform(0, 3.1)))
    return tint(rng, rings * rng.uniform(0.5, 1.2) + rng.uniform(0.5, 2.0) * sheen, base, rng.uniform(4, 9))


def cast(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Sand-cast relief: shaded band-limited bumps."""
    u = min(h, w) / 256
    bumps = fractal(rng, h, w, rng.uniform(4, 18) * u, 4, 0.6)
    relief = cv2.Sobel(bumps, cv2.CV_32F, 1, 0) * rng.uniform(-1, 1) + cv2.Sobel(bumps, cv2.CV_32F, 0, 1)
    relief /= relief.std() + 1e-6
    return tint(rng, relief + 0.4 * bumps, base, rng.uniform(4, 18))


def cells(rng: np.random.Generator, h: int, w: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cells of about `size` px: distance to the cell's border zone (h, w) and the cell's index (h, w)."""
    n = int(np.clip(h * w / size**2, 6, 6000))
    seeds = np.full((h, w), 255, np.uint8)
    seeds[rng.integers(0, h, n), rng.integers(0, w, n)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    return distance / size, labels


def leather(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Leather: pebbles between creases."""
    u = min(h, w) / 256
    distance, _ = cells(rng, h, w, rng.uniform(5, 14) * u)
    pebble = cv2.GaussianBlur(0.5 - distance, (0, 0), 0.8 * u)
    relief = pebble * 2 + 0.5 * cv2.Sobel(pebble, cv2.CV_32F, 1, 1) + 0.4 * fractal(rng, h, w, 60 * u, 3)
    return tint(rng, relief, base, rng.uniform(8, 22))


def gravel(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Terrazzo or gravel: grains each with its own shade."""
    u = min(h, w) / 256
    distance, labels = cells(rng, h, w, rng.uniform(4, 22) * u)
    shades = rng.standard_normal(int(labels.max()) + 1).astype(np.float32)[labels]
    mixed = shades * rng.uniform(0.3, 1.0) - distance * rng.uniform(0, 1.5)
    return tint(rng, cv2.GaussianBlur(mixed, (0, 0), 0.7), base, rng.uniform(6, 24))


def speckle(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Granite or filled plastic: dark and light specks of one size."""
    u = min(h, w) / 256
    grain = smooth_noise(rng, h, w, rng.uniform(1.5, 5) * u)
    cut = rng.uniform(0.7, 1.6)
    specks = np.where(grain > cut, grain - cut, 0) - np.where(grain < -cut, -grain - cut, 0) * rng.uniform(0.2, 1)
    return tint(rng, specks * 2 + 0.3 * fractal(rng, h, w, 50 * u, 3), base, rng.uniform(5, 22))


def wood(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Wood: year rings stretched along the grain, with pores."""
    u = min(h, w) / 256
    period = rng.uniform(8, 30) * u

    def draw(hh: int, ww: int) -> np.ndarray:
        y = np.mgrid[0:hh, 0:ww][0].astype(np.float32)
        warp = smooth_noise(rng, hh, ww, 70 * u, 200 * u) * rng.uniform(0.5, 2.5)
        rings = np.sin(2 * np.pi * y / period + warp * 2.5)
        return (
            rings + 0.5 * smooth_noise(rng, hh, ww, 1.4 * u, 26 * u) + 0.5 * smooth_noise(rng, hh, ww, 40 * u, 260 * u)
        )

    return tint(rng, _rotated(rng, h, w, draw, _angle(rng)), base, rng.uniform(6, 20))


def weave(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Woven cloth: over and under threads (plain or twill)."""
    u = min(h, w) / 256
    pitch, twill = rng.uniform(4, 14) * u, int(rng.integers(2, 5))

    def draw(hh: int, ww: int) -> np.ndarray:
        y, x = np.mgrid[0:hh, 0:ww].astype(np.float32)
        x, y = (
            x + smooth_noise(rng, hh, ww, 50 * u) * 0.12 * pitch,
            y + smooth_noise(rng, hh, ww, 50 * u) * 0.12 * pitch,
        )
        i, j = np.floor(x / pitch), np.floor(y / pitch)
        over = np.mod(i + j, twill) < 1
        across, along = np.cos(np.pi * (y / pitch - j - 0.5)), np.cos(np.pi * (x / pitch - i - 0.5))
        return np.where(over, across, along * 0.8 - 0.25) - 0.55 + 0.25 * smooth_noise(rng, hh, ww, 1.5 * u)

    return tint(rng, _rotated(rng, h, w, draw, _angle(rng)), base, rng.uniform(12, 45))


def knit(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Ribs or corrugation: one-directional waves with irregular phase."""
    u = min(h, w) / 256
    pitch = rng.uniform(4, 26) * u

    def draw(hh: int, ww: int) -> np.ndarray:
        x = np.mgrid[0:hh, 0:ww][1].astype(np.float32)
        phase = x / pitch + rng.uniform(0, 0.15) * smooth_noise(rng, hh, ww, 40 * u)
        return np.abs(np.sin(np.pi * phase)) ** rng.uniform(0.4, 2) - 0.6 + 0.15 * smooth_noise(rng, hh, ww, 2 * u)

    return tint(rng, _rotated(rng, h, w, draw, _angle(rng)), base, rng.uniform(8, 45))


def _lattice(rng: np.random.Generator, h: int, w: int, pitch: float, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Square or brick lattice: distance from the joints (h, w) in px and the index of each field (h, w)."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    ratio = rng.choice([1.0, 1.0, 2.0])
    j = np.floor(y / pitch)
    x = x + (j % 2) * pitch * ratio * 0.5 * (rng.random() < 0.4)
    i = np.floor(x / (pitch * ratio))
    dx = np.minimum(x - i * pitch * ratio, (i + 1) * pitch * ratio - x)
    dy = np.minimum(y - j * pitch, (j + 1) * pitch - y)
    return np.minimum(dx, dy) - gap, (i * 131 + j * 17).astype(np.int64) % 997


def tile(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Tiles or bricks with joints, each with its own shade."""
    u = min(h, w) / 256

    def draw(hh: int, ww: int) -> np.ndarray:
        inside, index = _lattice(rng, hh, ww, rng.uniform(24, 90) * u, rng.uniform(0.6, 3) * u)
        shades = rng.standard_normal(997).astype(np.float32)[index]
        face = shades * rng.uniform(0.1, 0.5) + 0.3 * fractal(rng, hh, ww, 20 * u, 3)
        return np.where(inside > 0, face, -2.0 * rng.choice([-1, 1, 1])) * np.float32(1)

    out = tint(rng, _rotated(rng, h, w, draw, _angle(rng)), base, rng.uniform(10, 28))
    return cv2.GaussianBlur(out, (0, 0), 0.8)


def mesh(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Wire mesh or perforated sheet: dark regular openings."""
    u = min(h, w) / 256
    pitch, fill = rng.uniform(7, 24) * u, rng.uniform(0.25, 0.42)
    round_ = rng.random() < 0.5

    def draw(hh: int, ww: int) -> np.ndarray:
        y, x = np.mgrid[0:hh, 0:ww].astype(np.float32)
        dx, dy = x / pitch - np.floor(x / pitch) - 0.5, y / pitch - np.floor(y / pitch) - 0.5
        d = np.hypot(dx, dy) if round_ else np.maximum(np.abs(dx), np.abs(dy))
        wire = np.clip((d - fill) * pitch / u + 0.5, 0, 1)
        return (wire - 0.6) * 3 + 0.25 * smooth_noise(rng, hh, ww, 3 * u)

    return tint(rng, _rotated(rng, h, w, draw, rng.choice([0.0, 45.0, rng.uniform(0, 90)])), base, rng.uniform(12, 32))


def printed(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Printed repeat: stripes, checks or dots in a second colour."""
    u = min(h, w) / 256
    pitch, kind, duty = rng.uniform(10, 40) * u, int(rng.integers(0, 4)), rng.uniform(0.25, 0.6)

    def draw(hh: int, ww: int) -> np.ndarray:
        y, x = np.mgrid[0:hh, 0:ww].astype(np.float32) / pitch
        fx, fy = x - np.floor(x), y - np.floor(y)
        stripes, dots = fx < duty, np.hypot(fx - 0.5, fy - 0.5) < duty * 0.6
        checks = (np.floor(x) + np.floor(y)) % 2 < 1
        return [stripes, dots, checks, stripes | (fy < duty)][kind].astype(np.float32)

    pattern = cv2.GaussianBlur(_rotated(rng, h, w, draw, _angle(rng)), (0, 0), 0.7 * max(u, 0.8))[..., None]
    second = np.clip(base + rng.uniform(-50, 50, 3), 15, 235).astype(np.float32)
    return base * (1 - pattern) + second * pattern + 2 * smooth_noise(rng, h, w, 2 * u)[..., None]


def plaster(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Concrete or plaster: clouds over several scales and tiny pores."""
    u = min(h, w) / 256
    clouds = fractal(rng, h, w, rng.uniform(30, 110) * u, 6, rng.uniform(0.5, 0.85))
    return tint(rng, clouds, base, rng.uniform(4, 20))


def fibre(rng: np.random.Generator, h: int, w: int, base: np.ndarray) -> np.ndarray:
    """Felt, paper or non-woven: many short fibres."""
    u = min(h, w) / 256
    canvas = np.full((h, w), 128, np.uint8)
    n, length = int(rng.uniform(250, 700)), rng.uniform(8, 30) * u
    start = rng.uniform(0, 1, (n, 2)) * (w, h)
    a = rng.normal(rng.uniform(0, 3.1), rng.choice([0.3, 3.0]), n)
    stop = start + length * np.stack([np.cos(a), np.sin(a)], 1)
    lines = np.round(np.stack([start, stop], 1) * 16).astype(np.int32)
    for k, shade in enumerate(rng.integers(40, 216, 6)):
        cv2.polylines(canvas, list(lines[k::6]), False, int(shade), 1, cv2.LINE_AA, 4)
    pattern = (cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), 0.7) - 128) / 40
    return tint(rng, pattern + 0.4 * fractal(rng, h, w, 30 * u, 3), base, rng.uniform(5, 18))


MATERIALS: dict[str, Material] = {
    "smooth paint": smooth,
    "satin metal": satin,
    "brushed metal": brushed,
    "turned metal": turned,
    "cast metal": cast,
    "leather": leather,
    "gravel": gravel,
    "speckled stone": speckle,
    "wood": wood,
    "woven cloth": weave,
    "ribbed sheet": knit,
    "tiles": tile,
    "mesh": mesh,
    "printed sheet": printed,
    "plaster": plaster,
    "fibre felt": fibre,
}
