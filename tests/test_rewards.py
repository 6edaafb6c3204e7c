"""Reward terms against hand-computed numbers (paper section 6)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indus_lib import rewards
from indus_lib.episodes import Episode, ToolCall, Turn, Verdict
from indus_lib.rewards import RewardWeights, advantages, combined
from indus_lib.samples import Sample

BAD = Sample("x/1", Path("1.png"), label=True, defect="scratch", node="scratch", boxes=((100, 100, 300, 300),))
GOOD = Sample("x/2", Path("2.png"), label=False)


def same(answered: str, node: str) -> float:
    """Stand-in taxonomy: exact word 1, anything else 0.5."""
    return 1.0 if answered == node else 0.5


def episode(verdict, calls=(), margin=None, before=None, violations=()) -> Episode:
    """An episode of one or two turns; `calls` is a tuple of ok flags."""
    made = tuple(ToolCall("crop", {"region": [0, 0, 500, 500]}, ok=ok) for ok in calls)
    turns = (Turn("a", made, margin=before), Turn("b")) if calls else (Turn("a"),)
    return Episode("x", turns=turns, verdict=verdict, margin=margin, margin_before=before, violations=violations)


YES = Verdict(True, (100, 100, 300, 300), "scratch")
NO = Verdict(False)


@pytest.mark.parametrize(
    ("what", "made", "sample", "total"),
    [
        ("right, full marks, useful call", episode(YES, (True,), 2.0, 1.0), BAD, 1 + 0.8 + 0.6 + 0.5 * (0.3 - 0.1)),
        ("right, useless call", episode(YES, (True,), 1.0, 2.0), BAD, 2.4 - 0.5 * 0.1),
        ("right, no call", episode(YES, (), 1.0, 1.0), BAD, 2.4),
        ("right, two calls, one failed", episode(YES, (True, False), 2.0, 1.0), BAD, 2.4 + 0.5 * 0.2 - 0.5),
        ("right, only a failed call", episode(YES, (False,), 2.0, 1.0), BAD, 2.4 - 0.5),
        ("right, half the box", episode(Verdict(True, (100, 100, 300, 200), "dent")), BAD, 1 + 0.8 * 0.5 + 0.6 * 0.5),
        ("right without box or type", episode(Verdict(True)), BAD, 1.0),
        ("wrong", episode(NO, (True,), -1.0, 0.0), BAD, 0.0),
        ("wrong with a box", episode(YES, (), 1.0, 1.0), GOOD, 0.0),
        ("malformed, right", episode(NO, violations=("missing think",)), GOOD, 2.4 - 0.5),
        ("malformed, wrong", episode(YES, violations=("missing think",)), GOOD, -0.5),
        ("no answer", episode(None), BAD, -0.5),
        ("right No", episode(NO), GOOD, 2.4),
        ("right No, call that made it surer", episode(NO, (True,), -3.0, -1.0), GOOD, 2.4 + 0.1),
        ("right No, call that made it less sure", episode(NO, (True,), -1.0, -3.0), GOOD, 2.4 - 0.05),
    ],
)
def test_total_by_hand(what, made, sample, total):
    """The paper's formula on hand-written trajectories."""
    assert combined(made, sample, similarity=same).total == pytest.approx(total), what


def test_switches_by_hand():
    """Each switch changes what its name says."""
    wrong_with_use = episode(NO, (True,), -2.0, -1.0)
    additive = RewardWeights(gate="additive")
    assert combined(wrong_with_use, BAD, additive, same).total == pytest.approx(0.5 * (0.3 - 0.1))
    soft = RewardWeights(gate="soft", soft_leak=0.5)
    assert combined(wrong_with_use, BAD, soft, same).total == pytest.approx(0.5 * 0.5 * (0.3 - 0.1))
    assert combined(episode(NO), GOOD, RewardWeights(normal_location=0, normal_type=0), same).total == 1.0
    guarded = rewards.recall_guarded()
    assert combined(episode(NO), BAD, guarded, same).total == pytest.approx(-0.5)
    useless = episode(YES, (True,), 1.0, 2.0)
    assert rewards.tool(useless, RewardWeights(delta_mode="any_call")) == pytest.approx(0.2)
    assert rewards.tool(episode(YES, (True,), 2.0, 1.0), RewardWeights(delta_mode="none")) == pytest.approx(-0.1)
    asked = replace(useless, extra={"margin_question": 0.2})
    assert rewards.delta_conf(asked, "question") == pytest.approx(0.8)  # 1.0 - 0.2
    assert rewards.delta_conf(useless, "question") is None  # nobody asked for that margin


