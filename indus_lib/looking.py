"""What a picture tells: the first lesson of a miniature's tower (not in the paper; the 8B needs none).

The base's tower was made to find marks, not to tell an even sheet from a plate with a row on it, and a language model
that begins anew learns little of what it sees through it (docs/log.md). So its last blocks first learn, with a head
that is thrown away, from each photograph of the corpus what the first turn decides, and from each picture, photograph
or tool's, the verdict. The verdict is read from the mean of the patches: then every patch carries it, and a language
model finds it wherever it looks.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
BATCH, WARMUP = 32, 50  # pictures, steps
DROPPED = 0.3  # share of the patches that a step leaves out, so that no place is learnt by heart
RATE, HEAD_RATE, WEIGHT_DECAY = 3e-4, 1e-3, 0.05
QUERIES = 4
UNTOLD = -100  # no target
SHARES, TOWER = "looked.json", "tower.safetensors"  # what the lesson leaves in a work folder


@dataclass(frozen=True)
class Picture:
    """One picture of a conversation.

    Attributes:
        of: Index of the conversation.
        shape: (frames, rows, columns) of its patches.
        first, end: Its rows of the conversation's `pixel_values`.
        targets: Index of the first turn's decision, of the verdict; `UNTOLD` where a tool's picture tells nothing.
    """

    of: int
    shape: tuple[int, int, int]
    first: int
    end: int
    targets: tuple[int, int]


class Head(nn.Module):
    """Merged patches (B, N, D) -> logits of the first turn's decision (B, K), read linearly from their mean and a few
    weighted means, and of the verdict (B, V), from the mean alone."""

    def __init__(self, width: int, choices: int, verdicts: int) -> None:
        super().__init__()
        self.norm, self.query = nn.LayerNorm(width), nn.Linear(width, QUERIES)
        self.read, self.judge = nn.Linear(width * (QUERIES + 1), choices), nn.Linear(width, verdicts)

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        seen = self.norm(patches)
        weighted = self.query(seen).softmax(1).transpose(1, 2) @ seen
        mean = seen.mean(1)
        return self.read(torch.cat([mean, weighted.flatten(1)], 1)), self.judge(mean)


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
        epochs: Over the pictures.
        seed: Of the order and of the patches left out; the head is drawn with torch's present random state.
        progress: Whether to show a bar.

    Returns:
        Share of the decisions and verdicts that were told, at each step.
    """
    generator = np.random.default_rng(seed)
    shown, counts = pictures(corpus)
    batches = [batch for _ in range(epochs) for batch in _batches(shown, generator)]
    learning = [p for part in (*visual.blocks[-BLOCKS:], visual.merger) for p in part.parameters()]
    visual.requires_grad_(False)
    for weight in learning:
        weight.requires_grad_(True)
    head = Head(learning[-1].numel(), *counts).to(learning[-1].device)
    groups = [{"params": learning, "lr": RATE}, {"params": head.parameters(), "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP, len(batches) // 2), len(batches))
    shares = []
    bar = tqdm(batches, desc="SFT: looking", disable=not progress, unit="step")
    for batch in bar:
        logits = head(_patches(visual, corpus, batch, generator))
        right = torch.tensor([picture.targets for picture in batch], device=logits[0].device)
        told = right != UNTOLD
        optimizer.zero_grad()
        parts = zip(logits, right.T, told.T, strict=True)
        sum(cross_entropy(z[at], y[at]) for z, y, at in parts if at.any()).backward()
        optimizer.step()
        schedule.step()
        hits = torch.stack([z.argmax(1) for z in logits], 1) == right
        shares.append(float(hits[told].float().mean()))
        bar.set_postfix(told=f"{shares[-1]:.2f}", refresh=False)
    visual.requires_grad_(False)
    return shares


def decisions(one: Encoded, *, last: bool = False) -> tuple[int, ...]:
    """Tokens of what the first turn decides, to ask or to answer and which tools, or of what the last one does: the
    verdict."""
    turns = np.cumsum(np.diff(one.mask.astype(int), prepend=0) > 0)  # number of the turn at each of its tokens
    at = turns == (turns[-1] if last else 1)
    return tuple(one.input_ids[at & (one.decision == 1)].tolist())


def pictures(corpus: Sequence[Encoded]) -> tuple[list[Picture], tuple[int, int]]:
    """Pictures of a corpus with what they tell, and how many different decisions and verdicts there are."""
    asked, judged = [decisions(one) for one in corpus], [decisions(one, last=True) for one in corpus]
    choices, verdicts = sorted(set(asked)), sorted(set(judged))
    found = []
    for k, one in enumerate(corpus):
        verdict, first = verdicts.index(judged[k]), 0
        for j, shape in enumerate(one.image_grid_thw.tolist()):
            end = first + int(np.prod(shape))
            found.append(Picture(k, tuple(shape), first, end, (UNTOLD if j else choices.index(asked[k]), verdict)))
            first = end
    return found, (len(choices), len(verdicts))


def _patches(
    visual: Any, corpus: Sequence[Encoded], batch: Sequence[Picture], generator: np.random.Generator
) -> torch.Tensor:
    """Merged patches (B, N, D) of pictures of one shape, some left out."""
    device = next(visual.parameters()).device
    pixels = torch.cat([corpus[p.of].pixel_values[p.first : p.end] for p in batch]).float()
    grid = torch.tensor([p.shape for p in batch])
    seen = visual(pixels.to(device), grid_thw=grid.to(device)).pooler_output
    seen = seen.view(len(batch), -1, seen.shape[-1])
    kept = torch.from_numpy(generator.random(seen.shape[1]) >= DROPPED).to(device)
    return seen[:, kept] if kept.any() else seen


def _batches(shown: Sequence[Picture], generator: np.random.Generator) -> Iterator[list[Picture]]:
    """One epoch: pictures of one shape together, the batches in a random order."""
    by_shape: dict[tuple[int, ...], list[Picture]] = defaultdict(list)
    for picture in shown:
        by_shape[picture.shape].append(picture)
    found = []
    for group in by_shape.values():
        order = generator.permutation(len(group)).tolist()
        found += [[group[k] for k in order[i : i + BATCH]] for i in range(0, len(order), BATCH)]
    yield from (found[k] for k in generator.permutation(len(found)))
