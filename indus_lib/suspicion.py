"""How suspicious a photograph looks at first sight: what a terse first thought says before it asks (miniature only).

A mark that shows at once is told by the base's tower better than by any tool's words: on products it was not fitted on,
AUROC 0.83 against 0.68 (docs/log.md). An 8B sees that by itself. The miniature's language model has too few verdicts to
learn it from, and follows the tools' words alone. So a linear read-out of the tower's patches, fitted on the boxes of
the corpus, names one of the paper's three levels (section 3) for each photograph. Each is judged by a read-out of other
products, so that in training it is as often mistaken as an agent will be on new ones. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from . import boxes, corpus, images, protocol, tiny_model
from .corpus import Record
from .loop import shown
from .samples import Box

FOLDS = 5  # not in paper, like all below
COVERED = 0.15  # share of a patch from which a box marks it; below, it is neither marked nor clean
REGULAR = 0.01  # inverse strength of the penalty
USUAL = (0.6, 0.9)  # quantiles of the normal photographs' scores between the levels
UNKNOWN = protocol.SUSPICIONS[1]  # where there is nothing to fit on
AT_ONCE = 32  # photographs


def of_corpus(folder: Path | str, base: Path | str, max_side: int, share: float = 1.0) -> dict[str, str]:
    """Level of each record, by id: of the first `share` of the training part, on which it is fitted, and of the
    validation part. `folder`: where `corpus.jsonl` lies; `base`: model whose tower looks; `max_side`: as the agent is
    shown them."""
    whole, others = corpus.read(folder, "train"), corpus.read(folder, "val")
    known = corpus.read(folder, "train", share)
    photographs = tuple((s.image, s.tile) for s in (corpus.to_sample(r, folder) for r in (*whole, *others)))
    patches = look(base, photographs, max_side)
    records = [*known, *others]
    found = levels([*patches[: len(known)], *patches[len(whole) :]], records, len(known))
    return {record["id"]: level for record, level in zip(records, found, strict=True)}


def levels(patches: Sequence[np.ndarray], records: Sequence[Record], fitted: int) -> list[str]:
    """One of `protocol.SUSPICIONS` for each record; the first `fitted` are what is fitted on.

    patches: (h, w, D) of each photograph, as `look` gives them.
    """
    known, others = records[:fitted], np.arange(fitted, len(records))
    groups = [record["category"] for record in known]
    folds = min(FOLDS, len(set(groups)))
    marks = [_marked(record, *p.shape[:2]) for record, p in zip(known, patches, strict=False)]
    scores = np.full(len(records), np.nan)
    if folds > 1:
        for use, judge in GroupKFold(folds).split(groups, groups=groups):
            _judge(scores, patches, marks, use, judge)
    _judge(scores, patches, marks, np.arange(fitted), others)
    usual = [s for s, record in zip(scores, known, strict=False) if not record["label"] and np.isfinite(s)]
    if not usual:
        return [UNKNOWN] * len(records)
    found = np.digitize(scores, np.quantile(usual, USUAL))
    return [protocol.SUSPICIONS[k] if np.isfinite(s) else UNKNOWN for k, s in zip(found, scores, strict=True)]


def _judge(
    scores: np.ndarray, patches: Sequence[np.ndarray], marks: Sequence[np.ndarray], use: np.ndarray, judge: np.ndarray
) -> None:
    """Fill in the scores of the photographs `judge` by a read-out fitted on those of `use`: the most suspicious patch;
    they stay as they are where those hold no marked patch, or no other."""
    mark = np.concatenate([marks[k].ravel() for k in use]) if len(use) else np.zeros(0)
    clean, marked = mark == 0, mark >= COVERED
    if not len(judge) or not clean.any() or not marked.any():
        return
    seen = np.concatenate([_flat(patches[k]) for k in use])
    read = _read_out().fit(seen[clean | marked], marked[clean | marked])
    scores[judge] = [read.decision_function(_flat(patches[k])).max() for k in judge]


def _read_out() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=REGULAR, class_weight="balanced", max_iter=1000))


def _flat(patches: np.ndarray) -> np.ndarray:
    return patches.reshape(-1, patches.shape[-1]).astype(np.float32)


def _marked(record: Record, high: int, wide: int) -> np.ndarray:
    """(h, w) share of each patch that a box covers."""
    share = np.zeros((high, wide))
    for x1, y1, x2, y2 in record["boxes"]:
        rows, columns = (
            np.diff(np.clip(np.linspace(0, boxes.SCALE, n + 1), low, end)) * n / boxes.SCALE
            for n, low, end in ((high, y1, y2), (wide, x1, x2))
        )
        share = np.maximum(share, np.outer(rows, columns))
    return share


@lru_cache(maxsize=1)  # runs on parts of a corpus share it
@torch.no_grad()
def look(base: Path | str, photographs: tuple[tuple[Path, Box | None], ...], max_side: int) -> list[np.ndarray]:
    """Merged patches (h, w, D), float16, of photographs (path, tile) as the tower at `base` is shown them."""
    model, processor = tiny_model.load(base)
    merge, found = processor.image_processor.merge_size, []
    for i in range(0, len(photographs), AT_ONCE):
        pictures = [shown(images.load_image(*one), max_side) for one in photographs[i : i + AT_ONCE]]
        inputs = processor.image_processor(images=pictures, return_tensors="pt")
        grid = inputs["image_grid_thw"]
        seen = model.model.visual(inputs["pixel_values"].to(model.device), grid_thw=grid.to(model.device)).pooler_output
        parts = seen.split((grid.prod(-1) // merge**2).tolist())
        found += [
            part.view(h // merge, w // merge, -1).half().cpu().numpy()
            for part, (_, h, w) in zip(parts, grid.tolist(), strict=True)
        ]
    return found
