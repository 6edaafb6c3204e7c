"""Metrics over episodes of one data set, with intervals (paper section 7); comparisons of two runs are in `paired`.

Conventions, all of them visible in the tables:

- An answer that did not parse (`verdict is None`) is wrong: a missed anomaly or a false alarm. It is never dropped.
- Balanced accuracy is pooled over a data set's categories (primary); category mean and raw accuracy stand beside it.
- Several seeds: a metric is computed per seed and averaged; intervals resample samples (inside each class) and seeds.
  Of two or three seeds, resampling cannot show all that other seeds may do: each one's average stands in the tables.
  Intervals are about more images of these products; of other products the category mean's interval tells.
- Where every sample falls alike, resampling has no width: the Wilson bound of 0 of n stands in.
- Values are fractions 0..1, None where undefined (no sample of a class, no margins). Rounding belongs to the tables.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.stats import binomtest, sem
from scipy.stats import t as student

from .episodes import Episode

RESAMPLES = 2000
Interval = tuple[float, float]
Statistic = Callable[["Rates"], np.ndarray]


@dataclass(frozen=True)
class Outcomes:
    """One data set's answers as arrays: n samples, S seeds.

    Attributes:
        ids: Sample ids, sorted, length n.
        label: (n,) bool, True = anomalous.
        correct: (S, n) bool; an unparsed answer is False.
        unparsed: (S, n) bool.
        category: (n,) str, `<dataset>:<category>`.
        seeds: Seeds in ascending order, length S.
        dataset: Data set key, "" when mixed.
    """

    ids: tuple[str, ...]
    label: np.ndarray
    correct: np.ndarray
    unparsed: np.ndarray
    category: np.ndarray
    seeds: tuple[int, ...]
    dataset: str = ""

    @property
    def n_anomalous(self) -> int:
        """Anomalous samples, each counted once however many seeds."""
        return int(self.label.sum())

    @property
    def n_normal(self) -> int:
        """Normal samples, each counted once however many seeds."""
        return int((~self.label).sum())

    @property
    def n_unparsed(self) -> int:
        """Answers that did not parse, summed over seeds."""
        return int(self.unparsed.sum())


def outcomes(episodes: Sequence[Episode]) -> Outcomes:
    """Arrays of `episodes`: the same samples under one or several seeds.

    Raises:
        ValueError: no episodes, an unknown label, one sample twice under a seed, or seeds over different samples.
    """
    by_seed: dict[int, dict[str, Episode]] = {}
    for episode in episodes:
        key = f"{episode.dataset}:{episode.sample_id}"
        if episode.label is None:
            raise ValueError(f"{key} has no label: metrics need labelled samples; leave it out or label it")
        if key in by_seed.setdefault(episode.seed, {}):
            raise ValueError(f"{key} occurs twice under seed {episode.seed}: pass each inspection once")
        by_seed[episode.seed][key] = episode
    if not by_seed:
        raise ValueError("no episodes: nothing to measure")
    return _stack(by_seed)


def _stack(by_seed: dict[int, dict[str, Episode]]) -> Outcomes:
    seeds = sorted(by_seed)
    keys = sorted(by_seed[seeds[0]])
    for seed in seeds[1:]:
        odd = set(keys) ^ set(by_seed[seed])
        if odd:
            raise ValueError(f"seeds {seeds[0]} and {seed} saw different samples, for instance {sorted(odd)[0]}")
    grid = [[by_seed[seed][key] for key in keys] for seed in seeds]
    names = {episode.dataset for episode in grid[0]}
    return Outcomes(
        ids=tuple(keys),
        label=np.array([bool(e.label) for e in grid[0]]),
        correct=np.array([[e.correct for e in line] for line in grid]),
        unparsed=np.array([[e.verdict is None for e in line] for line in grid]),
        category=np.array([f"{e.dataset}:{e.category}" for e in grid[0]]),
        seeds=tuple(seeds),
        dataset=names.pop() if len(names) == 1 else "",
    )


@dataclass(frozen=True)
class Rates:
    """Recall and specificity, arrays of one shape, usually (S,) or (resamples, S), NaN for an empty class, and the
    class sizes: all count-based metrics follow from these four."""

    recall: np.ndarray
    specificity: np.ndarray
    n_anomalous: int
    n_normal: int


def recall(rates: Rates) -> np.ndarray:
    """Share of anomalous samples called anomalous."""
    return rates.recall


def specificity(rates: Rates) -> np.ndarray:
    """Share of normal samples called normal."""
    return rates.specificity


def balanced_accuracy(rates: Rates) -> np.ndarray:
    """Mean of recall and specificity, pooled over categories: the paper's primary metric."""
    return (rates.recall + rates.specificity) / 2


