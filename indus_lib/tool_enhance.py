"""T_enhance: deterministic filters against reflections and low contrast (paper section 2).

`texture` shows what departs from the smooth surface, in units of the surface's own robust deviation: a clean
surface stays flat mid-grey whatever its noise, a faint stain of a few grey levels stands out, also after the map
has been reduced to a small view.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from skimage.measure import regionprops

from . import boxes
from .samples import Box
from .tool_besides import besides
from .tool_result import ToolResult, graded, rounded

METHODS = ("clahe", "edges", "texture")
MAX_SIDE = 1280  # longer side of what is filtered and returned; not in paper
MAP_SIDE = 384  # longer side of the texture map in px; not in paper
WORK_SIDE = 140  # px (square root of the area) at which faint marks are sought; not in paper
GAIN = 3.0  # deviations that give two thirds of full contrast; not in paper
RANGE = 6.0  # grey levels the bilateral background averages over; not in paper

LEAST = 0.3  # deviations from which a pixel of the map counts; not in paper
NEAR = 3  # px of the map between pieces of one mark; not in paper
SIZES = (("tiny", 12), ("small", 20), ("medium", 35))  # px of the map along the main axis up to which; not in paper
LENGTHS = (("round", 1.6), ("oval", 2.6), ("long", 4.8))  # main axis / the other one up to which; not in paper
SOLID = (("open", 0.35), ("ragged", 0.55))  # share of the hull up to which; not in paper
RIVALS = (("first", 0.3), ("clear", 0.6), ("close", 0.8))  # the next one's mass / its own up to which; not in paper
GRADES = (("low", 1.4), ("medium", 2.0), ("high", 3.0))  # deviations of the peak up to which; not in paper

_TEXTS = {
    "clahe": "local contrast equalised",
    "edges": "edges, white on black",
    "texture": "texture map, mid-grey is the usual surface, bright and dark spots depart from it",
}


def enhance(image: np.ndarray, method: str, region: Box | None = None) -> ToolResult:
    """Filter the image or a region of it.

    Args:
        image: uint8 H x W x 3.
        method: One of `METHODS`.
        region: Relative box, the whole image when None.

    Returns:
        One uint8 H x W x 3 image. `details`: method, and for `texture` the peak departure in deviations (the text says
        it in tenths) and what stands out without the map (`tool_besides`).
    """
    height, width = image.shape[:2]
    window = boxes.no_strip(boxes.to_pixels(region or (0, 0, 1000, 1000), width, height), width, height)
    patch = image[window[1] : window[3], window[0] : window[2]]
    patch = _reduced(patch)
    details: dict[str, object] = {"method": method}
    found = None
    if method == "clahe":
        out = clahe(patch)
    elif method == "edges":
        out = edges(patch)
    else:
        z = departure(patch)
        out = render(z, patch.shape[:2])
        details["peak"] = round(float(np.abs(z).max()), 2)
        found = _strongest(z)
    final = boxes.to_relative(window, width, height)
    text = f"enhance {method} of [{','.join(map(str, final))}]: {_TEXTS[method]}"
    if found is not None:
        peak = float(details["peak"])  # type: ignore[arg-type]
        place = boxes.coarse_text(found.place(z.shape, window), width, height)
        text += (
            f", strongest at {place}, {found.words}, strength {rounded(10 * peak)}, {graded(peak, GRADES, 'extreme')}"
        )
        details |= {"form": found.words, "rivalled": round(found.rivalled, 2)}
    if method == "texture":  # which holds back what shows without it
        told, more = besides(image, window)
        text, details = f"{text}; {told}", details | more
    return ToolResult(True, text, [out], (final,), details=details)


def _reduced(patch: np.ndarray) -> np.ndarray:
    """At most `MAX_SIDE` on the longer side: an observation never needs more."""
    factor = MAX_SIDE / max(patch.shape[:2])
    if factor >= 1:
        return patch
    size = tuple(max(round(v * factor), 1) for v in patch.shape[1::-1])
    return cv2.resize(patch, size, interpolation=cv2.INTER_AREA)


def clahe(patch: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of the lightness; hue stays. uint8 H x W x 3 in and out."""
    lab = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def edges(patch: np.ndarray) -> np.ndarray:
    """Canny with thresholds from the gradient's own distribution; lines widened to survive downscaling."""
    grey = cv2.GaussianBlur(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), (0, 0), 1.2)
    gx, gy = (cv2.Sobel(grey, cv2.CV_16S, *d) for d in ((1, 0), (0, 1)))
    size = np.abs(gx) + np.abs(gy)
    high = float(np.clip(np.percentile(size[::2, ::2], 92), 60, 600))  # not in paper
    lines = cv2.Canny(gx, gy, 0.4 * high, high)
    width = max(max(patch.shape[:2]) // 200, 1) + 1
    lines = cv2.dilate(lines, np.ones((width, width), np.uint8))
    return cv2.cvtColor(lines, cv2.COLOR_GRAY2RGB)


def departure(patch: np.ndarray) -> np.ndarray:
    """Signed departure from the surface in its own robust deviations, float32, about `WORK_SIDE` px a side.

    Averaging down removes most of the noise; the background is an edge-preserving (bilateral) one, so neither a
    lighting slope nor the outline of the part leaves much; what remains is averaged along six directions, each in
    units of its own local deviation, so that a grain that runs one way does not win; steps far stronger than the
    surface's are held back (they show without this map), and specks without extent are dropped as noise.
    """
    height, width = patch.shape[:2]
    factor = min(WORK_SIDE / np.sqrt(height * width), 1.0)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    small = cv2.resize(patch.astype(np.float32), size, interpolation=cv2.INTER_AREA).mean(2)  # (h, w)
    background = cv2.bilateralFilter(small, 11, RANGE, 2.5, borderType=cv2.BORDER_REFLECT)
    residual = small - background
    residual -= cv2.GaussianBlur(residual, (0, 0), 3)
    z = _directional(residual) / _held_back(small)
    for edge in (z[:3], z[-3:], z[:, :3], z[:, -3:]):  # mirrored noise averages worse than the rest
        edge *= 0.5
    return _coherent(z)


def _directional(residual: np.ndarray) -> np.ndarray:
    best = np.zeros_like(residual)
    for kernel in _kernels():
        along = cv2.filter2D(residual, -1, kernel, borderType=cv2.BORDER_REFLECT)
        along /= _deviation(np.abs(along)) + 0.12
        best = np.where(np.abs(along) > np.abs(best), along, best)
    return best


@cache
def _kernels(length: float = 1.3, width: float = 0.9, count: int = 6) -> list[np.ndarray]:
    """Short oriented averages, one per direction."""
    y, x = np.mgrid[-2:3, -2:3].astype(np.float32)
    kernels = []
    for angle in np.arange(count) * np.pi / count:
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        kernel = np.exp(-(along**2) / (2 * length**2) - across**2 / (2 * width**2))
        kernels.append((kernel / kernel.sum()).astype(np.float32))
    return kernels


def _deviation(size: np.ndarray, cells: int = 24) -> np.ndarray:
    """Local deviation: means of small cells, then their median around, so that a mark does not raise its own bar."""
    height, width = size.shape
    cell = max(min(height, width) // cells, 2)
    grid = (max(width // cell, 1), max(height // cell, 1))
    means = cv2.resize(size, grid, interpolation=cv2.INTER_AREA)
    top = float(means.max()) + 1e-6
    kernel = min(9, (min(grid) - 1) // 2 * 2 + 1)
    levels = np.clip(means * (255 / top), 0, 255).astype(np.uint8)
    local = cv2.medianBlur(levels, kernel) if kernel >= 3 else levels
    return cv2.resize(local.astype(np.float32), (width, height)) * (1.25 * top / 255)


def _held_back(plane: np.ndarray) -> np.ndarray:
    """Divisor >= 1 around steps far stronger than what is usual on this surface."""
    smooth = cv2.GaussianBlur(plane, (0, 0), 1)
    steps = cv2.dilate(np.abs(smooth - cv2.GaussianBlur(smooth, (0, 0), 2)), np.ones((5, 5), np.uint8))
    usual = max(3.5, 2 * float(np.median(steps)))
    return np.maximum(1, steps / usual) ** 2


def _coherent(z: np.ndarray, threshold: float = 1.2) -> np.ndarray:
    """Keep what is connected: every component above the threshold, weighted by its mass against the usual one."""
    parts, masses = [], []
    for sign in (1, -1):
        above = np.maximum(sign * z - threshold, 0)
        count, labels = cv2.connectedComponents((above > 0).astype(np.uint8))
        mass = np.bincount(labels.ravel(), above.ravel(), count)
        parts.append((sign * above, labels, mass))
        masses.append(mass[1:])
    every = np.concatenate(masses)
    usual = max(6.0, 2 * float(np.percentile(every, 90))) if len(every) else 6.0
    return sum(above * (mass / (mass + usual)).astype(np.float32)[labels] for above, labels, mass in parts)


@dataclass(frozen=True)
class Departure:
    """What departs most from a surface: pieces of one sign that lie close together.

    Attributes:
        box: (x, y, w, h) px of the map.
        across: px of the map, its main axis; `longer`: that axis / the other one; `solid`: share of the hull that it
            fills with the gaps between its pieces closed.
        rivalled: Mass of the next one / its own.
    """

    box: tuple[int, int, int, int]
    across: float
    longer: float
    solid: float
    rivalled: float

    @property
    def words(self) -> str:
        """`large ragged line, first`: a clean surface's strongest departure is one of many, short and without form."""
        size, length = graded(self.across, SIZES, "large"), graded(self.longer, LENGTHS, "line")
        body = graded(self.solid, SOLID, "solid")
        return f"{size} {body} {length}, {graded(self.rivalled, RIVALS, 'many')}"

    def place(self, shape: tuple[int, ...], window: tuple[int, int, int, int]) -> tuple[float, ...]:
        """Pixel window of the image of which the map of this shape shows a window."""
        x, y, w, h = self.box
        scale_x, scale_y = (window[2] - window[0]) / shape[1], (window[3] - window[1]) / shape[0]
        left, top = window[0] + x * scale_x, window[1] + y * scale_y
        return left, top, left + w * scale_x, top + h * scale_y


def _strongest(z: np.ndarray) -> Departure | None:
    """The departure with the largest mass; None where the map is flat. A faint crack is a row of pieces: those of one
    sign less than `NEAR` apart count as one."""
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * NEAR + 1, 2 * NEAR + 1))
    parts = []
    for sign in (1, -1):
        above = (sign * z > LEAST).astype(np.uint8)
        _, labels = cv2.connectedComponents(cv2.dilate(above, near))
        parts += [(float(np.abs(z[p.slice][p.image]).sum()), p) for p in regionprops(labels * above)]
    if not parts:
        return None
    mass, own = max(parts, key=lambda part: part[0])
    top, left, bottom, right = own.bbox
    others = [m for m, p in parts if not _touch(p.bbox, own.bbox)]  # its own fringe of the other sign is no rival
    closed = regionprops(cv2.morphologyEx(np.pad(own.image.astype(np.uint8), NEAR), cv2.MORPH_CLOSE, near))[0]
    long, wide = own.axis_major_length + 1, own.axis_minor_length + 1  # a pixel is not without width
    box = (left, top, right - left, bottom - top)
    return Departure(box, float(long), float(long / wide), float(closed.solidity), max(others, default=0.0) / mass)


def _touch(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two boxes (top, left, bottom, right) are less than `NEAR` apart."""
    return all(one[i] < other[i + 2] + NEAR and other[i] < one[i + 2] + NEAR for i in (0, 1))


def render(z: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Deviations as grey levels about 128, saturating smoothly; longer side `MAP_SIDE`, uint8 H x W x 3."""
    height, width = shape
    factor = MAP_SIDE / max(height, width)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    levels = 128 + 127 * np.tanh(z / GAIN)
    out = cv2.resize(levels.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(np.clip(np.rint(out), 0, 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
