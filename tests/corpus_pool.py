"""A small pool of generated products in memory-cheap PNG files, for the teacher and corpus tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from indus_lib.images import boxes_of_mask, save_png
from indus_lib.samples import Sample

DEFECTS = {"stain": "stain", "scratch": "scratch", "pit": "pit"}


def picture(seed: int, defect: str = "", side: int = 160, contrast: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """A grey plate on a dark ground, with a dark mark when `defect`: image uint8 (H, W, 3) and mask (H, W) bool."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side), 40.0) + rng.normal(0, 2, (side, side))
    image[20:-20, 15:-15] = 140 + rng.normal(0, 3, (side - 40, side - 30))
    mask = np.zeros((side, side), np.uint8)
    x, y = (int(v) for v in rng.integers(45, side - 45, 2))
    if defect == "scratch":
        cv2.line(mask, (x - 15, y - 10), (x + 15, y + 10), 1, 2)
    elif defect:
        cv2.circle(mask, (x, y), 9 if defect == "stain" else 4, 1, -1)
    image -= contrast * mask
    return np.clip(image, 0, 255).astype(np.uint8)[..., None].repeat(3, 2), mask > 0


def make_pool(
    folder: Path, n: int = 24, categories: tuple[str, ...] = ("plate", "lid"), contrast: int = 70
) -> list[Sample]:
    """`n` samples, half anomalous, categories and defects in turn."""
    samples = []
    for i in range(n):
        category, label = categories[i % len(categories)], (i // len(categories)) % 2 == 1
        defect = list(DEFECTS)[i % 3] if label else ""
        image, mask = picture(i, defect, contrast=contrast)
        file = save_png(folder / category / f"{i:03d}.png", image)
        mask_file = save_png(folder / category / f"{i:03d}_mask.png", mask) if label else None
        samples.append(
            Sample(f"{category}/train/{i:03d}", file, "custom", category, label, "train", view=f"C{i % 2}",
                   defect=defect, node=DEFECTS.get(defect, ""), boxes=boxes_of_mask(mask), mask=mask_file)
        )  # fmt: skip
    return samples
