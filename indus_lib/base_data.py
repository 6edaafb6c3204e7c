"""What `indus-tiny` is pre-trained on: generic scenes seen as the encoder will see them, with captions.

Never "anomalous or not", and no product of any stand-in: random materials and parts with 0-6 named marks
(`factory.base_scene`), some with a printed sign or a row of features. From each scene a few views are cut: the whole
picture, windows at native resolution, and maps of the enhance tool, since a tower that has never seen a map cannot
read one. Targets: which kinds of mark lie in which merged patch, and question-answer texts on what is there, where,
how many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from . import boxes, factory, tools
from .factory_base import BASE_KINDS
from .factory_marks import Mark, bounds, stamp
from .factory_patterns import GLYPHS, glyph

CLASSES = (*BASE_KINDS, *GLYPHS, "row", "any")
GRIDS = ((6, 6), (9, 4), (4, 9))  # merged patches (rows, columns) of a view; 36 each, so that arrays stack
CELL = 16  # pixels a side of a merged patch
SIZES = (256, 320, 384, 448)


@dataclass(frozen=True)
class View:
    """One training item: (h, w, 3) uint8 with h*w = 9216, (36, classes) bool targets, (question, answer)."""

    image: np.ndarray
    grid: int
    targets: np.ndarray
    question: str
    answer: str


def scene_views(seed: int) -> Iterator[View]:
    """The views of one scene: one global, three windows, one enhanced map (of the whole or of a window)."""
    rng = np.random.default_rng((0xB1E5, seed))
    size = int(rng.choice(SIZES))
    scene = factory.base_scene(seed, size)
    image, marks = _with_signs(rng, scene.image, list(scene.marks))
    whole = (0, 0, size, size)
    yield _view(rng, image, whole, marks, scene, 1.0)
    for _ in range(3):
        yield _view(rng, image, _near(rng, marks, size), marks, scene, 1.0)
    window = whole if rng.random() < 0.7 else _near(rng, marks, size)
    method = str(rng.choice(["texture", "clahe", "edges"], p=[0.6, 0.25, 0.15]))
    region = list(boxes.to_relative(window, size, size))
    result = tools.run("enhance", {"method": method, "region": region}, image)
    yield _view(rng, result.images[0], window, marks, scene, 4.0, already_cut=True)


def _with_signs(rng: np.random.Generator, image: np.ndarray, marks: list[Mark]) -> tuple[np.ndarray, list[Mark]]:
    """Some scenes carry one or two printed signs of a named shape."""
    if rng.random() > 0.4:
        return image, marks
    canvas, size = image.astype(np.float32), image.shape[0]
    for _ in range(int(rng.integers(1, 3))):
        shape = str(rng.choice(GLYPHS))
        side = int(np.exp(rng.uniform(np.log(0.04), np.log(0.3))) * size)
        angle = float(rng.choice([0, 0, 90, rng.uniform(0, 360)]))
        pattern = glyph(max(side, 8), shape, angle, rng.uniform(0.12, 0.24))
        centre = tuple(rng.uniform(0.15, 0.85, 2) * size)
        contrast = float(rng.choice([-1, 1])) * np.exp(rng.uniform(np.log(20), np.log(130)))
        mask = stamp(canvas, pattern, centre, contrast)
        if mask.any():
            marks.append(Mark(shape, bounds(mask), mask, contrast))
    return np.clip(canvas, 0, 255).astype(np.uint8), marks


def _near(rng: np.random.Generator, marks: list[Mark], size: int) -> tuple[int, int, int, int]:
    """A square or oblong window at about native resolution, mostly with a mark somewhere in it."""
    rows, columns = GRIDS[int(rng.choice(3, p=[0.8, 0.1, 0.1]))]
    scale = rng.uniform(0.7, 1.8) * CELL
    h, w = min(round(rows * scale), size), min(round(columns * scale), size)
    if marks and rng.random() < 0.7:
        x1, y1, x2, y2 = marks[int(rng.integers(len(marks)))].box
        cx, cy = rng.uniform(x1, x2), rng.uniform(y1, y2)
    else:
        cx, cy = rng.uniform(0, size, 2)
    left = int(np.clip(cx - rng.uniform(0.2, 0.8) * w, 0, size - w))
    top = int(np.clip(cy - rng.uniform(0.2, 0.8) * h, 0, size - h))
    return left, top, left + w, top + h


def _view(
    rng: np.random.Generator, image: np.ndarray, window: tuple[int, int, int, int], marks: list[Mark],
    scene: factory.BaseScene, gain: float, already_cut: bool = False,
) -> View:  # fmt: skip
    x1, y1, x2, y2 = window
    aspect = (y2 - y1) / (x2 - x1)
    grid = int(np.argmin([abs(np.log(aspect * c / r)) for r, c in GRIDS]))
    rows, columns = GRIDS[grid]
    cut = image if already_cut else image[y1:y2, x1:x2]
    small = Image.fromarray(cut).resize((columns * CELL, rows * CELL), Image.Resampling.BICUBIC)
    targets = np.zeros((rows * columns, len(CLASSES)), bool)
    seen = []
    for mark in marks:
        part = mark.mask[y1:y2, x1:x2]
        if not part.any():
            continue
        share = cv2.resize(part.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        cells = (share > 0.06) | (share > 0.3 * share.max())
        targets[cells.ravel(), CLASSES.index(mark.kind)] = targets[cells.ravel(), -1] = True
        side = np.sqrt(part.sum() / part.size) * np.sqrt(rows * columns) * CELL  # pixels in the view
        if abs(mark.contrast) * min(side, 12) * gain >= 60 and side >= 1.5:
            seen.append((abs(mark.contrast) * side, mark, boxes.to_relative(bounds(part), x2 - x1, y2 - y1)))
    ends = _row_ends(scene, window)
    if ends is not None:
        targets[_row_cells(ends, rows, columns), CLASSES.index("row")] = True
    seen.sort(key=lambda item: -item[0])
    question, answer = _caption(rng, [(m, b) for _, m, b in seen[:4]], scene, ends, image if not already_cut else None)
    return View(np.asarray(small), grid, targets, question, answer)


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


def tens(values: tuple[float, ...]) -> str:
    """`[120,40,300,90]`: multiples of ten, each one token."""
    return "[" + ",".join(str(int(min(max(round(v / 10) * 10, 0), 1000))) for v in values) + "]"


def _name(mark: Mark) -> str:
    return (f"{'bright' if mark.contrast > 0 else 'dark'} {mark.kind}") if mark.kind in GLYPHS else mark.kind


def _caption(
    rng: np.random.Generator, seen: list[tuple[Mark, boxes.Box]], scene: factory.BaseScene,
    ends: tuple[int, ...] | None, image: np.ndarray | None,
) -> tuple[str, str]:  # fmt: skip
    """One question-answer pair about the view."""
    tasks = ["list", "list", "count", "surface"] + ["where"] * (2 if seen else 0) + ["row"] * (3 if ends else 0)
    task = str(rng.choice(tasks))
    if task == "row":
        n = f", {scene.n_features} {scene.row_shape}s" if scene.n_features else ""
        return "Where is the row?", f"The row runs from {tens(ends[:2])} to {tens(ends[2:])}{n}."
    if task == "surface":
        return "What surface is this?", f"{scene.surface}, {scene.material}."
    if task == "count":
        return "How many marks are there?", f"{len(seen)}."
    if task == "where":
        mark, box = seen[int(rng.integers(len(seen)))]
        return f"Where is the {_name(mark)}?", f"The {_name(mark)} is at {tens(box)}."
    if not seen:
        return "What marks are there?", "There is no mark."
    return "What marks are there?", "; ".join(f"{_name(m)} at {tens(b)}" for m, b in seen) + "."


def generate(out: Path, n_scenes: int, *, seed: int = 0, workers: int = 2) -> Path:
    """Write `images.npy`, `targets.npy`, `grids.npy` and `texts.json` of `n_scenes`; done once, atomically.

    Returns:
        `out`, with arrays (N, 27648) uint8, (N, 36, classes) bool, (N,) uint8 and a list of [question, answer].
    """
    if (out / "texts.json").is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    seeds = [range(seed + i, min(seed + i + 50, seed + n_scenes)) for i in range(0, n_scenes, 50)]
    chunks = []
    with ProcessPoolExecutor(workers) as pool:
        for chunk in tqdm(pool.map(_chunk, seeds), total=len(seeds), desc="base scenes (x50)"):
            chunks.append(chunk)
    for i, name in enumerate(("images", "targets", "grids")):
        np.save(out / f"{name}.npy", np.concatenate([c[i] for c in chunks]))
    part = out / "texts.json.part"
    part.write_text(json.dumps([pair for c in chunks for pair in c[3]]), encoding="utf-8")
    os.replace(part, out / "texts.json")  # last: its presence says that the rest is whole
    return out


def _chunk(seeds: range) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[str, str]]]:
    cv2.setNumThreads(1)
    views = [view for seed in seeds for view in scene_views(seed)]
    images = np.stack([v.image.reshape(-1) for v in views])
    grids = np.array([v.grid for v in views], np.uint8)
    return images, np.stack([v.targets for v in views]), grids, [(v.question, v.answer) for v in views]
