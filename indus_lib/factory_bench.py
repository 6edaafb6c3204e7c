"""The bench on which products are built: a canvas with a pose, a face where marks may lie, and one row of features.

Lengths are fractions of the shorter image side, positions are relative to the part's centre and turn with its pose.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from . import factory_draw as draw
from .factory_surfaces import MATERIALS

Outline = np.ndarray
Paint = np.ndarray | Sequence[float] | float


@dataclass(frozen=True)
class RowPlan:
    """What is to be wrong with a row: `state` even, missing, shifted, bent or uneven; `amount` in pitches."""

    state: str = "even"
    amount: float = 0.0


@dataclass(frozen=True)
class RowTruth:
    """A row as drawn: ends (x1, y1, x2, y2) px, real centres (n, 2) px, pitch px, state and the mask of what is off."""

    ends: tuple[float, float, float, float]
    centres: np.ndarray
    pitch: float
    state: str
    mask: np.ndarray


FINISHES = ("smooth paint", "satin metal", "brushed metal", "turned metal", "cast metal", "plaster", "leather")
"""Materials gentle enough that a small mark on them can still be told."""
EVEN = ("smooth paint",)
"""Those on which a faint mark can."""


class Style:
    """What sets one model of a product apart from the others: palette, finish, which way round it lies, size.

    Model 0 is the product as it is written; the others are drawn from the product's name and their number.
    """

    def __init__(self, product: str, model: int, finishes: Sequence[str] = FINISHES) -> None:
        self._key, self.model = (zlib.crc32(product.encode()), model), model
        rng = np.random.default_rng(self._key)
        self.plain = model == 0
        self.channels, self.inverted = rng.permutation(3), bool(rng.random() < 0.5)
        self.tint = rng.uniform(0.7, 1.05, 3)
        self.quarters, self.zoom = int(rng.integers(4)), float(rng.uniform(0.85, 1.0))
        self._finishes = {name: str(rng.choice(finishes)) for name in MATERIALS}

    def colour(self, rgb: np.ndarray) -> np.ndarray:
        """RGB (3,) in this model's palette. One map for all colours of a part, so that contrasts stay."""
        if self.plain:
            return rgb
        turned = rgb[self.channels]
        return (250 - turned if self.inverted else turned) * self.tint

    def design(self) -> np.random.Generator:
        """Random numbers of this model's design, the same for each of its parts (`factory_composed`)."""
        return np.random.default_rng((*self._key, 1))

    def finish(self, material: str) -> str:
        """Material that this model has in place of the product's."""
        return material if self.plain else self._finishes[material]


