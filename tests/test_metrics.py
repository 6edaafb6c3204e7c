"""Metrics against hand-computed values, against scikit-learn, and as properties."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from evaluation import episode, run
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from indus_lib import localisation, metrics, paired, report, taxonomy
from indus_lib.episodes import Verdict
from indus_lib.samples import Sample

HAND = [  # 4 anomalous: 2 found, 1 missed, 1 unparsed; 3 normal: 2 passed, 1 false alarm
    episode(0, True, True),
    episode(1, True, True),
    episode(2, True, False),
    episode(3, True, None),
    episode(4, False, False),
    episode(5, False, False),
    episode(6, False, True),
]


def test_hand_computed_values() -> None:
    data = metrics.outcomes(HAND)
    assert metrics.value(data, "recall") == pytest.approx(1 / 2)
    assert metrics.value(data, "specificity") == pytest.approx(2 / 3)
    assert metrics.value(data) == pytest.approx(7 / 12)
    assert metrics.value(data, "accuracy") == pytest.approx(4 / 7)
    assert metrics.value(data, "f1") == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert (data.n_normal, data.n_anomalous, data.n_unparsed) == (3, 4, 1)


def test_unparsed_is_wrong_in_both_classes_and_never_dropped() -> None:
    silent = [replace(e, verdict=None) for e in HAND]
    data = metrics.outcomes(silent)
    assert metrics.value(data) == 0 and data.n_unparsed == 7 and len(data.ids) == 7
    one_normal_lost = metrics.outcomes([*HAND[:4], replace(HAND[4], verdict=None), *HAND[5:]])
    assert metrics.value(one_normal_lost, "specificity") == pytest.approx(1 / 3)


answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@settings(max_examples=60, deadline=None)
@given(answers)
def test_agrees_with_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    data = metrics.outcomes([episode(i, label, said) for i, (label, said) in enumerate(pairs)])
    label, said = zip(*pairs, strict=True)
    assert metrics.value(data) == pytest.approx(balanced_accuracy_score(label, said))
    assert metrics.value(data, "f1") == pytest.approx(f1_score(label, said, zero_division=0.0))


@settings(max_examples=30, deadline=None)
@given(answers, st.randoms(use_true_random=False))
def test_order_of_episodes_changes_nothing(pairs: list[tuple[bool, bool]], random: object) -> None:
    episodes = [episode(i, label, said) for i, (label, said) in enumerate(pairs)]
    mixed = list(episodes)
    random.shuffle(mixed)
    assert metrics.interval(metrics.outcomes(episodes), resamples=50) == metrics.interval(
        metrics.outcomes(mixed), resamples=50
    )


def test_the_interval_over_products_is_that_of_their_means() -> None:
    """Balanced accuracies 0.6, 0.7 and 0.8: mean 0.7, standard error 0.1 / sqrt 3, t of two degrees 4.3027."""
    shares = {"a": 6, "b": 7, "c": 8}
    every = [
        episode(100 * n + 10 * label + i, bool(label), bool(label) == (i < right), category=name)
        for n, (name, right) in enumerate(shares.items()) for label in (0, 1) for i in range(10)
    ]  # fmt: skip
    mean, (low, high), n = metrics.category_mean(metrics.outcomes(every))
    assert (mean, high) == (pytest.approx(0.7), pytest.approx(0.7 + 4.3027 * 0.1 / 3**0.5, abs=1e-4))
    assert (low, n) == (pytest.approx(1.4 - high), 3)
    same = [e for e in every if e.category == "a"]
    assert metrics.category_mean(metrics.outcomes(same)) == (pytest.approx(0.6), None, 1)
    again = [replace(e, category="z", sample_id=f"z{e.sample_id}") for e in same]
    low, high = metrics.category_mean(metrics.outcomes(same + again))[1]
    assert low < 0.6 < high  # two alike are not certain


def test_category_mean_differs_from_pooled() -> None:
    many = [episode(i, i % 2 == 0, i % 2 == 0, category="easy") for i in range(20)]  # all right
    few = [episode(100 + i, i % 2 == 0, i % 2 == 1, category="hard") for i in range(4)]  # all wrong
    data = metrics.outcomes(many + few)
    assert metrics.category_mean(data) == (pytest.approx(0.5), (0.0, 1.0), 2)  # two products tell nothing of a third
    assert metrics.value(data) == pytest.approx(20 / 24)


def test_several_seeds_are_averaged_and_widen_the_interval() -> None:
    good, bad = run(1.0, 1.0, n=40, seed=0), run(0.0, 0.0, n=40, seed=1)
    both = metrics.outcomes(good + bad)
    assert both.seeds == (0, 1) and metrics.value(both) == pytest.approx(0.5)
    low, high = metrics.interval(both)
    assert low == 0 and high == 1  # the spread between seeds dominates


@pytest.mark.parametrize(
    ("episodes", "words"),
    [
        ([], "no episodes"),
        ([episode(0, True, True), episode(0, True, True)], "twice"),
        ([replace(episode(0, True, True), label=None)], "no label"),
        ([episode(0, True, True), episode(1, True, True, seed=1)], "different samples"),
    ],
)
def test_bad_input_is_named(episodes: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        metrics.outcomes(episodes)


def test_one_class_only_gives_none_not_a_guess() -> None:
    data = metrics.outcomes([episode(i, True, True) for i in range(3)])
    assert metrics.value(data) is None and metrics.interval(data) is None and metrics.value(data, "recall") == 1


def test_wilson_matches_the_textbook() -> None:
    low, high = metrics.wilson(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert metrics.wilson(0, 0) is None


def test_bootstrap_spread_matches_theory() -> None:
    data = metrics.outcomes(run(0.8, 0.8, n=500))
    recall, passed = metrics.value(data, "recall"), metrics.value(data, "specificity")
    theory = 0.5 * np.sqrt(recall * (1 - recall) / 500 + passed * (1 - passed) / 500)
    assert metrics.draws(data).std() == pytest.approx(theory, rel=0.08)


def test_bootstrap_is_fast_enough() -> None:
    data = metrics.outcomes(run(0.8, 0.7, n=500))
    metrics._weights.cache_clear()
    start = time.process_time()  # of this process: other work on the machine does not count
    metrics.interval(data, resamples=2000)
    assert time.process_time() - start < 1.0


def test_paired_difference_is_tighter_than_two_intervals() -> None:
    a = run(0.9, 0.8, n=200)
    b = [replace(e, verdict=Verdict(not e.label)) if i % 20 < 2 else e for i, e in enumerate(a)]
    first, second = metrics.outcomes(a), metrics.outcomes(b)
    found = paired.paired_difference(first, second)
    assert found.value == pytest.approx(metrics.value(first) - metrics.value(second))
    assert found.ci[0] > 0
    back = paired.paired_difference(second, first)
    assert back.ci == pytest.approx((-found.ci[1], -found.ci[0]))
    same = paired.paired_difference(first, first)
    open_ = metrics.wilson(0, 200)[1]  # no image of either class differs: 0 of 200 leaves two points
    assert same.value == 0 and same.ci == pytest.approx((-open_, open_)) and 0.018 < open_ < 0.02
    nothing = metrics.outcomes([replace(e, verdict=None) for e in a])
    assert metrics.interval(nothing) == pytest.approx((0, open_))
    assert metrics.interval(metrics.outcomes(run(1, 1, n=200)), "recall") == pytest.approx((1 - open_, 1))


def test_pairs_must_be_the_same_samples() -> None:
    with pytest.raises(ValueError, match="same samples"):
        paired.paired_difference(metrics.outcomes(run(1, 1, n=5)), metrics.outcomes(run(1, 1, n=6)))


def test_mcnemar_by_hand() -> None:
    right = [episode(i, True, True) for i in range(8)]
    worse = [episode(i, True, i >= 5) for i in range(8)]
    only_a, only_b, p = paired.mcnemar(metrics.outcomes(right), metrics.outcomes(worse))
    assert (only_a, only_b) == (5, 0) and p == pytest.approx(2 * 0.5**5)
    assert paired.mcnemar(metrics.outcomes(right), metrics.outcomes(right))[2] == 1


def test_margin_ranking_and_missing_margins() -> None:
    margins = [3.0, 2.0, -1.0, 0.5, -2.0, -3.0, 1.0]
    episodes = [replace(e, margin=m) for e, m in zip(HAND, margins, strict=True)]
    found = report.ranking(episodes)
    assert found.auroc == pytest.approx(10 / 12)  # 12 pairs, (-1 | 1) and (0.5 | 1) are inverted
    silent = [replace(episodes[0], margin=None), *episodes[1:]]
    assert report.ranking(silent).missing == 1
    assert report.ranking(silent).auroc == pytest.approx(7 / 12)  # the best positive became the worst
    assert report.ranking(HAND).auroc is None


def test_usage_and_cost() -> None:
    episodes = [episode(0, True, True, tools=("crop", "crop")), episode(1, False, False, tools=("prior", "broken"))]
    used = report.usage(episodes)
    assert used.share["crop"] == used.share["prior"] == 0.5 and used.share["measure"] == 0
    assert used.calls_per_image == 2 and used.success == 0.75
    assert report.usage([episode(0, True, True)]).success is None
    spent = report.cost(episodes)
    assert spent.tool_ms == pytest.approx(4.0) and spent.prompt_tokens == 120 and spent.completion_tokens == 10


# --- where and what ----------------------------------------------------------------------------------------------


def _sample(n: int, **more: object) -> Sample:
    base = {"id": f"part/test/{n:04d}", "image": "unused.png", "dataset": "mvtec", "label": True}
    return Sample(**{**base, **more})


def test_localisation_of_true_positives_only() -> None:
    node = next(iter(taxonomy.load().leaves()))
    samples = {s.id: s for s in (_sample(i, boxes=((0, 0, 100, 100),), node=node) for i in range(4))}
    episodes = [
        replace(episode(0, True, True), verdict=Verdict(True, (0, 0, 100, 100), node)),
        replace(episode(1, True, True), verdict=Verdict(True, (50, 0, 150, 100), "nonsense word")),
        replace(episode(2, True, True), verdict=Verdict(True)),
        episode(3, True, False),
    ]
    found = localisation.localisation(episodes, samples)
    assert (found.n, found.missing) == (3, 1)
    assert found.iou == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found.iou_interval == pytest.approx((0, 1)) and found.iou_interval == found.iou_interval
    many = replace(found, n=300, overlaps=found.overlaps * 100, images=tuple(map(str, range(300))))
    assert many.iou_interval[0] < many.iou < many.iou_interval[1] and np.ptp(many.iou_interval) < 0.12
    assert replace(found, n=1, overlaps=(0.5,), images=("a",)).iou_interval is None
    assert localisation.localisation(episodes, {k: replace(s, node="anomaly") for k, s in samples.items()}).n_typed == 0
    assert found.pointing == pytest.approx(2 / 3) and found.exact == pytest.approx(1 / 3)
    with pytest.raises(KeyError, match="no sample"):
        localisation.localisation(episodes, {})


def test_same_family() -> None:
    tree = taxonomy.load()
    leaf = next(n for n in tree.leaves() if tree.parent(n) not in (None, tree.root))
    sibling = next(n for n in tree.nodes() if n not in (leaf, tree.root) and tree.parent(n) == tree.parent(leaf))
    assert localisation.same_family(leaf, leaf) and localisation.same_family(sibling, leaf)
    assert not localisation.same_family("", leaf) and not localisation.same_family(tree.root, leaf)
    top = [n for n in tree.nodes() if n != tree.root and tree.parent(n) == tree.root]
    assert not localisation.same_family(top[0], top[1])


def test_pixel_metrics_on_perfect_wrong_and_flat_maps() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:10, 5:10] = mask[20:36, 20:36] = True
    perfect = mask.astype(np.float32)
    assert localisation.pixel_auroc([perfect], [mask]) == 1 and localisation.aupro([perfect], [mask]) == 1
    assert localisation.pixel_auroc([1 - perfect], [mask]) == 0
    assert localisation.aupro([1 - perfect], [mask]) == pytest.approx(0, abs=0.01)
    flat = np.zeros((40, 40), np.float32)
    assert localisation.pixel_auroc([flat], [mask]) == 0.5
    assert localisation.aupro([flat], [mask]) == pytest.approx(0.15, abs=0.01)  # chance: half of the limit
    assert localisation.aupro([flat], [np.zeros((40, 40), bool)]) is None


def test_aupro_counts_regions_not_pixels() -> None:
    mask = np.zeros((50, 50), bool)
    mask[0:2, 0:2] = mask[10:40, 10:40] = True
    large_only = np.zeros((50, 50), np.float32)
    large_only[10:40, 10:40] = 1
    assert localisation.aupro([large_only], [mask]) == pytest.approx(0.5 + 0.5 * 0.15, abs=0.02)


def test_summary_is_complete() -> None:
    found = report.summary(run(0.9, 0.7, tools=("crop",)))
    assert {"balanced_accuracy", "recall", "f1", "n_unparsed", "share", "seconds", "margin_auroc"} <= set(found)


def test_a_set_that_is_sure_makes_no_average_unsure_nor_surer_than_it_is() -> None:
    """Five sets of 40 and 40. Nothing wrong at all: each leaves open 0 of 40, their mean less by the root of five. One
    error more never narrows it."""
    sure = metrics.outcomes(run(1, 1, n=40))
    spreads, sizes, open_ = [metrics.draws(sure)] * 5, [(40, 40)] * 5, metrics.wilson(0, 40)[1]
    low, high = metrics.average_interval(spreads, sizes, 1.0)
    assert (low, high) == (pytest.approx(1 - open_ / 5**0.5), 1.0)
    other = metrics.outcomes(run(39 / 40, 1, n=40))
    mean = (4 + metrics.value(other)) / 5
    wider = metrics.average_interval([metrics.draws(other), *spreads[1:]], sizes, mean)
    assert wider[0] < low < 1
    both = metrics.average_interval([metrics.draws(other)] * 5, sizes, metrics.value(other))
    assert both == pytest.approx(metrics.percentile_interval(metrics.draws(other)))  # widths of their own stay


def test_p_of_several_seeds_is_of_each_images_mean() -> None:
    """One seed: McNemar. Three alike seeds say no more than one: the images are as many."""
    right = [episode(i, True, True) for i in range(8)]
    worse = [episode(i, True, i >= 5) for i in range(8)]
    exact = paired.p_value(metrics.outcomes(right), metrics.outcomes(worse))
    assert exact == pytest.approx(2 * 0.5**5)
    thrice = [metrics.outcomes([replace(e, seed=s) for s in range(3) for e in side]) for side in (right, worse)]
    assert paired.p_value(*thrice) == pytest.approx(exact, abs=0.01)
    assert paired.p_value(thrice[0], metrics.outcomes(worse)) == pytest.approx(exact, abs=0.01)  # three against one
    assert paired.p_value(thrice[0], thrice[0]) == 1.0
