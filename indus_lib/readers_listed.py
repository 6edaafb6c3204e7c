"""Sets that list their images: VisA (split CSV) and Real-IAD (one JSON per category)."""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from .readers_files import DataSetError, chosen, folders, images_in, pair_masks, require_files, safe_join
from .samples import Sample

VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_VIEW = re.compile(r"_(C\d+)(?:_|$)")  # audiojack_0001_OK_C1_20231021.jpg


def read_visa(
    root: Path, split: str, categories: Iterable[str] | str | None, strict: bool, category: str = "", listing: str = ""
) -> list[Sample]:
    """VisA by its split CSV (columns object, split, label, image, mask; paths from the root).

    Without a CSV everything under `<category>/Data/Images` is given as test, with a warning: that is nobody's protocol.
    """
    base = next((path for path in (root, *folders(root)) if _is_visa(path)), None)
    if base is None:
        raise DataSetError(f"{root}: neither split_csv/ nor <category>/Data/Images inside; is this VisA's folder?")
    table = base / "split_csv" / (listing or "1cls.csv")
    if not table.is_file():
        if listing:
            raise DataSetError(f"{table}: no such split file; the official ones are 1cls.csv and 2cls_*.csv")
        return _visa_without_csv(base, table, split, categories, strict)
    rows = _csv_rows(table, VISA_COLUMNS)
    names = chosen(sorted({row["object"] for row in rows}), categories, table)
    rows = [row for row in rows if row["object"] in names and split in (row["split"], "all")]
    defects = _visa_defects(base, names)
    return _present([_visa_sample(base, table, row, defects) for row in rows], table, strict)


def _is_visa(path: Path) -> bool:
    return (path / "split_csv").is_dir() or any((child / "Data" / "Images").is_dir() for child in folders(path))


def _visa_sample(base: Path, table: Path, row: dict[str, str], defects: dict[str, str]) -> Sample:
    if row["label"] not in ("normal", "anomaly"):
        raise DataSetError(f"{table}: label {row['label']!r} for {row['image']!r}; only normal and anomaly are known")
    anomalous = row["label"] == "anomaly"
    image = safe_join(base, row["image"], table)
    return Sample(
        id=f"{row['object']}/{row['split']}/{image.parent.name}/{image.stem}",
        image=image,
        dataset="visa",
        category=row["object"],
        label=anomalous,
        split=row["split"],
        defect=defects.get(row["image"], "anomaly") if anomalous else "",
        mask=safe_join(base, row["mask"], table) if anomalous and row["mask"] else None,
    )


def _visa_defects(base: Path, names: Iterable[str]) -> dict[str, str]:
    """Listed image path -> defect names, from each category's image_anno.csv where it is there."""
    tables = [base / name / "image_anno.csv" for name in names]
    rows = [row for table in tables if table.is_file() for row in _csv_rows(table, ("image", "label"))]
    return {row["image"]: row["label"] for row in rows}


def _visa_without_csv(base: Path, table: Path, split: str, categories: Any, strict: bool) -> list[Sample]:
    if split == "train":
        raise DataSetError(f"{table}: no such file, and without it nobody knows VisA's train split; put it there")
    warnings.warn(f"{table} is missing: all images are read as test, which is not VisA's protocol", stacklevel=4)
    found = [path.name for path in folders(base) if (path / "Data" / "Images").is_dir()]
    names = chosen(found, categories, base)
    defects = _visa_defects(base, names)
    samples: list[Sample] = []
    for name, kind in [(name, kind) for name in names for kind in ("Normal", "Anomaly")]:
        data = base / name / "Data"
        files = images_in(data / "Images" / kind)
        masks = [None] * len(files) if kind == "Normal" else pair_masks(files, data / "Masks" / kind, strict)
        for file, mask in zip(files, masks, strict=True):
            row = {"object": name, "split": "test", "label": "normal" if kind == "Normal" else "anomaly", "mask": ""}
            row |= {
                "image": file.relative_to(base).as_posix(),
                "mask": mask.relative_to(base).as_posix() if mask else "",
            }
            samples.append(_visa_sample(base, table, row, defects))
    return samples


