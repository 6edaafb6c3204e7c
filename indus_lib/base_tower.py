"""What the miniature's vision tower is pre-trained for: patch labels; and how it is handed to a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from . import base_scores
from .base_data import CLASSES, IGNORED
from .base_talk import NAMES, NOTHING

if TYPE_CHECKING:
    from .processing import IndusProcessor

FEATURE_SIZE = 0.1  # deviation of what the tower hands to the language model; a text embedding starts at 0.07
WHITENING = 0.1  # share of the mean variance added to every direction's before they are made alike
POSITIVE_WEIGHT = 3.0  # marks cover few patches


def dense_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss of patch labels (B, patches, classes)."""
    weight = torch.full((len(CLASSES),), POSITIVE_WEIGHT, device=logits.device)
    known = (targets != IGNORED).float()
    each = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), pos_weight=weight, reduction="none")
    each = (each * known).sum((0, 1)) / known.sum((0, 1)).clamp(min=1)
    # the kinds are rare: their mean alone would vanish beside `any`
    return each[:-1].mean() * 4 + each[-1] + 2 * naming_loss(logits, targets)


def naming_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Which of all kinds the patches of one mark show, taken together; logits, targets (B, patches, classes).

    Patch by patch, "some mark" is learnt and its kind is not: after 2,200 steps a crack and a drilled hole were told
    apart no better than by chance (docs/log.md).
    """
    pooled, kind = base_scores.by_mark(logits, targets)
    return F.cross_entropy(pooled, kind) if len(kind) else logits.sum() * 0


@torch.no_grad()
def settle(visual: Any, heads: Sequence[nn.Linear], merged: torch.Tensor) -> None:
    """Bring a tower's output to zero mean and the size of a text embedding, its directions to similar weight, and
    silence the deepstack layers, which the patch labels never trained; merged (N, D): what it makes of some views.

    Three quarters of the output's variance say "some mark here"; what kind it is hides in the rest. Exact: the last
    linear layer and the heads change together. Without this a language model learns nothing from pictures.
    """
    mean = merged.mean(0)
    values, axes = torch.linalg.eigh((merged - mean).T @ (merged - mean) / len(merged))
    scale = FEATURE_SIZE * (values.clamp(min=0) + WHITENING * values.mean()).rsqrt()
    there, back = axes * scale @ axes.T, axes / scale @ axes.T  # (D, D), symmetric
    for head in heads:
        head.bias += head.weight @ mean
        head.weight.copy_(head.weight @ back)
    last = visual.merger.linear_fc2
    last.bias.copy_(there @ (last.bias - mean))
    last.weight.copy_(there @ last.weight)
    for merger in visual.deepstack_merger_list:
        nn.init.zeros_(merger.linear_fc2.weight)
        nn.init.zeros_(merger.linear_fc2.bias)


@torch.no_grad()
def name_kinds(model: Any, processor: IndusProcessor, weight: torch.Tensor) -> None:
    """The word for a kind begins where the tower puts that kind, so that to name a mark is to copy a patch; weight
    (classes, D): of the head of the patch labels."""
    embeddings = model.get_input_embeddings().weight
    rows = weight[: len(NAMES)] - weight[: len(NAMES)].mean(0)
    words = dict(zip(NAMES, rows, strict=True)) | {NOTHING: -weight[CLASSES.index("any")]}
    for word, row in words.items():
        for text in (word, f" {word}"):
            ids = processor.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) == 1:
                embeddings[ids[0]] = row / row.norm()
