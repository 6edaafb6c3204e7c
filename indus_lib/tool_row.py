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
TALL = 0.24  # half width of the measured band, for features this long; not in paper
BEYOND = 0.06  # how far the band goes beyond the end points / shorter image side; not in paper
MIN_LENGTH = 24  # samples; shorter bands hold no row
MIN_SEPARATION = 1.2  # bright against dark stretches, in deviations; noise gives about 0.6; not in paper
TILTS = np.tan(np.radians(np.arange(-6, 6.1, 1.0)))  # not in paper
FEATURE = 0.6  # width of a feature / spacing, for the window around the odd one; not in paper
ODD_GAP = 25.0  # % of the median spacing by which a gap, or a feature off the line, is odd; not in paper
MAX_LENGTH = 768  # samples along the band (speed); not in paper


@dataclass(frozen=True)
class Row:
    """Measured row. Lengths in pixels of the original, deviations in percent of the median spacing. `odd`: window
    (x1, y1, x2, y2) of the feature (or of its empty place) that deviates most, None with fewer than 3 features.
    `separation`: how clear the row is: by the caliper, how far features and gaps lie apart in deviations of their
    pixels. `odd_gaps`: gaps that deviate by more than `ODD_GAP`; `turned`: long features askew to the others."""

    centres: np.ndarray  # (n, 2)
    median: float
    deviation: float
    offset: float
    polarity: str  # "bright" or "dark"
    odd: tuple[float, float, float, float] | None = None
    separation: float = 0.0
    odd_gaps: int = 0
    turned: int = 0


NO_ROW = Row(np.zeros((0, 2)), 0.0, 0.0, 0.0, "bright")


@dataclass(frozen=True)
class _Band:
    """A straightened band: `pixels` (rows across, columns along) and the way back to the image."""

    pixels: np.ndarray  # float32
    origin: np.ndarray  # image position of column 0, middle row
    along: np.ndarray  # image step per column
    across: np.ndarray  # image step per row
    margin: float  # columns before the first end point


