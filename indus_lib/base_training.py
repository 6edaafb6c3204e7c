"""Pre-training of `indus-tiny`: patch labels for the vision tower, short answers for the language model.

Two parts. (1) The tower alone learns which kinds of mark lie in which patch. (2) The tower stays as it is, so that
every picture is looked at once, and the language model learns to answer from its features: a language model that is
still blind would only shake them (docs/log.md).

A sequence is one question about one view, in the chat form of the loop; in the end every fourth has another view of the
same scene before it: the latest picture counts. Several questions gave each other's answers away (docs/log.md).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from . import base_scores, tiny_model
from .base_data import CELLS, CLASSES, GRIDS, IGNORED, VIEWS, free_points, generate
from .base_talk import NAMES, Facts, talk
from .base_views import Views, position_ids
from .base_vocabulary import vocabulary_texts
from .fast_vision import accelerate
from .processing import END_OF_TURN, load_processor
from .train_data import IGNORED as UNLEARNT
from .vision_memory import VisionMemory

FEATURE_SIZE = 0.1  # deviation of what the tower hands to the language model; a text embedding starts at 0.07
WHITENING = 0.1  # share of the mean variance added to every direction's before they are made alike
WARMUP = 0.06  # share of a part's steps


@dataclass(frozen=True)
class BaseConfig:
    """One run of pre-training. All values are ours (not in paper)."""

    scenes: int = 20_000
    held_out: int = 200  # the last scenes are never trained on; the card's scores come from them
    dense_steps: int = 2176  # two minutes of an H200; the loss was still falling
    talk_steps: int = 420
    batch: int = 256  # views of a step for the tower
    questions: int = 96  # of a step for the language model
    short_share: float = 0.6  # of `talk_steps`, only questions with an answer of a word or two
    tower_rate: float = 1.0e-3
    language_rate: float = 2.0e-3
    weight_decay: float = 0.05
    positive_weight: float = 3.0  # marks cover few patches
    save_every: int = 100
    seed: int = 0

    @property
    def steps(self) -> int:
        """Of a run."""
        return self.dense_steps + self.talk_steps


class BaseTrainer:
    """State of a run: model, head, optimiser, step; `checkpoint` and `resume` carry all of it."""

    def __init__(self, config: BaseConfig, data: Path, out: Path, texts: list[str]):
        """`data`: what `base_data.generate` wrote; `texts`: for the tokenizer, beside the questions and answers."""
        self.config, self.out, self.step = config, out, 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.views = Views(data, self.device)
        self.facts = [Facts.of_json(f) for f in json.loads((data / "facts.json").read_text(encoding="utf-8"))]
        rng = np.random.default_rng(config.seed)
        pairs, _ = self.questions(np.arange(0, len(self.facts), 2), rng)
        corpus = [text for pair in pairs for text in pair] + texts
        self.model, self.processor = tiny_model.build(tiny_model.TinyConfig(), corpus, config.seed)
        accelerate(self.model).to(self.device).train()
        torch.manual_seed(config.seed)
        self.head = nn.Linear(self.model.config.text_config.hidden_size, len(CLASSES)).to(self.device)
        self.log: list[dict[str, float]] = []
        self._enter_part()

    @property
    def talks(self) -> bool:
        """Whether the second part has begun."""
        return self.step >= self.config.dense_steps

    def _enter_part(self) -> None:
        """Optimiser and schedule of the part that `step` is in; in the second the tower is frozen and remembers."""
        c, visual = self.config, self.model.model.visual
        if self.talks:
            self._settle()
            visual.requires_grad_(False)
            if self.device.type == "cpu":
                VisionMemory().attach(visual)
        parameters = [p for p in self.model.parameters() if p.requires_grad] if self.talks else [
            *visual.parameters(), *self.head.parameters()]  # fmt: skip
        rate, steps = (c.language_rate, c.talk_steps) if self.talks else (c.tower_rate, c.dense_steps)
        self.optimiser = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.98), weight_decay=c.weight_decay)
        self.schedule = get_cosine_schedule_with_warmup(self.optimiser, int(WARMUP * steps), steps)

    @torch.no_grad()
    def _settle(self) -> None:
        """Bring the tower's output to zero mean and the size of a text embedding, its directions to similar weight, and
        silence the deepstack layers, which the patch labels never trained.

        Three quarters of the output's variance say "some mark here"; what kind it is hides in the rest. Exact: the last
        linear layer and the head change together. Without this a language model learns nothing from pictures.
        """
        visual = self.model.model.visual
        rows = np.random.default_rng(self.config.seed).choice((self.config.scenes - self.config.held_out) * VIEWS, 128)
        pixels, _, grid = self.views.take(rows, np.zeros((len(rows), 2), bool))
        merged = self.look(pixels, grid)
        mean = merged.mean(0)
        values, axes = torch.linalg.eigh((merged - mean).T @ (merged - mean) / len(merged))
        scale = FEATURE_SIZE * (values.clamp(min=0) + WHITENING * values.mean()).rsqrt()
        there, back = axes * scale @ axes.T, axes / scale @ axes.T  # (D, D), symmetric
        self.head.bias += self.head.weight @ mean
        self.head.weight.copy_(self.head.weight @ back)
        last = visual.merger.linear_fc2
        last.bias.copy_(there @ (last.bias - mean))
        last.weight.copy_(there @ last.weight)
        for merger in visual.deepstack_merger_list:
            nn.init.zeros_(merger.linear_fc2.weight)
            nn.init.zeros_(merger.linear_fc2.bias)
        self._name_kinds()

    def _name_kinds(self) -> None:
        """The word for a kind begins where the tower puts that kind, so that to name a mark is to copy a patch."""
        embeddings = self.model.get_input_embeddings().weight
        rows = self.head.weight[: len(NAMES)] - self.head.weight[: len(NAMES)].mean(0)
        words = dict(zip(NAMES, rows, strict=True)) | {"nothing": -self.head.weight[CLASSES.index("any")]}
        for word, row in words.items():
            for text in (word, f" {word}"):
                ids = self.processor.tokenizer.encode(text, add_special_tokens=False)
                if len(ids) == 1:
                    embeddings[ids[0]] = row / row.norm()

    def run(self) -> Path:
        """Train to the end, continuing from the last checkpoint; returns the model folder."""
        self.resume()
        bar = tqdm(total=self.config.steps, initial=self.step, desc="indus-tiny", unit="step")
        start = time.perf_counter()
        while self.step < self.config.steps:
            loss = self.train_step(np.random.default_rng((self.config.seed, self.step)))
            self.log.append({"step": self.step, "seconds": time.perf_counter() - start, **loss})
            self.step += 1
            if self.step == self.config.dense_steps:
                self._enter_part()
            bar.update()
            bar.set_postfix({k: f"{v:.3f}" for k, v in loss.items()})
            if self.step % self.config.save_every == 0:
                self.checkpoint()
                bar.write(json.dumps({"step": self.step, **base_scores.scores(self, 40)}))
        return self.save()

    def train_step(self, rng: np.random.Generator) -> dict[str, float]:
        """One optimiser step; returns the loss. Pictures are mirrored at random while they are only looked at."""
        c = self.config
        views = (c.scenes - c.held_out) * VIEWS
        if self.talks:
            name, loss = "language", self._answers(*self.questions(rng.integers(views, size=c.questions), rng))
        else:
            rows = rng.choice(views, c.batch, replace=False)
            pixels, targets, grid = self.views.take(rows, rng.random((len(rows), 2)) < 0.5)
            name, loss = "dense", self._dense(self.labels(pixels, grid), targets)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], 1.0)
        self.optimiser.step()
        self.schedule.step()
        return {name: loss.item()}

    def look(self, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """(merged patches of all views, D)."""
        places = torch.cat([position_ids(*shape) for shape in grid[:, 1:].tolist()]).to(self.device)
        with self.mixed():
            return self.model.model.visual(pixels, grid_thw=grid, position_ids=places).pooler_output.float()

    def mixed(self) -> torch.autocast:
        """bfloat16 on a GPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def labels(self, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Logits of the patch labels (B, 81, classes), zero where a view has fewer patches."""
        logits = self.head(self.look(pixels, grid))
        real = torch.arange(CELLS, device=self.device) < grid.prod(-1, keepdim=True) // 4
        padded = logits.new_zeros(*real.shape, len(CLASSES))
        padded[real] = logits
        return padded

    def _dense(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of patch labels (B, 81, classes)."""
        weight = torch.full((len(CLASSES),), self.config.positive_weight, device=self.device)
        known = (targets != IGNORED).float()
        each = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), pos_weight=weight, reduction="none")
        each = (each * known).sum((0, 1)) / known.sum((0, 1)).clamp(min=1)
        # the kinds are rare: their mean alone would vanish beside `any`
        return each[:-1].mean() * 4 + each[-1] + 2 * self._naming(logits, targets)

    def _naming(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Which of all kinds the patches of one mark show, taken together; logits, targets (B, patches, classes).

        Patch by patch, "some mark" is learnt and its kind is not: after 2,200 steps a crack and a drilled hole were
        told apart no better than by chance (docs/log.md).
        """
        pooled, kind = base_scores.by_mark(logits, targets)
        return F.cross_entropy(pooled, kind) if len(kind) else logits.sum() * 0

    def _answers(self, pairs: list[tuple[str, str]], shown: list[list[int]]) -> torch.Tensor:
        """Mean negative log-likelihood of the answers."""
        ids, labels = self.tokens(pairs, shown)
        at = labels[:, 1:] != UNLEARNT
        with self.mixed():
            logits = self.model.lm_head(self.forward(ids, shown)[:, :-1][at])
        return F.cross_entropy(logits.float(), labels[:, 1:][at])

    def forward(self, ids: torch.Tensor, shown: list[list[int]]) -> torch.Tensor:
        """Hidden states (questions, L, D) of the last layer."""
        rows = np.array([r for views in shown for r in views])
        pixels, _, grid = self.views.take(rows, np.zeros((len(rows), 2), bool))
        return self.model.model(
            input_ids=ids, attention_mask=(ids != self.processor.tokenizer.pad_token_id).long(),
            mm_token_type_ids=(ids == self.processor.image_token_id).long(), pixel_values=pixels, image_grid_thw=grid,
        ).last_hidden_state  # fmt: skip

    def questions(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[list[tuple[str, str]], list[list[int]]]:
        """One question with its answer on each view, and the views shown for it: that one last."""
        c = self.config
        short = self.step < c.dense_steps + c.short_share * c.talk_steps
        free = [
            free_points(t, int(g))
            for t, g in zip(self.views.targets[rows].cpu().numpy(), self.views.grids[rows], strict=True)
        ]
        pairs = [talk(rng, self.facts[r], empty, short) for r, empty in zip(rows, free, strict=True)]
        others = rows // VIEWS * VIEWS + rng.integers(VIEWS, size=len(rows))
        shown = [[int(r)] for r in rows]
        for k in range(0, len(rows), 4) if not short else ():
            shown[k] = [int(others[k]), int(rows[k])]
        return pairs, shown

    def tokens(self, pairs: list[tuple[str, str]], shown: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded ids and labels (questions, L), loss on the answers alone."""
        p, encode = self.processor, self.processor.tokenizer.encode
        picture = [f"<|vision_start|>{p.image_token * high * wide}<|vision_end|>" for high, wide in GRIDS]
        ids, labels = [], []
        for (question, answer), views in zip(pairs, shown, strict=True):
            pictures = "".join(picture[int(self.views.grids[v])] for v in views)
            text = f"<|im_start|>user\n{pictures}{question}{END_OF_TURN}\n<|im_start|>assistant\n"
            prompt, reply = (encode(t, add_special_tokens=False) for t in (text, answer + END_OF_TURN))
            ids.append(torch.tensor(prompt + reply))
            labels.append(torch.tensor([UNLEARNT] * len(prompt) + reply))
        pad = nn.utils.rnn.pad_sequence
        ids, labels = pad(ids, True, p.tokenizer.pad_token_id), pad(labels, True, UNLEARNT)
        return ids.to(self.device), labels.to(self.device)

    def checkpoint(self) -> None:
        """Everything needed to go on, written atomically; the model folder too, so that it can be tried early."""
        self.out.mkdir(parents=True, exist_ok=True)
        part = self.out / "trainer.pt.part"
        state = {"model": self.model.state_dict(), "head": self.head.state_dict(), "step": self.step, "log": self.log}
        torch.save({**state, "optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict()}, part)
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
        for name in ("model", "head", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(state[name])

    def save(self) -> Path:
        """Model folder with tokenizer, processor, grounding head and the loss curve."""
        tiny_model.save(self.model, self.processor, self.out)
        head = {k: v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}
        save_file(head, self.out / "grounding.safetensors", metadata={"classes": json.dumps(CLASSES)})
        curve = {"config": asdict(self.config), "log": self.log[:: max(len(self.log) // 200, 1)]}
        (self.out / "training.json").write_text(json.dumps(curve), encoding="utf-8")
        return self.out


def train(root: Path, out: Path, config: BaseConfig = BaseConfig()) -> Path:
    """`make base-model`: generate the scenes once, train, save to `out`."""
    scenes = root / f"data/generated/base-{config.scenes}"
    data = generate(scenes, config.scenes, seed=config.seed, workers=os.cpu_count() or 2)
    return BaseTrainer(config, data, out, vocabulary_texts(root)).run()
