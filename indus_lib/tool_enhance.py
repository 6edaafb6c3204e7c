"""T_enhance: deterministic filters against reflections and low contrast (paper section 2).

`texture` shows what departs from the smooth surface, in units of the surface's own robust deviation: a clean
surface stays flat mid-grey whatever its noise, a faint stain of a few grey levels stands out, also after the map
has been reduced to a small view.
"""

from __future__ import annotations

import cv2
import numpy as np

from . import boxes
from .samples import Box
from .tool_result import ToolResult

METHODS = ("clahe", "edges", "texture")
MAP_SIDE = 384  # longer side of the texture map in px; not in paper
WORK_SIDE = 96  # px at which faint marks are sought: averaging down is the denoiser; not in paper

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
        One uint8 H x W x 3 image. `details`: method, and for `texture` the peak departure in deviations.
    """
    height, width = image.shape[:2]
    window = boxes.to_pixels(region or (0, 0, 1000, 1000), width, height)
    patch = image[window[1] : window[3], window[0] : window[2]]
    details: dict[str, object] = {"method": method}
    if method == "clahe":
        out = clahe(patch)
    elif method == "edges":
        out = edges(patch)
    else:
        z = departure(patch)
        out = render(z, patch.shape[:2])
        details["peak"] = round(float(np.abs(z).max()), 2)
    final = boxes.to_relative(window, width, height)
    text = f"enhance {method} of [{','.join(map(str, final))}]: {_TEXTS[method]}"
    return ToolResult(True, text, [out], (final,), details=details)


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
    """Signed departure from the smooth surface in robust deviations, float32, longer side at most `WORK_SIDE`."""
    height, width = patch.shape[:2]
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)
    factor = min(WORK_SIDE / max(height, width), 1.0)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    small = cv2.resize(grey.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), 1.5)
    surface = _surface(smooth)
    residual = smooth - surface
    scale = 1.4826 * float(np.median(np.abs(residual - np.median(residual)))) + 0.15
    return residual / scale


def _surface(plane: np.ndarray, rounds: int = 4) -> np.ndarray:
    """Robust cubic surface: lighting and curvature of the part, without following a mark."""
    height, width = plane.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([x**i * y**j for i in range(4) for j in range(4 - i)], -1).reshape(-1, 10)
    values, weight = plane.ravel().astype(np.float64), np.ones(plane.size)
    fit = values
    for _ in range(rounds):
        gram = basis.T @ (basis * weight[:, None]) + 1e-6 * np.eye(10)
        fit = basis @ np.linalg.solve(gram, basis.T @ (weight * values))
        error = np.abs(values - fit)
        scale = 1.4826 * np.median(error) + 0.1
        weight = 1 / (1 + (error / (2 * scale)) ** 2) ** 2
    return fit.reshape(height, width).astype(np.float32)


def render(z: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Deviations as grey levels about 128, saturating smoothly; longer side `MAP_SIDE`, uint8 H x W x 3."""
    height, width = shape
    factor = MAP_SIDE / max(height, width)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    levels = 128 + 127 * np.tanh(z / 8)  # not in paper
    out = cv2.resize(levels.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(np.clip(np.rint(out), 0, 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
