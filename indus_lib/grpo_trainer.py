"""TRL's `GRPOTrainer` with the inspection loop as its sampler: see `grpo` for what departs from the paper.

Three hooks are overridden. `_generate` rolls out and scores; `_get_per_token_logps_and_entropies` gives every forward
pass the images (TRL knows only those of the prompt, ours also come from tools); `_generate_and_score_completions` hands
the pixels to the update.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from . import fast_vision, grpo_metrics, images, loop, protocol
from .episodes import Episode
from .local_policy import LocalPolicy
from .processing import END_OF_TURN
from .profiles import Inspection
from .rewards import RewardParts, RewardWeights, Similarity, combined
from .samples import Sample
from .train_data import Encoded, encode, with_ids
from .vision_memory import SHARED

IDLE = 1e-2  # advantages below are rounding: float32's mean of six equal rewards is an ulp off, and is divided by 1e-4


class GatedTrainer(GRPOTrainer):
    """`GRPOTrainer` whose rollouts are inspections and whose forward passes see the tools' images.

    Attributes:
        samples: Prompts, by the `index` column of the data set.
        inspection: Settings of the loop.
        weights: Of the reward.
        similarity: Replaces the taxonomy in tests.
        allowed_tools: What the agent may call in training.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        inspection: Inspection,
        weights: RewardWeights,
        *,
        allowed_tools: Sequence[str],
        similarity: Similarity | None = None,
        **options: Any,
    ):
        self.samples, self.inspection, self.weights = samples, inspection, weights
        self.similarity, self.allowed_tools = similarity, tuple(allowed_tools)
        self._batch: list[Sample] = []  # of the step under way
        self._encoded: list[Encoded] = []
        self._kept = 1.0  # share of the batch's rows that the update sees
        rows = [{"prompt": [{"role": "user", "content": s.id}], "index": i} for i, s in enumerate(samples)]
        super().__init__(reward_funcs=[gated_reward], train_dataset=Dataset.from_list(rows), **options)
        self._image_id = self.processing_class.image_token_id
        # one batch on one process may shrink; micro-batches and other ranks must stay equally large
        self.drop_idle = self.accelerator.num_processes == self.args.gradient_accumulation_steps == 1
        self.frozen_vision = not any(p.requires_grad for n, p in self.model.named_parameters() if ".visual." in n)
        if not torch.cuda.is_available():
            self._speed_up_vision()

    def _speed_up_vision(self) -> None:
        """On a CPU: fast towers, and features remembered while the tower is frozen."""
        for model in filter(None, (self.model, self.ref_model)):
            model = self.accelerator.unwrap_model(model)
            model = model.get_base_model() if hasattr(model, "get_base_model") else model  # out of an adapter
            fast_vision.accelerate(model)
            if self.frozen_vision:
                SHARED.attach(model.model.visual.requires_grad_(False))

    # --- rollouts -------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Roll out, score, and hand the pixels on to the update."""
        self._batch = [self.samples[row["index"]] for row in inputs]
        output = super()._generate_and_score_completions(inputs)
        if self.drop_idle:
            output = self._without_idle(output)
        pixels, grid, counts = self._vision()
        self._encoded = []  # the update gets its own copy; nothing stale may be picked up
        return {**output, "pixel_values": pixels, "image_grid_thw": grid, "num_images": counts}

    def _without_idle(self, output: dict[str, Any]) -> dict[str, Any]:
        """The rows that have an advantage; all of them when none has (a step must still be a step)."""
        keep = (output["advantages"].abs() > IDLE).nonzero().squeeze(1)
        self._kept = 1.0
        if not 0 < len(keep) < len(output["advantages"]):
            return output
        self._kept = len(keep) / len(output["advantages"])
        self._encoded = [self._encoded[i] for i in keep.tolist()]
        return {k: v[keep] if isinstance(v, torch.Tensor) and v.dim() else v for k, v in output.items()}

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's mean over the rows that are there, as one over all rows of the batch."""
        return super()._compute_loss(model, inputs) * self._kept

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL's hook: token ids of prompt and completion, 1 on the agent's own tokens, and the scored episodes."""
        start = time.perf_counter()
        traces = self._rollout()
        self._encoded = [encode(with_ids(t.conversation, t.replies), self.processing_class) for t in traces]
        episodes = [freeze(t) for t in traces]
        parts = [combined(e, s, self.weights, self.similarity) for e, s in zip(episodes, self._batch, strict=True)]
        mode = "train" if self.model.training else "eval"
        self._log_step(mode, traces, episodes, parts, time.perf_counter() - start)
        cuts = [e.prompt_length for e in self._encoded]
        prompt_ids = [e.input_ids[:n].tolist() for e, n in zip(self._encoded, cuts, strict=True)]
        completion_ids = [e.input_ids[n:].tolist() for e, n in zip(self._encoded, cuts, strict=True)]
        tool_mask = [e.mask[n:].astype(int).tolist() for e, n in zip(self._encoded, cuts, strict=True)]
        spoken = [[{"role": "assistant", "content": t.replies[-1].text}] for t in traces]
        return prompt_ids, completion_ids, tool_mask, spoken, None, {"parts": parts}, None, []

    def _rollout(self) -> list[loop.Trace]:
        """One trajectory per row, sampled, with margins.

        Raises:
            RuntimeError: An image could not be read: a run that goes on without it would train on something else.
        """
        frames = load_frames(self._batch)
        seed = self.args.seed * 1_000_003 + self.state.global_step * 1009 + self.accelerator.process_index
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
        ):
            policy = LocalPolicy(
                model, self.processing_class, name="grpo", batch=self.inspection.batch, top_p=self.top_p
            )
            traces = loop.rollout(
                policy, self._batch, config=self.inspection, allowed_tools=self.allowed_tools,
                temperature=self.temperature, seed=seed, frames=frames,
            )  # fmt: skip
            failed = [t for t in traces if t.error]
            if failed:
                raise RuntimeError(f"rollout of {failed[0].sample.id} failed: {failed[0].error}")
            if self.weights.delta_mode == "question":
                ask_question_margins(policy, traces)
        return traces

    def _log_step(
        self, mode: str, traces: list[loop.Trace], episodes: list[Episode], parts: list[RewardParts], seconds: float
    ) -> None:
        """Means over all processes of what the dashboard shows."""
        values = grpo_metrics.step_values(episodes, self._batch, parts, self._encoded, traces, self.num_generations)
        values["retokenised"] = [float(retokenised(t, self.processing_class)) for t in traces]
        values["rollout_seconds"] = [seconds]
        sums = torch.tensor([[sum(v), len(v)] for v in values.values()], device=self.accelerator.device)
        totals = self.accelerator.reduce(sums, reduction="sum").tolist()
        for name, (total, count) in zip(values, totals, strict=True):
            self._metrics[mode][name].append(total / count if count else float("nan"))
        own = torch.tensor([float(e.mask.sum()) for e in self._encoded], device=self.accelerator.device)
        own = self.accelerator.gather(own)
        self._metrics[mode]["completions/mean_length"].append(own.mean().item())
        self._metrics[mode]["completions/max_length"].append(own.max().item())

    # --- forward passes -------------------------------------------------------------------------------------------

    def _vision(self) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """(patches, D) pixels and (images, 3) grids of all rows in order, images per row."""
        pixels = torch.cat([e.pixel_values for e in self._encoded]).to(self.accelerator.device)
        grid = torch.cat([e.image_grid_thw for e in self._encoded]).to(self.accelerator.device)
        return pixels, grid, [len(e.image_grid_thw) for e in self._encoded]

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **kwargs: Any
    ) -> Any:
        """TRL's forward, never without the images: during scoring they are still ours, in the update they are handed
        in. Token types follow from the ids, so observation images in the completion count too."""
        if kwargs.get("pixel_values") is None:
            kwargs["pixel_values"], kwargs["image_grid_thw"], kwargs["num_images"] = self._vision()
        kwargs["mm_token_type_ids"] = (input_ids == self._image_id).long()
        return super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **kwargs)


def gated_reward(parts: list[RewardParts], **_: Any) -> list[float]:
    """TRL's reward function: the totals that `_generate` already computed from the episodes."""
    return [p.total for p in parts]