class Bench:
    """Mutable canvas for one product image.

    Attributes:
        image: (h, w, 3) float32, before light and sensor.
        face: (h, w) float32, where a mark may lie (1) or not (0).
        anchor: (x, y) px of the place of the product's own mark.
        truth: The row, when one was laid.
    """

    def __init__(self, rng: np.random.Generator, h: int, w: int, plan: RowPlan, style: Style | None = None) -> None:
        self.rng, self.h, self.w, self.plan = rng, h, w, plan
        self.style = style or Style("", 0)
        self.side = float(min(h, w))
        self.image = np.zeros((h, w, 3), np.float32)
        self.face = np.zeros((h, w), np.float32)
        self.x, self.y, self.angle, self.zoom = w / 2, h / 2, 0.0, 1.0
        a = rng.normal(-2.0, 0.5)
        self.sun = (float(np.cos(a)), float(np.sin(a)))
        self.anchor: tuple[float, float] | None = None
        self.truth: RowTruth | None = None

    def pose(self, shift: float = 0.025, turn: float = 4.0, zoom: float = 0.05) -> None:
        """Move, turn (degrees) and scale the part a little."""
        self.x += self.rng.uniform(-shift, shift) * self.side
        self.y += self.rng.uniform(-shift, shift) * self.side
        self.angle = float(self.rng.uniform(-turn, turn))
        self.zoom = 1 + float(self.rng.uniform(-zoom, zoom))
        if not self.style.plain:
            self.angle += 90 * self.style.quarters
            self.zoom *= self.style.zoom

    def colour(self, r: float, g: float, b: float, jitter: float = 7) -> np.ndarray:
        """A colour with some batch-to-batch variation."""
        level = self.rng.normal(0, jitter)
        own = self.style.colour(np.array([r, g, b]))
        return np.clip(own + level + self.rng.normal(0, jitter / 3, 3), 4, 250).astype(np.float32)

    def ground(self, material: str, colour: np.ndarray, face: bool = False) -> None:
        """Cover the whole canvas with a material; `face` when it is itself the product."""
        self.image[:] = self.material(material, colour)
        if face:
            self.face[:] = 1

    def material(self, name: str, colour: np.ndarray) -> np.ndarray:
        """A full-size texture."""
        return MATERIALS[self.style.finish(name)](self.rng, self.h, self.w, colour)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Part coordinates -> px."""
        p = draw.turn(np.array([[x, y]]) * self.side * self.zoom, self.angle, self.x, self.y)[0]
        return float(p[0]), float(p[1])

    def _s(self, length: float) -> float:
        return length * self.side * self.zoom

    def box(self, x: float, y: float, w: float, h: float, a: float = 0.0, r: float = 0.0) -> Outline:
        """Rectangle about (x, y), turned by `a` degrees, corner radius `r`."""
        return draw.rect(*self.at(x, y), self._s(w), self._s(h), a + self.angle, self._s(r))

    def disc(self, x: float, y: float, rx: float, ry: float | None = None, a: float = 0.0) -> Outline:
        """Disc or ellipse."""
        return draw.ellipse(*self.at(x, y), self._s(rx), self._s(rx if ry is None else ry), a + self.angle)

    def gear(
        self, x: float, y: float, r: float, teeth: int, depth: float, duty: float = 0.5, a: float = 0.0
    ) -> Outline:
        """Gear outline."""
        return draw.gear(*self.at(x, y), self._s(r), teeth, depth, a + self.angle, duty)

    def ngon(self, x: float, y: float, r: float, sides: int, a: float = 0.0) -> Outline:
        """Regular polygon."""
        return draw.regular(*self.at(x, y), self._s(r), sides, a + self.angle)

    def poly(self, points: Sequence[Sequence[float]]) -> Outline:
        """Any outline or path in part coordinates."""
        return draw.turn(np.array(points, float) * self.side * self.zoom, self.angle, self.x, self.y)

    def up(self, outlines: Outline | list[Outline], paint: Paint, bevel: float = 0.007, height: float = 40,
           shadow: float = 0.3, face: bool = False) -> None:  # fmt: skip
        """Raised part; with `face` marks may lie on it, otherwise it is structure that marks keep away from."""
        cover = draw.solid(self.image, outlines, paint, self.sun, self._s(bevel), height, shadow)
        self._note(cover, face)

    def flat(self, outlines: Outline | list[Outline], paint: Paint, alpha: float = 1.0, keep: bool = False) -> None:
        """Printed or recessed area; `keep` leaves the face as it is."""
        patch = draw.cover(self.image.shape, outlines)
        draw.blend(self.image, patch, paint, alpha)
        if patch is not None and not keep:
            self.face[patch.window()] *= 1 - patch.alpha

    def wire(self, points: Outline, width: float, paint: Paint, alpha: float = 1.0, closed: bool = False) -> None:
        """Line of constant width along `points` (px, from `poly`)."""
        patch = draw.stroke(self.image.shape, points, self._s(width), closed)
        draw.blend(self.image, patch, paint, alpha)
        if patch is not None:
            self.face[patch.window()] *= 1 - patch.alpha

    def dome(self, x: float, y: float, rx: float, ry: float, gain: float = 0.35, a: float = 0.0) -> None:
        """Shade an elliptic area as a bulge: lighter towards the lamp, darker away from it."""
        cx, cy = self.at(x, y)
        ax, ay = self._s(rx), self._s(ry)
        reach = int(max(ax, ay)) + 1
        x0, y0, x1, y1 = max(int(cx) - reach, 0), max(int(cy) - reach, 0), int(cx) + reach + 1, int(cy) + reach + 1
        yy, xx = np.mgrid[y0 : min(y1, self.h), x0 : min(x1, self.w)].astype(np.float32)
        t = np.deg2rad(a + self.angle)
        c, s = float(np.cos(t)), float(np.sin(t))
        u, v = (c * (xx - cx) + s * (yy - cy)) / ax, (c * (yy - cy) - s * (xx - cx)) / ay
        inside = np.clip((1 - np.hypot(u, v)) * min(ax, ay) + 0.5, 0, 1)
        su, sv = c * self.sun[0] + s * self.sun[1], c * self.sun[1] - s * self.sun[0]
        self.image[y0:y1, x0:x1] *= (1 + gain * inside * (u * su + v * sv))[..., None]

    def spot(self, x: float, y: float) -> None:
        """Where the product's own mark belongs."""
        self.anchor = self.at(x, y)

    def _note(self, cover: np.ndarray, face: bool) -> None:
        if face:
            np.maximum(self.face, cover, out=self.face)
        else:
            self.face *= 1 - cover

    def row(self, start: tuple[float, float], stop: tuple[float, float], n: int, shape: str, size: float, long: float,
            colour: np.ndarray) -> None:  # fmt: skip
        """Lay the row of `n` features from `start` to `stop`, following the plan of this image.

        Args:
            start: Centre of the first feature, part coordinates.
            stop: Centre of the last.
            n: How many, at least 4.
            shape: pin, pad, slot, hole, bead, tooth or tuft.
            size: Width along the row.
            long: Length across the row.
            colour: Of the features.
        """
        a, b = np.array(self.at(*start)), np.array(self.at(*stop))
        nominal = a + np.linspace(0, 1, n)[:, None] * (b - a)
        pitch = float(np.hypot(*(b - a))) / (n - 1)
        angle = float(np.rad2deg(np.arctan2(*(b - a)[::-1])))
        moves, lean, absent = _row_moves(np.random.default_rng(int(self.rng.integers(1 << 62))), n, self.plan)
        along = (b - a) / np.hypot(*(b - a))
        centres = nominal + pitch * (moves[:, :1] * along + moves[:, 1:] * np.array([-along[1], along[0]]))
        mask = np.zeros((self.h, self.w), np.uint8)
        w, lg = self._s(size), self._s(long)
        for k in range(n):
            tip = float(lean[k]) * pitch
            outline = _feature(shape, w, lg, tip) @ _rotation(angle) + centres[k]
            if k != absent:
                self._lay(shape, outline, w, colour)
            if k == absent or np.abs(moves[k]).max() > 0.12 or tip:
                place = _feature(shape, w, lg, 0.0) @ _rotation(angle) + nominal[k]
                for o in (outline, place):
                    cv2.fillPoly(mask, [np.round(o).astype(np.int32)], 255)
        band = draw.stroke(self.image.shape, np.stack([a, b]), lg + 0.03 * self.side)
        if band is not None:
            self.face[band.window()] *= 1 - band.alpha
        ends = (float(a[0]), float(a[1]), float(b[0]), float(b[1]))
        self.truth = RowTruth(ends, centres, pitch, self.plan.state, mask > 0)

    def _lay(self, shape: str, outline: Outline, width: float, colour: np.ndarray) -> None:
        if shape in ("hole", "slot"):
            draw.fill(self.image, outline, colour)
            return
        look = {"bead": (0.28 * width, 60, 0.3), "tuft": (0.3 * width, 50, 0.4), "pad": (0.8, 15, 0.0)}
        bevel, height, shadow = look.get(shape, (0.15 * width, 30, 0.15))
        draw.solid(self.image, outline, colour, self.sun, max(bevel, 0.6), height, shadow)


