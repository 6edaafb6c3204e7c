"""A zero-shot detector without training and without language: a defect is what resembles nothing else in its image.

Every patch is described by a feature vector; its score is the mean distance to
its nearest patches elsewhere in the same image. Only the decision threshold is fitted, on validation images of the
training pool, whose categories are disjoint from the test sets'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from . import images
from .baselines import verdict_episode
from .boxes import SCALE
from .episodes import Episode
from .samples import Box, Sample

Features = Callable[[np.ndarray], np.ndarray]
"""uint8 image (H, W, 3) -> patch features (h, w, D)."""

NEIGHBOURS = 0.05  # share of the other patches that count as nearest; not in paper
NEAR = 1  # patches this close are no evidence of repetition; not in paper
TOP = 0.02  # share of patches averaged into the image score; not in paper


def tower_features(model: Any, processor: Any, tiles: int = 2) -> Features:
    """Patch features of a Qwen3-VL vision tower, before its merger.

    Args:
        model, processor: As `tiny_model.load` gives them.
        tiles: The image is cut into tiles x tiles windows, so that a small view does not lose small defects.
    """
    import torch  # seconds to import

    @torch.no_grad()
    def features(image: np.ndarray) -> np.ndarray:
        bands = []
        for rows in np.array_split(np.arange(image.shape[0]), tiles):
            windows = [image[rows][:, columns] for columns in np.array_split(np.arange(image.shape[1]), tiles)]
            inputs = processor.image_processor(windows, return_tensors="pt").to(model.device)
            grid = inputs["image_grid_thw"]
            visual = model.model.visual  # the class's own forward: `VisionMemory` keeps merged patches alone
            pixels = inputs["pixel_values"].to(model.dtype)
            hidden = type(visual).forward(visual, pixels, grid_thw=grid).last_hidden_state
            parts = hidden.float().cpu().split(grid.prod(-1).tolist())
            bands.append(_side_by_side([_unblock(p.numpy(), g) for p, g in zip(parts, grid.tolist(), strict=True)]))
        width = min(band.shape[1] for band in bands)
        return np.concatenate([band[:, :width] for band in bands], axis=0)

    return features


def _unblock(tokens: np.ndarray, grid: Sequence[int], merge: int = 2) -> np.ndarray:
    """Tokens in Qwen's order (merge blocks row by row) -> (h, w, D)."""
    _, h, w = grid
    blocks = tokens.reshape(h // merge, w // merge, merge, merge, -1)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(h, w, -1)


def _side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    height = min(part.shape[0] for part in parts)
    return np.concatenate([part[:height] for part in parts], axis=1)


def anomaly_map(features: np.ndarray) -> np.ndarray:
    """Score of each patch (h, w): mean distance to its nearest patches farther than NEAR, in robust units (MAD)."""
    h, w, d = features.shape
    flat = features.reshape(-1, d).astype(np.float64)
    flat = (flat - flat.mean(0)) / (flat.std(0) + 1e-6)
    square = (flat**2).sum(1)
    distance = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * flat @ flat.T, 0) / d)
    y, x = np.divmod(np.arange(h * w), w)
    near = (np.abs(y[:, None] - y) <= NEAR) & (np.abs(x[:, None] - x) <= NEAR)
    distance[near] = np.inf
    k = max(1, min(round(NEIGHBOURS * h * w), int((~near).sum(1).min())))
    score = np.partition(distance, k - 1, axis=1)[:, :k].mean(1)
    middle = np.median(score)
    return ((score - middle) / (np.median(np.abs(score - middle)) + 1e-6)).reshape(h, w)


def image_score(scores: np.ndarray) -> float:
    """Mean of the highest TOP share of patches (at least one)."""
    top = np.sort(scores.ravel())[-max(1, round(TOP * scores.size)) :]
    return float(top.mean())


def peak_box(scores: np.ndarray) -> Box:
    """Box around the region of the highest patch that stays above half its score, relative units."""
    h, w = scores.shape
    high = (scores >= scores.max() / 2).astype(np.uint8)
    labels = cv2.connectedComponents(high, connectivity=8)[1]
    ys, xs = np.nonzero(labels == labels[np.unravel_index(scores.argmax(), scores.shape)])
    x1, x2 = xs.min() * SCALE // w, -(-(xs.max() + 1) * SCALE // w)
    y1, y2 = ys.min() * SCALE // h, -(-(ys.max() + 1) * SCALE // h)
    return int(x1), int(y1), int(x2), int(y2)


@dataclass(frozen=True)
class Detector:
    """Self-similarity with a fitted threshold. `spread`: scale that turns a score into a margin."""

    features: Features
    threshold: float
    spread: float
    name: str = "self_similarity"

    def inspect(self, samples: Sequence[Sample], *, profile: str = "") -> list[Episode]:
        """One episode per sample: margin = (score - threshold) / spread, box around the peak."""
        return [self._one(sample, profile) for sample in samples]

    def _one(self, sample: Sample, profile: str) -> Episode:
        start = time.perf_counter()
        scores = anomaly_map(self.features(images.load_image(sample.image, sample.tile)))
        margin = (image_score(scores) - self.threshold) / self.spread
        box, seconds = peak_box(scores), time.perf_counter() - start
        return verdict_episode(sample, margin > 0, self.name, margin=margin, box=box, profile=profile, seconds=seconds)


def fit(features: Features, validation: Sequence[Sample], name: str = "self_similarity") -> Detector:
    """Choose the threshold with the best balanced accuracy on validation samples of the pool (never on a test set).

    Raises:
        ValueError: the validation samples lack a class.
    """
    labels = np.array([bool(s.label) for s in validation])
    if not labels.any() or labels.all():
        raise ValueError(f"{len(validation)} validation samples of one class: a threshold needs normal and anomalous")
    maps = [anomaly_map(features(images.load_image(s.image, s.tile))) for s in validation]
    scores = np.array([image_score(m) for m in maps])
    return Detector(features, best_threshold(scores, labels), float(scores.std()) or 1.0, name)


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """Midpoint between two neighbouring scores with the highest balanced accuracy; the lowest such, for recall."""
    order = np.unique(scores)
    cuts = np.concatenate([[order[0] - 1], (order[1:] + order[:-1]) / 2, [order[-1] + 1]])
    recall = (scores[labels][None] > cuts[:, None]).mean(1)
    passed = (scores[~labels][None] <= cuts[:, None]).mean(1)
    return float(cuts[np.argmax(np.round(recall + passed, 12))])
