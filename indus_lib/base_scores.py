"""How well the model being pre-trained sees, on the scenes it is never trained on: what the model card says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from .base_data import IGNORED, VIEWS
from .base_language import Turn
from .base_talk import NAMES, YES_OR_NO
from .train_data import IGNORED as UNLEARNT

ASKED = 3  # questions on each view

if TYPE_CHECKING:
    from .base_training import BaseTrainer


@torch.no_grad()
def scores(trainer: BaseTrainer, scenes: int | None = None) -> dict[str, float]:
    """On held-out scenes: AUROC of `any mark in this patch` per kind of view, share of the marks whose kind the patches
    name, and how often the first token of an answer is right, per question, with the right picture and with another one
    (what the words alone give away)."""
    c = trainer.config
    scenes = min(scenes or c.held_out, c.held_out)
    trainer.model.eval()
    found: dict[str, list[Any]] = {"global": [], "window": [], "map": []}
    named: list[bool] = []
    right: dict[str, list[tuple[bool, bool]]] = {}
    for first in range(0, scenes, 8):
        rows = np.arange(first * VIEWS, min(first + 8, scenes) * VIEWS)
        pixels, targets, grid = trainer.views.take(rows, np.zeros((len(rows), 2), bool))
        logits = trainer.labels(pixels, grid)
        pooled, kind = by_mark(logits, targets)
        named += (pooled.argmax(-1) == kind).tolist()
        for k, view in enumerate(rows % VIEWS):
            group = "global" if view == 0 else "map" if view == VIEWS - 1 else "window"
            found[group].append((logits[k, :, -1], targets[k, :, -1]))
        if trainer.talks:
            _judge(trainer, rows, right)
    trainer.model.train()
    result = {f"auroc_{k}": _auroc(v) for k, v in found.items()} | {"named": round(float(np.mean(named)), 3)}
    for question, hits in sorted(right.items()):
        with_picture, without = np.array(hits).mean(0)
        result |= {question: round(float(with_picture), 3), f"{question}, other picture": round(float(without), 3)}
    return result


def by_mark(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each kind in each view the mean logits (M, kinds) of its patches, taken together, and the kind (M,).

    logits, targets: (B, patches, classes).
    """
    inside = (targets[..., : len(NAMES)] > 0).float()
    size = inside.sum(1)  # (B, kinds)
    view, kind = (size > 0).nonzero(as_tuple=True)
    pooled = torch.einsum("bpk,bpc->bkc", inside, logits[..., : len(NAMES)])
    return pooled[view, kind] / size[view, kind, None], kind


def _judge(trainer: BaseTrainer, rows: np.ndarray, right: dict[str, Any]) -> None:
    """Some questions on every view, as it is and with the picture of another one."""
    rows, talks = np.repeat(rows, ASKED), trainer.conversations
    rng = np.random.default_rng(rows)
    pairs = [talks.question(int(row), rng, False) for row in rows]
    other = rows.copy()
    for kind in np.unique(talks.grids[rows]):  # of one shape: questions keep their length
        same = rows[talks.grids[rows] == kind]
        other[talks.grids[rows] == kind] = np.roll(same, ASKED * min(VIEWS, len(same) // (2 * ASKED)))
    hits = []
    for pictures in (rows, other):
        batch = talks.batch([[Turn((int(row),), pair)] for row, pair in zip(pictures, pairs, strict=True)])
        batch = batch.to(trainer.device)
        first = (batch.labels != UNLEARNT).int().argmax(1)
        line = torch.arange(len(rows), device=trainer.device)
        with trainer.mixed():
            said = trainer.model.lm_head(trainer.forward(batch)[line, first - 1]).argmax(-1)
        hits.append((said == batch.labels[line, first]).tolist())
    for k, (question, _) in enumerate(pairs):
        asked = question.removesuffix(YES_OR_NO).rpartition(". ")[2].split("[")[0]
        words = [word for word in asked.split() if not word.isdigit() and word not in NAMES]
        name = " ".join(words[: 2 if words[:2] == ["Is", "this"] else 3])
        right.setdefault(name, []).append((hits[0][k], hits[1][k]))


def _auroc(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    scores, truth = (torch.cat(column).cpu().numpy() for column in zip(*pairs, strict=True))
    known = truth != IGNORED
    return round(float(roc_auc_score(truth[known], scores[known])), 3)