def accuracy(rates: Rates) -> np.ndarray:
    """Share of right answers, dominated by the larger class."""
    right = np.nan_to_num(rates.recall) * rates.n_anomalous + np.nan_to_num(rates.specificity) * rates.n_normal
    return right / (rates.n_anomalous + rates.n_normal)


def f1(rates: Rates) -> np.ndarray:
    """F1 of the anomalous class; a wrong normal is a false alarm, also when it did not parse."""
    hits = rates.recall * rates.n_anomalous
    alarms = np.nan_to_num(1 - rates.specificity) * rates.n_normal
    return 2 * hits / (hits + alarms + rates.n_anomalous) if rates.n_anomalous else rates.recall


METRICS: dict[str, Statistic] = {f.__name__: f for f in (balanced_accuracy, accuracy, recall, specificity, f1)}


def rates(data: Outcomes) -> Rates:
    """Recall and specificity per seed, each (S,)."""
    weights = np.ones((1, len(data.label)), dtype=np.float32)
    weighted = _weighted_rates(data, weights)
    return Rates(weighted.recall[0], weighted.specificity[0], data.n_anomalous, data.n_normal)


def _weighted_rates(data: Outcomes, weights: np.ndarray) -> Rates:
    """Rates under sample weights (R, n) that sum to the class size in each class -> arrays (R, S)."""
    right = data.correct.astype(np.float32).T  # (n, S); counts stay exact
    right_by_class = [weights[:, own] @ right[own] for own in (data.label, ~data.label)]
    sizes = data.n_anomalous, data.n_normal
    with np.errstate(invalid="ignore", divide="ignore"):
        return Rates(*(x.astype(float) / np.float64(n) for x, n in zip(right_by_class, sizes, strict=True)), *sizes)


def value(data: Outcomes, metric: str = "balanced_accuracy") -> float | None:
    """Mean over seeds of one of `METRICS`; None when a class it needs is empty."""
    result = float(METRICS[metric](rates(data)).mean())
    return None if np.isnan(result) else result


def category_mean(data: Outcomes) -> tuple[float | None, Interval | None, int]:
    """Mean over categories of their balanced accuracy (the variant some papers print), its 95 % interval (Student's t
    over categories: what other products might give), and how many have both classes. None where none has; less than
    two."""
    values = [value(select(data, data.category == name)) for name in sorted(set(data.category.tolist()))]
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else None
    if len(known) < 2:
        return mean, None, len(known)
    spread = float(sem(known))
    low, high = student.interval(0.95, len(known) - 1, mean, spread) if spread > 0 else (mean, mean)
    return mean, widened((max(float(low), 0.0), min(float(high), 1.0)), [len(known)]), len(known)


def select(data: Outcomes, keep: np.ndarray) -> Outcomes:
    """Only the samples where `keep` (n,) is True. Raises ValueError when none is left."""
    if not keep.any():
        raise ValueError(f"{data.dataset or 'all sets'}: no image is left that both runs saw; evaluate them again")
    kept = {"label": data.label[keep], "category": data.category[keep]}
    answers = {"correct": data.correct[:, keep], "unparsed": data.unparsed[:, keep]}
    return replace(data, ids=tuple(i for i, own in zip(data.ids, keep, strict=True) if own), **kept, **answers)


