"""Where a row of repeated features may lie, from the image alone: the two end points that `measure row` asks for.

A band across the image is rotated through the half circle; where its profile repeats, the autocorrelation peaks.
The teacher uses this for normal and anomalous images alike, and the tool where no row lies at the points that it was
given. All thresholds ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .row_blobs import find_blobs
from .tool_result import Window
from .tool_row import NO_ROW, Row, find_row

SIDE = 192  # px of the searched view
ANGLES = (*range(-9, 12, 3), *range(81, 102, 3))  # degrees; a product is seldom placed askew
BAND = 9  # px, height of a band
STEP = 4  # px between bands
MIN_LAG, MAX_LAG = 6, 48  # px between features
MIN_SCORE = 0.25
ALIKE = 0.15  # gaps within this share of the median count as alike
SURE_FEATURES = 6  # of what the caliper reads, at least: blobs have not found it
SURE_ALIKE = 0.75  # share of alike gaps, at least
SURE_SEPARATION = 2.5  # deviations between features and gaps, at least
APART = 60  # relative units by which two guesses differ at an end
LONG = 1.25  # long side / short side from which an image is searched in squares too
LENGTH = 1.5  # a fault in a row leaves a shorter row that repeats better: prefer the long one


@dataclass(frozen=True)
class RowGuess:
    """End points [[x1, y1], [x2, y2]] in 0..1000, rounded to 10, and how well the profile repeats (0..1)."""

    points: tuple[tuple[int, int], tuple[int, int]]
    score: float


def find_rows(image: np.ndarray, keep: int = 3) -> list[RowGuess]:
    """Best row guesses of an image (uint8 H x W x 3), best first; empty when nothing repeats."""
    found = [c for window in _windows(*image.shape[:2]) for c in _search(image, window)]
    found.sort(key=lambda c: -c[0])
    guesses: list[RowGuess] = []
    for score, ends in found:
        points = _relative(ends, image.shape)
        if score < MIN_SCORE or len(guesses) == keep:
            break
        if all(_apart(points, g.points) for g in guesses):
            guesses.append(RowGuess(points, round(float(score), 3)))
    return guesses


def _windows(height: int, width: int) -> list[Window]:
    """The whole image, and where it is long the squares along it: the row of a part that is short in the whole image is
    long in one of them."""
    side, long = min(height, width), max(height, width)
    squares = -(-2 * (long - side) // side) + 1 if long > LONG * side else 0  # overlapping by half or more
    starts = np.linspace(0, long - side, squares).astype(int).tolist()
    along = [(s, 0, s + side, side) if width > height else (0, s, side, s + side) for s in starts]
    return [(0, 0, width, height), *along]


def _search(image: np.ndarray, window: Window) -> list[tuple[float, np.ndarray]]:
    """(score, end points (2, 2) in px of the image) of what repeats in a window of it."""
    left, top, right, bottom = window
    scale = SIDE / max(right - left, bottom - top)
    longer = (max(right - left, bottom - top) / min(image.shape[:2])) ** LENGTH  # a length counts alike in all windows
    if min(right - left, bottom - top) * scale < BAND:  # too thin for a band
        return []
    part = cv2.resize(image[top:bottom, left:right], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 8)
    return [(longer * score, ends / scale + (left, top)) for angle in ANGLES for score, ends in _bands(detail, angle)]


def read_best(image: np.ndarray, keep: int = 8) -> tuple[RowGuess, Row] | None:
    """The clearest row of an image (uint8 H x W x 3): its ends and what is read. Blobs first; the caliper's where there
    are none: many features that stand out well, most gaps alike. One odd gap does not count.
    """
    row = find_blobs(image)
    if row is not None:
        return RowGuess(_relative(row.centres[[0, -1]], image.shape), 1.0), row
    return _read_caliper(image.tobytes(), image.shape, keep)


@lru_cache(maxsize=4)
def _read_caliper(pixels: bytes, shape: tuple[int, ...], keep: int) -> tuple[RowGuess, Row] | None:
    image = np.frombuffer(pixels, np.uint8).reshape(shape)
    height, width = shape[:2]
    best, best_value = None, 0.0
    for guess in find_rows(image, keep):
        start, end = np.array(guess.points) * (width, height) / 1000
        if np.hypot(*(end - start)) < 8:
            continue
        row = find_row(image, start, end)
        value = _evenness(row) ** 2 * len(row.centres) * row.separation
        if _sure(row) and value > best_value:
            best, best_value = (guess, row), value
    return best


def read_near(image: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[Row, bool]:
    """(row, whether it lies at the points). Points in px: the row of blobs along them; else the clearest of the image,
    since a model that sees a small view points badly; else what the caliper reads, where it is sure."""
    row = find_blobs(image, start, end)
    if row is not None:
        return row, True
    row = find_blobs(image)
    if row is not None:
        return row, False
    row = find_row(image, start, end)
    if _sure(row):
        return row, True
    other = read_best(image)
    return (other[1], False) if other else (NO_ROW, True)


def _sure(row: Row) -> bool:
    """Whether what the caliper read is a row: it reads textures too."""
    return len(row.centres) >= SURE_FEATURES and _evenness(row) >= SURE_ALIKE and row.separation >= SURE_SEPARATION


def _evenness(row: Row) -> float:
    """Share of the gaps that are alike; 0 without gaps."""
    if len(row.centres) < 2:
        return 0.0
    gaps = np.hypot(*np.diff(row.centres, axis=0).T)
    return float((np.abs(gaps / np.median(gaps) - 1) < ALIKE).mean())


def _bands(detail: np.ndarray, angle: int) -> list[tuple[float, np.ndarray]]:
    """Best two bands at one angle: (score, end points in px of `detail`)."""
    height, width = detail.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    turn[:, 2] += (SIDE - width) / 2, (SIDE - height) / 2
    turned = cv2.warpAffine(detail, turn, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    rows = cv2.blur(turned, (3, BAND))[BAND // 2 :: STEP]  # (bands, SIDE)
    scores, lags = _periodicity(rows)
    back = cv2.invertAffineTransform(turn)
    found = []
    for band in np.argsort(-scores)[:6]:
        start, stop = _extent(rows[band], int(lags[band]))
        if stop - start >= 3 * lags[band]:
            ends = _ends(back, start, stop, BAND // 2 + int(band) * STEP, int(lags[band]))
            found.append((float(scores[band]) * ((stop - start) / SIDE) ** LENGTH, ends))
    return found


def _periodicity(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per band: peak of the autocorrelation weighted by strength, and its lag."""
    spectrum = np.fft.rfft(rows - rows.mean(1, keepdims=True), 2 * SIDE, axis=1)
    auto = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, : MAX_LAG + 2]
    auto = auto / np.maximum(auto[:, :1], 1e-6)
    inner = auto[:, MIN_LAG : MAX_LAG + 1]
    peak = (inner > auto[:, MIN_LAG - 1 : MAX_LAG]) & (inner >= auto[:, MIN_LAG + 1 : MAX_LAG + 2])
    lags = np.where(peak, inner, -1).argmax(1) + MIN_LAG
    height = np.take_along_axis(auto, lags[:, None], 1)[:, 0]
    trough = np.where(np.arange(auto.shape[1]) <= lags[:, None], auto, 1.0).min(1)
    return (height - trough) / 2 * np.minimum(rows.std(1) / 6.0, 1.0), lags


def _extent(row: np.ndarray, lag: int) -> tuple[int, int]:
    """First and last column whose surroundings swing as the band does where it repeats."""
    swing = cv2.dilate(row[None], np.ones((1, lag), np.uint8)) - cv2.erode(row[None], np.ones((1, lag), np.uint8))
    active = np.flatnonzero(swing[0] > 0.5 * np.percentile(swing, 80))
    return (int(active[0]), int(active[-1])) if len(active) else (0, 0)


def _ends(back: np.ndarray, start: int, stop: int, row: int, lag: int) -> np.ndarray:
    inset = min(lag * 3 // 4, max((stop - start) // 4, 0))
    ends = np.array([[start + inset, row, 1.0], [stop - inset, row, 1.0]])
    return ends @ back.T


def _relative(ends: np.ndarray, shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    scaled = np.clip(np.round(ends * 100 / (shape[1], shape[0])) * 10, 0, 1000).astype(int)
    first, last = sorted(map(tuple, scaled.tolist()))
    return first, last


def _apart(a: tuple[tuple[int, int], ...], b: tuple[tuple[int, int], ...]) -> bool:
    return float(np.abs(np.subtract(a, b)).sum(1).max()) > APART
