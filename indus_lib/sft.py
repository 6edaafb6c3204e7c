"""Supervised cold start on Indus-CoT (paper section 5): negative log-likelihood of the generated tokens only.

`transformers.Trainer` does the training, in one process on one GPU, which an 8B with an adapter fits; on several GPUs
runs go side by side (`experiments.ablate`). What is ours: the collator (`train_data`), batches of similar length, and a
result that any policy opens by its path: LoRA adapters are merged, full weights saved as they are. A killed run goes on
from its last checkpoint when called again.

Departures from the paper: learning rate, schedule, weight decay and LoRA-or-full are ours (not given); every other
trajectory is learnt under a shorter list of tools (`train_data.offered`). For the miniature alone, none of it for the
8B: the tower first learns what a photograph asks for (`SFT.looking`), the language model starts anew (`SFT.restart`),
learns to answer in words alone (`SFT.reading`) before anything else, and practises it beside every
batch (`SFT.practice`); thoughts are cut short (`SFT.terse`); decisions (what is seen, whether to ask, which tool) and,
a quarter as much, places and types count more than other tokens (`SFT.decision_weight`) once the format is learnt
(`SFT.format_first`); rounds are learnt apart, some second ones from the observation alone, and boxes and names of forms
are others each time (`SFT.withheld`). Batches are bucketed by length; on a CPU the vision tower runs its batched twin
(`fast_vision`, same numbers) and looks once at each picture.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

from . import looking, practice, tiny_model, training_runs
from .profiles import SFT
from .train_data import IGNORED, Encoded, collate, rounds_apart
from .vision_memory import VisionMemory

WEIGHT_DECAY = 0.01  # not in paper
REMEMBERED = 2**32  # bytes of features of a frozen tower, kept over the epochs
READ = 64  # answers in a step of the first lesson in words; not in paper
WORDS = "words.json"  # its course, in the work folder


class Buckets(LengthGroupedSampler):
    """Order of an epoch in batches of similar length, from seed and epoch alone: a resumed run has the same order.

    The batches come in random order. The stock sampler sorts fifty at a time, longest first, so that second rounds and
    first ones, which differ in length, would take turns of some 25 steps each (docs/log.md).

    `lengths` are of what is given (instruction, pictures, observations), not of the whole: a Yes is longer than a No by
    location and type, and batches of similar whole length hold one verdict only, from which nothing is learnt.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.set_epoch(0)

    def __iter__(self) -> Iterator[int]:
        rows = list(super().__iter__())
        whole = len(rows) // self.batch_size * self.batch_size
        order = torch.randperm(whole // self.batch_size, generator=self.generator)
        yield from torch.tensor(rows[:whole]).view(-1, self.batch_size)[order].flatten().tolist()
        yield from rows[whole:]  # the short batch stays last

    def set_epoch(self, epoch: int) -> None:
        """The trainer calls this before every epoch, also the one that it resumes in."""
        self.generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)


def given(row: Encoded) -> int:
    """Tokens that the agent did not generate."""
    return int((~row.mask).sum())


