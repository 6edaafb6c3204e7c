"""Drawing primitives: antialiased outlines, bevelled solids, light and sensor, all float32 RGB in 0..255."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_SHIFT = 4  # fractional bits of cv2's antialiased drawing
_ONE = 1 << _SHIFT


@dataclass(frozen=True)
class Patch:
    """A local antialiased coverage map: `alpha` (h, w) float32 in 0..1 whose corner lies at (x0, y0) of the image."""

    x0: int
    y0: int
    alpha: np.ndarray

    def window(self) -> tuple[slice, slice]:
        """Slices of the image that the patch covers."""
        h, w = self.alpha.shape
        return slice(self.y0, self.y0 + h), slice(self.x0, self.x0 + w)


def ellipse(cx: float, cy: float, rx: float, ry: float | None = None, angle: float = 0.0, n: int = 0) -> np.ndarray:
    """Outline of an ellipse (n, 2); `angle` in degrees."""
    ry = rx if ry is None else ry
    n = n or int(np.clip(2.5 * max(rx, ry), 16, 96))
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return turn(np.stack([rx * np.cos(t), ry * np.sin(t)], 1), angle, cx, cy)


def turn(points: np.ndarray, angle: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Rotate points about the origin by `angle` degrees, then move them by (x, y)."""
    a = np.deg2rad(angle)
    c, s = np.cos(a), np.sin(a)
    return points @ np.array([[c, s], [-s, c]]) + np.array([x, y])


def rect(cx: float, cy: float, w: float, h: float, angle: float = 0.0, round_: float = 0.0) -> np.ndarray:
    """Outline of a rectangle with corner radius `round_` px, turned by `angle` degrees about its centre."""
    r = float(np.clip(round_, 0, min(w, h) / 2))
    if r < 0.5:
        corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]], float) / 2
        return turn(corners, angle, cx, cy)
    t = np.linspace(0, np.pi / 2, 8)
    arc = np.stack([np.cos(t), np.sin(t)], 1) * r
    parts = []
    for k, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        parts.append(turn(arc, 90 * k, sx * (w / 2 - r), sy * (h / 2 - r)))
    return turn(np.concatenate(parts), angle, cx, cy)


def regular(cx: float, cy: float, r: float, sides: int, angle: float = 0.0) -> np.ndarray:
    """Outline of a regular polygon."""
    return ellipse(cx, cy, r, r, angle, n=sides)


def gear(cx: float, cy: float, r: float, teeth: int, depth: float, angle: float = 0.0, duty: float = 0.5) -> np.ndarray:
    """Outline of a gear: `teeth` trapezoids of relative height `depth` on a disc of outer radius `r`."""
    pitch = 2 * np.pi / teeth
    offsets = np.array([-0.5 * duty - 0.12, -0.5 * duty + 0.04, 0.5 * duty - 0.04, 0.5 * duty + 0.12]) * pitch
    radii = np.array([1 - depth, 1, 1, 1 - depth]) * r
    t = (np.arange(teeth)[:, None] * pitch + offsets).ravel()
    rr = np.tile(radii, teeth)
    return turn(np.stack([rr * np.cos(t), rr * np.sin(t)], 1), angle, cx, cy)


