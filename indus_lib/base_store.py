"""The views of many scenes on disk: arrays and facts, written by several processes while a trainer already reads."""

from __future__ import annotations

import json
import os
from dataclasses import astuple
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm.auto import tqdm

from . import factory
from .base_data import CELL, CELLS, CLASSES, IGNORED, VIEWS, scene_views
from .base_talk import Facts
from .factory_parts import PARTS
from .factory_surfaces import MATERIALS
from .teacher_plan import product
from .workers import run_jobs

NAMES = ("images", "targets", "surfaces", "grids")  # of the arrays
FACTS, PROGRESS = "facts.jsonl", "written.txt"
BUNDLE = 50  # scenes of one job


@lru_cache
def surfaces() -> tuple[str, ...]:
    """Names of all surfaces: bare materials, generic parts, products of the pool."""
    products = {product(c.name).replace("_", " ") for c in factory.CATEGORIES.values() if c.set == "pool"}
    return (*(f"flat {name}" for name in MATERIALS), *PARTS, *sorted(products))


def generate(out: Path, n_scenes: int, *, seed: int = 0, workers: int = 2) -> Path:
    """Write `images.npy`, `targets.npy`, `surfaces.npy`, `grids.npy` and `facts.jsonl` of `n_scenes`; done once.

    Returns:
        `out`, with arrays (N, 81 * 768) uint8, (N, 81, classes) int8, (N,) uint8 index into `surfaces()`, (N,) uint8,
        padded by zeros and `IGNORED`, and a line of facts per view (`read_facts`); N = `VIEWS` * `n_scenes`, the views
        of a scene together. While it works, `written` says how many are there.
    """
    if written(out) == n_scenes * VIEWS:
        return out
    prepare(out, n_scenes)
    arrays, done = [np.load(out / f"{name}.npy", mmap_mode="r+") for name in NAMES], 0
    parts = [(range(seed + i, seed + min(i + BUNDLE, n_scenes)),) for i in range(0, n_scenes, BUNDLE)]
    with (out / FACTS).open("w", encoding="utf-8") as file:
        for chunk in tqdm(run_jobs(_chunk, parts, workers), total=len(parts), desc=f"base scenes (x{BUNDLE})"):
            at = slice(done, done + len(chunk[-1]))
            for array, rows in zip(arrays, chunk[:-1], strict=True):
                array[at] = rows
            file.writelines(json.dumps(one) + "\n" for one in chunk[-1])
            file.flush()
            done = at.stop
            part = out / f"{PROGRESS}.part"
            part.write_text(str(done), encoding="utf-8")
            os.replace(part, out / PROGRESS)  # last: what it counts is there
    for array in arrays:
        array.flush()
    return out


def read_facts(data: Path, rows: int | None = None) -> list[Facts]:
    """Of the first `rows` views, or of all."""
    with (data / FACTS).open(encoding="utf-8") as file:
        return [Facts.of_json(json.loads(line)) for line in islice(file, rows)]


def prepare(out: Path, n_scenes: int) -> None:
    """Empty arrays for `generate`, so that a trainer can open them while it works; what a run that was broken off has
    written does not count."""
    out.mkdir(parents=True, exist_ok=True)
    n = n_scenes * VIEWS
    if written(out) != n:
        (out / PROGRESS).unlink(missing_ok=True)
    byte, cells = (np.uint8, (n,)), (np.int8, (n, CELLS, len(CLASSES)))
    shapes = ((np.uint8, (n, CELLS * CELL * CELL * 3)), cells, byte, byte)
    for name, (kind, shape) in zip(NAMES, shapes, strict=True):
        file = out / f"{name}.npy"
        if not file.is_file() or np.load(file, mmap_mode="r").shape != shape:
            np.lib.format.open_memmap(file, "w+", kind, shape).flush()


def written(out: Path) -> int:
    """Views that `generate` has written to `out` so far."""
    file = out / PROGRESS
    return int(file.read_text()) if file.is_file() else 0


def _chunk(seeds: range) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[tuple[Any, ...]]]:
    cv2.setNumThreads(1)  # as many workers as cores
    views, known = [view for seed in seeds for view in scene_views(seed)], surfaces()
    images = np.zeros((len(views), CELLS * CELL * CELL * 3), np.uint8)
    targets = np.full((len(views), CELLS, len(CLASSES)), IGNORED, np.int8)
    for k, view in enumerate(views):
        images[k, : view.image.size], targets[k, : len(view.targets)] = view.image.ravel(), view.targets
    named, grids = ([known.index(v.facts.surface) for v in views], [v.grid for v in views])
    return images, targets, np.array(named, np.uint8), np.array(grids, np.uint8), [astuple(v.facts) for v in views]
