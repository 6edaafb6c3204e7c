"""Composed products of the training pool: layout, outlines, materials and details drawn at random per model.

What carries over to products never seen is variety of products (docs/log.md): hand-written ones are few, and other
finishes of them teach an agent their outlines. A model here is one product: its design comes from its number alone, its
parts differ by pose and batch. No stand-in uses these; the layouts are general (one body, a sheet, a tray, rods, a
board), none is a stand-in's product.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .factory_bench import FINISHES, Bench, Outline
from .factory_surfaces import MATERIALS

RIGID = ("hole", "bead", "tuft")  # features of a row that cannot bend
SLENDER = ("pin", "pad", "slot", "tooth")
_SPREAD = {"pin": (0.1, 0.4), "pad": (0.04, 0.16), "slot": (0.08, 0.35), "tooth": (0.06, 0.2), "tuft": (0.05, 0.1)}
_FAR = 45  # grey levels at least between a body and what it lies on, and between a feature and its body


def plain_assembly(b: Bench) -> None:
    """Assembly of simple bodies."""
    _compose(b)


def fine_assembly(b: Bench) -> None:
    """Assembly with finely finished faces."""
    _compose(b)


def glossy_assembly(b: Bench) -> None:
    """Assembly with one wide glossy face."""
    d = b.style.design()
    colour = _even(d, b)
    if d.random() < 0.6:
        _furnish(d, b, colour)


def pinned_assembly(b: Bench) -> None:
    """Assembly with a row of slender features."""
    _rowed(b, SLENDER)


def beaded_assembly(b: Bench) -> None:
    """Assembly with a row of round features."""
    _rowed(b, RIGID)


def dotted_assembly(b: Bench) -> None:
    """Assembly marked with one dark dot."""
    _signed(b)


def ringed_assembly(b: Bench) -> None:
    """Assembly marked with one bright ring."""
    _signed(b)


def barred_assembly(b: Bench) -> None:
    """Assembly marked with one short dark bar."""
    _signed(b)


def crossed_assembly(b: Bench) -> None:
    """Assembly marked with one bright cross."""
    _signed(b)


def _compose(b: Bench) -> None:
    d = b.style.design()
    layouts: tuple[Callable[[np.random.Generator, Bench], np.ndarray], ...]
    layouts = (_body, _body, _body, _sheet, _board, _tray, _tray, _rods)
    body = layouts[int(d.integers(len(layouts)))](d, b)
    if d.random() < 0.5:
        _details(d, b, body)


def _rowed(b: Bench, features: tuple[str, ...]) -> None:
    """A plate with one row of one of the `features`."""
    d = b.style.design()
    _row(d, b, str(d.choice(features)), _plate(d, b))


def _signed(b: Bench) -> None:
    """An even face with nothing on it but a place for the sign: that is what stands out then."""
    d = b.style.design()
    _even(d, b)
    b.spot(*d.uniform(-0.1, 0.1, 2))


def _even(d: np.random.Generator, b: Bench) -> np.ndarray:
    """One wide body on an even ground, or a sheet. A mark of five grey levels drowns in any stronger texture, and a
    step or line of low contrast looks like one (docs/log.md)."""
    if d.random() < 0.4:
        colour = _tone(d)
        b.image[:], b.face[:] = _soft(d, b, colour), 1
        b.pose()
        return colour
    behind = _tone(d)
    b.image[:] = _soft(d, b, behind)
    b.pose(turn=float(d.choice([4, 8, 45])))
    colour = _tone(d, behind)
    w, h = d.uniform(0.78, 0.96, 2)
    b.up(_outline(d, b, 0, 0, w, h), _soft(d, b, colour), *_relief(d), face=True)
    return colour


def _furnish(d: np.random.Generator, b: Bench, colour: np.ndarray) -> None:
    """A pressed or raised field, a bulge, or details, the same on every part of the model."""
    kind, (w, h) = d.random(), d.uniform(0.4, 0.8, 2)
    if kind < 0.35:
        shade = colour * (1 + float(d.choice([-1, 1])) * float(d.uniform(0.0, 0.08)))
        b.up(_outline(d, b, 0, 0, w, h), _soft(d, b, shade), float(d.uniform(0.005, 0.02)),
             float(d.choice([-1, 1])) * float(d.uniform(15, 45)), 0.0, face=True)  # fmt: skip
    elif kind < 0.6:
        b.dome(0, 0, w / 2, h / 2, float(d.uniform(0.08, 0.3)))
    else:
        _details(d, b, colour)


def _soft(d: np.random.Generator, b: Bench, colour: np.ndarray) -> np.ndarray:
    """Even paint, or a gentle texture with a deviation of hardly a grey level."""
    own, deviation = b.colour(*colour), float(d.choice([0.0, d.uniform(0.3, 1.2)]))
    grain = MATERIALS[str(d.choice(FINISHES))](b.rng, b.h, b.w, own) - own
    return MATERIALS["smooth paint"](b.rng, b.h, b.w, own) + grain * (deviation / max(float(grain.std()), 0.1))


def _tone(d: np.random.Generator, away: np.ndarray | None = None, top: float = 214) -> np.ndarray:
    """A colour (3,), at most of the level `top`, well apart from `away` in brightness."""
    while True:
        level, hue = d.uniform(34, top), d.normal(0, 1, 3)
        colour = np.clip(level + (hue - hue.mean()) * level * d.uniform(0, 0.15), 12, 240)
        if away is None or abs(colour.mean() - away.mean()) > _FAR:
            return colour


def _paint(d: np.random.Generator, b: Bench, colour: np.ndarray, gentle: bool = True) -> np.ndarray:
    name = str(d.choice(FINISHES if gentle else list(MATERIALS)))
    return MATERIALS[name](b.rng, b.h, b.w, b.colour(*colour))


def _ground(d: np.random.Generator, b: Bench, turn: float = 5.0) -> np.ndarray:
    """Whatever the product lies on; returns its colour."""
    colour = _tone(d)
    b.image[:] = _paint(d, b, colour, gentle=d.random() < 0.4)
    b.pose(turn=turn)
    return colour


def _outline(d: np.random.Generator, b: Bench, x: float, y: float, w: float, h: float) -> Outline:
    """One closed outline about (x, y) inside w x h."""
    kind, r = int(d.integers(8)), min(w, h) / 2
    if kind == 0:
        return b.disc(x, y, r)
    if kind == 1:
        return b.disc(x, y, w / 2, h / 2)
    if kind == 2:
        return b.ngon(x, y, r, int(d.integers(5, 9)), float(d.choice([0.0, 22.5, 30.0])))
    if kind == 3:
        return b.gear(x, y, r, int(d.integers(5, 44)), float(d.uniform(0.03, 0.16)), float(d.uniform(0.4, 0.7)))
    if kind == 4:
        return b.box(x, y, w, h, 0, min(w, h) / 2)
    if kind == 5:
        cut = float(d.uniform(0.25, 0.6))
        corner = [[-1, -1], [1 - cut, -1], [1, -1 + cut], [1, 1], [-1 + cut, 1], [-1, 1 - cut]]
        return b.poly([[x + p * w / 2, y + q * h / 2] for p, q in corner])
    return b.box(x, y, w, h, 0, float(d.uniform(0, 0.35)) * min(w, h))


def _relief(d: np.random.Generator) -> tuple[float, float, float]:
    return float(d.uniform(0.005, 0.025)), float(d.uniform(30, 60)), float(d.uniform(0.1, 0.45))


def _body(d: np.random.Generator, b: Bench) -> np.ndarray:
    """One body, often with a second step on it."""
    behind = _ground(d, b, float(d.choice([4, 8, 45])))
    w, h = d.uniform(0.62, 0.96), d.uniform(0.5, 0.94)
    colour = _tone(d, behind)
    paint = _paint(d, b, colour)
    b.up(_outline(d, b, 0, 0, w, h), paint, *_relief(d), face=True)
    if d.random() < 0.55:
        gain, shrink = 1 + float(d.choice([-1, 1])) * float(d.uniform(0.04, 0.16)), d.uniform(0.55, 0.9)
        sunk = float(d.choice([-1, 1])) * float(d.uniform(25, 55))
        step = _outline(d, b, 0, 0, w * shrink, h * shrink)
        b.up(step, paint * gain, float(d.uniform(0.005, 0.03)), sunk, 0.0, face=True)
        colour = colour * gain
    if d.random() < 0.3:
        b.dome(0, 0, w / 2, h / 2, float(d.uniform(0.1, 0.35)))
    return colour


def _plate(d: np.random.Generator, b: Bench) -> np.ndarray:
    """What carries a row: a sheet, or a plate wide enough that no feature crosses its border. Across borders, steps and
    lines a caliper reads a fifth of the rows wrong (docs/log.md)."""
    if d.random() < 0.25:
        colour = _tone(d)
        b.image[:], b.face[:] = _paint(d, b, colour), 1
        b.pose()
        return colour
    colour = _tone(d, _ground(d, b))
    corner = float(d.choice([0.0, 0.03, 0.08]))
    b.up(b.box(0, 0, 0.97, float(d.uniform(0.66, 0.97)), 0, corner), _paint(d, b, colour), *_relief(d), face=True)
    return colour


def _sheet(d: np.random.Generator, b: Bench) -> np.ndarray:
    """A surface that fills the view, sometimes lined."""
    colour = _tone(d)
    b.image[:] = _paint(d, b, colour)
    b.face[:] = 1
    b.pose()
    for _ in range(int(d.choice([0, 0, 1, 2, 3]))):
        at, width, along = d.uniform(-0.46, 0.46), float(d.uniform(0.005, 0.02)), d.random() < 0.5
        line = [[-0.9, at], [0.9, at]] if along else [[at, -0.9], [at, 0.9]]
        b.wire(b.poly(line), width, b.colour(*_tone(d)), float(d.uniform(0.4, 0.9)))
    return colour


def _tray(d: np.random.Generator, b: Bench) -> np.ndarray:
    """Equal pieces in rows and columns."""
    behind = _ground(d, b)
    colour = _tone(d, behind)
    paint, relief, domed = _paint(d, b, colour), _relief(d), d.random() < 0.4
    columns, rows = (int(n) for n in d.integers(1, 5, 2))
    columns += columns * rows == 1
    cell_w, cell_h, fill, loose = 0.94 / columns, 0.94 / rows, d.uniform(0.6, 0.9), d.random() < 0.5
    for k in range(columns * rows):
        x, y = (k % columns - (columns - 1) / 2) * cell_w, (k // columns - (rows - 1) / 2) * cell_h
        if loose:
            x, y = x + b.rng.uniform(-0.04, 0.04) * cell_w, y + b.rng.uniform(-0.04, 0.04) * cell_h
        same = np.random.default_rng(int(cell_w * 1e6) + b.style.model)  # one outline for all pieces
        b.up(_outline(same, b, x, y, cell_w * fill, cell_h * fill), paint, *relief, face=True)
        if domed:
            b.dome(x, y, cell_w * fill / 2, cell_h * fill / 2, 0.25)
    return colour


def _rods(d: np.random.Generator, b: Bench) -> np.ndarray:
    """Parallel rods, lying or standing."""
    behind = _ground(d, b)
    colour = _tone(d, behind)
    paint, n, upright = _paint(d, b, colour), int(d.integers(2, 6)), d.random() < 0.5
    thick, length, ends = 0.9 / n * d.uniform(0.6, 0.9), float(d.uniform(0.75, 1.3)), float(d.choice([0.0, 0.5]))
    for k in range(n):
        at = (k - (n - 1) / 2) * 0.92 / n
        x, y, w, h = (at, 0, thick, length) if upright else (0, at, length, thick)
        b.up(b.box(x, y, w, h, 0, ends * thick), paint, 0.2 * thick, 60, 0.3, face=True)
        b.dome(x, y, w / 2, h / 2, float(d.uniform(0.05, 0.25)))
    return colour


def _board(d: np.random.Generator, b: Bench) -> np.ndarray:
    """A board with tracks and blocks."""
    colour = _tone(d)
    b.image[:] = _paint(d, b, colour)
    b.face[:] = 1
    b.pose()
    track, block = _tone(d), _tone(d, colour)
    for _ in range(int(d.integers(2, 9))):
        x, y, run, bend = d.uniform(-0.45, 0.3), d.uniform(-0.45, 0.45), d.uniform(0.1, 0.5), d.uniform(-0.2, 0.2)
        b.wire(b.poly([[x, y], [x + run, y], [x + run + abs(bend), y + bend]]), 0.012, b.colour(*track), 0.6)
    for _ in range(int(d.integers(2, 7))):
        angle, far = d.uniform(0, 2 * np.pi), d.uniform(0.28, 0.42)  # the middle stays free
        w, h = d.uniform(0.06, 0.2, 2)
        b.up(b.box(far * np.cos(angle), far * np.sin(angle), w, h, 0, 0.01), b.colour(*block), 0.006, 35, 0.3)
    return colour


def _details(d: np.random.Generator, b: Bench, body: np.ndarray) -> None:
    """Holes or rivets in the corners or in a circle, or a bore; legitimate, the same on every part of the model."""
    colour, size, raised = _tone(d, body), float(d.uniform(0.014, 0.04)), d.random() < 0.4
    if d.random() < 0.25:
        return b.flat(b.disc(float(d.uniform(-0.2, 0.2)), -0.24, float(d.uniform(0.05, 0.1))), b.colour(*colour))
    n, r = int(d.choice([2, 3, 4, 6, 8, 12])), float(d.uniform(0.24, 0.36))
    corners = d.random() < 0.5
    for k in range(4 if corners else n):
        angle = np.pi / 4 + k * np.pi / 2 if corners else 2 * np.pi * k / n
        place = b.disc(1.25 * r * np.cos(angle), (1.0 if corners else 1.25) * r * np.sin(angle), size)
        b.up(place, b.colour(*colour), 0.006, 45, 0.15) if raised else b.flat(place, b.colour(*colour))
    return None


def _row(d: np.random.Generator, b: Bench, shape: str, body: np.ndarray) -> None:
    """The row, lying or standing, somewhere near the middle of its plate."""
    n, standing, off = int(d.integers(7, 15)), d.random() < 0.35, float(d.uniform(-0.1, 0.1))
    half = float(d.uniform(0.24, 0.28) if standing else d.uniform(0.33, 0.41))
    size = 2 * half / (n - 1) * float(d.uniform(0.38, 0.62))
    long = min(float(d.uniform(*_SPREAD[shape])), 0.3) if shape in _SPREAD else size
    ends = ((off, -half), (off, half)) if standing else ((-half, off), (half, off))
    # no brighter: the exposure of a part must not tell that a feature is missing
    b.row(*ends, n, shape, size, long, b.colour(*_tone(d, body, 150), 3))