def _csv_rows(table: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [column for column in columns if column not in (reader.fieldnames or [])]
            if lacking:
                raise DataSetError(f"{table}: no column {', '.join(lacking)}; is this the official file?")
            return [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
    except (UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise DataSetError(f"{table}: not a readable CSV file ({error}); get it again") from error


def read_real_iad(
    root: Path, split: str, categories: Iterable[str] | str | None, strict: bool, category: str = "", listing: str = ""
) -> list[Sample]:
    """Real-IAD by its per-category JSON: `meta` (prefix, normal_class), `train` and `test` lists of images.

    JSON files are looked for in `realiad_jsons/realiad_jsons`, `realiad_jsons`, `jsons` and the root; images in
    `realiad_1024`, `_512`, `_256` and the root, the first that has them.
    """
    root, found = _real_iad_tables(root, listing)
    tables = {path.stem: path for path in found}
    samples: list[Sample] = []
    for name in chosen(sorted(tables), categories, root):
        own = _real_iad_category(root, name, tables[name], split)
        if not own and categories is not None:  # a category asked for by name must have what is asked of it
            raise DataSetError(f"{tables[name]}: category {name!r} lists no {split} images")
        samples += _present(own, tables[name], strict)
    return samples


def _real_iad_tables(root: Path, listing: str) -> tuple[Path, list[Path]]:
    """(the set's folder: `root` or one below it, its JSON files)."""
    places = [listing] if listing else ["realiad_jsons/realiad_jsons", "realiad_jsons", "jsons", ""]
    for base, place in product((root, *folders(root)), places):
        folder = safe_join(base, place, "listing") if place else base
        found = sorted(path for path in folder.glob("*.json") if _real_iad_json(path, strict=bool(place)))
        if found:
            return base, found
    raise DataSetError(f"{root}: no Real-IAD JSON files (realiad_jsons/<category>.json); see data/README.md")


def _real_iad_json(path: Path, strict: bool = True) -> dict[str, Any] | None:
    """The parsed file; None when it is some other JSON lying in the root."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataSetError(f"{path}: not readable as JSON ({error}); get it again") from error
    shaped = isinstance(data, dict) and all(isinstance(data.get(part), list) for part in ("train", "test"))
    if not shaped and strict:
        raise DataSetError(f"{path}: not a Real-IAD file: it needs the lists 'train' and 'test'")
    if shaped and not isinstance(data.get("meta") or {}, dict):
        raise DataSetError(f"{path}: 'meta' is no object with prefix and normal_class; get the file again")
    return data if shaped else None


def _real_iad_category(root: Path, name: str, table: Path, split: str) -> list[Sample]:
    data = _real_iad_json(table) or {}
    meta = data.get("meta") or {}
    entries = [(part, entry) for part in ("train", "test") if split in (part, "all") for entry in data[part]]
    for part, entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("image_path"), str) or "anomaly_class" not in entry:
            raise DataSetError(f"{table}: an entry of {part!r} lacks image_path or anomaly_class: {str(entry)[:80]}")
    prefix = str(meta.get("prefix") or f"{name}/").strip("/") or name
    base = _image_base(root, prefix, [entry["image_path"] for _, entry in entries], table)
    normal = str(meta.get("normal_class") or "OK")
    return [_real_iad_sample(base, table, name, part, entry, normal) for part, entry in entries]


def _image_base(root: Path, prefix: str, listed: list[str], table: Path) -> Path:
    """The folder in which the first of the listed images that is anywhere lies."""
    bases = [safe_join(root / place, prefix, table) for place in ("realiad_1024", "realiad_512", "realiad_256", "")]
    places = (base for name in listed for base in bases if safe_join(base, name, table).is_file())
    return next(places, bases[-1])


def _real_iad_sample(base: Path, table: Path, category: str, split: str, entry: dict[str, Any], normal: str) -> Sample:
    image = safe_join(base, entry["image_path"], table)
    code = str(entry["anomaly_class"])
    view = _VIEW.search(image.stem)
    return Sample(
        id=f"{category}/{split}/{image.relative_to(base).with_suffix('').as_posix()}",
        image=image,
        dataset="real-iad",
        category=category,
        label=code != normal,
        split=split,
        view=view.group(1) if view else str(entry.get("view") or ""),
        defect=code if code != normal else "",
        mask=safe_join(base, entry["mask_path"], table) if code != normal and entry.get("mask_path") else None,
    )


def _present(samples: list[Sample], source: Path, strict: bool) -> list[Sample]:
    """All files there (strict), or only the samples whose image is; a missing mask then counts as none."""
    if strict:
        bare = [sample.image for sample in samples if sample.label and sample.mask is None]
        if bare:
            raise DataSetError(
                f"{source}: {len(bare)} anomalous images without mask, first: {bare[0]} (or strict=False)"
            )
        require_files([sample.image for sample in samples], "images", source)
        require_files([sample.mask for sample in samples if sample.mask], "masks", source)
        return samples
    kept = [sample for sample in samples if sample.image.is_file()]
    return [s if s.mask is None or s.mask.is_file() else replace(s, mask=None) for s in kept]