def blob(rng: np.random.Generator, cx: float, cy: float, r: float, rough: float = 0.3, n: int = 28) -> np.ndarray:
    """Irregular closed outline of mean radius `r`; `rough` 0 (round) .. 0.6 (ragged)."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    k = np.arange(2, 7)
    amp = rng.normal(size=5) / k
    wave = (amp[:, None] * np.cos(k[:, None] * t + rng.uniform(0, 6.3, 5)[:, None])).sum(0)
    rr = r * np.clip(1 + rough * 1.6 * wave, 0.25, 2.0)
    stretch = rng.uniform(0.65, 1.0)
    return turn(np.stack([rr * np.cos(t), stretch * rr * np.sin(t)], 1), rng.uniform(0, 180), cx, cy)


def cover(shape: Sequence[int], outlines: np.ndarray | list[np.ndarray], margin: int = 2) -> Patch | None:
    """Antialiased coverage of closed outlines (even-odd: an inner outline is a hole); None when outside the image."""
    outlines = outlines if isinstance(outlines, list) else [outlines]
    every = np.concatenate(outlines)
    x0, y0 = np.floor(every.min(0)).astype(int) - margin
    x1, y1 = np.ceil(every.max(0)).astype(int) + margin + 1
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, shape[1]), min(y1, shape[0])
    if x1 <= x0 or y1 <= y0:
        return None
    canvas = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fixed = [np.round((o - (x0, y0)) * _ONE).astype(np.int32) for o in outlines]
    cv2.fillPoly(canvas, fixed, 255, cv2.LINE_AA, _SHIFT)
    return Patch(int(x0), int(y0), canvas.astype(np.float32) / 255)


def stroke(shape: Sequence[int], points: np.ndarray, width: float, closed: bool = False) -> Patch | None:
    """Antialiased coverage of a polyline; widths below one pixel become fainter one-pixel lines."""
    pad = int(width) + 2
    x0, y0 = np.floor(points.min(0)).astype(int) - pad
    x1, y1 = np.ceil(points.max(0)).astype(int) + pad + 1
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, shape[1]), min(y1, shape[0])
    if x1 <= x0 or y1 <= y0:
        return None
    canvas = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fixed = np.round((points - (x0, y0)) * _ONE).astype(np.int32)
    value = int(255 * min(1.0, max(width, 0.15)))
    cv2.polylines(canvas, [fixed], closed, value, max(1, round(width)), cv2.LINE_AA, _SHIFT)
    return Patch(int(x0), int(y0), canvas.astype(np.float32) / 255)


def blend(
    image: np.ndarray, patch: Patch | None, paint: np.ndarray | Sequence[float] | float, strength: float = 1.0
) -> None:
    """Paint `patch` onto `image` in place; `paint` is a colour (3,), a grey, or a texture of the image's shape."""
    if patch is None:
        return
    window = patch.window()
    colour = np.asarray(paint, np.float32)
    if colour.ndim == 3:
        colour = colour[window]
    view = image[window]
    view += (colour - view) * (patch.alpha * strength)[..., None]


def fill(
    image: np.ndarray, outlines: np.ndarray | list[np.ndarray], paint: np.ndarray | Sequence[float] | float
) -> None:
    """Flat antialiased fill in place."""
    blend(image, cover(image.shape, outlines), paint)


def solid(
    image: np.ndarray,
    outlines: np.ndarray | list[np.ndarray],
    paint: np.ndarray | Sequence[float] | float,
    sun: tuple[float, float] = (-0.7, -0.7),
    bevel: float = 2.0,
    height: float = 40.0,
    shadow: float = 0.25,
) -> np.ndarray:
    """Raised part in place: drop shadow, fill, and edges lit from `sun` (pointing to the light, y down).

    Args:
        image: (H, W, 3) float32, changed.
        outlines: Closed outlines, even-odd.
        paint: Colour, grey or full-size texture.
        sun: Direction to the light.
        bevel: Width of the lit edge in px; 0 = flat. Negative `height` makes a recess.
        height: Grey levels that the edge gains or loses.
        shadow: 0..1, how dark the cast shadow is.

    Returns:
        (H, W) float32 coverage of the part.
    """
    shape = image.shape
    pad = int(3 * bevel) + 6
    patch = cover(shape, outlines, margin=pad)
    full = np.zeros(shape[:2], np.float32)
    if patch is None:
        return full
    full[patch.window()] = patch.alpha
    if shadow > 0:
        reach = max(2.0, 1.6 * bevel)
        moved = np.asarray([[1, 0, -sun[0] * reach], [0, 1, -sun[1] * reach]], np.float32)
        soft = cv2.GaussianBlur(cv2.warpAffine(patch.alpha, moved, patch.alpha.shape[::-1]), (0, 0), 0.4 + 0.7 * bevel)
        image[patch.window()] *= 1 - shadow * soft[..., None]
    blend(image, patch, paint)
    if bevel > 0 and height:
        soft = cv2.GaussianBlur(patch.alpha, (0, 0), max(0.5, 0.6 * bevel))
        gx, gy = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=3)
        edge = -(gx * sun[0] + gy * sun[1]) * (0.45 * max(bevel, 1.0)) * patch.alpha
        image[patch.window()] += np.clip(edge * height, -1.5 * abs(height), 1.5 * abs(height))[..., None]
    return full


