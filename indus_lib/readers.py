"""Data sets on disk -> `Sample`s. One function, eight layouts; counts and order are the same on every machine.

    samples = read("mvtec", "data/raw/mvtec", categories=["grid"])

Nothing is guessed about labels: folder names, the official CSV or JSON, or the label images decide.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from . import images, taxonomy
from .readers_files import DataSetError, chosen, existing_root, folders, images_in, pair_masks
from .readers_kolektor import read_surfaces, read_tiles
from .readers_listed import read_real_iad, read_visa
from .samples import Box, Sample

LAYOUTS = ("mvtec", "visa", "mpdd", "dtd", "kolektorsdd", "kolektorsdd-tiles", "real-iad", "folder")
SPLITS = ("test", "train", "all")
NORMAL = frozenset({"good", "ok", "normal"})


def read(
    layout: str,
    root: Path | str,
    split: str = "test",
    categories: Iterable[str] | str | None = None,
    strict: bool = True,
    *,
    boxes: bool = True,
    dataset: str = "",
    category: str = "",
    listing: str = "",
) -> list[Sample]:
    """Read one data set in its official layout.

    Args:
        layout: One of `LAYOUTS`. `mpdd` and `dtd` are MVTec's folders under their own names; `kolektorsdd-tiles` is
            each surface cut in three (a variant in use elsewhere); `folder` is any images, labels unknown.
        root: The set's folder; one level above it, or for MVTec-like sets a single category, is found too.
        split: `test`, `train` or `all`.
        categories: Names to keep; None = all.
        strict: Refuse missing files, masks without images and images without masks.
        boxes: Read the masks and fill `Sample.boxes` (about 5 ms an image); False lists only, see `with_boxes`.
        dataset: Name to put in the samples instead of the layout's.
        category: Name for layouts that have none on disk (`kolektorsdd`, `folder`).
        listing: VisA's split CSV (default 1cls.csv) or the folder of Real-IAD's JSON files, below `root`.

    Returns:
        Samples sorted by category, split and name, every id once.

    Raises:
        FileNotFoundError: `root` is not there.
        DataSetError: Unknown layout, split or category, an empty one, anything strict refuses.
        images.ImageError: strict, and a mask or its image cannot be read.
    """
    if layout not in LAYOUTS:
        raise DataSetError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    if split not in SPLITS:
        raise DataSetError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    path = existing_root(root)
    samples = _reader(layout)(path, split, categories, strict, category=category, listing=listing)
    if not samples:
        raise DataSetError(f"{path}: no images in the {split} split for layout {layout!r}; is this the right folder?")
    samples = _unique([_named(sample, dataset) for sample in samples])
    return with_boxes(samples, strict) if boxes else samples


def with_boxes(samples: Sequence[Sample], strict: bool = True) -> list[Sample]:
    """The same samples with `boxes` filled from their masks, several files at a time.

    Raises:
        images.ImageError: strict, and a mask is unreadable or has another shape than its image.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda sample: _with_boxes(sample, strict), samples))


def _with_boxes(sample: Sample, strict: bool) -> Sample:
    if sample.boxes or sample.mask is None or not sample.label:
        return sample
    try:
        return replace(sample, boxes=_boxes(sample))
    except images.ImageError:
        if strict:
            raise
        return sample


def _boxes(sample: Sample) -> tuple[Box, ...]:
    mask = images.load_mask(sample.mask, tile=sample.tile)  # relative boxes do not care about a scaled mask
    if sample.tile is None:
        width, height = images.image_size(sample.image)
        if not images.same_aspect(mask.shape[1], mask.shape[0], width, height):
            raise images.ImageError(
                f"{sample.mask}: {mask.shape[1]} x {mask.shape[0]} px, its image {sample.image.name} {width} x {height}"
            )
    return images.boxes_of_mask(mask)


def _reader(layout: str) -> Callable[..., list[Sample]]:
    if layout == "folder":
        return _read_folder
    if layout == "visa":
        return read_visa
    if layout == "real-iad":
        return read_real_iad
    if layout == "kolektorsdd":
        return read_surfaces
    if layout == "kolektorsdd-tiles":
        return _read_tiles
    return lambda *args, **kwargs: read_mvtec(*args, dataset=layout)


def _named(sample: Sample, dataset: str) -> Sample:
    sample = replace(sample, dataset=dataset) if dataset else sample
    return replace(sample, node=taxonomy.load().node_of(sample.dataset, sample.defect)) if sample.label else sample


