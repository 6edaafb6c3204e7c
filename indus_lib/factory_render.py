"""From a category, a seed and a verdict to an image with its exact mask."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from . import factory_mechanisms as mechanisms
from .factory_base import BaseScene, generic_marks
from .factory_bench import EVEN, FINISHES, Bench, RowPlan, Style
from .factory_catalog import CATEGORIES, Category, members
from .factory_draw import glare, lighting, sensor

_STREAM = 0xFAC7
_PRETRAINING = 50_000_000  # part seeds no data set uses
SOUND = ("plain", "faint", "geometric")  # mechanisms whose sound parts carry no lookalike
VIEWS = 5  # C1 straight from above, C2..C5 tilted towards one side each


@dataclass(frozen=True)
class Scene:
    """One inspected image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, 255 where the defect is; empty when normal.
        label: True = anomalous.
        defect: Raw defect name, "" when normal.
        mechanism: plain, small, geometric, prior or faint.
        category: Product name.
        view: 0..4.
        row: End points (x1, y1, x2, y2) px of the row of features, None without one.
    """

    image: np.ndarray
    mask: np.ndarray
    label: bool
    defect: str
    mechanism: str
    category: str
    view: int = 0
    row: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class _Light:
    """Ranges of the nuisances that come with a mechanism, the same for normal and anomalous parts."""

    slope: tuple[float, float]
    glare: tuple[int, int]
    level: float
    noise: tuple[float, float]
    blur: float


_LIGHTS = {
    "plain": _Light((0.1, 0.5), (0, 2), 18, (2.0, 4.5), 0.5),
    "small": _Light((0.05, 0.35), (0, 1), 10, (3.0, 4.5), 0.35),
    "geometric": _Light((0.1, 0.45), (0, 2), 18, (2.0, 4.0), 0.5),
    "prior": _Light((0.1, 0.45), (0, 2), 18, (2.0, 4.0), 0.5),
    "faint": _Light((0.55, 1.0), (1, 2), 40, (3.0, 4.5), 0.3),
}


def _find(category: str, mechanism: str | None, rng: np.random.Generator) -> tuple[Category, str]:
    if category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}; factory.CATEGORIES names the {len(CATEGORIES)} there are")
    known = CATEGORIES[category]
    if mechanism is None:
        return known, str(rng.choice(list(known.mechanisms), p=list(known.mechanisms.values())))
    if mechanism not in known.mechanisms:
        raise ValueError(f"{category} does not show the mechanism {mechanism!r}, only {', '.join(known.mechanisms)}")
    return known, mechanism


def _intent(faults: np.random.Generator, category: Category, mechanism: str) -> tuple[str, float]:
    """Defect and severity, the first two draws of a part's own stream of faults."""
    return mechanisms.choose(faults, category, mechanism), float(faults.uniform(0, 1))


def planned_defect(category: str, seed: int, mechanism: str) -> str:
    """Raw defect name that `render(category, seed, anomalous=True, mechanism=mechanism)` will show, without drawing."""
    faults = np.random.default_rng((_STREAM, zlib.crc32(category.encode()), seed, 1))
    return _intent(faults, CATEGORIES[category], mechanism)[0]


def render(
    category: str,
    seed: int,
    *,
    anomalous: bool,
    mechanism: str | None = None,
    size: int | None = None,
    severity: float | None = None,
    view: int = 0,
) -> Scene:
    """Draw one image of a product. The same arguments give the same bytes.

    Args:
        category: A key of `CATEGORIES`.
        seed: The part: every view of one seed shows the same part with the same defect.
        anomalous: Whether something is wrong with it.
        mechanism: One that the category shows; drawn by its weights when None.
        size: Shorter side in px; the category's own when None.
        severity: 0 (hardest) .. 1 (most obvious); random when None.
        view: 0..4, camera position.

    Raises:
        ValueError: unknown category, mechanism the category does not show, view or severity out of range.
    """
    if not 0 <= view < VIEWS or (severity is not None and not 0 <= severity <= 1):
        raise ValueError(f"render: view must be 0..{VIEWS - 1} and severity 0..1, got view={view}, severity={severity}")
    if size is not None and not 96 <= size <= 2048:
        raise ValueError(f"render: size must be 96..2048 px, got {size}")
    key = (_STREAM, zlib.crc32(category.encode()), seed)
    rng, faults, camera = (np.random.default_rng((*key, k)) for k in (0, 1, 10 + view))
    known, chosen = _find(category, mechanism, rng)
    defect, hard = _intent(faults, known, chosen)
    defect, hard = defect if anomalous else "", hard if severity is None else severity
    scale = 1.0 if size is None else size / min(known.size)
    h, w = (round(v * scale) for v in known.size)
    plan = mechanisms.row_plan(defect, hard) if anomalous and chosen == "geometric" else RowPlan()
    finishes = EVEN if "faint" in known.mechanisms else FINISHES
    bench = Bench(rng, h, w, plan, Style(known.draw.__name__, known.model, finishes))
    known.draw(bench)
    light = _LIGHTS[chosen]
    bench.image *= lighting(rng, h, w, rng.uniform(*light.slope))[..., None]
    _expose(bench)
    mechanisms.nuisance(rng, bench)
    mask = _fault(faults, bench, known, chosen, hard, defect)
    row = None if bench.truth is None else bench.truth.ends
    image, mask, row = _see(camera, bench.image, mask, row, view)
    image = (
        image
        + glare(camera, h, w, int(camera.integers(light.glare[0], light.glare[1] + 1)), light.level, 0.35, 0.5)[
            ..., None
        ]
    )
    pixels = sensor(camera, image, light.blur * max(1.0, min(h, w) / 384), camera.uniform(*light.noise))
    if known.grey:
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    return Scene(pixels, mask.astype(np.uint8) * 255, anomalous, defect, chosen, category, view, row)


