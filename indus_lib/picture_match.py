"""Same picture or not: fingerprints of images, and the comparison that survives re-encoding, resizing and toning.

Ordinary perceptual hashes failed on our material, measured on 281 real photographs (256-bit pHash): copies as JPEG
quality 25 lie up to 90 bits apart, two magnetic tiles of one batch 16. Two measurements on small grey images tell
them apart instead:

- the residual of a tone curve (a quadratic) fitted from one 16 x 16 image to the other, in grey levels: copies stay
  under 1.2 (3.1 where brightening clips highlights), different photographs and renderings of one product above 1.3;
- the correlation of fine detail (64 x 64, low-pass removed): 0.95 or more for light edits.

A pair is one picture when the residual is small and the detail does not contradict, or the residual moderate and the
detail all but equal. Missed, as measured: copies decimated by 4 without any smoothing; crops, mirror images and
rotations are not looked for.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .images import load_image
from .samples import Sample

SIDE = 64
COARSE = 16
MAX_RESIDUAL, MIN_DETAIL = 1.3, 0.35  # grey levels, correlation; see the module's text  # not in paper
LOOSE_RESIDUAL, NEAR_DETAIL = 3.5, 0.9
MIN_SHAPE = 0.9  # linear correlation of the coarse images: quick, and implied by MAX_RELATIVE for any real tone curve
MAX_RELATIVE = 0.3  # residual against the image's own contrast: flat pictures all look alike
_BLOCK = 1024


@dataclass(frozen=True)
class Fingerprints:
    """`digests`: SHA-256 per file; `thumbs`: uint8, N x 64 x 64 grey."""

    digests: tuple[str, ...]
    thumbs: np.ndarray

    def part(self, start: int, stop: int) -> Fingerprints:
        """A consecutive part."""
        return Fingerprints(self.digests[start:stop], self.thumbs[start:stop])


def fingerprints(samples: Sequence[Sample], cache: Path | str | None = None) -> Fingerprints:
    """Fingerprint every sample's image (its tile, when it has one), several files at a time.

    Args:
        samples: Samples whose images are readable.
        cache: `.npz` file; entries are reused while path, size and modification time stay the same.

    Raises:
        images.ImageError: An image cannot be read.
    """
    known = _load_cache(Path(cache)) if cache is not None else {}
    keys = [_key(sample) for sample in samples]
    todo = {key: sample for key, sample in zip(keys, samples, strict=True) if key not in known}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        known |= dict(zip(todo, pool.map(_fingerprint, todo.values()), strict=True))
    if cache is not None and todo:
        _save_cache(Path(cache), known)
    thumbs = np.array([known[key][1] for key in keys], np.uint8).reshape(len(keys), SIDE, SIDE)
    return Fingerprints(tuple(known[key][0] for key in keys), thumbs)


def same_files(a: Fingerprints, b: Fingerprints) -> list[tuple[int, int]]:
    """Index pairs (i of `a`, j of `b`) with equal bytes."""
    where: dict[str, list[int]] = {}
    for i, digest in enumerate(a.digests):
        where.setdefault(digest, []).append(i)
    return [(i, j) for j, digest in enumerate(b.digests) for i in where.get(digest, ())]


def same_pictures(a: Fingerprints, b: Fingerprints) -> list[tuple[int, int, float, float]]:
    """(i of `a`, j of `b`, residual in grey levels, detail correlation) of pairs that show one picture."""
    coarse = _coarse(a.thumbs), _coarse(b.thumbs)
    found = [hit for pairs, detail in _candidates(a, b, *coarse) for hit in _judge(*coarse, pairs, detail)]
    return sorted(found, key=lambda hit: (hit[1], hit[0]))


def _candidates(
    a: Fingerprints, b: Fingerprints, coarse_a: np.ndarray, coarse_b: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (index pairs P x 2, their detail correlation) that two matrix products do not rule out."""
    detail_b, shape_b = _detail(b.thumbs), _unit(coarse_b)
    for start in range(0, len(a.thumbs), _BLOCK):
        scores = _detail(a.thumbs[start : start + _BLOCK]) @ detail_b.T  # (block, N_b)
        alike = _unit(coarse_a[start : start + _BLOCK]) @ shape_b.T >= MIN_SHAPE
        pairs = np.argwhere(alike & (scores >= MIN_DETAIL))
        for at in range(0, len(pairs), _BLOCK * 8):
            some = pairs[at : at + _BLOCK * 8]
            yield some + np.array((start, 0)), scores[some[:, 0], some[:, 1]]


