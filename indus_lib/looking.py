"""What a photograph asks for: the first lesson of a miniature's tower (not in the paper; nor for the 8B).

The base's tower was made to find marks, not to tell an even sheet from a plate with a row on it, and a language model
that begins anew learns little of that through it (docs/log.md). So its last blocks first learn, with a head that is
thrown away, what the first turn of each conversation of the corpus decides from the photograph alone.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from .train_data import Encoded

BLOCKS = 2  # of the tower, from its end; not in paper, like all below
BATCH, WARMUP = 32, 50  # photographs, steps
DROPPED = 0.3  # share of the patches that a step leaves out, so that no place is learnt by heart
RATE, HEAD_RATE, WEIGHT_DECAY = 3e-4, 1e-3, 0.05
QUERIES = 4
SHARES, TOWER = "looked.json", "tower.safetensors"  # what the lesson leaves in a work folder


class Head(nn.Module):
    """Merged patches (B, N, D) -> logits (B, K): their mean and a few weighted means, read linearly."""

    def __init__(self, width: int, choices: int) -> None:
        super().__init__()
        self.norm, self.query = nn.LayerNorm(width), nn.Linear(width, QUERIES)
        self.read = nn.Linear(width * (QUERIES + 1), choices)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """See the class."""
        seen = self.norm(patches)
        weighted = self.query(seen).softmax(1).transpose(1, 2) @ seen
        return self.read(torch.cat([seen.mean(1), weighted.flatten(1)], 1))


def once(visual: Any, corpus: Sequence[Encoded], work: Path, **options: Any) -> list[float]:
    """`lesson`, or what it left in `work`: a run that is resumed takes up the tower that has had it."""
    if (work / TOWER).is_file():
        visual.load_state_dict(load_file(work / TOWER))
        return json.loads((work / SHARES).read_text())
    shares = lesson(visual, corpus, **options)
    (work / SHARES).write_text(json.dumps(shares))
    part = work / f"{TOWER}.part"
    save_file({name: weight.contiguous() for name, weight in visual.state_dict().items()}, part)
    os.replace(part, work / TOWER)
    return shares


def lesson(visual: Any, corpus: Sequence[Encoded], *, epochs: int, seed: int, progress: bool) -> list[float]:
    """Train the last blocks of a tower in place; all of it is frozen behind.

    Args:
        visual: Qwen3-VL's vision tower.
        corpus: Whole conversations; the first picture of each is the photograph.
        epochs: Over the photographs.
        seed: Of the order and of the patches left out; the head is drawn with torch's present random state.
        progress: Whether to show a bar.

    Returns:
        Share of the photographs whose decision was told, at each step.
    """
    generator = np.random.default_rng(seed)
    decided = [decisions(one) for one in corpus]
    choices = sorted(set(decided))
    targets = torch.tensor([choices.index(d) for d in decided])
    batches = [rows for _ in range(epochs) for rows in _batches(corpus, generator)]
    learning = [p for part in (*visual.blocks[-BLOCKS:], visual.merger) for p in part.parameters()]
    visual.requires_grad_(False)
    for weight in learning:
        weight.requires_grad_(True)
    head = Head(learning[-1].numel(), len(choices)).to(learning[-1].device)
    groups = [{"params": learning, "lr": RATE}, {"params": head.parameters(), "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP, len(batches) // 2), len(batches))
    shares = []
    bar = tqdm(batches, desc="SFT: looking", disable=not progress, unit="step")
    for rows in bar:
        logits = head(_patches(visual, [corpus[k] for k in rows], generator))
        right = targets[rows].to(logits.device)
        optimizer.zero_grad()
        cross_entropy(logits, right).backward()
        optimizer.step()
        schedule.step()
        shares.append(float((logits.argmax(1) == right).float().mean()))
        bar.set_postfix(told=f"{shares[-1]:.2f}", refresh=False)
    visual.requires_grad_(False)
    return shares


def decisions(one: Encoded) -> tuple[int, ...]:
    """Tokens of what the first turn decides: to ask or to answer, and which tools."""
    first = slice(one.first_turn)
    return tuple(one.input_ids[first][one.decision[first] == 1].tolist())


def _patches(visual: Any, rows: Sequence[Encoded], generator: np.random.Generator) -> torch.Tensor:
    """Merged patches (B, N, D) of photographs of one shape, some left out."""
    shape = rows[0].image_grid_thw[:1]
    count, device = int(shape.prod()), next(visual.parameters()).device
    pixels = torch.cat([one.pixel_values[:count] for one in rows]).float()
    seen = visual(pixels.to(device), grid_thw=shape.repeat(len(rows), 1).to(device)).pooler_output
    seen = seen.view(len(rows), -1, seen.shape[-1])
    kept = torch.from_numpy(generator.random(seen.shape[1]) >= DROPPED).to(device)
    return seen[:, kept] if kept.any() else seen


def _batches(corpus: Sequence[Encoded], generator: np.random.Generator) -> Iterator[list[int]]:
    """One epoch: photographs of one shape together, the batches in a random order."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for k, one in enumerate(corpus):
        by_shape[tuple(one.image_grid_thw[0].tolist())].append(k)
    found = []
    for rows in by_shape.values():
        order = generator.permutation(rows).tolist()
        found += [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    yield from (found[k] for k in generator.permutation(len(found)))