def test_margin_sign_follows_the_answer():
    """delta_conf is for the parsed y."""
    assert rewards.delta_conf(episode(YES, (True,), 2.0, 0.5)) == pytest.approx(1.5)
    assert rewards.delta_conf(episode(NO, (True,), 2.0, 0.5)) == pytest.approx(-1.5)
    assert rewards.delta_conf(episode(None, (True,), 2.0, 0.5)) is None
    assert rewards.delta_conf(episode(YES, (True,), None, 0.5)) is None


def test_unlabelled_and_unknown_switches_are_errors():
    """A reward for an unknown truth, or an unknown mode, stops the run with a name."""
    with pytest.raises(ValueError, match="no label"):
        combined(episode(YES), replace(BAD, label=None), similarity=same)
    with pytest.raises(ValueError, match="gate 'sft'"):
        RewardWeights(gate="sft")
    with pytest.raises(ValueError, match="delta_mode"):
        RewardWeights(delta_mode="sometimes")
    with pytest.raises(ValueError, match="not finite"):
        combined(episode(YES), BAD, similarity=lambda a, b: float("nan"))


def test_advantages_by_hand():
    """(r - mean)/std: 1,0,0,0 has mean .25 and sample std .5; equal rewards give zeros."""
    got = advantages([1, 0, 0, 0, 2, 2, 2, 2], group=4)
    assert got == pytest.approx([1.5, -0.5, -0.5, -0.5, 0, 0, 0, 0], abs=1e-3)
    with pytest.raises(ValueError, match="groups of 4"):
        advantages([1, 2, 3], group=4)


def test_group_normalisation_makes_the_size_of_a_normal_right_answer_irrelevant():
    """With right and wrong answers only, 1 and 2.4 for a right No give the same advantages."""
    assert advantages([2.4, 0, 0, 2.4], 4) == pytest.approx(advantages([1, 0, 0, 1], 4), abs=1e-3)


VERDICTS = st.one_of(
    st.none(),
    st.just(NO),
    st.builds(
        lambda x, y, w, h, t: Verdict(True, (x, y, x + w, y + h), t),
        *[st.integers(0, 400)] * 2,
        *[st.integers(1, 400)] * 2,
        st.sampled_from(["scratch", "dent", ""]),
    ),
)
EPISODES = st.builds(
    episode,
    VERDICTS,
    st.lists(st.booleans(), max_size=4).map(tuple),
    st.none() | st.floats(-20, 20),
    st.none() | st.floats(-20, 20),
    st.sampled_from([(), ("x",)]),
)


@given(EPISODES, st.sampled_from([BAD, GOOD]))
def test_a_wrong_answer_never_earns(made, sample):
    """Hard gate and a penalty-only format term: total <= 0 when wrong, and every term in its range."""
    parts = combined(made, sample, similarity=same)
    assert 0 <= parts.loc <= 1 and 0 <= parts.type <= 1 and parts.format <= 0
    assert parts.acc or parts.total <= 0
    assert parts.total == pytest.approx(parts.gated + parts.format)


@given(EPISODES, st.sampled_from([BAD, GOOD]))
def test_a_failed_call_never_pays(made, sample):
    """Turning a call into a failure never raises the reward."""
    calls = made.turns[0].calls
    failed = replace(made, turns=(replace(made.turns[0], calls=(*calls, ToolCall("crop", {}, ok=False))),))
    before, after = combined(made, sample, similarity=same), combined(failed, sample, similarity=same)
    assert after.total <= before.total
    assert rewards.tool(failed, RewardWeights()) == rewards.tool(made, RewardWeights())


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.floats(0.5, 3), st.floats(-2, 2))
def test_advantages_are_invariant_to_scale_and_shift(values, scale, shift):
    """Only the order and spread inside a group matter."""
    if np.std(values) > 0.1:
        moved = [scale * v + shift for v in values]
        assert advantages(moved, 4) == pytest.approx(advantages(values, 4), abs=0.02)