def _judge(
    coarse_a: np.ndarray, coarse_b: np.ndarray, pairs: np.ndarray, detail: np.ndarray
) -> Iterator[tuple[int, int, float, float]]:
    residual, contrast = _tone_residual(coarse_a[pairs[:, 0]], coarse_b[pairs[:, 1]])
    tight = (residual <= MAX_RESIDUAL) & (residual <= MAX_RELATIVE * contrast)
    loose = (residual <= LOOSE_RESIDUAL) & (residual <= MAX_RELATIVE * contrast) & (detail >= NEAR_DETAIL)
    for k in np.flatnonzero(tight | loose):
        yield int(pairs[k, 0]), int(pairs[k, 1]), float(residual[k]), float(detail[k])


def _tone_residual(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RMS left of `y` after the best quadratic tone curve of `x`, and the standard deviation of `y`; both (P,).

    Args:
        x, y: (P, pixels) grey values.
    """
    scale = x.std(axis=1, keepdims=True) + 1e-6
    x, y = x.astype(np.float64), y.astype(np.float64)
    u = (x - x.mean(axis=1, keepdims=True)) / scale
    basis = np.stack([np.ones_like(u), u, u * u], axis=2)  # (P, pixels, 3)
    gram = np.einsum("pki,pkj->pij", basis, basis) + 1e-6 * np.eye(3)
    weights = np.linalg.solve(gram, np.einsum("pki,pk->pi", basis, y)[..., None])
    rest = y - (basis @ weights)[..., 0]
    return rest.std(axis=1), y.std(axis=1)


def _coarse(thumbs: np.ndarray) -> np.ndarray:
    """(N, 256) means over blocks of 4 x 4."""
    step = SIDE // COARSE
    blocks = thumbs.reshape(len(thumbs), COARSE, step, COARSE, step).astype(np.float32)
    return blocks.mean(axis=(2, 4)).reshape(len(thumbs), COARSE * COARSE)


def _detail(thumbs: np.ndarray) -> np.ndarray:
    """(N, 4096) unit vectors of what is left when the low-pass is removed; 0 for a blank image."""
    rows = np.zeros((len(thumbs), SIDE * SIDE), np.float32)
    for row, thumb in zip(rows, thumbs, strict=True):
        grey = thumb.astype(np.float32)
        row[:] = (grey - cv2.GaussianBlur(grey, (0, 0), 2.0)).ravel()
    return _unit(rows)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1; a constant row becomes 0."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _fingerprint(sample: Sample) -> tuple[str, np.ndarray]:
    image = load_image(sample.image, sample.tile)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    thumb = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return hashlib.sha256(Path(sample.image).read_bytes()).hexdigest(), thumb


def _key(sample: Sample) -> str:
    path = Path(sample.image)
    stat = path.stat() if path.is_file() else None  # a missing file gets its proper error from load_image
    return f"{path.resolve()}|{stat and (stat.st_size, stat.st_mtime_ns)}|{sample.tile}"


def _load_cache(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as data:
            marks = zip(data["digests"].tolist(), data["thumbs"], strict=True)
            return dict(zip(data["keys"].tolist(), marks, strict=True))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        warnings.warn(f"{path}: not a fingerprint cache ({error}); it is made anew", stacklevel=3)
        return {}


def _save_cache(path: Path, known: dict[str, tuple[str, np.ndarray]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        digests, thumbs = zip(*known.values(), strict=True)
        np.savez_compressed(file, keys=np.array(list(known)), digests=np.array(digests), thumbs=np.array(thumbs))
    os.replace(part, path)
