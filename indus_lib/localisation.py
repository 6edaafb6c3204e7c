"""Where and what: IoU, pointing and type of right alarms; pixel AUROC and AUPRO of boxes or maps where masks exist.

Only true positives have a box to score: a missed defect already costs recall. The share answered stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from . import images, taxonomy
from .boxes import best_iou, to_pixels
from .episodes import Episode
from .metrics import RESAMPLES
from .samples import Sample

SIDE = 128  # longer side at which pixel metrics are computed; not in paper


@dataclass(frozen=True)
class Localisation:
    """Quality of the boxes and types of true positives; fractions, None without true positives.

    Attributes:
        n: True positives with a known box; missing: how many of them named none (scored 0).
        overlaps: (n,) IoU of each with the best true box or their hull; `iou` is their mean.
        images: (n,) their sample ids; one may occur under several seeds.
        pointing: Share whose box centre lies in a true box.
        n_typed: True positives with a known type ("anomaly" alone is none).
        exact, parent: Share with the true node; with the true node or its sibling, parent or child.
    """

    n: int
    missing: int
    overlaps: tuple[float, ...]
    images: tuple[str, ...]
    pointing: float | None
    n_typed: int
    exact: float | None
    parent: float | None

    @property
    def iou(self) -> float | None:
        """Mean of the `overlaps`."""
        return _mean(self.overlaps)

    @property
    def iou_interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of `iou` over images, all seeds of one together; None for less than two."""
        names = list(dict.fromkeys(self.images))
        if len(names) < 2:
            return None
        at = [names.index(name) for name in self.images]
        pairs = np.bincount(at, self.overlaps), np.bincount(at)
        drawn = bootstrap(
            pairs, lambda sums, counts, axis=-1: sums.sum(axis) / counts.sum(axis), paired=True, vectorized=True,
            n_resamples=RESAMPLES, method="percentile", rng=len(names),
        )  # fmt: skip
        return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def localisation(episodes: Sequence[Episode], samples: Mapping[str, Sample]) -> Localisation:
    """Score the true positives of `episodes`; `samples` by id. Raises KeyError naming a sample that is not given."""
    hits = [(e, _sample(e, samples)) for e in episodes if e.label and e.correct]
    boxed = [(e.verdict.box, s.boxes) for e, s in hits if s.boxes]
    typed = [(node_of_text(e.verdict.type), s.node) for e, s in hits if s.node not in ("", taxonomy.load().root)]
    return Localisation(
        n=len(boxed),
        missing=sum(box is None for box, _ in boxed),
        overlaps=tuple(best_iou(box, truths) if box else 0.0 for box, truths in boxed),
        images=tuple(s.id for _, s in hits if s.boxes),
        pointing=_mean([float(box is not None and points_at(box, truths)) for box, truths in boxed]),
        n_typed=len(typed),
        exact=_mean([float(said == true) for said, true in typed]),
        parent=_mean([float(same_family(said, true)) for said, true in typed]),
    )