def find_row(image: np.ndarray, start: np.ndarray, end: np.ndarray) -> Row:
    """Find and measure the row of repeated features near the segment `start`-`end` (pixels of the image).

    Returns:
        The row; with fewer than 3 features its numbers are 0.
    """
    near = _band(image, start, end, HALF)
    if near.pixels.shape[1] < MIN_LENGTH:
        return NO_ROW
    tilt, row, lag = _best_line(near)
    ends = np.array([near.margin, near.pixels.shape[1] - 1 - near.margin])
    start, end = _to_image(near, tilt, ends, np.array([row, row]))
    band = _band(image, start, end, TALL)  # along the line found, high enough for long features
    level = _detrend(band.pixels, 3 * lag)
    profile = cv2.blur(level, (1, max(lag // 4, 1) | 1))[len(level) // 2]
    separation = _separation(level, profile, lag)
    if separation < MIN_SEPARATION:
        return NO_ROW
    extent, sign = _extent(level, profile, band.pixels, lag)
    columns, across = _centres(level * sign, extent, lag, band.margin)
    polarity = "bright" if sign > 0 else "dark"
    if len(columns) < 3:
        return Row(_to_image(band, 0.0, columns, across), 0.0, 0.0, 0.0, polarity)
    gaps = np.diff(columns)
    median = float(np.median(gaps))
    excess, sideways = gaps / median - 1, off_line(columns, across) / median
    at, aside = odd_place(columns, across, excess, sideways)
    half = np.abs(band.along) * FEATURE / 2 * median + np.abs(band.across) * (extent.stop - extent.start) / 2
    odd = _to_image(band, 0.0, np.array([at]), np.array([aside]))[0]
    return Row(
        _to_image(band, 0.0, columns, across),
        median * float(np.hypot(*band.along)),
        float(np.abs(excess).max() * 100),
        float(np.abs(sideways).max() * 100),
        polarity,
        (*(odd - half).tolist(), *(odd + half).tolist()),
        separation,
        int((np.abs(excess) * 100 > ODD_GAP).sum()),
    )


def odd_place(columns: np.ndarray, across: np.ndarray, excess: np.ndarray, sideways: np.ndarray) -> tuple[float, float]:
    """(column, row) of what deviates most: a feature out of line, a feature between a wide and a narrow gap, or the
    middle of a gap. excess (n - 1,), sideways (n,): in spacings."""
    if np.abs(sideways).max() >= np.abs(excess).max():
        k = int(np.abs(sideways).argmax())
        return float(columns[k]), float(across[k])
    pull = np.abs(np.diff(excess)) * (np.sign(excess[1:]) != np.sign(excess[:-1]))
    if len(pull) and pull.max() > 1.5 * np.abs(excess).max():
        k = int(pull.argmax()) + 1
        return float(columns[k]), float(across[k])
    k = int(np.abs(excess).argmax())
    return float(columns[k : k + 2].mean()), float(across[k : k + 2].mean())


def off_line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from the line through most points (Theil-Sen): one outlier does not tilt it."""
    i, j = np.triu_indices(len(x), 1)
    slope = np.median((y[j] - y[i]) / np.maximum(x[j] - x[i], 1e-6))
    rest = y - slope * x
    return rest - np.median(rest)


def _to_image(band: _Band, tilt: float, columns: np.ndarray, across: np.ndarray) -> np.ndarray:
    rows, length = band.pixels.shape
    shift = across + tilt * (columns - (length - 1) / 2) - rows // 2
    return band.origin + columns[:, None] * band.along + shift[:, None] * band.across


def _band(image: np.ndarray, start: np.ndarray, end: np.ndarray, half_side: float) -> _Band:
    side = min(image.shape[:2])
    span = float(np.hypot(*(end - start)))
    unit = (end - start) / span
    normal = np.array([-unit[1], unit[0]])
    beyond, half = BEYOND * side, max(half_side * side, 6.0)
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
    low, high = 5, max(int(columns / 2.5), 7)
    inner = auto[:, low:high]
    peak = (inner >= auto[:, low - 1 : high - 1]) & (inner >= auto[:, low + 1 : high + 1])
    valued = np.where(peak, inner, 0)
    top = valued.max(1)
    lag = low + (valued >= 0.8 * top[:, None]).argmax(1)
    return profiles.std(1) * np.clip(top, 0, 1) ** 2, np.where(top > 0, lag, columns // 4)


def _separation(level: np.ndarray, profile: np.ndarray, lag: int) -> float:
    """How far bright and dark stretches of the line lie apart, in deviations of their pixels."""
    middle, thick = len(level) // 2, max(lag // 8, 1)
    pixels = level[middle - thick : middle + thick + 1]
    bright = profile > profile.mean()
    if bright.all() or not bright.any():
        return 0.0
    above, below = pixels[:, bright], pixels[:, ~bright]
    return float((above.mean() - below.mean()) / (0.5 * (above.std() + below.std()) + 0.5))


def _extent(level: np.ndarray, profile: np.ndarray, straight: np.ndarray, lag: int) -> tuple[slice, int]:
    """Rows that the features cover, and +1 for bright features, -1 for dark ones.

    Features and gaps alternate alike along the line; what tells them apart is that the gaps look like the
    surroundings above and below the row, the features do not.
    """
    rows, row = len(level), len(level) // 2
    bright, dark = profile > profile.mean(), profile <= profile.mean()
    contrast = level[:, bright].mean(1) - level[:, dark].mean(1)
    inside = contrast > 0.35 * contrast[row]
    top, bottom = row, row
    while top > 0 and inside[top - 1]:
        top -= 1
    while bottom < rows - 1 and inside[bottom + 1]:
        bottom += 1
    bright_level, dark_level = straight[top : bottom + 1, bright].mean(), straight[top : bottom + 1, dark].mean()
    room = max(lag // 6, 3)
    outside = [straight[max(top - 2 - room, 0) : max(top - 2, 0)], straight[bottom + 3 : bottom + 3 + room]]
    levels = [float(np.median(o)) for o in outside if len(o) >= 2]
    vote = sum(abs(bright_level - v) - abs(dark_level - v) for v in levels)
    if not levels:
        vote = 0.5 - bright.mean()  # no surroundings in the band: features are usually narrower than gaps
    return slice(top, bottom + 1), 1 if vote >= 0 else -1


def _centres(level: np.ndarray, extent: slice, lag: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Sub-pixel (columns, rows) of the features: centroids of what stands out, one per run above half height."""
    profile = level[extent].mean(0)
    low, high = np.percentile(profile, (15, 90))
    half = (low + high) / 2
    runs = _runs(profile > half)
    widths = np.array([b - a for a, b in runs])
    if not len(runs):
        return np.zeros(0), np.zeros(0)
    usual = float(np.median(widths[widths >= max(0.1 * lag, 1)])) if (widths >= max(0.1 * lag, 1)).any() else 1.0
    reach = max(int(0.35 * lag), 2)
    rows = slice(max(extent.start - reach, 0), min(extent.stop + reach, len(level)))
    found = []
    for a, b in runs:
        if b - a < 0.4 * usual or a <= 0.15 * margin or b >= len(profile) - 0.15 * margin:
            continue
        weight = np.clip(level[rows, max(a - 2, 0) : b + 2] - half, 0, 0.5 * (high - half))
        total = weight.sum() + 1e-6
        x = (weight.sum(0) * np.arange(weight.shape[1])).sum() / total + max(a - 2, 0)
        y = (weight.sum(1) * np.arange(weight.shape[0])).sum() / total + rows.start
        found.append((x, y))
    return np.array([x for x, _ in found]), np.array([y for _, y in found])


def _runs(above: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], above.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
