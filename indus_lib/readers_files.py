"""What the readers share: finding folders, joining listed paths safely, pairing masks, errors that say what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from .images import EXTENSIONS


class DataSetError(ValueError):
    """A data set on disk is not what its layout promises. The message says what, where, and what to do."""


def existing_root(root: Path | str) -> Path:
    """The folder as a Path. Raises FileNotFoundError when it is not there, DataSetError when it is no folder."""
    path = Path(root)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such folder; see data/README.md for how to get a data set and where to put it"
        )
    if not path.is_dir():
        raise DataSetError(f"{path}: a file, but a data set's folder is needed")
    return path


def folders(path: Path) -> list[Path]:
    """Visible sub-folders, sorted by name."""
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))


def images_in(path: Path, deep: bool = False) -> list[Path]:
    """Image files (by extension, any case), sorted naturally; hidden files are none of ours."""
    if not path.is_dir():
        return []
    found = path.rglob("*") if deep else path.iterdir()
    listed = [p for p in found if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")]
    kept = [p for p in listed if p.is_file() or p.is_symlink()]  # a link to nothing is named where it is read
    return sorted(kept, key=lambda p: natural(p.relative_to(path).as_posix()))


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which part2 comes before part10."""
    return tuple((0, int(t), "") if t.isdecimal() else (1, 0, t) for t in re.split(r"(\d+)", name) if t)


def safe_join(base: Path, listed: str, source: Path | str) -> Path:
    """`base` / a path out of a CSV or JSON file, which must stay below `base`.

    Judged by its text (no "..", not absolute, no drive), so that a user may still link folders together.
    """
    text = str(listed).strip()
    path, windows = PurePosixPath(text.replace("\\", "/")), PureWindowsPath(text)
    if not text or "\x00" in text or path.is_absolute() or windows.drive or ".." in path.parts:
        raise DataSetError(f"{source}: path {listed!r} leaves the data set's folder; mend or distrust that file")
    return base.joinpath(*path.parts)


def chosen(available: Sequence[str], wanted: Iterable[str] | str | None, where: Path) -> list[str]:
    """The wanted names in the order available. Raises DataSetError for a name that is not there."""
    if wanted is None:
        return list(available)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in available:
            near = difflib.get_close_matches(name, available, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataSetError(f"{where}: no category {name!r}{hint} There are: {', '.join(available) or 'none'}")
    return [name for name in available if name in names]


def require_files(paths: Iterable[Path], what: str, source: Path | str) -> None:
    """Raises DataSetError with the number missing and the first three."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        first = ", ".join(str(path) for path in missing[:3])
        raise DataSetError(
            f"{source}: {len(missing)} {what} not found, first: {first}. Is the set unpacked completely? "
            "(strict=False reads what is there)"
        )


def pair_masks(images: Sequence[Path], folder: Path, strict: bool) -> list[Path | None]:
    """The mask of each image: `<stem>_mask`, `<stem>`, `<stem>_gt` or `<stem>_label` in `folder`.

    Sets whose masks bear other names are paired in order when the numbers agree, as their own loaders do.

    Raises:
        DataSetError: strict, and an image without mask or a mask without image.
    """
    masks = {path.stem: path for path in images_in(folder)}
    found = [_mask_for(image.stem, masks) for image in images]
    if masks and not any(found) and len(masks) == len(images):
        return list(masks.values())
    if strict:
        _refuse_gaps(images, found, masks, folder)
    return found


def _mask_for(stem: str, masks: dict[str, Path]) -> Path | None:
    names = (f"{stem}_mask", stem, f"{stem}_gt", f"{stem}_GT", f"{stem}_label")
    return next((masks[name] for name in names if name in masks), None)


def _refuse_gaps(images: Sequence[Path], found: Sequence[Path | None], masks: dict[str, Path], folder: Path) -> None:
    bare = [image.name for image, mask in zip(images, found, strict=True) if mask is None]
    spare = sorted(set(masks) - {mask.stem for mask in found if mask is not None})
    if bare:
        raise DataSetError(
            f"{folder}: {len(bare)} of {len(images)} anomalous images have no mask, first: {', '.join(bare[:3])}. "
            "Is the set unpacked completely? (strict=False reads it without their boxes)"
        )
    if spare:
        raise DataSetError(
            f"{folder}: {len(spare)} masks belong to no image, first: {', '.join(spare[:3])}; "
            "images are missing (strict=False ignores that)"
        )
