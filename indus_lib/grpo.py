"""Accuracy-gated GRPO (paper section 6): a thin subclass of TRL's `GRPOTrainer`.

TRL keeps the objective (group advantage, clipped ratio, k3 KL), the optimiser and checkpoints. We replace
where the tokens come from: `_generate` runs the *inspection loop* (`loop.rollout`) around the live policy, so that RL
sees the tools, prompts, images and stopping rules of inference, and nothing can drift apart.

Departures from the paper, and what it leaves open
 1. Learning rate, clip width, KL weight, temperature, LoRA-or-full, R_format and what a right answer on a normal image
    scores are not given: see `profiles.GRPO` and `rewards.RewardWeights`.
 2. Completion limit: the paper's 512 tokens hold per trajectory; ours per agent turn, as in the inspection loop.
    Observation and image tokens do not count, or a large crop would silently cut the answer off.
 3. One optimiser step uses `prompts x group` trajectories per process, in `accumulation` micro-batches. The paper's
    batch of 1 x accumulation 2 x 4 GPUs is 8 trajectories, so 2 prompts a step; tiny takes 16 prompts.
 4. Advantage: TRL's, sample standard deviation + 1e-4. A group without variance has advantage 0; on one process with
    one batch per step it is left out of the update (it would add its KL term only), which saves half the time; the
    other rows count as if it were there.
 5. delta_conf is measured by two batched margin passes per step, whatever the trajectories did, with the first
    thought kept in both (`delta_mode="question"` drops it: one pass more). A margin is log p(Yes) - log p(No) behind
    the thought; the miniature's terse thought is the decision, "see something" or "see nothing", so there it is taken
    between these two, and without tools right after "see" (`protocol.decision_prefix`).
 6. The log-probabilities are those of the tokens as sampled. The loop's second prompt encodes the first turn from its
    text; where that gives other ids (metric `retokenised`) the ratio still starts at 1, a negligible bias.
 7. Vision frozen by default (GRPO moves little, and the tower of the tiny model overfits first).
 8. "answer-strict" and "recall-guarded" are unexplained: see `rewards`.
 9. The paper trains on four GPUs with ZeRO-3, we on one. What follows was written for several processes and has not
    been run on them: under ZeRO-3 weights are gathered once per step for the rollouts, inside which ranks may generate
    different numbers of tokens; FSDP needs the loop's fixed two `reply` and two `margins` calls.

Guards and their remedies are in `grpo_metrics.GUARDS`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trl import GRPOConfig

from . import grpo_metrics, tools, training_runs
from .grpo_trainer import GatedTrainer
from .profiles import GRPO, Profile
from .rewards import RewardWeights, Similarity
from .samples import Sample

WARMUP = 2  # steps; not in paper


def train(
    base: Path | str,
    samples: Sequence[Sample],
    out: Path | str,
    profile: Profile,
    *,
    weights: RewardWeights | None = None,
    config: GRPO | None = None,
    allowed_tools: Sequence[str] = tools.TOOLS,
    similarity: Similarity | None = None,
    seed: int = 0,
    save_steps: int = 50,
    progress: bool = True,
) -> Path:
    """Train the policy at `base` by RL on labelled samples. Resumes by itself; a finished run is not repeated.

    Args:
        base: Folder or hub name of the SFT model (or of the untrained one: "w/o SFT").
        samples: Labelled; half normal, half anomalous is best (see `balanced`).
        out: As for `sft.train`; its `training.json` holds the metrics of every step.
        profile: Inspection settings, precision, LoRA; its `grpo` unless `config` is given.
        weights: Reward weights, the paper's by default.
        config: Replaces `profile.grpo` (group size, steps, ...).
        allowed_tools: Tools of training (Table 8).
        similarity: Replaces the taxonomy's type similarity.
        seed: Of prompts, sampling and adapters.
        save_steps: Steps between checkpoints.
        progress: Whether to show a bar.

    Returns:
        `out`, loadable by path.

    Raises:
        ValueError: No samples, an unlabelled one, or a batch that does not split into micro-batches.
    """
    out, config, weights = Path(out), config or profile.grpo, weights or RewardWeights()
    check(samples, config)
    run = training_runs.identity(
        base, ["grpo"], config=asdict(config), weights=asdict(weights), inspection=asdict(profile.inspection),
        seed=seed, model=asdict(profile.model), tools=list(allowed_tools),
        samples=[(s.id, s.label, s.node, s.boxes, s.image.stat().st_size) for s in samples],
    )  # fmt: skip
    if training_runs.complete(out, run):
        return out
    work, checkpoint = training_runs.open_work(out, run)
    trainer = _trainer(
        base, samples, work, profile, weights, config, allowed_tools, similarity, seed, save_steps, progress
    )
    training_runs.quiet(trainer)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    facts = {
        "stage": "grpo", "run": run, "base": Path(base).name, "seed": seed, "config": asdict(config),
        "weights": asdict(weights), "tools": list(allowed_tools), "samples": len(samples),
        "seconds_since_resume": time.perf_counter() - start,
    }  # fmt: skip
    return training_runs.finish(trainer, base, trainer.processing_class, out, facts, lora=profile.model.lora)


def _trainer(
    base: Path | str, samples: Sequence[Sample], work: Path, profile: Profile, weights: RewardWeights, config: GRPO,
    allowed_tools: Sequence[str], similarity: Similarity | None, seed: int, save_steps: int, progress: bool,
) -> GatedTrainer:  # fmt: skip
    """The model of `base` in TRL's hands."""
    lora = profile.model.lora
    model, processor = training_runs.prepare(
        base, lora=lora, dtype=profile.model.dtype, freeze_vision=config.freeze_vision
    )
    longest = min(profile.inspection.max_new_tokens, config.max_completion)
    shown = ("reward", "accuracy", "calls_per_image", "kl")
    return GatedTrainer(
        samples, replace(profile.inspection, max_new_tokens=longest), weights, allowed_tools=allowed_tools,
        similarity=similarity, model=model, args=arguments(work, config, model, seed, save_steps),
        processing_class=processor, peft_config=training_runs.lora_config() if lora else None,
        callbacks=[
            training_runs.KeepLog(work / "log.jsonl"), training_runs.Bar("GRPO", shown, progress),
            grpo_metrics.Alarms(),
        ],
    )  # fmt: skip


