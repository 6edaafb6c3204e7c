"""Reward waterfall: bars add up, the gate holds back, sliders re-rank."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_samples import episode, write_sample

from indus_lib import reward_waterfall as rw
from indus_lib import rewards
from indus_lib.rewards import RewardWeights


def same(answered: str, node: str) -> float:
    """A taxonomy of equal words."""
    return float(answered == node)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return dataclasses.replace(write_sample(tmp_path_factory.mktemp("plate"), side=128), node="scratch")


@pytest.fixture(scope="module")
def group(sample):
    crop = (("crop", {"region": [560, 260, 740, 380]}),)
    exact = episode(sample, crop, box=(600, 300, 700, 340), margins=(0.5, 0.2))  # perfect box, useless call
    loose = episode(sample, crop, box=(500, 200, 700, 340), margins=(-0.5, 2.0))  # poor box, useful call
    wrong = episode(sample, crop, answer=False)
    return [(exact, sample), (loose, sample), (wrong, sample)]


def test_hand_computed_waterfall(group):
    parts = rewards.combined(*group[0], similarity=same)
    found = {bar.name: bar for bar in rw.bars(parts, RewardWeights())}
    # right, IoU 1, type 1, one call that did not help: 1 + 0.8 + 0.6 + 0.5 * (-0.1)
    assert [round(found[n].value, 3) for n in ("accuracy", "location", "type", "tool", "format", "total")] == [
        1,
        0.8,
        0.6,
        -0.05,
        0,
        2.35,
    ]
    assert found["type"].start == pytest.approx(1.8)


def test_shut_gate_withholds_and_says_so(group):
    parts = rewards.combined(*group[2], similarity=same)
    found = {bar.name: bar for bar in rw.bars(parts, RewardWeights())}
    assert found["tool"].value == 0 and found["tool"].withheld != 0 and found["total"].value == 0
    assert "shut" in rw.waterfall_svg(list(found.values())) and "withheld" in rw.waterfall_svg(list(found.values()))


@given(
    st.floats(0, 2), st.floats(0, 2), st.floats(0, 2), st.sampled_from(("hard", "soft", "additive")), st.integers(0, 2)
)
def test_bars_always_add_up_to_the_reward(group, alpha, beta, gamma, gate, index):
    weights = RewardWeights(alpha=alpha, beta=beta, gamma=gamma, gate=gate)
    parts = rewards.combined(*group[index], weights, same)
    found = rw.bars(parts, weights)
    assert sum(bar.value for bar in found[:-1]) == pytest.approx(parts.total, abs=1e-6)
    assert found[-1].value == pytest.approx(parts.total)


def test_alpha_slider_changes_the_ranking(group):
    widget = rw.RewardWaterfall(group, similarity=same)
    assert [r.rank for r in rw.rank(group, widget.weights, same)] == [1, 2, 3]
    before = widget.view.value
    widget.sliders["alpha"].value, widget.sliders["gamma"].value = 0.0, 2.0
    ranked = rw.rank(group, widget.weights, same)
    assert [r.rank for r in ranked] == [2, 1, 3] and widget.view.value != before
    assert sum(r.advantage for r in ranked) == pytest.approx(0)
    widget.reset.click()
    assert widget.view.value == before


def test_eta_and_lambda_count(group):
    widget = rw.RewardWaterfall(group, similarity=same)
    widget.sliders["eta"].value, widget.sliders["lam"].value = 0.5, 1.0
    tools = [r.parts.tool for r in rw.rank(group, widget.weights, same)]
    assert tools[:2] == pytest.approx([-0.5, 0.5])


def test_twin_escapes_and_holds_the_same_numbers(group):
    odd = dataclasses.replace(group[0][0].calls[0], name="<script>alert(1)</script>")
    turn = dataclasses.replace(group[0][0].turns[0], calls=(odd,))
    changed = dataclasses.replace(group[0][0], turns=(turn, group[0][0].turns[1]))
    html = rw.static_html([(changed, group[0][1])], similarity=same)
    assert "<script" not in html and "+2.35" in html
    assert "text/html" in rw.RewardWaterfall(group, similarity=same)._repr_mimebundle_()


def test_figure_and_errors(group, sample):
    parts = rewards.combined(*group[0], similarity=same)
    assert "2.35" in rw.static_figure(parts).axes[0].get_title()
    with pytest.raises(ValueError, match="at least one"):
        rw.RewardWaterfall([])
    with pytest.raises(ValueError, match="no label"):
        rw.RewardWaterfall([(group[0][0], dataclasses.replace(sample, label=None))], similarity=same)
