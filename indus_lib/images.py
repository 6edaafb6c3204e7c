"""Image and mask files -> numpy arrays. One place that knows file formats; everything else sees uint8 HxWx3 RGB."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from .boxes import to_relative
from .samples import Box, Sample

MAX_PIXELS = 89_000_000  # just under Pillow's own decompression-bomb limit, so ours speaks first
MAX_ASPECT = 100  # Qwen's processor takes 200, but what is shown is rounded to fewer pixels
MAX_SIDE = 65_500  # px, the most that a JPEG has
MIN_SIDE = 8
MAX_BATCH_PIXELS = 400_000_000  # of photographs held at once: 1.2 GB; not in paper
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
_LOSSY = frozenset({"JPEG", "MPO", "WEBP"})
_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    MemoryError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip  (what Pillow's format plugins are known to raise on broken files)

Window = tuple[int, int, int, int]


class ImageError(ValueError):
    """A file that cannot be used as an image or mask. The message names the file and what to do."""


def load_image(path: Path | str, tile: Window | None = None) -> np.ndarray:
    """Read any common image file.

    EXIF orientation is applied, transparency laid over white, 16-bit data divided by 257 (12-bit TIFF by its own
    depth), so that the same grey value always gives the same result whatever else is in the image. 32-bit and float
    files carry no depth: theirs is taken from the values (`_deep_to_uint8`), so images of a set may differ in exposure.

    Args:
        path: PNG, JPEG, BMP, TIFF, WebP, ... (first frame of a sequence).
        tile: Pixel window (x1, y1, x2, y2) to cut; None = all of it.

    Returns:
        uint8 array, HxWx3, RGB.

    Raises:
        ImageError: Missing, empty, truncated, not an image, smaller than 8 px a side, larger than 89 Mpx, thinner than
            1:100 or longer than 65,500 px.
    """
    image = _open(path)
    if min(image.size) < MIN_SIDE:
        raise ImageError(f"{path}: only {image.width} x {image.height} px; an image needs at least {MIN_SIDE} a side")
    pixels = _cut(_to_rgb(image), tile, path)
    if max(pixels.shape[:2]) > MAX_ASPECT * min(pixels.shape[:2]):
        high, wide = pixels.shape[:2]
        raise ImageError(f"{path}: {wide} x {high} px is thinner than 1:{MAX_ASPECT}, which no model here sees; cut it")
    if max(pixels.shape[:2]) > MAX_SIDE:
        raise ImageError(f"{path}: longer than {MAX_SIDE} px, which no page shows; cut it into parts")
    return pixels


def load_mask(path: Path | str, shape: tuple[int, ...] | None = None, tile: Window | None = None) -> np.ndarray:
    """Read a ground-truth mask: every value above 0 is anomalous (255, a grey value, or a palette index).

    Masks in lossy formats are cut at half their maximum, since compression leaves noise around 0.

    Args:
        path: Mask file.
        shape: (H, W, ...) of the image it belongs to (of the tile, when `tile` is given); None = as stored.
        tile: Pixel window (x1, y1, x2, y2) to cut before comparing sizes.

    Returns:
        bool array, HxW.

    Raises:
        ImageError: Unreadable, or another aspect ratio than the image.
    """
    mask = _cut(_foreground(_open(path)), tile, path)
    if shape is None or mask.shape == tuple(shape[:2]):
        return mask
    height, width = int(shape[0]), int(shape[1])
    if not same_aspect(mask.shape[1], mask.shape[0], width, height):
        raise ImageError(
            f"{path}: mask is {mask.shape[1]} x {mask.shape[0]} px, its image {width} x {height}: "
            "another shape, so it cannot be its mask; check that the pair belongs together"
        )
    how = cv2.INTER_NEAREST if height >= mask.shape[0] else cv2.INTER_AREA  # area keeps a one-pixel defect
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=how) > 0


def same_aspect(width: int, height: int, other_width: int, other_height: int) -> bool:
    """Whether one size is the other scaled, up to the rounding of one pixel."""
    expected = width * other_height / height
    return abs(expected - other_width) <= max(1.0, other_height / height)


def image_size(path: Path | str) -> tuple[int, int]:
    """(width, height) as `load_image` would give them, from the header alone where the format has all there. Raises
    ImageError."""
    image = _header(path)
    try:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # EXIF orientation: a quarter turn; a PNG's lies behind
    except _READ_ERRORS as error:
        raise ImageError(f"{path}: broken or cut off ({_brief(error)}); download or copy it again") from error
    return (image.height, image.width) if turned else image.size


def batches(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Samples in order, in parts of at most `size` whose photographs have `MAX_BATCH_PIXELS` together (one alone may
    have more). Sizes are read from the headers; a file that cannot be read counts nothing here."""
    parts: list[list[Sample]] = []
    held = 0
    for sample in samples:
        pixels = _pixels(sample)
        if not parts or len(parts[-1]) == size or held + pixels > MAX_BATCH_PIXELS:
            parts.append([])
            held = 0
        parts[-1].append(sample)
        held += pixels
    return parts


def _pixels(sample: Sample) -> int:
    try:
        width, height = _header(Path(sample.image)).size
    except (ImageError, OSError):
        return 0
    x1, y1, x2, y2 = sample.tile or (0, 0, width, height)
    return (x2 - x1) * (y2 - y1)


