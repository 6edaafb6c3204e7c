"""What words alone teach: the first lessons of a language model that starts anew (miniature only).

To repeat a box that an observation names (`copy`). A location is mostly the box that a tool reported. In the order of a
corpus a language model of a few million parameters learns such boxes by heart or not at all; shown the same
observations with another box each time, and no picture, it learns within some two hundred steps to look the box up
(docs/log.md). Verdicts and types are left out: every answer that shares a box is a Yes, and half of them are of one
type.

To decide from what is told (`read`). Where a tool answers in words alone, a norm to compare with or a deviation to
judge, the verdict follows from them; seen four times each beside everything else, such texts are not understood
(docs/log.md).

Not in the paper; the 8B can do both. SFT itself goes on in the same way with its batches (`withhold`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from .train_data import IGNORED, Encoded, collate, number_ids

BATCH, WARMUP = 32, 30  # answers, steps; not in paper
CLIP = 1.0  # norm of the gradient; not in paper
_Judged = tuple[torch.Tensor, torch.Tensor]  # loss, (tokens,) bool right or wrong


def move(ids: torch.Tensor, place: torch.Tensor, numbers: torch.Tensor) -> None:
    """Give the box at `place` (T,) (`Encoded.place`) another position of the same size, in place; ids (T,)."""
    if not (place > 0).any():
        return
    box = [int((numbers == ids[place == k][0]).nonzero()) for k in (1, 2, 3, 4)]  # tens
    for low, high in ((0, 2), (1, 3)):
        side = box[high] - box[low]
        at = int(torch.randint(len(numbers) - side, ()))
        ids[place == low + 1], ids[place == high + 1] = numbers[at], numbers[at + side]


def withhold(inputs: dict[str, Any], share: float, numbers: torch.Tensor) -> dict[str, Any]:
    """A batch (`train_data.collate`) in which a random `share` of the second rounds is learnt with a blank photograph,
    and what any second round repeats of an observation's box lies somewhere else each time.

    A few thousand photographs are soon known by heart, and a verdict that can be remembered is not read from the
    observation; on products never trained on, only what is read holds (docs/log.md). So with boxes: copying is learnt.
    """
    second, images = inputs["second"], inputs["mm_token_type_ids"] == 1
    blank = second & (torch.rand(len(second), device=second.device) < share)
    counts = (images & ~pad(images, (1, 0))[:, :-1]).sum(1)  # pictures of each conversation
    of_image = torch.zeros(int(counts.sum()), dtype=torch.bool, device=blank.device)
    of_image[(counts.cumsum(0) - counts)[blank]] = True  # its first one, the photograph
    hidden = of_image.repeat_interleave(inputs["image_grid_thw"].prod(-1))
    ids = inputs["input_ids"].clone()
    for row in second.nonzero()[:, 0].tolist():
        move(ids[row], inputs["place"][row], numbers.to(ids.device))
    return inputs | {
        "pixel_values": inputs["pixel_values"].masked_fill(hidden[:, None], 0.0),  # 0: middle of the range
        "input_ids": ids,
        "labels": torch.where(inputs["labels"] == IGNORED, IGNORED, ids),
    }


def copy(
    model: Any, processor: Any, corpus: Sequence[Encoded], *, steps: int, rate: float, seed: int, progress: bool
) -> list[float]:
    """Train the language model in place on observations and answers that share a box, without any picture.

    Args:
        model: Qwen3-VL in training mode.
        processor: Its processor.
        corpus: Whole conversations; those without a shared box are left out.
        steps: Steps of 32 answers.
        rate: Highest learning rate (warm-up, then cosine).
        seed: Of the order of the answers.
        progress: Whether to show a bar.

    Returns:
        Share of the boxes' numbers that were repeated rightly, at each step; empty if no conversation shares a box.
    """
    rows = [_exchange(one, processor.image_token_id) for one in corpus if (one.place > 0).any()]

    def judge(each: torch.Tensor, hits: torch.Tensor, place: torch.Tensor, decision: torch.Tensor) -> _Judged:
        of_box, worded = place > 0, decision == 0
        return each[of_box].mean() + each[worded].mean(), hits[of_box]  # four numbers count as much as all tags

    return _lesson("copying", model, processor, rows, judge, steps=steps, rate=rate, seed=seed, progress=progress)


def read(
    model: Any, processor: Any, corpus: Sequence[Encoded], *, steps: int, rate: float, seed: int, progress: bool,
    weight: float,
) -> list[float]:  # fmt: skip
    """Train the language model in place on answers to what some tool says in words alone, without any picture.

    Args:
        weight: Of what an answer decides against its other tokens.
        model, processor, corpus, steps, rate, seed, progress: As for `copy`.

    Returns:
        Share of the decisions' tokens that were told, at each step; empty if every tool gave a picture. Of the tokens
        of `see nothing` only the last one is in doubt.
    """
    rows = [_exchange(one, processor.image_token_id) for one in corpus if _in_words(one, processor)]

    def judge(each: torch.Tensor, hits: torch.Tensor, place: torch.Tensor, decision: torch.Tensor) -> _Judged:
        weights = (1 + (weight - 1) * decision) * (place >= 0)  # a box that no observation names is a guess
        return (each * weights).sum() / weights.sum(), hits[decision == 1]

    return _lesson("reading", model, processor, rows, judge, steps=steps, rate=rate, seed=seed, progress=progress)


def _lesson(
    name: str, model: Any, processor: Any, rows: Sequence[Encoded], judge: Callable[..., _Judged], *, steps: int,
    rate: float, seed: int, progress: bool,
) -> list[float]:  # fmt: skip
    """Train on exchanges; `judge` gives the loss, and the tokens that count as right or wrong."""
    if not rows:
        return []
    numbers = torch.from_numpy(number_ids(processor)).to(model.device)
    language = list(model.model.language_model.parameters())
    optimizer = torch.optim.AdamW(language, lr=rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP, steps // 2), steps)
    shares = []
    bar = tqdm(_batches(rows, steps, seed), desc=f"SFT: {name}", total=steps, disable=not progress, unit="step")
    for batch in bar:
        padded = collate(batch, processor.tokenizer.pad_token_id, processor.image_token_id)
        names = ("input_ids", "attention_mask", "labels", "place", "decision")
        ids, attended, labels, place, decision = (padded[name].to(model.device) for name in names)
        for row in range(len(ids)):
            move(ids[row], place[row], numbers)
        logits = model(input_ids=ids, attention_mask=attended, use_cache=False).logits[:, :-1].float()
        learnt = labels[:, 1:] != IGNORED
        scores, targets = logits[learnt], ids[:, 1:][learnt]
        each = cross_entropy(scores, targets, reduction="none")
        loss, hits = judge(each, scores.argmax(-1) == targets, place[:, 1:][learnt], decision[:, 1:][learnt])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(language, CLIP)
        optimizer.step()
        schedule.step()
        shares.append(float(hits.float().mean()))
        bar.set_postfix(right=f"{shares[-1]:.2f}", refresh=False)
    return shares


def _in_words(one: Encoded, processor: Any) -> bool:
    """Whether some tool answered in words alone: fewer pictures came than were asked for."""
    first = one.first_turn
    if not one.mask[first:].any():
        return False
    asked = processor.tokenizer.decode(one.input_ids[:first][one.mask[:first]]).count('"name"')
    images = one.input_ids[first:] == processor.image_token_id
    return int((images & ~np.append(False, images[:-1])).sum()) < asked


def _exchange(one: Encoded, image_id: int) -> Encoded:
    """What follows the first turn, its pictures left out."""
    keep = (np.arange(len(one)) >= one.first_turn) & (one.input_ids != image_id)
    by_token = {name: getattr(one, name)[keep] for name in ("input_ids", "mask", "decision", "place")}
    return replace(one, pixel_values=torch.zeros(0), image_grid_thw=torch.zeros(0), **by_token)


def _batches(rows: Sequence[Encoded], steps: int, seed: int) -> Iterator[list[Encoded]]:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield [rows[k] for k in rng.integers(len(rows), size=BATCH)]
