"""Mark primitives: scratches, cracks, dents, stains... and the legitimate holes, prints and reflections.

Each primitive draws a signed pattern in -1..1 on its own small canvas (supersampled when the mark is tiny), which is
then scaled to the contrast asked for and added to the image. The mask is where the pattern is clearly non-zero.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .factory_draw import blob, ellipse, fractal, rect, regular, smooth_noise, turn

Pattern = Callable[[np.random.Generator, int, float], np.ndarray]
"""(rng, canvas side k, canvas pixels per image pixel) -> (k, k) float32, -1 dark .. 1 bright."""


def _area(k: int, outline: np.ndarray, value: int = 255) -> np.ndarray:
    canvas = np.zeros((k, k), np.uint8)
    cv2.fillPoly(canvas, [np.round(outline * 16).astype(np.int32)], value, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def _line(k: int, points: np.ndarray, width: float) -> np.ndarray:
    canvas = np.zeros((k, k), np.uint8)
    cv2.polylines(canvas, [np.round(points * 16).astype(np.int32)], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def _path(rng: np.random.Generator, k: int, wander: float, steps: int = 24, aim: float | None = None) -> np.ndarray:
    """A line of about the canvas' length that bends by `wander` (radians, spread over its length)."""
    aim = rng.uniform(0, 2 * np.pi) if aim is None else aim
    headings = aim + np.cumsum(rng.normal(0, wander / np.sqrt(steps), steps))
    path = np.cumsum(np.stack([np.cos(headings), np.sin(headings)], 1), 0)
    path -= (path.min(0) + path.max(0)) / 2
    return path * (0.46 * k / max(np.abs(path).max(), 1e-6)) + k / 2


