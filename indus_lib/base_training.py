"""Pre-training of `indus-tiny` from random weights: dense grounding of marks, then captions, counting and locating.

What a spike showed and this follows (docs/log.md): captions alone teach a small tower nothing in an hour; telling each
merged patch which marks lie in it does, if sizes and contrasts are spread log-uniformly. So the first part trains the
tower by patch labels alone (through a linear head, kept as `grounding.safetensors`), the second adds the language
model on question-answer pairs, the patch labels staying on, the third goes on with the language model alone: 400 joint
steps left it blind, saying the same of every picture. Nothing here ever says "anomalous".
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from . import tiny_model
from .base_data import CELL, CLASSES, GRIDS, generate
from .fast_vision import accelerate
from .processing import END_OF_TURN

IGNORE = -100


@dataclass(frozen=True)
class BaseConfig:
    """One run of pre-training. All values are ours (not in paper)."""

    scenes: int = 9000
    dense_steps: int = 1100
    joint_steps: int = 400
    language_steps: int = 1000
    batch: int = 64
    learning_rate: float = 1.2e-3
    language_rate: float = 1.5e-3
    weight_decay: float = 0.05
    positive_weight: float = 3.0  # marks cover few patches
    language_weight: float = 0.5
    save_every: int = 150
    seed: int = 0


class BaseTrainer:
    """State of a run: model, head, optimiser, step; `checkpoint` and `resume` carry all of it."""

    def __init__(self, config: BaseConfig, data: Path, out: Path, texts: list[str]):
        self.config, self.out = config, out
        self.images, self.targets = np.load(data / "images.npy", mmap_mode="r"), np.load(data / "targets.npy")
        self.grids = np.load(data / "grids.npy")
        self.texts = json.loads((data / "texts.json").read_text(encoding="utf-8"))
        corpus = [t for pair in self.texts[:20000] for t in pair] + texts
        self.model, self.processor = tiny_model.build(tiny_model.TinyConfig(), corpus, config.seed)
        accelerate(self.model).train()
        torch.manual_seed(config.seed)
        self.head = nn.Linear(self.model.config.text_config.hidden_size, len(CLASSES))
        self.total = config.dense_steps + config.joint_steps + config.language_steps
        self.step, self.log, self._merged, self.optimiser = 0, [], None, None
        self.model.model.visual.merger.register_forward_hook(lambda _, __, out: setattr(self, "_merged", out))

    def run(self) -> Path:
        """Train to the end, continuing from the last checkpoint; returns the model folder."""
        self.resume()
        self.optimiser = self.optimiser or self._enter_phase()
        bar = tqdm(total=self.total, initial=self.step, desc="indus-tiny", unit="step")
        start = time.perf_counter()
        while self.step < self.total:
            loss = self.train_step(np.random.default_rng((self.config.seed, self.step)))
            self.log.append({"step": self.step, "seconds": time.perf_counter() - start, **loss})
            self.step += 1
            if self.step == self._tower_steps:
                self.optimiser = self._enter_phase()
            bar.update()
            bar.set_postfix({k: f"{v:.3f}" for k, v in loss.items()})
            if self.step % self.config.save_every == 0:
                self.checkpoint()
        return self.save()

    @property
    def _tower_steps(self) -> int:
        return self.config.dense_steps + self.config.joint_steps

    def _enter_phase(self) -> torch.optim.Optimizer:
        """Optimiser and one-cycle schedule of the phase that `step` is in: all weights, then the language model."""
        c, last = self.config, self.step >= self._tower_steps
        self.model.model.visual.requires_grad_(not last)
        parameters = [p for p in self.model.parameters() if p.requires_grad] + (
            [] if last else [*self.head.parameters()]
        )
        optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=c.weight_decay)
        rate, steps = (c.language_rate, c.language_steps) if last else (c.learning_rate, self._tower_steps)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1, pct_start=0.1)
        return optimiser

    def train_step(self, rng: np.random.Generator) -> dict[str, float]:
        """One optimiser step on views of one grid; returns the losses."""
        grid = int(rng.choice(self.grids))
        rows = np.sort(rng.choice(np.flatnonzero(self.grids == grid), self.config.batch, replace=False))
        joint = self.step >= self.config.dense_steps
        pixels, targets = self._views(rows, grid, None if joint else rng)
        shape = torch.tensor([[1, GRIDS[grid][0] * 2, GRIDS[grid][1] * 2]] * len(rows))
        losses = {}
        if joint:
            losses["language"] = self._language(rows, pixels, shape)
        else:
            self.model.model.visual(pixels, grid_thw=shape)
        if self.step < self._tower_steps:
            losses["dense"] = self._dense(targets)
        total = losses.get("dense", 0.0) + self.config.language_weight * losses.get("language", 0.0)
        self.optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        return {name: float(value) for name, value in losses.items()}

    def _views(self, rows: np.ndarray, grid: int, rng: np.random.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(B*144, 384) patches and (B*36, classes) targets; with `rng`, flipped at random (captions cannot be)."""
        high, wide = GRIDS[grid]
        images = self.images[rows].reshape(-1, high * CELL, wide * CELL, 3)
        targets = self.targets[rows].reshape(-1, high, wide, len(CLASSES))
        for axis in (1, 2):
            if rng is not None and rng.random() < 0.5:
                images, targets = np.flip(images, axis), np.flip(targets, axis)
        processed = self.processor.image_processor(list(np.ascontiguousarray(images)), do_resize=False)
        labels = torch.from_numpy(targets.reshape(-1, len(CLASSES)).astype(np.float32))
        return torch.as_tensor(np.asarray(processed["pixel_values"])), labels

    def _dense(self, targets: torch.Tensor) -> torch.Tensor:
        """Patch labels through the linear head; `_merged` is (B*36, D) of the pass just made."""
        weight = torch.full((len(CLASSES),), self.config.positive_weight)
        logits = self.head(self._merged)
        each = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none").mean(0)
        return each[:-1].mean() * 4 + each[-1]  # the kinds are rare: their mean alone would vanish beside `any`

    def _language(self, rows: np.ndarray, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ids, labels = self._tokens(rows)
        image = self.processor.image_token_id
        output = self.model(
            input_ids=ids, attention_mask=(ids != self.processor.tokenizer.pad_token_id).long(), labels=labels,
            mm_token_type_ids=(ids == image).long(), pixel_values=pixels, image_grid_thw=grid,
        )  # fmt: skip
        return output.loss

    def _tokens(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded ids and labels (B, L); the loss is on the answers alone."""
        p, tokenizer = self.processor, self.processor.tokenizer
        picture = f"<|vision_start|>{p.image_token * 36}<|vision_end|>"
        pairs = [self.texts[r] for r in rows]
        prompts = [f"<|im_start|>user\n{picture}{q}{END_OF_TURN}\n<|im_start|>assistant\n" for q, _ in pairs]
        prompt_ids = [tokenizer.encode(t, add_special_tokens=False) for t in prompts]
        answer_ids = [tokenizer.encode(a + END_OF_TURN, add_special_tokens=False) for _, a in pairs]
        both = [torch.tensor(a + b) for a, b in zip(prompt_ids, answer_ids, strict=True)]
        masked = [torch.tensor([IGNORE] * len(a) + b) for a, b in zip(prompt_ids, answer_ids, strict=True)]
        pad = nn.utils.rnn.pad_sequence
        return pad(both, True, tokenizer.pad_token_id), pad(masked, True, IGNORE)

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
        state = torch.load(path, weights_only=True)
        self.step, self.log = state["step"], state["log"]
        self.optimiser = self._enter_phase()
        for name in ("model", "head", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(state[name])

    def save(self) -> Path:
        """Model folder with tokenizer, processor, grounding head and the loss curve."""
        tiny_model.save(self.model, self.processor, self.out)
        head = {k: v.detach().contiguous() for k, v in self.head.state_dict().items()}
        save_file(head, self.out / "grounding.safetensors", metadata={"classes": json.dumps(CLASSES)})
        curve = {"config": asdict(self.config), "log": self.log[:: max(len(self.log) // 200, 1)]}
        (self.out / "training.json").write_text(json.dumps(curve), encoding="utf-8")
        return self.out


def vocabulary_texts(root: Path) -> list[str]:
    """Texts beside the captions that the tokenizer should write in few tokens: priors, prompts, tool words."""
    from . import protocol, teacher_words, tools

    files = [*sorted((root / "data/priors").glob("*.yaml")), root / "data/taxonomy.yaml"]
    texts = [line for f in files if f.is_file() for line in f.read_text(encoding="utf-8").splitlines()]
    words = json.dumps(tools.schemas()) + " ".join([*protocol.SCALES, *protocol.CUES, *protocol.SUSPICIONS])
    sample = protocol.format_turn1(
        {"evidence": "the surface looks even", "target": "part", "region": (0, 0, 1000, 1000), "scale": "small",
         "cue": "surface mark", "suspicion": "medium", "preliminary": "No"},
        [{"name": t, "arguments": a} for t, a in (
            ("crop", {"region": [0, 0, 1000, 1000]}), ("enhance", {"method": "texture"}), ("prior", {}),
            ("measure", {"kind": "row", "points": [[100, 500], [900, 500]]}))],
    )  # fmt: skip
    final = protocol.format_final("the crop shows it", True, (10, 20, 30, 40), "scratch")
    common = [sample, final, protocol.question(detail="short"), protocol.direct_question(detail="short"), words]
    phrases = list(_strings([v for k, v in vars(teacher_words).items() if k.isupper() and k.strip("_")]))
    return texts + (common + phrases + _tool_texts()) * 40


def _tool_texts() -> list[str]:
    """What the tools say of a few scenes, and the teacher's words for place, size, colour and grain."""
    from . import factory, sight, tools

    texts = []
    for seed in range(60):
        scene = factory.base_scene(seed)
        x1, y1, x2, y2 = ((scene.row or (20, 128, 230, 128))[i] * 1000 / 256 for i in range(4))
        calls = (
            ("crop", {"region": [0, 0, 1000, 1000]}),
            ("enhance", {"method": ("texture", "clahe")[seed % 2]}),
            ("measure", {"kind": "row", "points": [[x1, y1], [x2, y2]]}),
            ("prior", {"product": "gear"}),
        )
        texts += [tools.run(name, arguments, scene.image).text for name, arguments in calls]
        look = sight.look(scene.image)
        box = (10 * seed, 600 - 10 * seed, 10 * seed + 40, 640 - 10 * seed)
        texts.append(f" {look.texture} {look.colour} {sight.place(box)} {sight.size_word(box)}")
    return texts


def _strings(value: Any) -> Iterator[str]:
    """Every string inside nested dictionaries, lists and tuples."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def train(root: Path, out: Path, config: BaseConfig = BaseConfig()) -> Path:
    """`make base-model`: generate the scenes once, train, save to `out`."""
    data: Any = generate(root / "data/generated/base", config.scenes, seed=config.seed)
    return BaseTrainer(config, data, out, vocabulary_texts(root)).run()
