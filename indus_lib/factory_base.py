"""Generic pre-training scenes: any material, any simple part, 0..6 marks, sometimes a row, no product."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .factory_draw import glare, lighting, sensor
from .factory_marks import Mark, add
from .factory_parts import PARTS, Row, row, sun_direction
from .factory_surfaces import MATERIALS, tone

BASE_KINDS = (
    "scratch",
    "crack",
    "dent",
    "chip",
    "stain",
    "pit",
    "particle",
    "smear",
    "hole",
    "print",
    "reflection",
    "dust",
    "speck",
)
_STREAM = 0xBA5E  # keeps these scenes' random numbers apart from every product's
_SMALL, _LARGE = 2.0, 1 / 3  # mark size: px at 256, share of the side (design 5: spread log-uniformly)
_FAINT, _STRONG = 2.0, 120.0  # contrast in grey levels
_DIM_SHARE, _DIM = 0.35, (3.0, 9.0)  # scenes all of whose marks are faint and not tiny, and their contrast


@dataclass(frozen=True)
class BaseScene:
    """A generic scene and everything that a caption or a grounding target may need.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        marks: What lies on it, in drawing order; never overlapping by construction of their centres.
        surface: `flat <material>` or the name of the part.
        material: Name of the material of the part or surface.
        row: End points (x1, y1, x2, y2) px of the row of features, or None.
        n_features: Features visible in the row, 0 without a row.
        row_state: even, missing, shifted, bent, uneven, or "" without a row.
        row_centres: (n, 2) px of the row's features (a missing one included), or None.
        row_odd: Index of the odd feature, -1 when there is none.
        row_shape: hole, bead, pad, slot, tooth, pin, or "".
    """

    image: np.ndarray
    marks: list[Mark]
    surface: str
    material: str
    row: tuple[float, float, float, float] | None
    n_features: int
    row_state: str = ""
    row_centres: np.ndarray | None = field(default=None, repr=False)
    row_odd: int = -1
    row_shape: str = ""


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _ground(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, str, str]:
    """Surface or part on a background: image, where marks may lie, surface name, material name."""
    material = str(rng.choice(list(MATERIALS)))
    texture = MATERIALS[material](rng, size, size, tone(rng))
    if rng.random() < 0.45:
        return texture, np.ones((size, size), np.float32), f"flat {material}", material
    behind = str(rng.choice(["smooth paint", "satin metal", "plaster", "fibre felt", "woven cloth", "wood"]))
    image = MATERIALS[behind](rng, size, size, tone(rng, 15, 240)) if rng.random() < 0.6 else _even(rng, size)
    part = str(rng.choice(list(PARTS)))
    cover = PARTS[part](rng, image, texture, sun_direction(rng))
    return image, cover, part, material


def _even(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.broadcast_to(tone(rng, 10, 245), (size, size, 3)).astype(np.float32)


def _centre(rng: np.random.Generator, cover: np.ndarray, taken: list[tuple[float, float, float]], size: float):
    """A place on the part, away from the other marks; None when crowded."""
    h, w = cover.shape
    for _ in range(12):
        x, y = rng.uniform(0.04, 0.96) * w, rng.uniform(0.04, 0.96) * h
        clear = all(np.hypot(x - tx, y - ty) > 0.55 * (size + ts) + 4 for tx, ty, ts in taken)
        if clear and cover[int(y), int(x)] > 0.5:
            return x, y
    return None


def generic_marks(rng: np.random.Generator, image: np.ndarray, cover: np.ndarray) -> list[Mark]:
    """Draw 0..6 marks, sizes and contrasts log-uniform, where `cover` (h, w) > 0.5; changes `image` (h, w, 3).

    In some scenes all of them are faint and not tiny, so that nothing strong drowns them in an enhanced map.
    """
    dim = rng.random() < _DIM_SHARE
    low, high = _DIM if dim else (_FAINT, _STRONG)
    side, marks, taken = min(image.shape[:2]), [], []
    least = 0.08 * side if dim else _SMALL * side / 256
    sizes = [_log_uniform(rng, least, _LARGE * side) for _ in range(int(rng.integers(0, 4 if dim else 7)))]
    for size in sorted(sizes, reverse=True):  # large ones first, or they would find no room
        kind = str(rng.choice(BASE_KINDS))
        if kind in ("reflection", "smear"):
            size = max(size, 0.05 * side)
        centre = _centre(rng, cover, taken, size)
        if centre is None:
            continue
        sign = -1.0 if rng.random() < 0.3 and kind not in ("reflection",) else 1.0
        mark = add(rng, image, kind, centre, size, sign * _log_uniform(rng, low, high))
        if mark is not None:
            marks.append(mark)
            taken.append((*centre, size))
    return marks


def base_scene(seed: int, size: int = 256) -> BaseScene:
    """Draw one generic scene; the same seed and size give the same bytes on any machine with the same numpy and cv2.

    Args:
        seed: Any non-negative integer.
        size: Side of the square image in px, 64..1024.
    """
    if not 64 <= size <= 1024:
        raise ValueError(f"base_scene: size must be 64..1024 px, got {size}")
    rng = np.random.default_rng((_STREAM, seed))
    image, cover, surface, material = _ground(rng, size)
    laid: Row | None = row(rng, image, sun_direction(rng)) if rng.random() < 0.3 else None
    image *= lighting(rng, size, size, rng.choice([0.0, rng.uniform(0, 0.9)], p=[0.2, 0.8]))[..., None]
    marks = generic_marks(rng, image, cover)
    if rng.random() < 0.3:
        image += glare(rng, size, size, int(rng.integers(1, 3)), rng.uniform(5, 60))[..., None]
    u = size / 256
    noise = _log_uniform(rng, 0.4, 9) if rng.random() < 0.85 else 0.0
    pixels = sensor(rng, image, rng.choice([0.0, rng.uniform(0.3, 1.1)]) * u, noise)
    if laid is None:
        return BaseScene(pixels, marks, surface, material, None, 0)
    seen = len(laid.centres) - (laid.state == "missing")
    return BaseScene(pixels, marks, surface, material, laid.ends, seen, laid.state, laid.centres, laid.odd, laid.shape)