def scratch(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Thin smooth line, sometimes doubled or with a bright lip."""
    width = max(rng.uniform(0.008, 0.035) * k, 1.0 * px)
    path = _path(rng, k, rng.uniform(0, 0.5))
    out = -_line(k, path, width)
    if rng.random() < 0.35:
        out += rng.choice([0.6, -0.7]) * _line(k, path + rng.uniform(1, 2.5) * width, width)
    return out


def crack(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Jagged dark line that thins out, with branches."""
    width = max(rng.uniform(0.01, 0.03) * k, 1.0 * px)
    path = _path(rng, k, rng.uniform(1.0, 2.2), int(rng.integers(14, 34)))
    out = _line(k, path, width)
    for _ in range(int(rng.integers(0, 4))):
        at = int(rng.integers(3, len(path) - 3))
        branch = _path(rng, int(k * rng.uniform(0.2, 0.45)), 1.2, 10)
        out = np.maximum(out, 0.85 * _line(k, branch - branch[0] + path[at], max(0.7 * width, 0.8 * px)))
    return -out


def dent(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Hollow: one side bright, the other dark."""
    y, x = np.mgrid[0:k, 0:k].astype(np.float32) / k - 0.5
    a, e, hard = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0), rng.choice([2, 2, 4])
    u, v = np.cos(a) * x + np.sin(a) * y, np.cos(a) * y - np.sin(a) * x
    r = np.hypot(u, v / e) / 0.3
    return -(u / 0.3) * np.exp(-(r**hard)) * 2.2


def chip(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Broken-out flake: an angular sharp patch with one lit edge."""
    n = int(rng.integers(5, 9))
    t = np.sort(rng.uniform(0, 2 * np.pi, n))
    outline = np.stack([np.cos(t), np.sin(t)], 1) * rng.uniform(0.28, 0.47, (n, 1)) * k + k / 2
    face = _area(k, outline)
    shift = rng.uniform(-0.07, 0.07, 2) * k
    lit = np.clip(face - _area(k, outline + shift), 0, 1)
    return -face * (0.8 + 0.2 * smooth_noise(rng, k, k, k / 6)) + 1.3 * lit


def stain(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Irregular discoloured patch, its rim sometimes darker."""
    face = np.zeros((k, k), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        c = k / 2 + rng.uniform(-0.13, 0.13, 2) * k
        face = np.maximum(face, _area(k, blob(rng, c[0], c[1], k * rng.uniform(0.16, 0.32), 0.4, 48)))
    soft = cv2.GaussianBlur(face, (0, 0), max(0.5, k * rng.uniform(0.005, 0.04)))
    inner = 1 + 0.25 * smooth_noise(rng, k, k, k / 5)
    rim = cv2.GaussianBlur(face, (0, 0), k * 0.04) if rng.random() < 0.4 else None
    out = soft * inner
    return -(out if rim is None else soft * np.clip(1.7 - rim * 1.3, 0.3, 1.7))


def pit(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Small deep hollow: dark irregular disc, bright crescent."""
    outline = blob(rng, k / 2, k / 2, 0.34 * k, 0.15)
    out = -_area(k, outline)
    shift = turn(np.array([[0.1 * k, 0.0]]), rng.uniform(0, 360))
    return np.where(np.abs(out) < 0.3, 0.8 * _area(k, outline + shift), out)


def particle(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Foreign body: a lump, or a curled fibre."""
    if rng.random() < 0.4:
        return -_line(k, _path(rng, k, rng.uniform(1.5, 4)), max(0.05 * k, 1.1 * px))
    outline = blob(rng, k / 2, k / 2, 0.36 * k, 0.45, 20)
    face = _area(k, outline)
    lit = _area(k, (outline - k / 2) * 0.5 + k / 2 + rng.uniform(-0.1, 0.1, 2) * k)
    return -face + rng.uniform(0, 0.9) * lit * face


def smear(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Low-frequency discolouration, stretched one way."""
    y, x = np.mgrid[0:k, 0:k].astype(np.float32) / k - 0.5
    a, e = rng.uniform(0, np.pi), rng.uniform(0.3, 1.0)
    u, v = np.cos(a) * x + np.sin(a) * y, (np.cos(a) * y - np.sin(a) * x) / e
    streak = 1 + 0.35 * smooth_noise(rng, k, k, k / rng.uniform(3, 9))
    return -np.exp(-((np.hypot(u, v) / 0.26) ** 2)) * streak


def hole(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Drilled hole: perfectly round, evenly dark, sometimes with a chamfer."""
    out = -_area(k, ellipse(k / 2, k / 2, 0.4 * k, n=64))
    if rng.random() < 0.5:
        ring = _area(k, ellipse(k / 2, k / 2, 0.48 * k, n=64)) + out
        out = out + rng.uniform(0.3, 0.9) * np.clip(ring, 0, 1)
    return out


def glyph(k: int, shape: str, angle: float = 0.0, bold: float = 0.16) -> np.ndarray:
    """Printed sign (k, k) in 0..1: dot, ring, bar, cross, square, triangle, chevron, frame, two-dots or letter."""
    c, r = k / 2, 0.42 * k
    if shape in ("ring", "frame"):
        outer = ellipse(c, c, r, n=64) if shape == "ring" else rect(c, c, 2 * r, 2 * r, angle)
        return np.clip(_area(k, outer) - _area(k, (outer - c) * (1 - 2.2 * bold) + c), 0, 1)
    if shape == "bar":
        return _area(k, rect(c, c, 2 * r, 2 * bold * k, angle))
    if shape == "cross":
        return np.maximum(_area(k, rect(c, c, 2 * r, bold * k, angle)), _area(k, rect(c, c, bold * k, 2 * r, angle)))
    if shape == "square":
        return _area(k, rect(c, c, 1.6 * r, 1.6 * r, angle))
    if shape == "triangle":
        return _area(k, regular(c, c, r, 3, angle))
    if shape == "chevron":
        return _line(k, turn(np.array([[-0.7, -0.4], [0, 0.35], [0.7, -0.4]]) * r, angle) + c, bold * k)
    if shape == "two-dots":
        return np.maximum(
            *(_area(k, ellipse(*(turn(np.array([[s, 0.0]]) * 0.55 * r, angle)[0] + c), 0.4 * r)) for s in (-1, 1))
        )
    return _area(k, ellipse(c, c, 0.85 * r, n=64))


GLYPHS = ("dot", "ring", "bar", "cross", "square", "triangle", "chevron", "frame", "two-dots")


def imprint(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Printed sign: regular outline, even colour."""
    bold = max(rng.uniform(0.1, 0.22), px / k)
    if rng.random() < 0.25:
        canvas = np.zeros((k, k), np.uint8)
        text = "".join(rng.choice(list("ABCDEFHKLMNPRSTXZ0123456789"), int(rng.integers(1, 4))))
        scale = k / (22.0 * len(text) + 8)
        cv2.putText(
            canvas,
            text,
            (int(k * 0.06), int(k * 0.5 + 11 * scale)),
            0,
            scale,
            255,
            max(1, int(2.2 * scale)),
            cv2.LINE_AA,
        )
        return -canvas.astype(np.float32) / 255
    return -glyph(k, str(rng.choice(GLYPHS)), rng.choice([0, 0, 90, rng.uniform(0, 360)]), bold)


def reflection(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Soft highlight: bright, no edge."""
    y, x = np.mgrid[0:k, 0:k].astype(np.float32) / k - 0.5
    a, e = rng.uniform(0, np.pi), rng.uniform(0.2, 1.0)
    u, v = np.cos(a) * x + np.sin(a) * y, (np.cos(a) * y - np.sin(a) * x) / e
    return np.exp(-((u * u + v * v) / 0.2**2))


def dust(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """A few soft specks."""
    out = np.zeros((k, k), np.float32)
    for _ in range(int(rng.integers(1, 7))):
        c = k / 2 + rng.normal(0, 0.17, 2) * k
        out = np.maximum(
            out, rng.uniform(0.4, 1) * _area(k, ellipse(c[0], c[1], max(rng.uniform(0.03, 0.09) * k, 0.6 * px)))
        )
    return cv2.GaussianBlur(out, (0, 0), max(0.6 * px, 0.02 * k)) * rng.choice([-1, 1, 1])


def speck(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """One soft round spot."""
    y, x = np.mgrid[0:k, 0:k].astype(np.float32) / k - 0.5
    return -np.exp(-(x * x + y * y) / (2 * rng.uniform(0.12, 0.18) ** 2))


def corrosion(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Rust: a ragged cluster of blotches and specks."""
    y, x = np.mgrid[0:k, 0:k].astype(np.float32) / k - 0.5
    envelope = 1.15 - np.hypot(x, y) / 0.36
    ragged = fractal(rng, k, k, k / 5, 4, 0.7) * 0.55 + envelope
    return -np.clip((ragged - 0.35) * 2.2, 0, 1) * (0.8 + 0.3 * smooth_noise(rng, k, k, k / 8))


def water(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Dried drop: a thin irregular ring, its inside hardly changed."""
    outline = blob(rng, k / 2, k / 2, 0.36 * k, 0.2, 64)
    ring = _line(k, np.concatenate([outline, outline[:1]]), max(rng.uniform(0.02, 0.05) * k, 1.3 * px))
    return -np.maximum(ring, rng.uniform(0.15, 0.45) * _area(k, outline))


def rub(rng: np.random.Generator, k: int, px: float) -> np.ndarray:
    """Abrasion: a bundle of parallel fine lines."""
    out, aim = np.zeros((k, k), np.float32), rng.uniform(0, 2 * np.pi)
    for _ in range(int(rng.integers(5, 12))):
        path = _path(rng, int(k * rng.uniform(0.5, 0.9)), 0.12, 8, aim)
        path = path - path.mean(0) + k / 2 + rng.normal(0, 0.1, 2) * k
        out = np.maximum(out, rng.uniform(0.5, 1) * _line(k, path, max(rng.uniform(0.01, 0.03) * k, 1.1 * px)))
    return -out


PATTERNS: dict[str, Pattern] = {
    "scratch": scratch, "crack": crack, "dent": dent, "chip": chip, "stain": stain, "pit": pit, "particle": particle,
    "smear": smear, "hole": hole, "print": imprint, "reflection": reflection, "dust": dust, "speck": speck,
    "corrosion": corrosion, "water": water, "rub": rub,
}  # fmt: skip
