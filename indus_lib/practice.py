"""What words alone teach: to repeat a box, to compare two names, to go from a finding to a verdict (miniature only).

The 8B is expected to do all of it (not measured). A language model of 1.4 million parameters that starts anew knows
texts by heart instead, which is worth nothing on a product it has not seen (docs/log.md). So nothing can be known by
heart here: the boxes that an observation names lie elsewhere each time (`Redraw`), forms have each other's names, and
in some answers the finding is turned round, so that what follows comes from it alone.

`Practice` holds the second rounds of a corpus without first turn and pictures, every token at the position that it has
in its conversation: what is looked up at one distance is not found at another. It is taught before SFT (`lesson`) and
beside each of its batches (`loss`), since what is not practised is forgotten within an epoch. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from . import protocol
from .train_data import IGNORED, Encoded, collate, number_ids, token

WARMUP = 30  # steps; not in paper, like all below
CLIP = 1.0  # norm of the gradient
BEFORE, BESIDE = (0.45, 0.45), (0.4, 0.4)  # shares of the answers that two names decide, that repeat a box
TURNED = 0.25  # share of the answers whose finding is turned round
RENAMED = 0.5  # share of the comparisons in which something else was found, since a text's numbers tell its label
COURSES = ("copied", "compared")  # what `Practice.lesson` keeps the course of
WHOLE = 4  # one conversation with its pictures for so many answers in words
BLANK = 0.5  # share of those whose photograph is blank


class Redraw:
    """Gives the boxes and the names of forms in a conversation other values, alike wherever they occur.

    Attributes:
        numbers: (101,) ids of 0, 10, ... 1000, or (0,).
        names: (4,) ids of `protocol.FORMS`, or (0,).
        goes_on: (V,) bool (`goes_on`).
    """

    def __init__(self, processor: Any) -> None:
        self.numbers = torch.from_numpy(number_ids(processor))
        self.names, self.goes_on = (torch.from_numpy(f(processor)) for f in (name_ids, goes_on))

    def __call__(self, ids: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """ids, place (T,) (`Encoded.place`) -> ids, each box at a random position of the same size, names exchanged."""
        ids = ids.clone()
        for box in range((int(place.max()) + 3) // 4):
            self._move(ids, place - 4 * box)
        if len(self.names):
            which = (ids[:, None] == self.names).int().argmax(1)
            ids = torch.where(self.named(ids), self.names[torch.randperm(len(self.names))][which], ids)
        return ids

    def named(self, ids: torch.Tensor) -> torch.Tensor:
        """(T,) -> bool, where a name stands; `dotted` is none, though it begins as one."""
        return torch.isin(ids, self.names) & ~self.goes_on[ids.roll(-1)]

    def _move(self, ids: torch.Tensor, place: torch.Tensor) -> None:
        at = [place == k for k in (1, 2, 3, 4)]
        box = [int((self.numbers == ids[own][0]).nonzero()) for own in at]  # tens
        for low, high in ((0, 2), (1, 3)):
            side = box[high] - box[low]
            start = int(torch.randint(len(self.numbers) - max(side, 0), ())) + max(-side, 0)
            ids[at[low]], ids[at[high]] = self.numbers[start], self.numbers[start + side]


def name_ids(processor: Any) -> np.ndarray:
    """(4,) ids of `protocol.FORMS` inside a sentence; (0,) for a tokenizer that has no token of its own for each."""
    found = [processor.tokenizer.encode(f" {name}", add_special_tokens=False) for name in protocol.FORMS]
    return np.array([i[0] for i in found] if all(len(i) == 1 for i in found) else [], dtype=np.int64)


def goes_on(processor: Any) -> np.ndarray:
    """(V,) bool, whether a token goes on with the word before it, as `ted` does behind ` dot`."""
    pieces = processor.tokenizer.convert_ids_to_tokens(list(range(len(processor.tokenizer))))
    return np.array([piece is not None and piece[:1].isascii() and piece[:1].isalpha() for piece in pieces])


def withhold(inputs: dict[str, Any], share: float, redraw: Redraw) -> dict[str, Any]:
    """A batch (`train_data.collate`) in which a random `share` of the second rounds is learnt with a blank photograph,
    and boxes and names of every second round are redrawn.

    A few thousand photographs are soon known by heart, and a verdict that can be remembered is not read from the
    observation; on products never trained on, only what is read holds (docs/log.md).
    """
    ids = inputs["input_ids"].clone()
    for row in inputs["second"].nonzero()[:, 0].tolist():
        ids[row] = redraw(ids[row].cpu(), inputs["place"][row].cpu()).to(ids.device)
    labels = torch.where(inputs["labels"] == IGNORED, IGNORED, ids)
    return _blanked(inputs, share) | {"input_ids": ids, "labels": labels}


def _blanked(inputs: dict[str, Any], share: float) -> dict[str, Any]:
    second, images = inputs["second"], inputs["mm_token_type_ids"] == 1
    blank = second & (torch.rand(len(second), device=second.device) < share)
    counts = (images & ~pad(images, (1, 0))[:, :-1]).sum(1)  # pictures of each conversation
    of_image = torch.zeros(int(counts.sum()), dtype=torch.bool, device=blank.device)
    of_image[(counts.cumsum(0) - counts)[blank]] = True  # its first one, the photograph
    hidden = of_image.repeat_interleave(inputs["image_grid_thw"].prod(-1))
    return inputs | {"pixel_values": inputs["pixel_values"].masked_fill(hidden[:, None], 0.0)}  # 0: middle of the range


@dataclass(frozen=True)
class _Answer:
    """One second round. `kept` (t,): indices of its words; `named`: index of what a prior names and those of what a
    crop found, if both have a name; the rest (T,) of the whole conversation."""

    kept: torch.Tensor
    named: tuple[int, list[int]] | None
    weight: torch.Tensor  # of each token in the loss, 0 where nothing is learnt
    finding: torch.Tensor  # bool
    asked: torch.Tensor  # int8, 1 on the numbers of a box that is repeated, 2 on a finding that two names decide
    positions: torch.Tensor  # (T, 3)


class Practice:
    """Second rounds of a corpus, to be learnt in words; what is drawn hangs on torch's random state."""

    def __init__(self, model: Any, processor: Any, corpus: Sequence[Encoded], weight: float) -> None:
        """`corpus`: whole conversations, those of one round are left out; `weight`: of a finding or a copied number
        against another token."""
        self.processor, self.redraw = processor, Redraw(processor)
        self.found = torch.tensor([token(f, processor) for f in protocol.FOUND])
        self.branch = torch.tensor([token(b, processor) for b in protocol.BRANCH])
        self.rows = [one for one in corpus if one.mask[one.first_turn :].any()]
        self.answers = [self._answer(model, one, weight) for one in self.rows]
        self.compared = [k for k, answer in enumerate(self.answers) if answer.named]
        self.copied = [k for k, one in enumerate(self.rows) if (one.place[one.mask] > 0).any()]

    def lesson(
        self, model: Any, *, steps: int, size: int, rate: float, progress: bool
    ) -> dict[str, list[float | None]]:
        """Train the language model in place on `steps` batches of `size` answers in words.

        Returns:
            `copied`: share of the boxes' numbers that were repeated, `compared`: share of the findings that were told
            where two names decide, at each step, None where there was none; empty without anything to learn.
        """
        if not self.rows:
            return {}
        language = [p for n, p in model.named_parameters() if ".language_model." in n and p.requires_grad]
        optimizer = torch.optim.AdamW(language, lr=rate)
        schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP, steps // 2), steps)
        courses: dict[str, list[float | None]] = {name: [] for name in COURSES}
        bar = tqdm(range(steps), desc="SFT: answers in words", disable=not progress, unit="step")
        for _ in bar:
            loss, right = self._in_words(model, self._draw(size, BEFORE))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(language, CLIP)
            optimizer.step()
            schedule.step()
            for name, course in courses.items():
                course.append(right.get(name))
            bar.set_postfix({name: f"{share:.2f}" for name, share in right.items()}, refresh=False)
        return courses

    def loss(self, model: Any, size: int) -> torch.Tensor:
        """Of `size` answers in words and of a few whole conversations, their pictures there."""
        if not self.rows:
            return torch.zeros((), device=model.device)
        words, _ = self._in_words(model, self._draw(size, BESIDE))
        return words + self._whole(model, self._draw(max(size // WHOLE, 1), BESIDE))

    def _draw(self, size: int, shares: tuple[float, float]) -> list[int]:
        kinds = zip((self.compared, self.copied), shares, strict=True)
        several = [(rows, round(size * share)) for rows, share in kinds if rows]
        several.append((range(len(self.rows)), size - sum(n for _, n in several)))
        return [rows[k] for rows, n in several for k in torch.randint(len(rows), (n,)).tolist()]

    def _in_words(self, model: Any, drawn: Sequence[int]) -> tuple[torch.Tensor, dict[str, float]]:
        """(loss, what was right: see `lesson`)."""
        answers = [self.answers[k] for k in drawn]
        given = [[x[a.kept] for x in self._exercise(k)] for k, a in zip(drawn, answers, strict=True)]
        told = [(a.asked[a.kept], a.positions[a.kept]) for a in answers]
        columns = [*zip(*given, strict=True), *zip(*told, strict=True)]
        ids, targets, weight, asked, positions = (pad_sequence(c, batch_first=True).to(model.device) for c in columns)
        lengths = torch.tensor([len(a.kept) for a in answers], device=model.device)
        attended = (torch.arange(ids.shape[1], device=model.device) < lengths[:, None]).long()
        at = weight[:, 1:] > 0
        scores = model(
            input_ids=ids, attention_mask=attended, position_ids=positions.permute(2, 0, 1), use_cache=False
        ).logits[:, :-1][at]
        right, asked = scores.argmax(-1) == targets[:, 1:][at], asked[:, 1:][at]
        shares = {
            name: right[asked == k].float().mean().item() for k, name in enumerate(COURSES, 1) if (asked == k).any()
        }
        return _weighted(scores, targets[:, 1:][at], weight[:, 1:][at]), shares

    def _whole(self, model: Any, drawn: Sequence[int]) -> torch.Tensor:
        rows = [replace(self.rows[k], second=True) for k in drawn]
        inputs = collate(rows, self.processor.tokenizer.pad_token_id, self.processor.image_token_id)
        exercises = zip(*(self._exercise(k) for k in drawn), strict=True)
        ids, targets, weight = (pad_sequence(x, batch_first=True).to(model.device) for x in exercises)
        inputs = {name: value.to(model.device) for name, value in _blanked(inputs, BLANK).items()} | {"input_ids": ids}
        at = weight[:, 1:] > 0
        columns = at.any(0).nonzero()[:, 0]
        given = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")
        logits = model(**{name: inputs[name] for name in given}, logits_to_keep=columns, use_cache=False).logits
        return _weighted(logits[at[:, columns]], targets[:, 1:][at], weight[:, 1:][at])

    def _exercise(self, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(ids, targets, weights), each (T,), of a conversation, redrawn. Now and then what was found is something else
        or the finding is turned round, and the answer is learnt as far as it follows from that."""
        one, answer, chance = self.rows[k], self.answers[k], torch.rand(())
        ids = self.redraw(torch.from_numpy(one.input_ids), torch.from_numpy(one.place))
        at, begins = (
            answer.finding.nonzero()[:, 0],
            (torch.isin(ids, self.branch) & (answer.weight > 0)).nonzero()[:, 0],
        )
        apart = len(self.found.unique()) == len(self.branch.unique()) == 2
        if not apart or len(at) != 1 or not len(begins):
            return ids, ids, answer.weight  # a thought in whole sentences, or a tokenizer that begins both alike
        if answer.named and chance < RENAMED:
            return self._renamed(ids, answer, int(at[0]), int(begins[0]))
        if chance > 1 - TURNED:
            other = int(ids[at[0]] == self.found[0])
            return self._followed(ids, answer, int(at[0]), int(begins[0]), other, learnt=False)
        return ids, ids, answer.weight

    def _renamed(
        self, ids: torch.Tensor, answer: _Answer, at: int, begins: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What was found has the name of what belongs there, or another one: the finding follows."""
        belongs, places = answer.named
        others = self.redraw.names[self.redraw.names != ids[belongs]]
        same = bool(torch.rand(()) < 0.5)
        ids = ids.clone()
        ids[places] = int(ids[belongs] if same else others[torch.randint(len(others), ())])
        return self._followed(ids, answer, at, begins, int(same), learnt=True)

    def _followed(
        self, ids: torch.Tensor, answer: _Answer, at: int, begins: int, finding: int, learnt: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The answer up to how it begins behind its thought, with that finding, `learnt` itself or given."""
        given, weight = ids.clone(), answer.weight.clone()
        given[at], weight[begins + 1 :] = self.found[finding], 0
        targets = given.clone()
        targets[begins], weight[begins] = self.branch[finding], answer.weight.max()
        if not learnt:
            weight[:begins] = 0
        return given, targets, weight

    def _answer(self, model: Any, one: Encoded, weight: float) -> _Answer:
        image = one.input_ids == self.processor.image_token_id
        second = np.arange(len(one)) >= one.first_turn
        copied = (one.place > 0) | np.isin(one.input_ids, self.redraw.names)
        decided = np.where(copied, 1.0, one.decision)  # what is copied counts as much as what is found
        weights = (one.mask & second & (one.place >= 0)) * (1 + (weight - 1) * decided)
        core = model.get_base_model() if hasattr(model, "get_base_model") else model
        positions, _ = core.model.get_rope_index(
            torch.from_numpy(one.input_ids)[None],
            torch.from_numpy(image.astype(np.int64))[None],
            image_grid_thw=one.image_grid_thw,
        )
        named = self._names(one)
        finding = (one.decision == 1) & one.mask & second & np.isin(one.input_ids, self.found)
        asked = 1 * ((one.place > 0) & one.mask) + 2 * (finding & bool(named))
        return _Answer(
            torch.from_numpy(np.flatnonzero(second & ~image)),
            named,
            torch.from_numpy(weights.astype(np.float32)),
            torch.from_numpy(finding),
            torch.from_numpy(asked.astype(np.int8)),
            positions[:, 0].T,
        )

    def _names(self, one: Encoded) -> tuple[int, list[int]] | None:
        """Of an answer that repeats two names: the first that the observation says is of what belongs, the last of what
        was found (`terse_thoughts.to_compare`)."""
        second = np.arange(len(one)) >= one.first_turn
        named = self.redraw.named(torch.from_numpy(one.input_ids)).numpy() & second
        said, repeated = (np.flatnonzero(named & side).tolist() for side in (~one.mask, one.mask))
        return (said[0], [said[-1], repeated[-1]]) if len(said) > 1 and len(repeated) == 2 else None


def _weighted(scores: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the cross entropy. scores (N, V), targets, weight (N,)."""
    each = cross_entropy(scores.float(), targets, reduction="none")
    return (each * weight).sum() / weight.sum()
