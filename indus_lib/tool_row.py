"""The caliper behind `measure` kind `row`: finds a row of repeated features near two rough end points.

The band between the points (and slightly beyond) is resampled straight, every small tilt and sideways shift is
scored by how periodic its brightness profile is, and the features of the best line are then located one by one.
Everything here is ours: the paper only says that T_measure gives distances, angles and relative positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

HALF = 0.07  # half width of the searched band / shorter image side: end points may be 4 % off; not in paper
BEYOND = 0.06  # how far the band goes beyond the end points / shorter image side; not in paper
TILTS = np.tan(np.radians(np.arange(-6, 6.1, 1.0)))  # not in paper
MAX_LENGTH = 768  # samples along the band (speed); not in paper


@dataclass(frozen=True)
class Row:
    """Measured row. Lengths in pixels of the original, deviations in percent of the median spacing."""

    centres: np.ndarray  # (n, 2)
    median: float
    deviation: float
    offset: float
    polarity: str  # "bright" or "dark"


@dataclass(frozen=True)
class _Band:
    """A straightened band: `pixels` (rows across, columns along) and the way back to the image."""

    pixels: np.ndarray  # float32
    origin: np.ndarray  # image position of column 0, middle row
    along: np.ndarray  # image step per column
    across: np.ndarray  # image step per row
    margin: float  # columns before the first end point


def find_row(image: np.ndarray, start: np.ndarray, end: np.ndarray) -> Row:
    """Find and measure the row of repeated features near the segment `start`-`end` (pixels of the image)."""
    band = _band(image, start, end)
    line = _best_line(band)
    rows = [_measure(band, line, sign) for sign in (1, -1)]
    return min(rows, key=lambda r: (len(r.centres) < 3, _irregularity(r)))


def _irregularity(row: Row) -> float:
    return row.deviation + row.offset if len(row.centres) >= 3 else np.inf


def _band(image: np.ndarray, start: np.ndarray, end: np.ndarray) -> _Band:
    side = min(image.shape[:2])
    span = float(np.hypot(*(end - start)))
    unit = (end - start) / span
    normal = np.array([-unit[1], unit[0]])
    beyond, half = BEYOND * side, max(HALF * side, 6.0)
    step = max((span + 2 * beyond) / MAX_LENGTH, 1.0)
    columns, rows = int((span + 2 * beyond) / step) + 1, 2 * int(half / step) + 1
    origin = start - beyond * unit
    matrix = np.column_stack([unit * step, normal * step, origin - normal * step * (rows // 2)])
    pixels = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
        matrix,
        (columns, rows),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    smooth = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), 1.0)
    return _Band(smooth, origin, unit * step, normal * step, beyond / step)


def _shear(pixels: np.ndarray, tilt: float) -> np.ndarray:
    """Move column x by tilt * (x - middle) rows, so that a tilted row becomes straight."""
    rows, columns = pixels.shape
    matrix = np.array([[1, 0, 0], [tilt, 1, -tilt * (columns - 1) / 2]])
    return cv2.warpAffine(
        pixels, matrix, (columns, rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )


def _detrend(profiles: np.ndarray, window: int) -> np.ndarray:
    """Remove what varies more slowly than `window` columns."""
    return profiles - cv2.blur(profiles, (window | 1, 1), borderType=cv2.BORDER_REFLECT)


def _best_line(band: _Band) -> tuple[float, int, int]:
    """(tilt, row, spacing in columns) of the most periodic line in the band."""
    rows, columns = band.pixels.shape
    thick = max(rows // 8, 1) | 1
    best = (-1.0, 0.0, rows // 2, max(columns // 4, 4))
    for tilt in TILTS:
        profiles = _detrend(cv2.blur(_shear(band.pixels, tilt), (1, thick)), columns // 3)
        score, lag = _periodicity(profiles)
        row = int(score.argmax())
        if score[row] > best[0]:
            best = (float(score[row]), float(tilt), row, int(lag[row]))
    return best[1:]


def _periodicity(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per row: contrast times the best autocorrelation, and its lag (the shortest good one)."""
    columns = profiles.shape[1]
    size = 1 << (2 * columns - 1).bit_length()
    spectrum = np.fft.rfft(profiles, size, axis=1)
    auto = np.fft.irfft(np.abs(spectrum) ** 2, size, axis=1)[:, :columns]
    lags = np.arange(columns)
    auto = auto / np.maximum(auto[:, :1], 1e-3) * (columns / np.maximum(columns - lags, columns / 3))
    low, high = 5, max(columns // 2, 7)
    inner = auto[:, low:high]
    peak = (inner >= auto[:, low - 1 : high - 1]) & (inner >= auto[:, low + 1 : high + 1])
    valued = np.where(peak, inner, 0)
    top = valued.max(1)
    lag = low + (valued >= 0.8 * top[:, None]).argmax(1)
    return profiles.std(1) * np.clip(top, 0, 1) ** 2, np.where(top > 0, lag, columns // 4)


def _measure(band: _Band, line: tuple[float, int, int], sign: int) -> Row:
    tilt, row, spacing = line
    straight = _shear(band.pixels, tilt)
    thick = max(straight.shape[0] // 8, 1) | 1
    profile = _detrend(cv2.blur(straight, (1, thick)), 2 * spacing)[row] * sign
    columns = _features(profile, spacing, band.margin)
    if len(columns) < 2:
        return Row(np.zeros((0, 2)), 0.0, 0.0, 0.0, "bright" if sign > 0 else "dark")
    across = np.array([_sideways(straight, row, c, spacing, sign) for c in columns])
    gaps = np.diff(columns)
    median = float(np.median(gaps))
    trend = np.polyfit(columns, across, 1) if len(columns) > 2 else (0, across.mean())
    offset = np.abs(across - np.polyval(trend, columns)).max()
    middle = (straight.shape[1] - 1) / 2
    shift = across + tilt * (columns - middle) - straight.shape[0] // 2
    centres = band.origin + columns[:, None] * band.along + shift[:, None] * band.across
    step = float(np.hypot(*band.along))
    return Row(
        centres,
        median * step,
        float(np.abs(gaps - median).max() / median * 100),
        float(offset / median * 100),
        "bright" if sign > 0 else "dark",
    )


def _features(profile: np.ndarray, spacing: int, margin: float) -> np.ndarray:
    """Sub-pixel columns of the features: half-height centroids of the peaks as tall as the usual one."""
    radius = max(int(spacing * 0.4), 1)
    local = cv2.dilate(profile[None].astype(np.float32), np.ones((1, 2 * radius + 1)))[0]
    peaks = np.flatnonzero((profile >= local) & (profile > 0))
    if not len(peaks):
        return np.zeros(0)
    usual = np.median(np.sort(profile[peaks])[-max(len(peaks) * 2 // 3, 1) :])
    found = []
    for peak in peaks[profile[peaks] > 0.45 * usual]:
        left = right = peak
        half = profile[peak] / 2
        while left > 0 and profile[left - 1] > half:
            left -= 1
        while right < len(profile) - 1 and profile[right + 1] > half:
            right += 1
        weight = profile[left : right + 1] - half
        found.append(left + (weight * np.arange(right - left + 1)).sum() / max(weight.sum(), 1e-6))
    columns = np.array(found)
    inside = (columns > 0.2 * margin) & (columns < len(profile) - 1 - 0.2 * margin)
    return np.unique(columns[inside])


def _sideways(straight: np.ndarray, row: int, column: float, spacing: int, sign: int) -> float:
    """Row of a feature's centre: centroid of what stands out from the gaps on both sides."""
    radius = max(spacing // 4, 1)
    c = round(column)
    feature = straight[:, max(c - radius, 0) : c + radius + 1].mean(1)
    gap_l, gap_r = (straight[:, min(max(c + d, 0), straight.shape[1] - 1)] for d in (-spacing // 2, spacing // 2))
    weight = np.clip(sign * (feature - (gap_l + gap_r) / 2), 0, None)
    near = np.abs(np.arange(len(weight)) - row) <= max(spacing, 4)
    weight = np.where(near & (weight > 0.4 * weight[near].max()), weight, 0)
    return float((weight * np.arange(len(weight))).sum() / weight.sum()) if weight.sum() > 0 else float(row)