def _rotation(angle: float) -> np.ndarray:
    a = np.deg2rad(angle)
    return np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])


def _feature(shape: str, w: float, long: float, tip: float) -> np.ndarray:
    """Outline of one feature about the origin, the row along x; `tip` moves its upper end along the row, in px."""
    if shape in ("hole", "bead", "tuft"):
        return draw.ellipse(0, 0, w / 2, long / 2)
    if shape == "slot":
        return draw.rect(0, 0, w, long, 0, w / 2)
    top = 0.45 if shape == "tooth" else 1.0
    points = np.array([[-0.5, 0.5], [-0.5 * top, -0.5], [0.5 * top, -0.5], [0.5, 0.5]]) * (w, long)
    points[1:3, 0] += tip
    return points


def _row_moves(rng: np.random.Generator, n: int, plan: RowPlan) -> tuple[np.ndarray, np.ndarray, int]:
    """Displacements (n, 2) in pitches (along, across), lean (n,) in pitches, index of the missing one or -1.

    `rng` is its own: whatever the plan draws, the rest of the part stays the same.
    """
    moves = np.clip(rng.normal(0, 0.012, (n, 2)), -0.035, 0.035)  # healthy rows stay within 5 % of the pitch
    moves[[0, -1]] *= 0.5
    lean, absent = np.zeros(n), -1
    odd, sign = int(rng.integers(1, n - 1)), float(rng.choice([-1.0, 1.0]))
    sideways = rng.random() < 0.25
    if plan.state == "missing":
        absent = odd
    elif plan.state == "shifted":
        moves[odd, int(sideways)] += sign * plan.amount
    elif plan.state == "bent":
        lean[odd] = sign * 2.0 * plan.amount  # at mid height the feature then lies `amount` off its place
    elif plan.state == "uneven":
        drift = rng.uniform(-1, 1, n - 2)
        moves[1:-1, 0] += plan.amount * drift / max(float(np.abs(drift).max()), 1e-6)
    return moves, lean, absent