class BucketTrainer(Trainer):
    """`Trainer` whose batches hold conversations of similar length (less padding, same epochs), and whose loss counts
    decisions more than other tokens.

    Attributes:
        vision_rate: Learning rate of the vision tower / of the rest.
        decision_weight: Of a decision's token against another (`train_data.SHARES` for what an answer names).
        format_first: Share of the steps, from the start, in which they do not count more.
        withheld: Share of the second rounds that are learnt without the photograph.
        named_only: Whether a box is learnt only where an observation names it.
        practised: Answers in words beside every batch; their loss is added to it.
    """

    def __init__(self, config: SFT, words: practice.Practice | None, **options: Any):
        self.vision_rate, self.decision_weight = config.vision_rate, config.decision_weight
        self.format_first, self.withheld, self.named_only = config.format_first, config.withheld, config.named_only
        self.practised, self.words = config.practice, words
        super().__init__(**options)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The stock one, with the vision tower's parameters in groups of their own."""
        if self.optimizer is not None:
            return super().create_optimizer(model)
        optimizer = super().create_optimizer(model)
        own = {id(p) for name, p in self.model.named_parameters() if ".visual." in name}
        for group in list(optimizer.param_groups):
            tower = [p for p in group["params"] if id(p) in own]
            if tower:
                group["params"] = [p for p in group["params"] if id(p) not in own]
                optimizer.add_param_group({**group, "params": tower, "lr": group["lr"] * self.vision_rate})
        return optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Weighted negative log-likelihood of the learnt tokens, over all micro-batches of a step alike."""
        held = self.withheld if model.training else 0.0
        inputs = practice.withhold(inputs, held, self.words.redraw) if held else dict(inputs)
        labels, decided = inputs.pop("labels")[:, 1:], inputs.pop("decision")[:, 1:]
        if self.named_only:
            labels = labels.masked_fill(inputs["place"][:, 1:] < 0, IGNORED)
        del inputs["second"], inputs["place"]
        at = labels != IGNORED
        columns = at.any(0).nonzero()[:, 0]  # logits of the others would be thrown away: most of the memory of an 8B
        outputs = model(**inputs, logits_to_keep=columns)
        each = cross_entropy(outputs.logits[at[:, columns]].float(), labels[at], reduction="none")
        weights = 1 + (self._decision_weight() - 1) * decided[at]
        items = at.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (each * weights).sum() / weights.mean() / items
        if self.practised and model.training:
            loss = loss + self.words.loss(model, self.practised) / self.args.gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def _decision_weight(self) -> float:
        early = self.model.training and self.state.global_step < self.format_first * self.state.max_steps
        return 1.0 if early else self.decision_weight

    def _get_train_sampler(self, train_dataset: Any = None) -> Buckets:
        rows = self.train_dataset if train_dataset is None else train_dataset
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return Buckets(size, [given(row) for row in rows], self.args.seed)


def train(
    base: Path | str,
    corpus: Sequence[Encoded],
    out: Path | str,
    config: SFT,
    *,
    validation: Sequence[Encoded] = (),
    lora: bool = False,
    dtype: str = "float32",
    seed: int = 0,
    save_steps: int = 100,
    progress: bool = True,
) -> Path:
    """Train `base` on `corpus`. Resumes by itself; does nothing when `out` already holds this very run's result.

    Args:
        base: Local folder or hub name of a Qwen3-VL.
        corpus: Encoded conversations (`train_data.encode_all`).
        out: Folder of the trained model: weights, processor and `training.json` (loss curve, seconds, counts). It
            appears only when training is complete; until then checkpoints and log lie in `.<name>.work` beside it.
        config: Epochs, batch, learning rate, what is frozen.
        validation: Its loss is measured after every epoch.
        lora: Train a low-rank adapter of the language model and merge it at the end.
        dtype: Of the computation on a GPU (`bfloat16` for the 8B); a CPU trains in float32.
        seed: Of the order of the batches and of new adapters.
        save_steps: Steps between checkpoints.
        progress: Whether to show a bar.

    Returns `out`, to be opened by `tiny_model.load` or `LocalPolicy.from_path`.

    Raises ValueError for an empty corpus, or a lesson of the tower under LoRA, which keeps the base's, and
    FileNotFoundError without a model at `base`."""
    out = Path(out)
    _check(corpus, config, lora)
    facts = {"config": asdict(config), "lora": lora, "seed": seed}
    run = training_runs.identity(base, ["sft"], **facts, dtype=dtype, corpus=digest(corpus), n=len(corpus))
    if training_runs.complete(out, run):
        return out
    work, checkpoint = training_runs.open_work(out, run)
    set_seed(seed)
    options = {"seed": seed, "lora": lora, "dtype": dtype, "progress": progress}
    model, processor, looked = _prepare(base, corpus, validation, config, work, **options)
    words = _words(model, processor, corpus, config)
    if words and not checkpoint:  # a checkpoint has had the lesson
        _hold(words, model, config, work, progress)
    arguments = _arguments(work, config, model, seed, save_steps, bool(validation))
    rows = rounds_apart(corpus, processor) if config.withheld else corpus
    trainer = _trainer(model, processor, arguments, config, words, rows, validation, progress)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    facts |= {
        "stage": "sft", "run": run, "base": Path(base).name, "seconds_since_resume": time.perf_counter() - start,
        "conversations": len(corpus), "learnt_tokens": int(sum(one.mask.sum() for one in corpus)), "looked": looked,
        **(json.loads((work / WORDS).read_text()) if words else {}),
    }  # fmt: skip
    return training_runs.finish(trainer, base, processor, out, facts, lora=lora)


def _words(model: Any, processor: Any, corpus: Sequence[Encoded], config: SFT) -> practice.Practice | None:
    """What is practised in words, for a configuration that practises or redraws anything."""
    needed = config.withheld or config.reading or config.practice
    return practice.Practice(model, processor, corpus, config.decision_weight) if needed else None


def _hold(words: practice.Practice, model: Any, config: SFT, work: Path, progress: bool) -> None:
    """The lesson in words, if there is one; its course goes to the work folder."""
    rate, steps = config.learning_rate, config.reading
    courses = words.lesson(model, steps=steps, size=READ, rate=rate, progress=progress) if steps else {}
    (work / WORDS).write_text(json.dumps(courses))


def _check(corpus: Sequence[Encoded], config: SFT, lora: bool) -> None:
    if not corpus:
        raise ValueError("nothing to train on: the corpus is empty")
    if config.looking and lora:
        raise ValueError("SFT.looking changes the tower, a LoRA run keeps its adapter alone: set one of them off")


def _trainer(
    model: Any, processor: Any, arguments: TrainingArguments, config: SFT, words: practice.Practice | None,
    corpus: Sequence[Encoded], validation: Sequence[Encoded], progress: bool,
) -> BucketTrainer:  # fmt: skip
    pad, image = processor.tokenizer.pad_token_id, processor.image_token_id
    log = training_runs.KeepLog(Path(arguments.output_dir) / "log.jsonl")
    trainer = BucketTrainer(
        config, words, model=model, args=arguments, train_dataset=list(corpus),
        eval_dataset=list(validation) or None,
        data_collator=lambda rows: collate(rows, pad, image),
        callbacks=[log, training_runs.Bar("SFT", ("loss",), progress)],
    )  # fmt: skip
    training_runs.quiet(trainer)
    return trainer


def _prepare(
    base: Path | str, corpus: Sequence[Encoded], validation: Sequence[Encoded], config: SFT, work: Path, *, seed: int,
    lora: bool, dtype: str, progress: bool,
) -> tuple[Any, Any, list[float]]:  # fmt: skip
    """(model to train, processor, course of the tower's lesson). On a CPU a frozen tower looks at every picture once,
    at first. The random state behind the lesson is the same for a run that is resumed."""
    frozen = not config.vision_rate
    model, processor = training_runs.prepare(base, lora=lora, dtype=dtype, freeze_vision=frozen)
    visual, looked = model.model.visual, []
    if config.looking:
        looked = looking.once(visual, corpus, work, epochs=config.looking, seed=seed, progress=progress)
        visual.requires_grad_(not frozen)
        set_seed(seed)
    if frozen and not torch.cuda.is_available():
        memory = VisionMemory(REMEMBERED)
        memory.attach(visual)
        memory.fill(visual, [*corpus, *validation], progress=progress)
    if config.restart:
        tiny_model.restart_language(model)
    if lora:
        from peft import get_peft_model

        model = get_peft_model(model, training_runs.lora_config())
    return model, processor, looked


def digest(corpus: Sequence[Encoded]) -> str:
    """Hash of the tokens and masks of a corpus and of every 16th patch of its pictures, in order."""
    state = hashlib.sha256()
    for one in corpus:
        state.update(one.input_ids.tobytes() + one.mask.tobytes() + one.pixel_values[::16].numpy().tobytes())
    return state.hexdigest()[:16]


def _arguments(work: Path, config: SFT, model: Any, seed: int, save_steps: int, validates: bool) -> TrainingArguments:
    recompute = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    return training_runs.on_one_gpu(
        TrainingArguments(
            output_dir=str(work),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch,
            per_device_eval_batch_size=config.batch,
            gradient_accumulation_steps=config.accumulation,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",  # not in paper
            warmup_steps=config.warmup,  # below 1: a share of all steps
            weight_decay=WEIGHT_DECAY,
            bf16=torch.cuda.is_available(),  # section 6: bf16
            use_cpu=not torch.cuda.is_available(),
            eval_strategy="epoch" if validates else "no",
            prediction_loss_only=True,
            save_strategy="steps",
            save_steps=save_steps,
            save_total_limit=1,
            logging_steps=1,  # a mean over several would be cut short where a run resumes
            logging_nan_inf_filter=False,  # a diverged loss is shown, not smoothed away
            seed=seed,
            data_seed=seed,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            report_to=[],
            label_names=["labels"],
            **(recompute if training_runs.is_large(model) else {}),
        )
    )
