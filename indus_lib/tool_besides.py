"""What stands out besides what a tool was asked for: an inspector who looks for a faint stain does not miss a crack.

The texture map holds back all that shows without it, and a row's reading is of the row alone. Of the pool's training
products the clearest outlier tells plain marks with an AUROC of 0.85 on glossy faces and 0.81 beside rows, where
nothing else in the two tools' words does (docs/log.md). Ours, not in the paper.
"""

from __future__ import annotations

import numpy as np

from . import boxes
from .tool_outliers import candidates
from .tool_result import Window
from .tool_shape import blob_shape

LEAST = 5.0  # local deviations; below, nothing stands out; not in paper


def besides(image: np.ndarray, window: Window, without: Window | None = None) -> tuple[str, dict[str, object]]:
    """What stands out most in a pixel window of an image, `without` what was asked for.

    Args:
        image: uint8 H x W x 3.
        window: (x1, y1, x2, y2) px.
        without: A window in which nothing counts.

    Returns:
        Words for the observation, and the details score (0 for nothing) and box (relative, or None).
    """
    found = candidates(image, window, keep=1, without=without)
    if not found or found[0].score < LEAST:
        return "nothing else stands out", {"besides": 0.0, "besides_box": None}
    best, (height, width) = found[0], image.shape[:2]
    shape = blob_shape(image, best.window)
    words, place = shape.words if shape else "a mark", boxes.coarse_text(best.window, width, height)
    text = f"besides {words} at {place}, {best.clarity}"
    return text, {"besides": round(best.score, 2), "besides_box": list(boxes.to_relative(best.window, width, height))}
