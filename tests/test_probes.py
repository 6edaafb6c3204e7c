"""The bootstrap interval of an AUROC against scikit-learn's AUROC of drawn samples."""

import numpy as np
from sklearn.metrics import roc_auc_score

from indus_lib import probes


def test_interval_is_that_of_drawn_samples() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [60, 40])
    scores = np.round(rng.normal(size=100) + labels, 1)  # with ties
    sides = [np.flatnonzero(labels == v) for v in (0, 1)]
    found = []
    for _ in range(1500):
        rows = np.concatenate([rng.choice(side, len(side)) for side in sides])
        found.append(roc_auc_score(labels[rows], scores[rows]))
    wanted = 100 * np.percentile(found, [2.5, 97.5])
    assert np.abs(np.array(probes.interval(labels, scores, draws=1500)) - wanted).max() < 1.5


def test_interval_of_scores_that_tell_all_or_nothing() -> None:
    labels = np.repeat([0, 1], [30, 20])
    assert probes.interval(labels, labels.astype(float)) == (100.0, 100.0)
    assert probes.interval(labels, np.zeros(50)) == (50.0, 50.0)
