"""What one run of episodes amounts to: margin ranking, tool usage, cost, and the summary that `evaluate` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from . import metrics
from .episodes import Episode

TOOL_NAMES = ("crop", "prior", "enhance", "measure")  # the order of the paper's Table 7


@dataclass(frozen=True)
class Ranking:
    """Threshold-free quality of the margin. `missing` margins are ranked worst for their class, not dropped."""

    auroc: float | None
    ap: float | None
    missing: int


def ranking(episodes: Sequence[Episode]) -> Ranking:
    """AUROC and average precision of log p(Yes) - log p(No), averaged over seeds; None without margins or a class."""
    found = [_ranking_of([e for e in episodes if e.seed == seed]) for seed in sorted({e.seed for e in episodes})]
    missing = sum(r.missing for r in found)
    if not found or any(r.auroc is None for r in found):
        return Ranking(None, None, missing)
    return Ranking(float(np.mean([r.auroc for r in found])), float(np.mean([r.ap for r in found])), missing)


def _ranking_of(episodes: Sequence[Episode]) -> Ranking:
    missing = sum(e.margin is None for e in episodes)
    labels = np.array([bool(e.label) for e in episodes])
    if missing == len(episodes) or labels.all() or not labels.any():
        return Ranking(None, None, missing)
    scores = worst_filled_margins(episodes)
    return Ranking(float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores)), missing)


def worst_filled_margins(episodes: Sequence[Episode]) -> np.ndarray:
    """Margins (n,); a missing one takes the worst rank for its label, so that silence never pays."""
    known = [e.margin for e in episodes if e.margin is not None] or [0.0]
    low, high = min(known) - 1.0, max(known) + 1.0
    return np.array([(low if e.label else high) if e.margin is None else e.margin for e in episodes], dtype=float)


@dataclass(frozen=True)
class Usage:
    """Tool usage (paper Table 7). Shares and success are fractions.

    Attributes:
        share: Tool -> share of inspections with at least one call of it (failed calls count: they were asked for).
        calls_per_image: Mean number of calls.
        success: Share of calls that returned a result; None without calls.
        calls: Number of calls.
    """

    share: dict[str, float]
    calls_per_image: float
    success: float | None
    calls: int


def usage(episodes: Sequence[Episode]) -> Usage:
    """Tool usage over all inspections (every seed counts as inspections of its own)."""
    if not episodes:
        raise ValueError("no episodes: nothing to measure")
    calls = [call for episode in episodes for call in episode.calls]
    used = [{call.name for call in episode.calls} for episode in episodes]
    names = (*TOOL_NAMES, *sorted({call.name for call in calls} - set(TOOL_NAMES)))
    share = {name: sum(name in tools for tools in used) / len(episodes) for name in names}
    success = sum(call.ok for call in calls) / len(calls) if calls else None
    return Usage(share, len(calls) / len(episodes), success, len(calls))


@dataclass(frozen=True)
class Cost:
    """Mean cost of one image: wall seconds, tokens read and written, milliseconds inside tools."""

    seconds: float
    prompt_tokens: float
    completion_tokens: float
    tool_ms: float


def cost(episodes: Sequence[Episode]) -> Cost:
    """Means over all inspections."""
    if not episodes:
        raise ValueError("no episodes: nothing to measure")
    n = len(episodes)
    turns = [turn for episode in episodes for turn in episode.turns]
    return Cost(
        sum(e.seconds for e in episodes) / n,
        sum(turn.prompt_tokens for turn in turns) / n,
        sum(turn.completion_tokens for turn in turns) / n,
        sum(call.ms for turn in turns for call in turn.calls) / n,
    )


def summary(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Everything about one data set that needs no image: metrics with intervals, counts, tool usage, cost."""
    data = metrics.outcomes(episodes)
    found: dict[str, Any] = {name: metrics.value(data, name) for name in metrics.METRICS}
    found["category_mean"], found["category_mean_ci"], _ = metrics.category_mean(data)
    found["balanced_accuracy_ci"] = metrics.interval(data)
    found |= {name: getattr(data, name) for name in ("n_normal", "n_anomalous", "n_unparsed")}
    found |= {"seeds": len(data.seeds), "errors": sum(bool(e.error) for e in episodes)}
    return (
        found
        | {f"margin_{k}": v for k, v in asdict(ranking(episodes)).items()}
        | asdict(usage(episodes))
        | asdict(cost(episodes))
    )
