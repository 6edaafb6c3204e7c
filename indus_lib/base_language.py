"""What the miniature's language model is pre-trained on: conversations about views, by the hundred thousand.

A conversation has one to three turns, each about a view of its own, mostly of another scene, so that no answer gives
another one away; the latest picture counts unless the question says otherwise. Tokens, places and positions are made by
other processes (`torch.utils.data.DataLoader`), so that a GPU need not wait for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from .base_data import GRIDS, VIEWS, free_points
from .base_store import read_facts, surfaces
from .base_talk import Facts, Pair, talk
from .processing import END_OF_TURN, load_processor
from .train_data import IGNORED

if TYPE_CHECKING:
    from .processing import IndusProcessor

TURNS = 3  # most of a conversation; those of one batch have equally many, so that little is padded
SHARES = (0.33, 0.06, 0.06, 0.15, 0.2, 0.2)  # of the turns are about a view of this kind (`base_data.VIEWS`)
SECOND_VIEW = 0.1  # of the turns show another view of the same scene first
LOOK_BACK = 0.15  # of the later turns ask for the first picture
FIRST = "In the first picture: "
MOST = 640  # tokens of a conversation; later turns that do not fit are left out


@dataclass(frozen=True)
class Turn:
    """Views shown, what is asked and answered; `after`: the pictures come behind the question."""

    shown: tuple[int, ...]
    pair: Pair
    after: bool = False


@dataclass
class Batch:
    """Tensors of a step: ids (B, L), labels (B, L), weights (B, L) of their loss, positions (3, B, L), and for each
    image token in reading order the view and the merged patch that it stands for (tokens, 2)."""

    ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor
    patches: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """On a device."""
        return Batch(*(getattr(self, n).to(device, non_blocking=True) for n in self.__dataclass_fields__))


class Talks(Dataset[Batch]):
    """Batch k is drawn from (`seed`, k) alone: the same in every process and in a run that is resumed.

    Args:
        data: What `base_store.generate` wrote.
        model: Folder with the processor and the configuration.
        size: Turns of a batch.
        steps: Number of batches; the first `short` ask only for a word or two.
        held_out: Scenes left out, from the start.
        seed: Of all.
    """

    def __init__(self, data: Path, model: Path, *, size: int, steps: int, short: int, held_out: int, seed: int):
        self.data, self.model, self.size, self.steps = data, model, size, steps
        self.short, self.held_out, self.seed = short, held_out, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        turns = 1 + step % TURNS
        return self.batch([self.conversation(turns, rng, step < self.short) for _ in range(self.size // turns)])

    @cached_property
    def facts(self) -> list[Facts]:
        """Of every view."""
        return read_facts(self.data)

    @cached_property
    def grids(self) -> np.ndarray:
        """(views,) index into `GRIDS`."""
        return np.load(self.data / "grids.npy")

    @cached_property
    def targets(self) -> np.ndarray:
        """(views, 81, classes) patch labels."""
        return np.load(self.data / "targets.npy", mmap_mode="r")

    @cached_property
    def processor(self) -> IndusProcessor:
        """Tokenizer and image processor."""
        return load_processor(self.model)

    @cached_property
    def _tokenizer(self) -> Any:
        return self.processor.tokenizer.backend_tokenizer  # without the bookkeeping of a call, half of the time

    @cached_property
    def frame(self) -> Any:
        """A model without weights, for its positions."""
        with torch.device("meta"):
            return Qwen3VLModel(Qwen3VLConfig.from_pretrained(self.model))

    def question(self, row: int, rng: np.random.Generator, short: bool) -> Pair:
        """One question with its answer on one view."""
        free = free_points(self.targets[row], int(self.grids[row]))
        return talk(rng, self.facts[row], free, short, surfaces())

    def conversation(self, turns: int, rng: np.random.Generator, short: bool) -> list[Turn]:
        """Turns about any views."""
        found: list[Turn] = []
        for k in range(turns):
            scene = int(rng.integers(self.held_out, len(self.facts) // VIEWS))
            about = scene * VIEWS + int(rng.choice(VIEWS, p=SHARES))
            shown: tuple[int, ...] = (about,)
            if rng.random() < SECOND_VIEW:
                shown = (scene * VIEWS + int(rng.integers(VIEWS)), about)
            if k and rng.random() < LOOK_BACK:
                question, answer = self.question(found[0].shown[0], rng, short)
                pair = (FIRST + question, answer)
                shown = shown if rng.random() < 0.5 else ()
            else:
                pair = self.question(about, rng, short)
            found.append(Turn(shown, pair, bool(k and rng.random() < 0.5)))
        return found

    def batch(self, conversations: Sequence[Sequence[Turn]]) -> Batch:
        """Right-padded, loss on the answers alone."""
        image, pad = self.processor.image_token_id, self.processor.tokenizer.pad_token_id
        ids, labels, weights, patches, shapes = [], [], [], [], []
        for turns in conversations:
            one, learnt, counted, shown = self._tokens(turns)
            ids.append(torch.tensor(one))
            labels.append(torch.tensor(learnt))
            weights.append(torch.tensor(counted))
            for view in shown:
                cells = int(np.prod(GRIDS[int(self.grids[view])]))
                patches.append(torch.stack([torch.full((cells,), view), torch.arange(cells)], 1))
                shapes.append((1, *(2 * n for n in GRIDS[int(self.grids[view])])))
        padded = pad_sequence(ids, True, pad)
        positions, _ = self.frame.get_rope_index(
            padded, (padded == image).int(), torch.tensor(shapes), attention_mask=(padded != pad).long()
        )
        return Batch(
            padded, pad_sequence(labels, True, IGNORED), pad_sequence(weights, True), positions, torch.cat(patches)
        )

    def _tokens(self, turns: Sequence[Turn]) -> tuple[list[int], list[int], list[float], list[int]]:
        """(ids, labels, weights, views shown) of a conversation. A box has ten tokens, a name two: an answer counts as
        the root of its length."""
        ids, labels, weights, shown = [], [], [], []
        for k, turn in enumerate(turns):
            pictures = [token for view in turn.shown for token in self._picture(view)]
            question, answer = turn.pair
            parts = [pictures, self._ids(question)]
            given = [*self._ids("<|im_start|>user\n"), *parts[turn.after], *parts[not turn.after],
                     *self._ids(f"{END_OF_TURN}\n<|im_start|>assistant\n")]  # fmt: skip
            spoken = self._ids(answer + END_OF_TURN)
            if k and len(ids) + len(given) + len(spoken) > MOST:
                break
            between = self._ids("\n")
            ids += [*given, *spoken, *between]
            labels += [IGNORED] * len(given) + spoken + [IGNORED] * len(between)
            weights += [0.0] * len(given) + [len(spoken) ** -0.5] * len(spoken) + [0.0] * len(between)
            shown += turn.shown
        return ids, labels, weights, shown

    def _picture(self, view: int) -> list[int]:
        p = self.processor
        cells = int(np.prod(GRIDS[int(self.grids[view])]))
        return [p.vision_start_token_id, *[p.image_token_id] * cells, p.vision_end_token_id]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def batches(talks: Talks, first: int, workers: int) -> Iterator[Batch]:
    """Batches from step `first` on, made by `workers` other processes, which begin at once (0: by this one)."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    options = {"multiprocessing_context": "spawn", "prefetch_factor": 8} if workers else {}
    return iter(DataLoader(talks, batch_size=None, sampler=range(first, len(talks)), num_workers=workers, **options))