def _sample(episode: Episode, samples: Mapping[str, Sample]) -> Sample:
    if episode.sample_id not in samples:
        raise KeyError(f"no sample {episode.sample_id!r} given: pass the samples that the episodes were made from")
    return samples[episode.sample_id]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def points_at(box: Sequence[float], truths: Sequence[Sequence[float]]) -> bool:
    """Whether the centre of `box` lies in one of `truths` (pointing game)."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in truths)


def node_of_text(text: str) -> str:
    """Taxonomy node that an answered type names, "" when none."""
    tree = taxonomy.load()
    return text if text in tree.nodes() else (tree.of_text(text) or "")


def same_family(said: str, true: str) -> bool:
    """Equal, parent and child, or children of one parent other than the root."""
    tree = taxonomy.load()
    if not said or said not in tree.nodes() or true not in tree.nodes():
        return False
    if said == true:
        return True
    above, below = tree.parent(said), tree.parent(true)
    near = above in (true, below) or below == said
    return near and tree.root not in (said, true) and not (above == below == tree.root)


# --- pixels ------------------------------------------------------------------------------------------------------


def box_map(episode: Episode, shape: tuple[int, int]) -> np.ndarray:
    """The answer as an anomaly map (H, W): P(Yes) of the margin inside the box, 0 elsewhere (1 without a margin)."""
    found = np.zeros(shape, dtype=np.float32)
    box = episode.verdict.box if episode.verdict else None
    if box is not None:
        x1, y1, x2, y2 = to_pixels(box, shape[1], shape[0])
        found[y1:y2, x1:x2] = 1.0 if episode.margin is None else 1 / (1 + np.exp(-np.clip(episode.margin, -50, 50)))
    return found


@lru_cache(maxsize=4096)  # every run asks for the same masks; 16 KB each
def mask_of(sample: Sample, side: int = SIDE) -> np.ndarray | None:
    """Ground truth (H, W) bool, the longer side at most `side`; all False for a normal sample, None when unknown."""
    if sample.label and sample.mask is None:
        return None
    width, height = images.image_size(sample.image)
    if sample.tile is not None:
        width, height = sample.tile[2] - sample.tile[0], sample.tile[3] - sample.tile[1]
    scale = min(1.0, side / max(width, height))
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    if not sample.label:
        return np.zeros(shape, dtype=bool)
    full = images.load_mask(sample.mask, (height, width), sample.tile)
    return cv2.resize(full.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA) > 0


def pixel_auroc(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float | None:
    """AUROC over all pixels of all images; None when one class is empty. Raises ValueError for unequal shapes."""
    _same_shapes(maps, masks)
    counted = [_tally(scores, mask) for scores, mask in zip(maps, masks, strict=True)]
    normal, marked = (np.concatenate([c[i] for c in counted]) if counted else np.zeros(0) for i in (1, 2))
    if not normal.any() or not marked.any():
        return None
    values = np.concatenate([c[0] for c in counted])
    labels = np.repeat([0, 1], len(values))
    return float(roc_auc_score(labels, np.tile(values, 2), sample_weight=np.concatenate([normal, marked])))


def _tally(scores: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distinct scores, normal pixels with each, anomalous pixels with each): a box map has two, not 10,000."""
    values, at = np.unique(scores, return_inverse=True)
    marked = np.bincount(at.ravel(), mask.ravel(), len(values))
    return values, np.bincount(at.ravel(), minlength=len(values)) - marked, marked


def aupro(
    maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], limit: float = 0.3, steps: int = 300
) -> float | None:
    """Area under per-region overlap against the false-positive rate up to `limit` (0.3 as in MVTec-AD), over `limit`.

    Each connected region counts the same however small. None without a region or without normal pixels.
    """
    _same_shapes(maps, masks)
    regions, normal = _regions(maps, masks)
    if not regions or not normal.size:
        return None
    at = np.round(np.linspace(1 - limit, 1, steps) * (len(normal) - 1)).astype(int)  # quantiles of a sorted array
    thresholds = np.unique(normal[at])[::-1]
    alarm = 1 - np.searchsorted(normal, thresholds, side="left") / normal.size  # share of normal pixels >= threshold
    overlap = np.mean([1 - np.searchsorted(r, thresholds, side="left") / r.size for r in regions], axis=0)
    above = np.mean([float((r > normal[-1]).mean()) for r in regions])  # overlap before the first false alarm
    rate, value = np.concatenate([[0.0], alarm]), np.concatenate([[above], overlap])
    rate, value = _close_at(rate, value, limit)
    return float(np.trapezoid(value, rate) / limit)


def _close_at(rate: np.ndarray, value: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut the curve at `limit`, or hold it level to there when ties end it earlier (a chance line up to (1, 1))."""
    if rate[-1] < limit:
        rate, value = np.append(rate, 1.0), np.append(value, 1.0)
    keep = rate < limit
    return np.append(rate[keep], limit), np.append(value[keep], np.interp(limit, rate, value))


def _regions(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Sorted scores of each connected region, and of all normal pixels."""
    regions, normal = [], []
    for scores, mask in zip(maps, masks, strict=True):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        regions += [np.sort(scores[labels == i]) for i in range(1, count)]
        normal.append(scores[labels == 0])
    return regions, np.sort(np.concatenate(normal)) if normal else np.zeros(0)


def _same_shapes(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps for {len(masks)} masks")
    for i, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        if scores.shape != mask.shape:
            raise ValueError(f"map {i} is {scores.shape}, its mask {mask.shape}: resize the map to the mask")


def pixel_scores(episodes: Sequence[Episode], samples: Mapping[str, Sample]) -> tuple[float | None, float | None]:
    """(pixel AUROC, AUPRO) of the answered boxes, over samples whose ground truth is known."""
    pairs = [(e, mask_of(_sample(e, samples))) for e in episodes]
    known = [(e, mask) for e, mask in pairs if mask is not None]
    maps, masks = [box_map(e, mask.shape) for e, mask in known], [mask for _, mask in known]
    return pixel_auroc(maps, masks), aupro(maps, masks)