# --- intervals ---------------------------------------------------------------------------------------------------


def wilson(hits: int, n: int, confidence: float = 0.95) -> Interval | None:
    """Wilson score interval of a proportion, None for n = 0."""
    if n == 0:
        return None
    found = binomtest(hits, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(found.low), float(found.high)


def sample_weights(data: Outcomes, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap counts (resamples, n), stratified by class; the stream depends on data set and seed, not call order."""
    return _weights(data.dataset, data.label.tobytes(), resamples, seed)


@lru_cache(maxsize=20)  # every row of a table resamples the same images
def _weights(dataset: str, labels: bytes, resamples: int, seed: int) -> np.ndarray:
    label = np.frombuffer(labels, dtype=bool)
    rng = np.random.default_rng([seed, zlib.crc32(dataset.encode()), len(label)])
    weights = np.zeros((resamples, len(label)), dtype=np.float32)  # counts: exact in float32
    for mask in (label, ~label):
        size = int(mask.sum())
        if size:
            drawn = rng.integers(0, size, (resamples, size)) + size * np.arange(resamples)[:, None]
            weights[:, mask] = np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size)
    weights.flags.writeable = False
    return weights


def seed_weights(n_seeds: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap weights over seeds (resamples, S), rows sum to 1. One draw serves all sets: a seed is one model."""
    rng = np.random.default_rng([seed, n_seeds, 7])
    return rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=resamples) / n_seeds


def draws(data: Outcomes, metric: str = "balanced_accuracy", resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap distribution (resamples,) of a metric over samples (stratified by class) and seeds."""
    per_seed = METRICS[metric](_weighted_rates(data, sample_weights(data, resamples, seed)))
    return (per_seed * seed_weights(len(data.seeds), resamples, seed)).sum(axis=1)


def percentile_interval(distribution: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Central interval of a bootstrap distribution, None when it is undefined."""
    if np.isnan(distribution).any():
        return None
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(distribution, [tail, 100 - tail])
    return float(low), float(high)


def interval(data: Outcomes, metric: str = "balanced_accuracy", resamples: int = RESAMPLES) -> Interval | None:
    """95 % bootstrap interval of a metric."""
    bounds = percentile_interval(draws(data, metric, resamples))
    sizes = {"recall": [data.n_anomalous], "specificity": [data.n_normal]}
    return bounds and widened(bounds, sizes.get(metric, [data.n_anomalous, data.n_normal]))


def widened(bounds: Interval, sizes: Sequence[int], lowest: float = 0.0) -> Interval:
    """A bootstrap interval without width, grown to what 0 of n leaves open (Wilson), the mean over the classes of these
    `sizes`; any other as it is. `lowest`: of what is measured, -1 for a difference; the highest is 1."""
    low, high = bounds
    if high > low:
        return bounds
    slack = _slack(sizes)
    return max(low - slack, lowest), min(high + slack, 1.0)


def average_interval(
    spreads: Sequence[np.ndarray], sizes: Sequence[Sequence[int]], value: float, lowest: float = 0.0
) -> Interval | None:
    """95 % interval of the mean over sets, from their bootstrap draws (resamples,). A set whose draws have no width
    adds what 0 of n of its classes leaves open (`widened`), as independent errors add; so all sets alike in being
    certain do not make a mean that is less certain than one of them."""
    bounds = percentile_interval(np.mean(spreads, axis=0))
    if bounds is None:
        return None
    flat = [_slack(n) for draws, n in zip(spreads, sizes, strict=True) if np.ptp(draws) == 0]
    slack = float(np.sqrt(np.sum(np.square(flat)))) / len(spreads)
    low, high = (float(np.hypot(value - bound, slack)) for bound in bounds)
    return max(value - low, lowest), min(value + high, 1.0)


def _slack(sizes: Sequence[int]) -> float:
    return float(np.mean([bound[1] for n in sizes if (bound := wilson(0, n))]))
