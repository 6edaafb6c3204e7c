"""Two runs on the same images: differences with paired intervals, and tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, permutation_test

from .metrics import RESAMPLES, Interval, Outcomes, draws, percentile_interval, value, widened

PERMUTATIONS = 9999  # not in paper


@dataclass(frozen=True)
class Difference:
    """`a` minus `b` on the same samples, as fractions, with its 95 % paired bootstrap interval."""

    value: float
    ci: Interval
    draws: np.ndarray


def _paired(a: Outcomes, b: Outcomes) -> None:
    if a.ids != b.ids or (a.label != b.label).any():
        odd = sorted(set(a.ids) ^ set(b.ids))
        raise ValueError(f"not the same samples: a paired comparison needs them, first odd one: {odd[:1] or 'labels'}")


def paired_difference(
    a: Outcomes, b: Outcomes, metric: str = "balanced_accuracy", resamples: int = RESAMPLES
) -> Difference:
    """Difference of two rows under the same resampled images. Raises ValueError when the samples differ."""
    _paired(a, b)
    spread = draws(a, metric, resamples) - draws(b, metric, resamples)  # equal seeds of the generator = equal images
    first, second = value(a, metric), value(b, metric)
    bounds = percentile_interval(spread)
    if first is None or second is None or bounds is None:
        raise ValueError("a difference needs samples of both classes")
    return Difference(first - second, widened(bounds, [a.n_anomalous, a.n_normal], -1.0), spread)


def mcnemar(a: Outcomes, b: Outcomes) -> tuple[int, int, float]:
    """(only a right, only b right, exact two-sided p) of two single-seed rows on the same samples."""
    _paired(a, b)
    if len(a.seeds) != 1 or len(b.seeds) != 1:
        raise ValueError("McNemar's test needs one seed per row; with several use p_value")
    only_a, only_b = int((a.correct & ~b.correct).sum()), int((b.correct & ~a.correct).sum())
    p = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return only_a, only_b, float(p)


def p_value(a: Outcomes, b: Outcomes) -> float:
    """Two-sided p of equal shares of right answers, whatever their class: McNemar's exact test where both runs have one
    seed, else the same test on each image's mean over the seeds (signs of its difference exchanged at random)."""
    if len(a.seeds) == len(b.seeds) == 1:
        return mcnemar(a, b)[2]
    _paired(a, b)
    change = a.correct.mean(axis=0) - b.correct.mean(axis=0)
    change = change[change != 0]
    if not len(change):
        return 1.0
    found = permutation_test(
        (change,), lambda x, axis: x.sum(axis), permutation_type="samples", vectorized=True,
        n_resamples=PERMUTATIONS, rng=len(change),
    )  # fmt: skip
    return float(found.pvalue)