def check(samples: Sequence[Sample], config: GRPO) -> None:
    """Raise ValueError for what would fail, or train on nonsense, hours later."""
    if not samples:
        raise ValueError("no samples to train on")
    unknown = [s.id for s in samples if s.label is None]
    if unknown:
        raise ValueError(f"{len(unknown)} samples without a label, the first is {unknown[0]}: RL needs the truth")
    if (config.prompts * config.group) % config.accumulation:
        raise ValueError(f"{config.prompts} prompts x {config.group} do not split into {config.accumulation} batches")
    if len(samples) < config.prompts:
        raise ValueError(f"{len(samples)} samples do not fill one step of {config.prompts} prompts")


def balanced(samples: Sequence[Sample], n: int, seed: int = 0) -> list[Sample]:
    """At most `n` labelled samples, half normal and half anomalous, drawn without replacement."""
    order = np.random.default_rng(seed).permutation(len(samples))
    sides = [[samples[i] for i in order if samples[i].label is label] for label in (False, True)]
    take = min(n // 2, *map(len, sides))
    return [s for pair in zip(*(side[:take] for side in sides), strict=True) for s in pair]


def arguments(work: Path, config: GRPO, model: Any, seed: int, save_steps: int) -> GRPOConfig:
    """TRL's configuration; the paper's statement stands beside each value it gives."""
    return training_runs.on_one_gpu(
        GRPOConfig(
            output_dir=str(work),
            num_generations=config.group,  # section 6: G = 4
            per_device_train_batch_size=config.prompts * config.group // config.accumulation,
            gradient_accumulation_steps=config.accumulation,  # section 6: 2
            max_steps=config.steps,
            num_train_epochs=1,  # section 6: one epoch
            max_completion_length=config.max_completion,  # section 6: 512
            learning_rate=config.learning_rate,  # not in paper
            lr_scheduler_type="constant_with_warmup",  # not in paper
            warmup_steps=WARMUP,
            weight_decay=0.0,  # not in paper
            epsilon=config.epsilon,  # section 6: clip 1 +- eps, size not given
            beta=config.beta,  # section 6: k3 KL, weight not given
            temperature=config.temperature,  # not in paper
            top_p=config.top_p,  # not in paper
            loss_type="grpo",  # section 6: mean over the tokens of a trajectory, then over trajectories
            scale_rewards="group",  # section 6: (r - mean) / std
            num_iterations=1,  # not in paper: every batch is used once, so the clip acts only across micro-batches
            bf16=torch.cuda.is_available(),  # section 6
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=training_runs.is_large(model),  # section 6
            save_strategy="steps",
            save_steps=save_steps,
            save_total_limit=1,
            logging_steps=1,
            seed=seed,
            data_seed=seed,
            dataloader_pin_memory=False,
            report_to=[],
            disable_tqdm=True,
        )
    )