def part_scene(seed: int) -> BaseScene:
    """A part of the training pool with 0..6 generic marks on and beside it, for pre-training; every other row of
    features on one is faulty, as the scene's `row_state` says.

    Only mechanisms whose sound parts carry no lookalike are drawn, so that every mark is in the list of marks.
    """
    rng = np.random.default_rng((_STREAM, seed, 2))
    able = [(c, m) for c in members("pool") if c.set == "pool" and not c.held_out for m in SOUND if m in c.mechanisms]
    category, mechanism = able[int(rng.integers(len(able)))]
    faulty = mechanism == "geometric" and rng.random() < 0.5
    scene = render(category.name, _PRETRAINING + seed, anomalous=faulty, mechanism=mechanism,
                   size=int(rng.choice([256, 320, 384])), view=int(rng.integers(VIEWS)))  # fmt: skip
    image = scene.image.astype(np.float32)
    marks = generic_marks(rng, image, np.ones(image.shape[:2], np.float32))
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    name = category.name.rstrip("0123456789").replace("_", " ")
    states = {defect: state for state, defect in mechanisms.STATES.items()}
    state = "" if scene.row is None else states.get(scene.defect, "even")
    return BaseScene(pixels, marks, name, name, scene.row, 0, state)


def _expose(bench: Bench) -> None:
    """Keep highlights inside the range, as an automatic exposure does."""
    top = float(np.percentile(bench.image[::8, ::8], 99.5))
    if top > 228:
        bench.image *= 228 / top
    np.clip(bench.image, 2, 250, out=bench.image)


def _fault(
    rng: np.random.Generator, bench: Bench, category: Category, mechanism: str, severity: float, defect: str
) -> np.ndarray:
    """Apply the mechanism and return the bool mask of what is wrong."""
    if mechanism == "geometric" and bench.truth is None:
        raise ValueError(f"{category.name}: lays no row, so the geometric mechanism does not apply")
    if mechanism == "small":
        return mechanisms.small(rng, bench, defect, severity)
    if mechanism == "prior":
        return mechanisms.prior(rng, bench, category, defect)
    if not defect:
        return np.zeros((bench.h, bench.w), bool)
    if mechanism == "geometric":
        return bench.truth.mask  # type: ignore[union-attr]
    return {"plain": mechanisms.plain, "faint": mechanisms.faint}[mechanism](rng, bench, defect, severity)


def _see(
    rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, row: tuple[float, ...] | None, view: int
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float] | None]:
    """The part from camera `view`: C1 straight, the others tilted and a little darker or brighter."""
    if view == 0:
        return image, mask, row  # type: ignore[return-value]
    h, w = mask.shape
    near, far = 0.015 * rng.uniform(0.4, 1.0), 0.07 * rng.uniform(0.5, 1.0)
    inset = {
        1: (far, far, near, near),
        2: (near, near, far, far),
        3: (far, near, near, far),
        4: (near, far, far, near),
    }[view]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    towards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32)
    source = ((corners - towards * np.array(inset, np.float32)[:, None] * 0.5) * (w, h)).astype(np.float32)
    target = ((corners + towards * np.array(inset, np.float32)[:, None] * 0.5) * (w, h)).astype(np.float32)
    tilt = cv2.getPerspectiveTransform(source, target)
    seen = cv2.warpPerspective(image, tilt, (w, h), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    moved = cv2.warpPerspective(mask.astype(np.uint8), tilt, (w, h), flags=cv2.INTER_NEAREST) > 0
    if row is not None:
        ends = cv2.perspectiveTransform(np.array(row, np.float32).reshape(1, 2, 2), tilt).ravel()
        row = tuple(float(v) for v in ends)
    return seen * float(rng.uniform(0.86, 1.06)), moved, row  # type: ignore[return-value]
