"""Pre-training of `indus-tiny`: patch labels for the vision tower, short answers for the language model.

Two parts. (1) The tower alone learns which kinds of mark lie in which patch, and what the surface is, while the scenes
are still being drawn. (2) The tower stays as it is, so that every picture is looked at once, and the language model
learns to answer from its features (`base_language`): a language model that is still blind would only shake them
(docs/log.md).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from . import base_scores, base_store, base_tower, tiny_model
from .base_data import CELLS, CLASSES, VIEWS, free_points
from .base_language import Batch, Talks, batches
from .base_talk import talk
from .base_views import Views, position_ids
from .base_vocabulary import vocabulary_texts
from .fast_vision import accelerate
from .processing import load_processor
from .train_data import IGNORED as UNLEARNT
from .workers import beside

WARMUP = 0.06  # share of a part's steps
WORDED = 500  # scenes whose questions the tokenizer is made from
GROUNDING = "grounding.safetensors"
AT_ONCE = 500  # views looked at together, to remember them
HEADS = ("head", "surface_head")
SURFACE = 0.3  # weight of its name; 1 cost marks (docs/log.md)


@dataclass(frozen=True)
class BaseConfig:
    """One run of pre-training. All values are ours (not in paper)."""

    scenes: int = 24_000
    first_scenes: int = 2_000  # the tower begins with these, as soon as they are drawn
    all_by: float = 0.7  # share of the tower's steps after which it sees them all
    held_out: int = 200  # the first scenes are never trained on; the card's scores come from them
    dense_steps: int = 4000
    talk_steps: int = 5000
    batch: int = 256  # views of a step for the tower
    turns: int = 384  # questions of a step for the language model
    short_share: float = 0.1  # of `talk_steps`, only questions with an answer of a word or two
    tower_rate: float = 1.0e-3
    language_rate: float = 2.0e-3
    weight_decay: float = 0.05
    save_every: int = 500
    seed: int = 0

    @property
    def steps(self) -> int:
        """Of a run."""
        return self.dense_steps + self.talk_steps

    def scenes_at(self, step: int) -> int:
        """Scenes that a step of the tower draws from: the same however fast they are drawn."""
        share = min(step / max(self.all_by * self.dense_steps, 1), 1.0)
        first = min(self.first_scenes, self.scenes)
        return first + int(share * (self.scenes - first))


class BaseTrainer:
    """State of a run: model, heads, optimiser, step; `checkpoint` and `resume` carry all of it."""

    def __init__(
        self, config: BaseConfig, data: Path, out: Path, texts: list[str], workers: int = 0, tower: Path | None = None
    ):
        """`data`: what `base_store.generate` writes; `texts`: for the tokenizer, beside the questions and answers;
        `workers`: processes that make the conversations; `tower`: a base whose tower and head are trained further."""
        self.config, self.data, self.out, self.workers, self.step = config, data, out, workers, 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.views = Views(data, self.device)
        self.views.wait(config.scenes_at(0) * VIEWS)
        self.model, self.processor = tiny_model.build(tiny_model.TinyConfig(), self._words() + texts, config.seed)
        accelerate(self.model).to(self.device).train()
        torch.manual_seed(config.seed)
        width = self.model.config.text_config.hidden_size
        self.head = nn.Linear(width, len(CLASSES)).to(self.device)
        self.surface_head = nn.Linear(width, len(base_store.surfaces())).to(self.device)
        if tower:
            self.model.model.visual.load_state_dict(tiny_model.load(tower, device="cpu")[0].model.visual.state_dict())
            self.head.load_state_dict(load_file(tower / GROUNDING))
        self.log: list[dict[str, float]] = []
        self._enter_part()

    def _words(self) -> list[str]:
        """Questions and answers on some views, for the tokenizer."""
        rows = min(self.config.scenes_at(0), WORDED) * VIEWS
        facts, known = base_store.read_facts(self.data, rows), base_store.surfaces()
        rng, targets = np.random.default_rng(self.config.seed), np.load(self.data / "targets.npy", mmap_mode="r")
        free = [free_points(targets[r], int(self.views.grids[r])) for r in range(rows)]
        return [text for r in range(rows) for text in talk(rng, facts[r], free[r], surfaces=known)]

    @property
    def talks(self) -> bool:
        """Whether the second part has begun."""
        return self.step >= self.config.dense_steps

    def _enter_part(self) -> None:
        """Optimiser and schedule of the part that `step` is in; in the second the tower is frozen and remembered."""
        c, visual = self.config, self.model.model.visual
        if self.talks:
            self.views.wait(c.scenes * VIEWS)
            self._settle()
            visual.requires_grad_(False)
        parameters = [p for p in self.model.parameters() if p.requires_grad] if self.talks else [
            *visual.parameters(), *self.head.parameters(), *self.surface_head.parameters()]  # fmt: skip
        rate, steps = (c.language_rate, c.talk_steps) if self.talks else (c.tower_rate, c.dense_steps)
        self.optimiser = torch.optim.AdamW(
            parameters, rate, betas=(0.9, 0.98), weight_decay=c.weight_decay, fused=self.device.type == "cuda"
        )
        self.schedule = get_cosine_schedule_with_warmup(self.optimiser, int(WARMUP * steps), steps)

    def listen(self) -> None:
        """Remember every view as the finished tower sees it, and have conversations made."""
        c = self.config
        tiny_model.save(self.model, self.processor, self.out)
        self.conversations = Talks(
            self.data, self.out, size=c.turns, steps=c.talk_steps, short=int(c.short_share * c.talk_steps),
            held_out=c.held_out, seed=c.seed,
        )  # fmt: skip
        self._made: Iterator[Batch] = batches(self.conversations, self.step - c.dense_steps, self.workers)
        self.features = self._features()

    @torch.no_grad()
    def _features(self) -> torch.Tensor:
        """(views, 81, D) of all views, half precision on a GPU."""
        total, kind = self.config.scenes * VIEWS, torch.bfloat16 if self.device.type == "cuda" else torch.float32
        width = self.model.config.text_config.hidden_size
        features = torch.zeros(total, CELLS, width, dtype=kind, device=self.device)
        for start in range(0, total, AT_ONCE):
            rows = np.arange(start, min(start + AT_ONCE, total))
            pixels, _, grid = self.views.take(rows, np.zeros((len(rows), 2), bool))
            features[rows[0] : rows[-1] + 1] = self._padded(self.look(pixels, grid), grid).to(kind)
        return features

    @torch.no_grad()
    def _settle(self) -> None:
        """`base_tower.settle` on some views; the words for kinds follow."""
        rows = self._rows(np.random.default_rng(self.config.seed), 128, self.config.scenes)
        pixels, _, grid = self.views.take(rows, np.zeros((len(rows), 2), bool))
        base_tower.settle(self.model.model.visual, (self.head, self.surface_head), self.look(pixels, grid))
        base_tower.name_kinds(self.model, self.processor, self.head.weight)

    def _rows(self, rng: np.random.Generator, size: int, scenes: int) -> np.ndarray:
        """Different views of the first scenes but for those held out."""
        there = (scenes - self.config.held_out) * VIEWS
        return self.config.held_out * VIEWS + rng.choice(there, min(size, there), replace=False)

    def run(self) -> Path:
        """Train to the end, continuing from the last checkpoint; returns the model folder."""
        self.resume()
        if self.talks and self.step < self.config.steps:
            self.listen()
        bar = tqdm(total=self.config.steps, initial=self.step, desc="indus-tiny", unit="step")
        start = time.perf_counter()
        while self.step < self.config.steps:
            name, loss = self.train_step()
            self.step += 1
            shown = self.step % 50 == 0 or self.step == self.config.steps
            if shown:  # reading a loss waits for the GPU
                self.log.append({"step": self.step, "seconds": time.perf_counter() - start, name: loss.item()})
                bar.set_postfix({name: f"{loss.item():.3f}"}, refresh=False)
            bar.update()
            if self.step == self.config.dense_steps:
                self._enter_part()
                self.listen()
            if self.step % self.config.save_every == 0:
                self.checkpoint()
                bar.write(json.dumps({"step": self.step, **base_scores.scores(self, 40)}))
        return self.save()

    def train_step(self) -> tuple[str, torch.Tensor]:
        """One optimiser step; returns the part's name and loss. Pictures are mirrored at random while they are only
        looked at."""
        c = self.config
        if self.talks:
            name, loss = "language", self._answers(next(self._made).to(self.device))
        else:
            rng, scenes = np.random.default_rng((c.seed, self.step)), c.scenes_at(self.step)
            self.views.wait(scenes * VIEWS)
            rows = self._rows(rng, 8 * c.batch, scenes)
            kinds = self.views.grids[rows].numpy()
            rows = rows[kinds == kinds[0]][: c.batch]  # of one shape: an attention for all of them
            pixels, targets, grid = self.views.take(rows, rng.random((len(rows), 2)) < 0.5)
            merged = self._padded(self.look(pixels, grid), grid)
            surface = self.surface_head(merged.sum(1) / self._counts(grid)[:, None])
            named = F.cross_entropy(surface, self.views.surfaces[rows].to(self.device).long())
            name, loss = "dense", base_tower.dense_loss(self.head(merged), targets) + SURFACE * named
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], 1.0)
        self.optimiser.step()
        self.schedule.step()
        return name, loss.detach()

    def look(self, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """(merged patches of all views, D)."""
        places = torch.cat([position_ids(*shape) for shape in grid[:, 1:].tolist()]).to(self.device)
        with self.mixed():
            return self.model.model.visual(pixels, grid_thw=grid, position_ids=places).pooler_output.float()

    def mixed(self) -> torch.autocast:
        """bfloat16 on a GPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def labels(self, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Logits of the patch labels (B, 81, classes); of no meaning where a view has fewer patches."""
        return self.head(self._padded(self.look(pixels, grid), grid))

    def _padded(self, merged: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """(merged patches of all views, D) -> (B, 81, D), zero where a view has fewer."""
        real = torch.arange(CELLS, device=self.device) < self._counts(grid)[:, None]
        padded = merged.new_zeros(*real.shape, merged.shape[-1])
        padded[real] = merged
        return padded

    def _counts(self, grid: torch.Tensor) -> torch.Tensor:
        """(B,) merged patches of each view."""
        return grid.prod(-1) // 4

    def _answers(self, batch: Batch) -> torch.Tensor:
        """Mean negative log-likelihood of the answers."""
        at = batch.labels[:, 1:] != UNLEARNT
        with self.mixed():
            logits = self.model.lm_head(self.forward(batch)[:, :-1][at])
        each = F.cross_entropy(logits.float(), batch.labels[:, 1:][at], reduction="none")
        weights = batch.weights[:, 1:][at]
        return (each * weights).sum() / weights.sum()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Hidden states (B, L, D) of the last layer: what transformers makes of the same pictures and ids, but the
        pictures are remembered, and padding on the right needs no mask."""
        embedded = self.model.get_input_embeddings()(batch.ids)
        seen = self.features[batch.patches[:, 0], batch.patches[:, 1]]
        embedded[batch.ids == self.processor.image_token_id] = seen.to(embedded.dtype)
        return self.model.model.language_model(
            inputs_embeds=embedded, position_ids=batch.positions, use_cache=False
        ).last_hidden_state  # fmt: skip

    def checkpoint(self) -> None:
        """Everything needed to go on, written atomically; the model folder too, so that it can be tried early."""
        self.out.mkdir(parents=True, exist_ok=True)
        part = self.out / "trainer.pt.part"
        state = {name: getattr(self, name).state_dict() for name in ("model", *HEADS, "optimiser", "schedule")}
        torch.save({**state, "step": self.step, "log": self.log}, part)
        part.replace(self.out / "trainer.pt")
        self.save()

    def resume(self) -> None:
        """Continue where `checkpoint` stopped, if it did."""
        path = self.out / "trainer.pt"
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.step, self.log = state["step"], state["log"]
        self.processor = load_processor(self.out)  # the weights belong to this very vocabulary
        self._enter_part()
        for name in ("model", *HEADS, "optimiser", "schedule"):
            getattr(self, name).load_state_dict(state[name])

    def save(self) -> Path:
        """Model folder with tokenizer, processor, grounding head and the loss curve."""
        tiny_model.save(self.model, self.processor, self.out)
        head = {k: v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}
        save_file(head, self.out / GROUNDING, metadata={"classes": json.dumps(CLASSES)})
        curve = {"config": asdict(self.config), "log": self.log}
        (self.out / "training.json").write_text(json.dumps(curve), encoding="utf-8")
        return self.out


def train(root: Path, out: Path, config: BaseConfig = BaseConfig(), tower: Path | None = None) -> Path:
    """`make base-model`: draw the scenes once, beside the training that begins with the first, and save to `out`."""
    data, cores = root / f"data/generated/base-{config.scenes}", os.cpu_count() or 2
    base_store.prepare(data, config.scenes)
    with beside(partial(base_store.generate, data, config.scenes, seed=config.seed, workers=cores - 1)):
        return BaseTrainer(config, data, out, vocabulary_texts(root), max(cores - 2, 0), tower).run()
