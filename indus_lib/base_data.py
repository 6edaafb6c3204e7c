"""What `indus-tiny` is pre-trained on: generic scenes seen as the encoder will see them, and talk about them.

Never "anomalous or not", and no product of any stand-in: random materials and parts (`factory.base_scene`), and parts
of the training pool, with 0-6 named marks, some with a printed sign or a row of features. From each scene a few views
are cut: the whole picture, windows at up to nearly four times native resolution, and maps of the enhance tool, since a
tower that has never seen a map cannot read one. Targets: which kinds of mark lie in which merged patch, and the facts
that `base_talk` makes questions and answers of. One view is what the crop tool shows; it, the map and a row come with
what the tool says of them and with what is really there (`base_reports`): how a row runs is told too, as it was drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from . import base_reports, boxes, factory, sight, tool_crop, tools
from .base_talk import Facts, Report, Seen
from .factory_base import BASE_KINDS
from .factory_marks import Mark, add, bounds, stamp
from .factory_patterns import GLYPHS, glyph

CLASSES = (*BASE_KINDS, *GLYPHS, "row", "any")
GRIDS = ((9, 9), (13, 6), (6, 13))  # merged patches (rows, columns) of a view
CELL = 16  # pixels a side of a merged patch
CELLS = 81  # most merged patches of a view; those with fewer are padded, so that arrays stack
SIZES = (256, 320, 384, 448)
VIEWS = 6  # of a scene, in this order: global, two crowded close-ups, a crowded window, a crop, an enhanced map
CLOSE, WIDE = (0.28, 0.7), (0.5, 1.6)  # window side / view side: as the crop tool shows tiny things, and wider
CROWD_SIZE, CROWD_CONTRAST = (9, 60), (20, 110)  # of the marks added there: pixels of the view, grey levels
DIM_SIZE, DIM_CONTRAST = (0.1, 0.33), (4.0, 11.0)  # share of the side, grey levels, of the marks added under a map
PARTS_SHARE = 0.35  # of the scenes show a part of the pool
IGNORED = -1  # target of a patch whose mark nobody could see at this size
VISIBLE = 60.0  # grey levels x pixels from which a mark is spoken of
NOISE = 4.0  # grey levels of fine detail that hide nothing
HINTED = 24.0  # below, a patch is not a target
RESPONSE = 40.0  # grey levels off the middle of a texture map from which its mark is spoken of


@dataclass(frozen=True)
class View:
    """One training item: (h, w, 3) uint8, (rows * columns, classes) int8 targets, and what can be said of it."""

    image: np.ndarray
    grid: int
    targets: np.ndarray
    facts: Facts


def scene_views(seed: int) -> Iterator[View]:
    """The `VIEWS` views of one scene."""
    rng = np.random.default_rng((0xB1E5, seed))
    size = int(rng.choice(SIZES))
    scene = factory.part_scene(seed) if rng.random() < PARTS_SHARE else factory.base_scene(seed, size)
    image, marks = _with_signs(rng, scene.image, list(scene.marks))
    high, wide = image.shape[:2]
    whole = (0, 0, wide, high)
    measured = base_reports.of_row(scene, image)
    yield _view(rng, image, whole, marks, scene, report=measured)
    for zoom in (CLOSE, CLOSE, WIDE):
        cut, own = _crowded(rng, image, marks, _near(rng, marks, high, wide, zoom))
        yield _view(rng, cut, (0, 0, cut.shape[1], cut.shape[0]), own, replace(scene, row=None))
    closer = tool_crop.crop(image, sight.WHOLE)
    window = tuple(closer.details["window_px"])
    told = base_reports.of_crop(closer, marks, image.shape)
    yield _view(rng, image, window, marks, replace(scene, row=None), closer.images[0], "crop", told)
    window = whole if rng.random() < 0.8 else _near(rng, marks, high, wide, WIDE)
    method = str(rng.choice(["texture", "clahe", "edges"], p=[0.84, 0.1, 0.06]))
    region = list(boxes.to_relative(window, wide, high))
    image, marks = _dim(rng, image, marks)
    result = tools.run("enhance", {"method": method, "region": region}, image)
    told = base_reports.of_map(result, marks, image.shape)
    yield _view(rng, image, window, marks, scene, result.images[0], method, told)


def _crowded(
    rng: np.random.Generator, image: np.ndarray, marks: list[Mark], window: tuple[int, int, int, int]
) -> tuple[np.ndarray, list[Mark]]:
    """A window with several marks more: what a crop shows, several times over, since telling a crack from a speck takes
    many examples."""
    x1, y1, x2, y2 = window
    cut = image[y1:y2, x1:x2].astype(np.float32)
    own = [replace(m, mask=m.mask[y1:y2, x1:x2]) for m in marks if m.mask[y1:y2, x1:x2].any()]
    taken = np.any([m.mask for m in own], axis=0) if own else np.zeros(cut.shape[:2], bool)
    scale = np.sqrt(cut.shape[0] * cut.shape[1] / (CELLS * CELL * CELL))  # pixels of the window / of the view
    for _ in range(int(rng.integers(0, 14))):
        size = max(scale * float(np.exp(rng.uniform(*np.log(CROWD_SIZE)))), 3.5)
        reach = int(size / 2) + 2
        if 2 * reach >= min(cut.shape[:2]):
            continue
        x, y = rng.uniform(reach, cut.shape[1] - reach), rng.uniform(reach, cut.shape[0] - reach)
        if taken[int(y) - reach : int(y) + reach, int(x) - reach : int(x) + reach].any():
            continue
        layer = np.zeros_like(cut)
        contrast = float(rng.choice([-1, 1])) * float(np.exp(rng.uniform(*np.log(CROWD_CONTRAST))))
        mark = add(rng, layer, str(rng.choice(BASE_KINDS)), (x, y), size, contrast)
        if mark is not None:
            cut += cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.2, 0.6))
            own.append(mark)
            taken |= mark.mask
    return np.clip(np.rint(cut), 0, 255).astype(np.uint8), own


def _dim(rng: np.random.Generator, image: np.ndarray, marks: list[Mark]) -> tuple[np.ndarray, list[Mark]]:
    """The whole picture with up to two large marks more that only a map shows, of the order of the noise."""
    canvas, own, (high, wide) = image.astype(np.float32), list(marks), image.shape[:2]
    for _ in range(int(rng.integers(0, 3))):
        size = min(high, wide) * float(rng.uniform(*DIM_SIZE))
        centre = (rng.uniform(0.1, 0.9) * wide, rng.uniform(0.1, 0.9) * high)
        contrast = float(rng.choice([-1, 1])) * float(rng.uniform(*DIM_CONTRAST))
        mark = add(rng, canvas, str(rng.choice(BASE_KINDS)), centre, size, contrast)
        own += [mark] if mark is not None else []
    return np.clip(canvas + rng.uniform(-0.5, 0.5, canvas.shape), 0, 255).round().astype(np.uint8), own


def _with_signs(rng: np.random.Generator, image: np.ndarray, marks: list[Mark]) -> tuple[np.ndarray, list[Mark]]:
    """Some scenes carry one or two printed signs of a named shape."""
    if rng.random() > 0.4:
        return image, marks
    canvas, (high, wide) = image.astype(np.float32), image.shape[:2]
    for _ in range(int(rng.integers(1, 3))):
        shape = str(rng.choice(GLYPHS))
        side = int(np.exp(rng.uniform(np.log(0.04), np.log(0.3))) * min(high, wide))
        angle = float(rng.choice([0, 0, 90, rng.uniform(0, 360)]))
        pattern = glyph(max(side, 8), shape, angle, rng.uniform(0.12, 0.24))
        centre = (rng.uniform(0.15, 0.85) * wide, rng.uniform(0.15, 0.85) * high)
        contrast = float(rng.choice([-1, 1])) * np.exp(rng.uniform(np.log(20), np.log(130)))
        mask = stamp(canvas, pattern, centre, contrast)
        if mask.any():
            marks.append(Mark(shape, bounds(mask), mask, contrast))
    return np.clip(canvas, 0, 255).astype(np.uint8), marks


def _near(
    rng: np.random.Generator, marks: list[Mark], high: int, wide: int, zoom: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A square or oblong window of `zoom` times the view's side, mostly with a mark somewhere in it."""
    rows, columns = GRIDS[int(rng.choice(3, p=[0.8, 0.1, 0.1]))]
    scale = float(np.exp(rng.uniform(*np.log(zoom)))) * CELL
    h, w = min(round(rows * scale), high), min(round(columns * scale), wide)
    if marks and rng.random() < 0.8:
        x1, y1, x2, y2 = marks[int(rng.integers(len(marks)))].box
        cx, cy = rng.uniform(x1, x2), rng.uniform(y1, y2)
    else:
        cx, cy = rng.uniform(0, wide), rng.uniform(0, high)
    left = int(np.clip(cx - rng.uniform(0.2, 0.8) * w, 0, wide - w))
    top = int(np.clip(cy - rng.uniform(0.2, 0.8) * h, 0, high - h))
    return left, top, left + w, top + h


