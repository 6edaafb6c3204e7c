"""KolektorSDD: `kosNN/PartM.jpg` with `PartM_label.bmp`, whole surfaces (399) or three tiles each.

The label image decides: any value above 0 is a defect. Normal labels are mode L, defective ones mode P with palette
indices {0, 1} or {0, 1, 2}; `load_mask` takes both.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .images import ImageError, Window, boxes_of_mask, image_size, load_mask
from .readers_files import DataSetError, chosen, folders, images_in, natural
from .samples import Sample

CATEGORY = "electrical_commutators"  # the set has one product and no name for it on disk; others use this one
TILES = 3  # kosNN_PartM_{0,1,2}


def read_surfaces(
    root: Path, split: str, categories: Iterable[str] | str | None, strict: bool, category: str = "", listing: str = ""
) -> list[Sample]:
    """The official images, one sample each. There is no official train split: every image is a test image."""
    return [sample for group in _map_parts(root, split, categories, strict, category, _surface) for sample in group]


def read_tiles(
    root: Path, split: str, categories: Iterable[str] | str | None, strict: bool, category: str = "", listing: str = ""
) -> list[Sample]:
    """Each surface cut into upper, middle and lower third, labelled by its own part of the label image.

    Cutting all 399 gives 1143 normal and 54 anomalous tiles; the published variant tests on 286 of the normal ones
    and nobody says which, so all are given here (see data/cards/kolektorsdd-tiles.yaml).
    """
    return [sample for group in _map_parts(root, split, categories, strict, category, _thirds) for sample in group]


def _map_parts(
    root: Path,
    split: str,
    categories: Iterable[str] | str | None,
    strict: bool,
    category: str,
    make: Callable[[str, Path, Path], list[Sample]],
) -> list[list[Sample]]:
    name = category or CATEGORY
    chosen([name], categories, root)
    if split == "train":
        raise DataSetError(f"{root}: KolektorSDD has no train split; read it with split='test' (all surfaces)")
    parts = [(item, image) for item in _items(root) for image in _surfaces(item, strict)]

    def made(part: tuple[Path, Path]) -> list[Sample]:
        try:
            return make(name, *part)
        except ImageError:
            if strict:
                raise
            return []

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(made, parts))


def _items(root: Path) -> list[Path]:
    for base in (root, *folders(root)):
        found = [path for path in folders(base) if path.name.lower().startswith("kos")]
        if found and any(images_in(path) for path in found):
            return found
    raise DataSetError(f"{root}: no folders kos01, kos02, ... with PartN.jpg inside; is this KolektorSDD's folder?")


def _surfaces(item: Path, strict: bool) -> list[Path]:
    files = images_in(item)
    labels = {path.stem.removesuffix("_label") for path in files if path.stem.endswith("_label")}
    surfaces = [path for path in files if not path.stem.endswith("_label")]
    unpaired = sorted({path.stem for path in surfaces} ^ labels, key=natural)
    if unpaired and strict:
        raise DataSetError(f"{item}: {', '.join(unpaired[:3])}: image without label or label without image; copy again")
    return [path for path in surfaces if path.stem in labels]


def _label_of(image: Path) -> Path:
    return next(path for path in images_in(image.parent) if path.stem == f"{image.stem}_label")


def _surface(category: str, item: Path, image: Path) -> list[Sample]:
    label, width_height = _label_of(image), image_size(image)
    mask = load_mask(label, width_height[::-1])
    return [_sample(category, f"{item.name}_{image.stem}", image, label, mask)]


def _thirds(category: str, item: Path, image: Path) -> list[Sample]:
    label, (width, height) = _label_of(image), image_size(image)
    mask = load_mask(label, (height, width))
    edges = [round(k * height / TILES) for k in range(TILES + 1)]
    return [
        _sample(category, f"{item.name}_{image.stem}_{k}", image, label, mask[top:bottom], (0, top, width, bottom))
        for k, (top, bottom) in enumerate(itertools.pairwise(edges))
    ]


def _sample(category: str, name: str, image: Path, label: Path, mask: np.ndarray, tile: Window | None = None) -> Sample:
    anomalous = bool(mask.any())
    return Sample(
        id=f"{category}/test/{name}",
        image=image,
        dataset="kolektorsdd",
        category=category,
        label=anomalous,
        defect="defect" if anomalous else "",
        boxes=boxes_of_mask(mask) if anomalous else (),
        mask=label if anomalous else None,
        tile=tile,
    )