def smooth_noise(rng: np.random.Generator, h: int, w: int, cell: float, cell_x: float | None = None) -> np.ndarray:
    """Zero-mean noise (h, w) whose grain is about `cell` px (`cell_x` across when it differs), deviation about 1."""
    cell_x = cell if cell_x is None else cell_x
    rows, cols = max(2, int(h / max(cell, 1.0)) + 2), max(2, int(w / max(cell_x, 1.0)) + 2)
    small = rng.standard_normal((rows, cols), dtype=np.float32)
    if (rows, cols) == (h + 2, w + 2):
        return small[:h, :w]
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC) * 1.25


def fractal(rng: np.random.Generator, h: int, w: int, cell: float, octaves: int = 4, gain: float = 0.55) -> np.ndarray:
    """Sum of octaves of `smooth_noise`, coarse to fine, deviation about 1."""
    total, weight, norm = np.zeros((h, w), np.float32), 1.0, 0.0
    for k in range(octaves):
        if cell / 2**k < 0.8:
            break
        total += weight * smooth_noise(rng, h, w, cell / 2**k)
        norm += weight**2
        weight *= gain
    return total / float(np.sqrt(max(norm, 1e-6)))  # numpy 2: a float64 scalar would widen the array


_COARSE = 4  # light fields are smooth: drawn at a quarter of the size


def _grid(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (y, x) of a coarse grid over an h x w image."""
    rows, cols = -(-h // _COARSE), -(-w // _COARSE)
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float32)
    return (y + 0.5) * (h / rows), (x + 0.5) * (w / cols)


def _spread(field: np.ndarray, h: int, w: int) -> np.ndarray:
    return cv2.resize(field.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)


def lighting(rng: np.random.Generator, h: int, w: int, strength: float) -> np.ndarray:
    """Multiplicative light field (h, w) around 1: a slope, a vignette or lamp, and a slow undulation."""
    y, x = _grid(h, w)
    x, y = x / w - 0.5, y / h - 0.5
    a = rng.uniform(0, 2 * np.pi)
    field = strength * rng.uniform(0.3, 1.0) * (np.cos(a) * x + np.sin(a) * y)
    cx, cy, reach = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0.4, 0.9)
    field += strength * rng.uniform(-0.3, 0.7) * (np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / reach**2) - 0.6)
    field += 0.1 * strength * smooth_noise(rng, *x.shape, 0.5 * min(x.shape))
    return _spread(1 + 0.65 * np.tanh(field / 0.65), h, w)  # no hard stop: a clipped field would draw an edge


def glare(
    rng: np.random.Generator, h: int, w: int, count: int, level: float, size: float = 0.2, slender: float = 0.25
) -> np.ndarray:
    """Additive soft highlights (h, w): `count` elongated Gaussians of up to `level` grey levels, no edges."""
    y, x = _grid(h, w)
    total, side = np.zeros(x.shape, np.float32), min(h, w)
    for _ in range(count):
        a, long = rng.uniform(0, np.pi), size * side * rng.uniform(0.5, 1.5)
        short = long * rng.uniform(slender, 0.9)
        dx, dy = x - rng.uniform(0, w), y - rng.uniform(0, h)
        u, v = (np.cos(a) * dx + np.sin(a) * dy) / long, (np.cos(a) * dy - np.sin(a) * dx) / short
        total += level * rng.uniform(0.4, 1.0) * np.exp(-(u * u + v * v))
    return _spread(total, h, w)


def sensor(rng: np.random.Generator, image: np.ndarray, blur: float, noise: float) -> np.ndarray:
    """Optics and sensor: Gaussian blur (px), signal-dependent noise (grey levels), uint8."""
    out = cv2.GaussianBlur(image, (0, 0), blur) if blur > 0.2 else image
    if noise > 0:
        grain = rng.standard_normal(image.shape[:2], dtype=np.float32)
        dirt = rng.standard_normal(image.shape, dtype=np.float32)
        level = np.sqrt(0.4 + (0.6 / 128) * np.clip(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), 0, 255)) * float(noise)
        dirt *= 0.5
        dirt += 0.85 * grain[..., None]
        dirt *= level[..., None]
        dirt += out
        out = dirt
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)