def _view(
    rng: np.random.Generator, image: np.ndarray, window: tuple[int, int, int, int], marks: list[Mark],
    scene: factory.BaseScene, shown: np.ndarray | None = None, method: str = "", report: Report | None = None,
) -> View:  # fmt: skip
    x1, y1, x2, y2 = window
    aspect = (y2 - y1) / (x2 - x1)
    grid = int(np.argmin([abs(np.log(aspect * c / r)) for r, c in GRIDS]))
    rows, columns = GRIDS[grid]
    cut = image[y1:y2, x1:x2] if shown is None else shown
    small = Image.fromarray(cut).resize((columns * CELL, rows * CELL), Image.Resampling.BICUBIC)
    targets = np.zeros((rows * columns, len(CLASSES)), np.int8)
    seen, hidden = [], np.zeros(rows * columns, bool)
    for mark in marks:
        part = mark.mask[y1:y2, x1:x2]
        if not part.any():
            continue
        share = cv2.resize(part.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        cells = ((share > 0.06) | (share > 0.3 * share.max())).ravel()
        side = np.sqrt(part.sum() / part.size) * np.sqrt(rows * columns) * CELL  # pixels in the view
        if method == "texture":
            strength = VISIBLE / RESPONSE * _response(cut, part)
            if strength < HINTED:
                continue  # the map is flat there: nothing to find
        else:
            strength = abs(mark.contrast) * min(side, 12) / _grain(np.asarray(small), part)
        if strength < (VISIBLE if method == "texture" else HINTED):
            hidden |= cells
            continue
        targets[cells, CLASSES.index(mark.kind)] = targets[cells, -1] = 1
        if strength >= VISIBLE and side >= 1.5:
            box = boxes.to_relative(bounds(part), x2 - x1, y2 - y1)
            seen.append((abs(mark.contrast) * side, Seen(mark.kind, box, bool(mark.contrast > 0))))
    ends = _row_ends(scene, window)
    if ends is not None:
        targets[_row_cells(ends, rows, columns), CLASSES.index("row")] = 1
    targets[hidden & (targets[:, -1] == 0)] = IGNORED
    seen.sort(key=lambda item: -item[0])
    features = f"{scene.n_features} {scene.row_shape}s" if ends and scene.n_features and scene.row_shape else ""
    facts = Facts(tuple(m for _, m in seen), ends or (), features, scene.surface, report)
    return View(np.asarray(small), grid, targets, facts)


def _grain(view: np.ndarray, part: np.ndarray) -> float:
    """How much the texture around a mark hides it, 1 on a smooth surface: deviation of the fine detail in a ring around
    it over that of sensor noise. view (h, w, 3) uint8; part (H, W) bool, the mark in the window that the view shows."""
    grey = view.mean(2).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 3)
    inside = cv2.resize(part.astype(np.float32), grey.shape[::-1], interpolation=cv2.INTER_AREA) > 0.02
    grown = cv2.dilate(inside.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    ring = grown & ~(cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    return max(float(detail[ring].std()) / NOISE, 1.0) if ring.sum() > 8 else 1.0


def _response(texture: np.ndarray, part: np.ndarray) -> float:
    """Grey levels by which a texture map (h, w, 3) leaves its middle inside a mark, part (H, W) bool of its window."""
    inside = cv2.resize(part.astype(np.uint8), texture.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    return float(np.percentile(np.abs(texture[inside].astype(np.float32) - 128), 80)) if inside.any() else 0.0


def free_points(targets: np.ndarray, grid: int) -> np.ndarray:
    """(n, 2) relative centres of the patches of a view where nothing lies; targets (patches, classes), padded or
    not."""
    rows, columns = GRIDS[grid]
    free = np.flatnonzero(targets[: rows * columns, -1] == 0)
    return np.stack([(free % columns + 0.5) / columns, (free // columns + 0.5) / rows], 1) * boxes.SCALE


def _row_ends(scene: factory.BaseScene, window: tuple[int, int, int, int]) -> tuple[int, ...] | None:
    """Row end points in relative units of the window; None without a row or when it is cut off."""
    if scene.row is None:
        return None
    x1, y1, x2, y2 = window
    points = [((scene.row[i] - (x1, y1)[i % 2]) * 1000 / ((x2 - x1), (y2 - y1))[i % 2]) for i in range(4)]
    if not all(0 <= p <= 1000 for p in points):
        return None
    ends = sorted([(points[0], points[1]), (points[2], points[3])])
    return tuple(round(v) for point in ends for v in point)


def _row_cells(ends: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    t = np.linspace(0, 1, 40)
    xs, ys = ends[0] + t * (ends[2] - ends[0]), ends[1] + t * (ends[3] - ends[1])
    i = np.clip((ys / 1000 * rows).astype(int), 0, rows - 1)
    return i * columns + np.clip((xs / 1000 * columns).astype(int), 0, columns - 1)