def freeze(trace: loop.Trace) -> Episode:
    """The episode of a trace, with the question-only margin when it was asked for."""
    made = loop.episode(trace, "grpo", "", "agent", 0)
    asked = getattr(trace, "margin_question", None)
    return made if asked is None else replace(made, extra={**made.extra, "margin_question": asked})


def ask_question_margins(policy: LocalPolicy, traces: list[loop.Trace]) -> None:
    """m(y | I,Q): no thought, no calls. One batched pass."""
    asked = policy.margins([protocol.add_assistant(t.conversation[:1], "") for t in traces])
    for trace, margin in zip(traces, asked, strict=True):
        trace.margin_question = margin  # type: ignore[attr-defined]  # a trace is ours while it is being made


def load_frames(samples: Sequence[Sample]) -> list[np.ndarray]:
    """Full-resolution images of a batch, each file read once although a prompt stands there G times."""
    unique = {s.id: s for s in samples}
    loaded = {key: images.load_image(s.image, s.tile) for key, s in unique.items()}
    return [loaded[s.id] for s in samples]


def retokenised(trace: loop.Trace, processor: Any) -> bool:
    """Whether the second round's prompt held other ids for the first turn than those that were sampled."""
    if len(trace.replies) < 2:
        return False
    first = trace.replies[0]
    ids = processor.tokenizer(first.text + END_OF_TURN, add_special_tokens=False)["input_ids"]
    return tuple(ids) != tuple(first.token_ids)
