"""Does the margin mean what it says? Reliability, expected calibration error, and recall against false alarms.

The margin is log p(Yes) - log p(No), so its sigmoid is the model's P(anomalous). Missing margins cannot be calibrated:
they are counted and left out here, while every accuracy metric counts them as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_curve

from . import metrics, paper, report
from .benchmarks import Runs
from .episodes import Episode
from .tables import Row, Table, percent, rounded

BINS = 10  # not in paper
RESAMPLES = 500
RECALLS = (0.9, 0.95, 0.99)  # operating points: a missed defect costs more than a false alarm; not in paper


def probabilities(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray]:
    """(P(anomalous), label) of the episodes that have a margin; both (n,)."""
    known = [e for e in episodes if e.margin is not None and e.label is not None]
    margins = np.clip([e.margin for e in known], -500, 500)
    return 1 / (1 + np.exp(-margins)), np.array([bool(e.label) for e in known])


@dataclass(frozen=True)
class Reliability:
    """Equal-width bins of P(anomalous): mean prediction, observed share, count per bin (NaN where empty)."""

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray
    ece: float
    brier: float
    missing: int


def reliability(episodes: Sequence[Episode]) -> Reliability | None:
    """Reliability diagram, ECE (count-weighted gap over the bins) and Brier score; None without margins."""
    chance, label = probabilities(episodes)
    if not len(chance):
        return None
    at = np.minimum((chance * BINS).astype(int), BINS - 1)
    count = np.bincount(at, minlength=BINS)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(at, chance, BINS) / count
        observed = np.bincount(at, label, BINS) / count
    gap = float(np.nansum(count * np.abs(predicted - observed)) / len(chance))
    brier = float(np.mean((chance - label) ** 2))
    return Reliability(predicted, observed, count, gap, brier, len(episodes) - len(chance))


@dataclass(frozen=True)
class OperatingCurve:
    """Recall against false-alarm rate over all thresholds of the margin, both ascending from 0 to 1."""

    false_alarm: np.ndarray
    recall: np.ndarray

    def alarm_at(self, recall: float) -> float:
        """Smallest false-alarm rate that reaches this recall."""
        return float(self.false_alarm[np.argmax(self.recall >= recall - 1e-12)])


def operating_curve(episodes: Sequence[Episode]) -> OperatingCurve | None:
    """The curve; missing margins take the worst rank for their label. None without margins or without a class."""
    label = np.array([bool(e.label) for e in episodes])
    if not label.any() or label.all() or all(e.margin is None for e in episodes):
        return None
    alarm, recall, _ = roc_curve(label, report.worst_filled_margins(episodes), drop_intermediate=False)
    return OperatingCurve(alarm, recall)


def table(runs: Runs, profile: str, config_hash: str) -> Table:
    """ECE, Brier score and false alarms at fixed recalls, per run and data set."""
    rows: list[Row] = []
    for run, sets in runs.items():
        for dataset, episodes in sets.items():
            rows += _rows(f"{run}, {paper.column_of(dataset)}", episodes)
    notes = (
        "ECE and Brier score x 100, of P(anomalous) = sigmoid(margin), 10 equal bins; lower is better.",
        "An answer that does not parse has a margin all the same; `without margin` is summed over seeds and left out.",
        "False alarms in percent of normal images when the threshold is set on these images to reach the recall.",
    )
    return Table("calibration", "Calibration of the margin", profile, config_hash, tuple(rows), notes)


def _rows(name: str, episodes: Sequence[Episode]) -> list[Row]:
    data = metrics.outcomes(episodes)
    by_seed = [[e for e in episodes if e.seed == seed] for seed in data.seeds]  # a model, and a threshold, each
    found, curves = [reliability(own) for own in by_seed], [operating_curve(own) for own in by_seed]
    counts = (data.n_normal, data.n_anomalous, data.n_unparsed, len(data.seeds))
    if None in found:
        return [Row(name, "ECE", None, None, *counts, note="no margins")]
    rows = [
        Row(name, "ECE", rounded(100 * float(np.mean([r.ece for r in found]))), ece_interval(episodes), *counts),
        Row(name, "Brier", rounded(100 * float(np.mean([r.brier for r in found]))), None, *counts),
        Row(name, "without margin", float(sum(r.missing for r in found)), None, *counts),
    ]
    if None not in curves:
        for recall in RECALLS:
            shown = percent(float(np.mean([curve.alarm_at(recall) for curve in curves])))
            rows.append(Row(name, f"false alarms at recall {100 * recall:.0f}", shown, None, *counts))
    return rows


def ece_interval(episodes: Sequence[Episode]) -> tuple[float, float] | None:
    """95 % bootstrap interval of 100 ECE, the mean over seeds, over the images: all seeds of one together. Resampling
    adds noise that is no error of the model, so the draws are moved down by what they lie above the value on average.
    """
    known = [e for e in episodes if e.margin is not None and e.label is not None]
    index = {image: k for k, image in enumerate(dict.fromkeys((e.dataset, e.sample_id) for e in known))}
    if len(index) < 2:
        return None
    rng = np.random.default_rng([0, len(index)])
    weights = rng.multinomial(len(index), np.full(len(index), 1 / len(index)), size=RESAMPLES)
    found = []
    for seed in sorted({e.seed for e in known}):
        own = [e for e in known if e.seed == seed]
        chance, label = probabilities(own)
        drawn = weights[:, [index[e.dataset, e.sample_id] for e in own]]
        at = np.minimum((chance * BINS).astype(int), BINS - 1)
        member = np.eye(BINS)[at] * (chance - label)[:, None]  # (n, bins)
        gaps = np.abs(drawn @ member).sum(axis=1) / drawn.sum(axis=1)
        found.append(gaps + np.abs(member.sum(axis=0)).sum() / len(chance) - gaps.mean())
    low, high = np.percentile(np.mean(found, axis=0), [2.5, 97.5]).clip(0, 1)
    return rounded(100 * float(low)), rounded(100 * float(high))
