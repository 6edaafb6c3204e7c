"""How well the model being pre-trained sees, on the scenes it is never trained on: what the model card says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from .base_data import IGNORED, VIEWS
from .base_talk import NAMES
from .train_data import IGNORED as UNLEARNT

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
    for first in range(c.scenes - c.held_out, c.scenes - c.held_out + scenes, 8):
        rows = np.arange(first * VIEWS, min(first + 8, c.scenes) * VIEWS)
        pixels, targets, grid = trainer.views.take(rows, np.zeros((len(rows), 2), bool))
        logits = trainer.labels(pixels, grid)
        pooled, kind = by_mark(logits, targets)
        named += (pooled.argmax(-1) == kind).tolist()
        for k, view in enumerate(rows % VIEWS):
            kind = "global" if view == 0 else "map" if view == VIEWS - 1 else "window"
            found[kind].append((logits[k, :, -1], targets[k, :, -1]))
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
    """Three questions on every view."""
    rows = np.repeat(rows, 3)
    pairs, _ = trainer.questions(rows, np.random.default_rng(rows))
    other, kinds = rows.copy(), trainer.views.grids[rows].numpy()
    for kind in np.unique(kinds):  # of one shape: questions keep their length
        same = rows[kinds == kind]
        other[kinds == kind] = np.roll(same, 3 * min(VIEWS, len(same) // 6))  # a view alone stays itself
    ids, labels = trainer.tokens(pairs, [[r] for r in rows])
    first = (labels != UNLEARNT).int().argmax(1)
    line = torch.arange(len(rows), device=trainer.device)
    truth, hits = labels[line, first], []
    for pictures in (rows, other):
        hidden = trainer.forward(ids, [[int(r)] for r in pictures])[line, first - 1]
        hits.append(trainer.model.lm_head(hidden).argmax(-1) == truth)
    for k, (question, _) in enumerate(pairs):
        name = " ".join([word for word in question.split("[")[0].split() if not word.isdigit()][:3])
        right.setdefault(name, []).append((bool(hits[0][k]), bool(hits[1][k])))


def _auroc(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    scores, truth = (torch.cat(column).cpu().numpy() for column in zip(*pairs, strict=True))
    known = truth != IGNORED
    return round(float(roc_auc_score(truth[known], scores[known])), 3)
