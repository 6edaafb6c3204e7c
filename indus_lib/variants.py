"""Which runs the tables are made of.

A run is a `Variant`: where it starts, what differs from the full agent, which tools it may use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .rewards import RewardWeights
from .tools import TOOLS


@dataclass(frozen=True)
class Variant:
    """One run of the tables.

    Attributes:
        start: `base`, `sft` or `sft_no_tools`: which model RL starts from, or is evaluated as it is; `shipped`: the
            profile's agent.
        trained: Whether RL is run.
        weights: Of the reward.
        config: Fields of `profiles.GRPO` that differ.
        tools: Offered in RL and at inference. An SFT of its own that has none learns verdicts at first sight.
        share: Of the corpus that SFT sees.
        mode: `direct` for the untrained base (paper section 3).
        model_of: Evaluate this run's model (a tool taken away at inference only).
        full_sets: Evaluated on the whole sets, not on the ablation's share.
    """

    start: str = "sft"
    trained: bool = True
    weights: RewardWeights = field(default_factory=RewardWeights)
    config: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] = TOOLS
    share: float = 1.0
    mode: str = "agent"
    model_of: str = ""
    full_sets: bool = False


def _weights(a: float, b: float, g: float, **options: Any) -> Variant:
    return Variant(weights=RewardWeights(alpha=a, beta=b, gamma=g, **options))


def _without(tool: str) -> tuple[str, ...]:
    return tuple(t for t in TOOLS if t != tool)


VARIANTS: dict[str, Variant] = {
    "base": Variant(start="base", trained=False, tools=(), mode="direct", full_sets=True),
    "sft": Variant(trained=False, full_sets=True),
    "full": Variant(full_sets=True),
    "shipped": Variant(start="shipped", trained=False),  # the agent that comes with the checkout
    "rl_only": Variant(start="base"),
    "sft_no_tools": Variant(start="sft_no_tools", trained=False, tools=()),  # taught without, not only denied them
    "no_tools": Variant(start="sft_no_tools", tools=()),
    "weights_0_0_0": _weights(0, 0, 0),  # Tables 4 and 5
    "weights_0.8_0_0": _weights(0.8, 0, 0),
    "weights_0.8_0.6_0": _weights(0.8, 0.6, 0),
    "weights_0_0.6_0.5": _weights(0, 0.6, 0.5),
    "weights_0.8_0_0.5": _weights(0.8, 0, 0.5),
    "weights_1_1_1": _weights(1, 1, 1),
    "no_format": _weights(0.8, 0.6, 0.5, format_penalty=0.0),
    **{f"no_{t}": Variant(tools=_without(t)) for t in TOOLS},  # Table 8: gone from RL and inference, SFT had it
    **{f"no_{t}_at_inference": Variant(tools=_without(t), model_of="full") for t in TOOLS},
    **{f"group_{g}": Variant(config={"group": g}) for g in (2, 6, 8)},  # Table 9
    "additive": Variant(weights=RewardWeights(gate="additive")),  # ours
    "soft_gate": Variant(weights=RewardWeights(gate="soft")),
    "no_delta": Variant(weights=RewardWeights(delta_mode="none")),
    "sft_25": Variant(trained=False, share=0.25),
    "sft_50": Variant(trained=False, share=0.5),
}
MAIN = ("base", "sft", "full")
ABLATIONS = {
    "table3_modules": ("base", "full", "sft", "rl_only", "no_tools"),
    "table4_rewards": ("weights_0_0_0", "weights_0.8_0.6_0", "weights_0_0.6_0.5", "weights_0.8_0_0.5", "no_format"),
    "table5_weights": ("weights_0_0_0", "weights_0.8_0_0", "weights_0.8_0.6_0", "weights_1_1_1", "full"),
    "table8_tools": ("full", *(f"no_{t}" for t in TOOLS), *(f"no_{t}_at_inference" for t in TOOLS)),
    "table9_group_size": ("group_2", "full", "group_6", "group_8"),
    "ours": ("additive", "soft_gate", "no_delta", "sft_25", "sft_50", "sft_no_tools"),
}
"""Runs by the table that needs them; `ours` are questions that the paper does not ask."""