def _unique(samples: list[Sample]) -> list[Sample]:
    """Sorted; where two files differ only by extension, both ids carry it."""
    ids: dict[str, int] = {}
    for sample in samples:
        ids[sample.id] = ids.get(sample.id, 0) + 1
    named = [s if ids[s.id] == 1 else replace(s, id=s.id + s.image.suffix) for s in samples]
    if len({sample.id for sample in named}) != len(named):
        twice = next(sample.id for sample in named if ids[sample.id] > 1)
        raise DataSetError(f"sample {twice!r} is listed more than once; mend the listing")
    return sorted(named, key=lambda sample: (sample.category, sample.id))


def read_mvtec(
    root: Path, split: str, categories: Iterable[str] | str | None, strict: bool, dataset: str = "mvtec"
) -> list[Sample]:
    """MVTec-AD's layout: `<category>/{train,test}/<good or defect>/NNN.png`, `ground_truth/<defect>/NNN_mask.png`."""
    found = {path.name or path.resolve().name: path for path in _mvtec_categories(root)}  # a link by its own name
    parts = [part for part in ("train", "test") if split in (part, "all")]
    samples: list[Sample] = []
    for name in chosen(sorted(found), categories, root):
        base = found[name]
        if categories is None and not any((base / part).is_dir() for part in parts):
            continue  # a category of the other split only; the protocol card's counts tell when it is missing
        own = [sample for part in parts for sample in _mvtec_split(base, name, part, strict, dataset)]
        if not own:
            raise DataSetError(f"{base}: category {name!r} has no {split} images; unpack it again or leave it out")
        samples += own
    return samples


def _mvtec_categories(root: Path) -> list[Path]:
    if _is_category(root):
        return [root]
    below = folders(root)
    inside = [path for child in below if len(below) == 1 for path in folders(child)]
    found = [path for path in below if _is_category(path)] or [path for path in inside if _is_category(path)]
    if not found:
        raise DataSetError(f"{root}: no category folders (each holds train/ and test/); is this the right folder?")
    return found


def _is_category(path: Path) -> bool:
    return (path / "test").is_dir() or (path / "train").is_dir()


def _mvtec_split(base: Path, category: str, split: str, strict: bool, dataset: str) -> list[Sample]:
    samples: list[Sample] = []
    if strict and images_in(base / split):
        raise DataSetError(f"{base / split}: images lie beside the folders good/ and defects; sort them into those")
    if strict and split == "test" and (base / split).is_dir() and (base / "ground_truth").is_dir():
        masked = {path.name for path in folders(base / "ground_truth") if images_in(path)}
        if bare := sorted(masked - {path.name for path in folders(base / split)}):
            raise DataSetError(
                f"{base / split}: no images of {', '.join(bare[:3])}, of which there are masks; unpack it again "
                "(strict=False ignores that)"
            )
    for folder in folders(base / split) if (base / split).is_dir() else []:
        files = images_in(folder)
        anomalous = folder.name.lower() not in NORMAL
        masks: list[Path | None] = [None] * len(files)
        if anomalous and split == "test":
            masks = pair_masks(files, base / "ground_truth" / folder.name, strict)
        samples += [
            Sample(
                id=f"{category}/{split}/{folder.name}/{file.stem}",
                image=file,
                dataset=dataset,
                category=category,
                label=anomalous,
                split=split,
                defect=folder.name if anomalous else "",
                mask=mask,
            )
            for file, mask in zip(files, masks, strict=True)
        ]
    return samples


def _read_tiles(
    root: Path, split: str, categories: Iterable[str] | str | None, strict: bool, category: str, listing: str
) -> list[Sample]:
    """Tiles already cut by others come as an MVTec-like folder; official surfaces are cut here."""
    if _is_category(root) or any(_is_category(path) for path in folders(root)):
        return read_mvtec(root, split, categories, strict, dataset="kolektorsdd")
    return read_tiles(root, split, categories, strict, category=category, listing=listing)


def _read_folder(
    root: Path, split: str, categories: Iterable[str] | str | None, strict: bool, category: str, listing: str
) -> list[Sample]:
    """A user's own photographs: nothing is known about them."""
    if categories is not None:
        raise DataSetError("layout 'folder' has no categories on disk; name the product with category=")
    return [
        Sample(
            id=f"{category or 'images'}/test/{file.relative_to(root).with_suffix('').as_posix()}",
            image=file,
            category=category,
        )
        for file in images_in(root, deep=True)
    ]
