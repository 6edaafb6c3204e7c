"""The gated reward (paper section 6) as pure functions with named parts.

    R(t)   = R_acc * (1 + alpha*R_loc + beta*R_type + gamma*R_tool) + R_format
    R_tool = lam * 1[delta_conf > 0] - eta * |C|

Where the paper is silent we chose, and each choice is a field of `RewardWeights`:

- **R_format** is a penalty, <= 0. Only then do "no credit when R_acc = 0" and "the format term is outside the gate"
  both hold: a wrong answer never earns, however well formed.
- **A right answer on a normal image** has no box and no type. It scores `normal_location` and `normal_type`, 1 by
  default: right is then worth the same ceiling on either side. At 0 a right Yes can pay 2.4 and a right No only 1,
  which pulls towards Yes; that is our reading of "recall-guarded" (`recall_guarded()`).
- **"answer-strict"** is read literally: only a verdict that the strict parser found inside `<answer>` opens the gate.
  An unparsed answer is wrong, nothing is guessed from free text.
- **delta_conf's "without tools"** is `Episode.margin_before`: the same first thought, the calls and their results left
  out, so that the difference is the tools' and what is thought of their results. `delta_mode="question"` reads
  m(y | I,Q) to the letter, no thought either (`Episode.extra["margin_question"]`, which RL fills when asked to): it
  pays the thought together with the tool.
- **|C|** counts calls that ran. A failed call costs a format violation instead, and never earns the bonus.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from .boxes import best_iou
from .episodes import Episode
from .samples import Sample

Gate = Literal["hard", "soft", "additive"]
DeltaMode = Literal["without_tools", "question", "any_call", "none"]
Similarity = Callable[[str, str], float]

STD_EPSILON = 1e-4  # TRL's: a group of equal rewards gets 0, not 0/0


@dataclass(frozen=True)
class RewardWeights:
    """Every weight and switch of the reward.

    Attributes:
        alpha, beta, gamma: Weights of location, type and tool terms (paper section 6).
        lam, eta: Bonus of a useful call, cost of every call that ran (paper section 6).
        format_penalty: Subtracted, outside the gate, from a trajectory with any violation.
        normal_location, normal_type: R_loc and R_type of a right answer on a normal image.
        gate: `hard` = the paper's; `soft` = a wrong answer keeps `soft_leak` of the other terms (still not the 1);
            `additive` = no gate, the terms are summed.
        soft_leak: Share of the shaping terms that a wrong answer keeps under the soft gate.
        delta_mode: What "without tools" means: `without_tools`, `question`, `any_call` (bonus for any call that ran,
            useful or not) or `none` (calls only cost).
        miss_penalty: Extra cost, outside the gate, of calling an anomalous image normal.
    """

    alpha: float = 0.8  # section 6
    beta: float = 0.6  # section 6
    gamma: float = 0.5  # section 6
    lam: float = 0.3  # section 6
    eta: float = 0.1  # section 6
    format_penalty: float = 0.5  # not in paper: half of what a bare right answer earns
    normal_location: float = 1.0  # not in paper
    normal_type: float = 1.0  # not in paper
    gate: Gate = "hard"  # section 6
    soft_leak: float = 0.3  # not in paper
    delta_mode: DeltaMode = "without_tools"  # section 6, our reading of m(y | I,Q)
    miss_penalty: float = 0.0  # not in paper

    def __post_init__(self) -> None:
        if self.gate not in ("hard", "soft", "additive"):
            raise ValueError(f"gate {self.gate!r}: choose hard, soft or additive")
        if self.delta_mode not in ("without_tools", "question", "any_call", "none"):
            raise ValueError(f"delta_mode {self.delta_mode!r}: choose without_tools, question, any_call or none")
        if self.format_penalty < 0 or self.miss_penalty < 0:
            raise ValueError("format_penalty and miss_penalty are sizes of a penalty: give numbers >= 0")


def recall_guarded(weights: RewardWeights | None = None) -> RewardWeights:
    """`weights` with our reading of "recall-guarded": a right No earns the bare 1, a missed defect costs 0.5 more."""
    return replace(weights or RewardWeights(), normal_location=0.0, normal_type=0.0, miss_penalty=0.5)


@dataclass(frozen=True)
class RewardParts:
    """One reward, taken apart. `total` is what the optimiser sees.

    Attributes:
        acc, loc, type, tool: The unweighted terms R_acc, R_loc, R_type, R_tool.
        format: R_format plus any miss penalty, <= 0.
        gated: The gated sum, without `format`.
        delta_conf: Gain of the margin of the given answer, None when unknown.
    """

    acc: float
    loc: float
    type: float
    tool: float
    format: float
    gated: float
    delta_conf: float | None = None

    @property
    def total(self) -> float:
        """R(t)."""
        return self.gated + self.format


def accuracy(episode: Episode, sample: Sample) -> float:
    """R_acc: 1 when the parsed verdict equals the label, else 0 (an unparsed answer is wrong).

    Raises:
        ValueError: The sample has no label: nothing can be rewarded.
    """
    if sample.label is None:
        raise ValueError(f"{sample.id}: no label, so no reward; train and score on labelled samples only")
    return float(episode.verdict is not None and episode.verdict.anomalous == sample.label)


def location(episode: Episode, sample: Sample, weights: RewardWeights) -> float:
    """R_loc: IoU of the answered box with the best true box or their hull; `normal_location` for a right No."""
    if _right_no(episode, sample):
        return weights.normal_location
    box = episode.verdict.box if episode.verdict else None
    return best_iou(box, sample.boxes) if box is not None else 0.0


def kind(episode: Episode, sample: Sample, weights: RewardWeights, similarity: Similarity) -> float:
    """R_type: similarity of the answered and the true type in the taxonomy; `normal_type` for a right No."""
    if _right_no(episode, sample):
        return weights.normal_type
    answered = episode.verdict.type if episode.verdict and episode.verdict.anomalous else ""
    return similarity(answered, sample.node) if answered and sample.node else 0.0


def delta_conf(episode: Episode, mode: DeltaMode = "without_tools") -> float | None:
    """Gain of the given answer's margin through the calls; None without an answer, a call or log-probabilities.

    Episode margins are log p(Yes) - log p(No); the paper's is for the parsed y, so the sign turns for No.
    """
    before = episode.extra.get("margin_question") if mode == "question" else episode.margin_before
    if episode.verdict is None or episode.margin is None or before is None or not _ran(episode):
        return None
    return (episode.margin - before) * (1.0 if episode.verdict.anomalous else -1.0)


def tool(episode: Episode, weights: RewardWeights) -> float:
    """R_tool = lam * 1[delta_conf > 0] - eta * |C|, over calls that ran."""
    calls = _ran(episode)
    if weights.delta_mode == "any_call":
        useful = calls > 0
    elif weights.delta_mode == "none":
        useful = False
    else:
        gain = delta_conf(episode, weights.delta_mode)
        useful = gain is not None and gain > 0
    return weights.lam * useful - weights.eta * calls


def violated(episode: Episode) -> bool:
    """Whether the trajectory breaks the protocol: a named violation, no answer, or a call that failed (section 3)."""
    return bool(episode.violations) or episode.verdict is None or any(not call.ok for call in episode.calls)


def penalty(episode: Episode, sample: Sample, weights: RewardWeights) -> float:
    """R_format, <= 0, outside the gate; plus `miss_penalty` for a defect called normal."""
    missed = sample.label is True and episode.verdict is not None and not episode.verdict.anomalous
    return -(weights.format_penalty * violated(episode) + weights.miss_penalty * missed)


def combined(
    episode: Episode, sample: Sample, weights: RewardWeights | None = None, similarity: Similarity | None = None
) -> RewardParts:
    """R(t) with its parts.

    Args:
        episode: What the agent did.
        sample: What is true. Must be labelled.
        weights: Defaults to the paper's.
        similarity: (answered type in free words, taxonomy node) -> 0..1. Defaults to `data/taxonomy.yaml`.

    Raises:
        ValueError: `sample` has no label, or a term is not finite.
    """
    weights = weights or RewardWeights()
    acc = accuracy(episode, sample)
    loc = location(episode, sample, weights)
    node = kind(episode, sample, weights, similarity or taxonomy_similarity)
    use = tool(episode, weights)
    shaping = weights.alpha * loc + weights.beta * node + weights.gamma * use
    gated = acc + shaping * _gate(acc, weights)
    gain = delta_conf(episode, weights.delta_mode)
    parts = RewardParts(acc, loc, node, use, penalty(episode, sample, weights), gated, gain)
    if not math.isfinite(parts.total):
        raise ValueError(f"{episode.sample_id}: reward is not finite: {parts}")
    return parts


def advantages(rewards: Sequence[float], group: int) -> np.ndarray:
    """(r - mean) / std inside each consecutive group (paper section 6), as TRL computes it.

    The standard deviation is the sample one (n - 1) plus 1e-4; a group of equal rewards gets zeros.

    Returns:
        Array of shape (len(rewards),).

    Raises:
        ValueError: The rewards do not split into groups of `group` >= 2.
    """
    values = np.asarray(rewards, dtype=float)
    if group < 2 or len(values) % group:
        raise ValueError(f"{len(values)} rewards do not split into groups of {group} (at least 2)")
    grouped = values.reshape(-1, group)
    centred = grouped - grouped.mean(axis=1, keepdims=True)
    return (centred / (grouped.std(axis=1, ddof=1, keepdims=True) + STD_EPSILON)).reshape(-1)


def taxonomy_similarity(answered: str, node: str) -> float:
    """Wu-Palmer similarity of free words to a taxonomy node, 0 for words the taxonomy does not know."""
    tree = _taxonomy()
    found = tree.of_text(answered)
    return tree.similarity(found, node) if found is not None else 0.0


@lru_cache(maxsize=1)
def _taxonomy():  # type: ignore[no-untyped-def]  # read once, on first use: thousands of rewards per run
    from .taxonomy import load

    return load()


def _gate(acc: float, weights: RewardWeights) -> float:
    """What the shaping terms are multiplied with."""
    if weights.gate == "additive":
        return 1.0
    return acc if weights.gate == "hard" else acc + (1 - acc) * weights.soft_leak


def _ran(episode: Episode) -> int:
    return sum(call.ok for call in episode.calls)


def _right_no(episode: Episode, sample: Sample) -> bool:
    return sample.label is False and episode.verdict is not None and not episode.verdict.anomalous
