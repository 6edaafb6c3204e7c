"""What is measured in every RL step, and which values are an alarm.

The failures others report and our own runs met (calls collapsing to none, to one tool or without end, format collapse,
one constant answer, groups without variance, KL running away) each have a metric, a limit and a remedy in `GUARDS`. A
tripped guard is warned about once per run; it never changes the training by itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import TrainerCallback

from .episodes import Episode
from .loop import Trace
from .protocol import TOOL_NAMES
from .rewards import RewardParts, violated
from .samples import Sample
from .train_data import Encoded

LOG = logging.getLogger(__name__)
WINDOW = 5  # steps a guard looks back, so that one unlucky batch is no alarm; not in paper
SELDOM = 0.02  # calls an image; a tool asked for less cannot be said to be lost


def step_values(
    episodes: Sequence[Episode],
    samples: Sequence[Sample],
    parts: Sequence[RewardParts],
    encoded: Sequence[Encoded],
    traces: Sequence[Trace],
    group: int,
) -> dict[str, list[float]]:
    """Per-trajectory values of one step; the means over them are logged (an empty list gives no value).

    The set of names is fixed, because processes add their sums up by position.
    """
    answered = [e.verdict for e in episodes if e.verdict is not None]
    rewards = np.array([p.total for p in parts])
    groups = rewards.reshape(-1, group) if len(rewards) % group == 0 else rewards.reshape(1, -1)
    calling = [(e, p) for e, p in zip(episodes, parts, strict=True) if any(c.ok for c in e.calls)]
    by_tool = {f"calls/{name}": [float(sum(c.name == name for c in e.calls)) for e in episodes] for name in TOOL_NAMES}
    right = [(p.acc, s.label) for p, s in zip(parts, samples, strict=True)]
    return {
        **{f"reward/{n}": [getattr(p, n) for p in parts] for n in ("acc", "loc", "type", "tool", "format", "total")},
        "accuracy": [p.acc for p in parts],
        "recall": [a for a, label in right if label],
        "specificity": [a for a, label in right if not label],
        "answers_yes": [float(v.anomalous) for v in answered],
        "calls_per_image": [float(len(e.calls)) for e in episodes],
        **by_tool,
        "call_success": [float(c.ok) for e in episodes for c in e.calls],
        "useful_call_rate": [float((p.delta_conf or 0.0) > 0) for _, p in calling],
        "delta_conf": [p.delta_conf for p in parts if p.delta_conf is not None],
        "violations": [float(violated(e)) for e in episodes],
        "unparsed": [float(e.verdict is None) for e in episodes],
        "truncated": [float(any(r.truncated for r in t.replies)) for t in traces],
        "zero_variance": [float(np.ptp(g) < 1e-9) for g in groups],
        "sequence_length": [float(len(e)) for e in encoded],
    }


@dataclass(frozen=True)
class Guard:
    """One known failure: the mean of `metric` over the last steps must not satisfy `bad`. `relative`: that mean as a
    share of the first steps'; no alarm where those hold next to nothing."""

    name: str
    metric: str
    bad: Callable[[float], bool]
    remedy: str
    relative: bool = False


GUARDS = (
    Guard(
        "tool_collapse", "calls_per_image", lambda v: v < 0.05,
        "calls stopped paying: check useful_call_rate before it fell; more tool trajectories in SFT, eta down, lam up, "
        "or delta_mode='any_call' for the first steps; a higher temperature keeps calls being tried",
    ),
    Guard(
        "tool_abuse", "calls_per_image", lambda v: v > 2.0,
        "calls pay without helping: eta up, delta_mode must not be 'any_call', gate must not be 'additive', "
        "inspection.max_calls down",
    ),
    Guard(
        "useless_calls", "useful_call_rate", lambda v: v < 0.2,
        "tools are called where they do not help: check that results reach the model (counterfactual audit), eta up",
    ),
    Guard(
        "format_collapse", "violations", lambda v: v > 0.3,
        "learning rate down, KL weight beta up, format_penalty up, or start from a longer SFT",
    ),
    Guard("always_yes", "answers_yes", lambda v: v > 0.95, "balance the prompts (`grpo.balanced`), KL weight beta up, "
          "normal_location = normal_type = 1 (do not use recall_guarded)"),
    Guard("always_no", "answers_yes", lambda v: v < 0.05, "balance the prompts (`grpo.balanced`), KL weight beta up, "
          "or rewards.recall_guarded()"),
    Guard(
        "zero_variance", "zero_variance", lambda v: v > 0.8,
        "most groups teach nothing: group size or temperature up, drop prompts that the policy always or never gets "
        "right (`grpo_metrics.undecided` over a sampled pass), more prompts per step",
    ),
    Guard("kl_runaway", "kl", lambda v: v > 1.0, "learning rate down, KL weight beta up, fewer steps"),
    Guard("truncated", "truncated", lambda v: v > 0.1, "max_new_tokens up, or format_penalty up"),
    *(
        Guard(
            f"{name}_lost", f"calls/{name}", lambda v: v < 0.1,
            "one tool crowds another out: KL weight beta up, learning rate down, more prompts per step; where long "
            "calls break when sampled (violations), temperature down",
            relative=True,
        )
        for name in TOOL_NAMES
    ),
)  # fmt: skip  # every limit is not in paper


def alarms(history: Sequence[Mapping[str, Any]]) -> list[Guard]:
    """Guards that the mean of the last `WINDOW` logged steps trips; none before there are as many steps."""
    tripped = []
    for guard in GUARDS:
        values = [row[guard.metric] for row in history if isinstance(row.get(guard.metric), int | float)]
        first, last = (_mean(values[:WINDOW]) if guard.relative else 1.0), _mean(values[-WINDOW:])
        if first is not None and last is not None and first >= SELDOM and guard.bad(last / first):
            tripped.append(guard)
    return tripped


def _mean(values: Sequence[float]) -> float | None:
    """Of a whole window; None where one is not finite or missing."""
    return sum(values) / WINDOW if len(values) == WINDOW and all(map(math.isfinite, values)) else None


class Alarms(TrainerCallback):
    """Warns once per guard, with the remedy."""

    def __init__(self) -> None:
        self.warned: set[str] = set()

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the last steps."""
        for guard in alarms(state.log_history):
            if guard.name not in self.warned and state.is_world_process_zero:
                self.warned.add(guard.name)
                LOG.warning("GRPO step %d, guard %s: %s", state.global_step, guard.name, guard.remedy)


def undecided(parts: Sequence[RewardParts], group: int) -> list[int]:
    """Indices of the prompts whose group is neither all right nor all wrong: those GRPO learns most from.

    Remedy for zero-variance groups: sample the pool once, keep these, train on them. (Re-sampling inside a step would
    make the number of generations depend on the data, which hangs sharded training.)
    """
    right = np.array([p.acc for p in parts]).reshape(-1, group).mean(axis=1)
    return np.flatnonzero((right > 0) & (right < 1)).tolist()