def boxes_of_mask(mask: np.ndarray) -> tuple[Box, ...]:
    """Relative boxes around the connected regions of a mask, largest region first.

    Fragments closer than about 1 % of the shorter side are one region (annotators' gaps, dotted cracks); specks of
    one or two pixels are dropped when something larger remains (anti-aliasing debris).  # not in paper

    Args:
        mask: HxW, non-zero = anomalous.
    """
    mask = np.asarray(mask) > 0
    if not mask.any():
        return ()
    height, width = mask.shape
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    labels = _fragments(mask[y : y + h, x : x + w], reach=round(0.005 * min(height, width)))
    regions = sorted((-count, y + t, x + le, y + b, x + r) for count, le, t, r, b in _extents(labels))
    kept = [region for region in regions if region[0] < -2] or regions
    return tuple(dict.fromkeys(to_relative((x1, y1, x2, y2), width, height) for _, y1, x1, y2, x2 in kept))


def save_png(path: Path | str, array: np.ndarray) -> Path:
    """Write a PNG atomically: temporary name, then rename.

    Args:
        path: Target; missing folders are made.
        array: uint8 HxWx3 RGB, uint8 HxW grey, or bool HxW (written as 0/255).
    """
    path, array = Path(path), np.asarray(array)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"{path}: cannot save {array.dtype} {array.shape} as PNG; give uint8 HxW or HxWx3, or bool HxW"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(np.ascontiguousarray(array)).save(part, format="PNG")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _header(path: Path | str) -> Image.Image:
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes); download or copy it again")
    try:
        image = Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_too_large(path, str(error))) from error
    except _READ_ERRORS as error:
        raise ImageError(f"{path}: not an image this library reads ({_brief(error)}); convert it to PNG") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_large(path, f"{image.width} x {image.height} px"))
    return image


def _open(path: Path | str) -> Image.Image:
    """Decoded and upright. The format name survives in `info` because transposing drops it."""
    image = _header(path)
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
    except _READ_ERRORS as error:
        raise ImageError(f"{path}: broken or cut off ({_brief(error)}); download or copy it again") from error
    upright.info["source_format"] = image.format
    upright.info["bits"] = _bits(image)
    return upright


def _too_large(path: Path, detail: str) -> str:
    return f"{path}: too large ({detail}; limit {MAX_PIXELS // 10**6} Mpx): cut it into tiles or scale it down first"


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:120]


def _bits(image: Image.Image) -> int:
    """Bits per sample of a 16-bit container; only TIFF tells when a camera used fewer (10 or 12)."""
    tags = getattr(image, "tag_v2", None)
    stored = tags.get(258) if tags is not None else None
    return int(stored[0]) if stored and 8 < int(stored[0]) < 16 else 16


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return np.repeat(_deep_to_uint8(np.asarray(image), image.mode, image.info["bits"])[..., None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _deep_to_uint8(values: np.ndarray, mode: str, bits: int) -> np.ndarray:
    """16-bit, 32-bit and float grey values -> uint8.

    Modes I and F carry no depth, so the smallest usual range that holds the values is taken: 0..1 (float),
    0..255, 0..65535, else the image's own minimum and maximum.
    """
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if mode.startswith("I;16"):
        low, high = 0.0, float(2**bits - 1)
    elif low >= 0 and high <= 65535:
        tops = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next(top for top in tops if high <= top)
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _foreground(image: Image.Image) -> np.ndarray:
    values = np.array(image)  # mode P gives indices, which is what palette masks mean
    if values.ndim == 3:
        colours = values[..., :1] if image.mode in ("LA", "La", "PA") else values[..., :3]
        values = colours.max(axis=2)
    threshold = float(values.max()) / 2 if image.info["source_format"] in _LOSSY and values.any() else 0
    return values > threshold


def _cut(array: np.ndarray, tile: Window | None, path: Path | str) -> np.ndarray:
    if tile is None:
        return array
    x1, y1, x2, y2 = tile
    if not (0 <= x1 < x2 <= array.shape[1] and 0 <= y1 < y2 <= array.shape[0]):
        raise ImageError(f"{path}: tile {tuple(tile)} is not inside the {array.shape[1]} x {array.shape[0]} px image")
    return np.ascontiguousarray(array[y1:y2, x1:x2])


def _fragments(mask: np.ndarray, reach: int) -> np.ndarray:
    """Component labels of `mask`, components with a gap of at most 2 * `reach` px sharing one label."""
    grown = mask.astype(np.uint8)
    if reach > 0:
        grown = cv2.dilate(grown, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    labels = cv2.connectedComponents(grown, connectivity=8)[1]
    return np.where(mask, labels, 0)


def _extents(labels: np.ndarray) -> list[tuple[int, int, int, int, int]]:
    """(pixel count, left, top, right, bottom) per label, right and bottom exclusive."""
    ys, xs = np.nonzero(labels)
    found, which, counts = np.unique(labels[ys, xs], return_inverse=True, return_counts=True)
    lows = np.full((2, len(found)), np.iinfo(np.int64).max)
    highs = np.zeros((2, len(found)), np.int64)
    for axis, coordinate in enumerate((xs, ys)):
        np.minimum.at(lows[axis], which, coordinate)
        np.maximum.at(highs[axis], which, coordinate)
    rows = zip(counts, lows[0], lows[1], highs[0] + 1, highs[1] + 1, strict=True)
    return [tuple(int(value) for value in row) for row in rows]
