"""What-if with the real loop and tools and a policy whose answer follows from what it is shown."""

import dataclasses

import numpy as np
import pytest
from trace_samples import write_sample

from indus_lib import loop, profiles, protocol
from indus_lib import what_if as wi
from indus_lib.policies import ScriptedPolicy

FIELDS = {"evidence": "a plate", "region": (0, 0, 200, 200), "suspicion": "low", "preliminary": "No"}
PROFILE = profiles.get("smoke")


def behaviour(conversation, turn) -> str:
    """Asks for a crop of an empty corner when crops are offered; says Yes when shown something bright or told so."""
    if turn == 0:
        offered = "crop" in conversation[0]["content"][1]["text"]
        calls = [{"name": "crop", "arguments": {"region": [0, 0, 200, 200], "refine": False}}] if offered else []
        return protocol.format_turn1(FIELDS, calls, anomalous=None if calls else False)
    parts = conversation[-1]["content"]
    bright = any(p["type"] == "image" and np.max(p["image"]) > 200 for p in parts)
    told = any("must be spotless" in p.get("text", "") for p in parts)
    yes = bright or told
    return protocol.format_final("seen", yes, (600, 300, 700, 340) if yes else None, "scratch" if yes else "")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("plate"), side=512)


@pytest.fixture(scope="module")
def policy():
    return ScriptedPolicy(behaviour)


@pytest.fixture(scope="module")
def before(policy, sample):
    (made,) = loop.inspect(policy, [sample], profile=PROFILE)
    assert made.verdict is not None and not made.verdict.anomalous
    return made


def timeless(episode):
    turns = tuple(
        dataclasses.replace(t, seconds=0, calls=tuple(dataclasses.replace(c, ms=0) for c in t.calls))
        for t in episode.turns
    )
    return dataclasses.replace(episode, turns=turns, seconds=0)


def test_no_change_gives_the_same_trajectory(policy, sample, before):
    assert timeless(wi.rerun(policy, sample, before, wi.Change(), profile=PROFILE)) == timeless(before)


def test_moved_crop_turns_the_verdict_and_keeps_the_thinking(policy, sample, before):
    after = wi.rerun(policy, sample, before, wi.Change(crop=(560, 260, 740, 380)), profile=PROFILE)
    assert after.verdict.anomalous and after.calls[0].arguments == {"region": [560, 260, 740, 380], "refine": False}
    thought = before.turns[0].text.split("</think>")[0]
    assert after.turns[0].text.startswith(thought) and "[560,260,740,380]" in after.turns[0].text
    assert "the verdict turned" in wi.compare_html(before, after, sample)


def test_forbidden_tool_sends_the_agent_back_to_the_start(policy, sample, before):
    after = wi.rerun(policy, sample, before, wi.Change(forbid=frozenset({"crop"})), profile=PROFILE)
    assert after.calls == () and len(after.turns) == 1 and after.verdict is not None


def test_forced_tools_join_or_replace(policy, sample, before):
    force = (("enhance", {"method": "clahe"}), ("crop", {"region": [560, 260, 740, 380]}))
    after = wi.rerun(policy, sample, before, wi.Change(force=force), profile=PROFILE)
    assert [call.name for call in after.calls] == ["enhance", "crop"] and after.verdict.anomalous


def test_force_after_forbid_starts_from_the_new_first_turn(policy, sample, before):
    change = wi.Change(frozenset({"crop"}), (("measure", {"kind": "distance", "points": [[0, 0], [9, 9]]}),))
    after = wi.rerun(policy, sample, before, change, profile=PROFILE)
    assert [call.name for call in after.calls] == ["measure"] and len(after.turns) == 2


def test_prior_text_is_what_the_agent_reads(policy, sample, before):
    change = wi.Change(force=(("prior", {}),), prior="A plate must be spotless.")
    after = wi.rerun(policy, sample, before, change, profile=PROFILE)
    assert after.calls[-1].text == "A plate must be spotless." and after.verdict.anomalous
    plain = wi.rerun(policy, sample, before, wi.Change(force=(("prior", {}),)), profile=PROFILE)
    assert plain.calls[-1].text != after.calls[-1].text and not plain.verdict.anomalous


def test_bad_changes_are_refused(policy, sample, before):
    with pytest.raises(ValueError, match="forbidden and forced"):
        wi.Change(frozenset({"crop"}), (("crop", {}),))
    direct = dataclasses.replace(before, mode="direct")
    with pytest.raises(ValueError, match="only an agent's"):
        wi.rerun(policy, sample, direct, wi.Change(), profile=PROFILE)


def test_widget_forces_a_tool_and_shows_both(policy, sample, before):
    widget = wi.WhatIf(policy, before, sample, PROFILE)
    widget.modes["enhance"].value = wi.FORCE
    widget.go.click()
    assert [c.name for c in widget.after.calls] == ["crop", "enhance"] and len(widget.players.children) == 2
    widget.stage.box = [560, 260, 740, 380]  # as if drawn with the mouse
    assert [c.value for c in widget.corners] == [560, 260, 740, 380]
    widget.go.click()
    assert widget.after.verdict.anomalous and "the verdict turned" in widget.outcome.value
    assert widget.after_player.trace.episode is widget.after
    assert "as it was" in widget._repr_mimebundle_()["text/html"]


def test_widget_says_what_is_wrong_and_stays_usable(policy, sample, before):
    widget = wi.WhatIf(policy, before, sample, PROFILE)
    widget.modes["measure"].value, widget.points.value = wi.FORCE, "[[1, 2], oops"
    widget.go.click()
    assert "write pairs such as" in widget.status.value and widget.after is None and not widget.go.disabled
    widget.points.value = "[[100, 100], [500, 500]]"
    widget.corners[2].value = 0
    widget.go.click()
    assert "x2 must exceed x1" in widget.status.value
    widget.corners[2].value = 400
    widget.go.click()
    assert "measure" in [c.name for c in widget.after.calls]


def test_an_agent_that_insists_on_the_forbidden_tool_is_shown_refused(sample, before):
    insists = ScriptedPolicy(
        lambda talk, turn: behaviour(before_of(talk), turn) if turn == 0 else behaviour(talk, turn)
    )
    change = wi.Change(forbid=frozenset({"crop"}), prior="must be spotless")
    after = wi.rerun(insists, sample, before, change, profile=PROFILE)
    assert [call.name for call in after.calls] == ["crop"] and not after.calls[0].ok


def before_of(talk):
    """The conversation as if crops were offered."""
    parts = [p if p["type"] == "image" else {**p, "text": p["text"] + " crop"} for p in talk[0]["content"]]
    return [{**talk[0], "content": parts}, *talk[1:]]


def test_a_crop_inside_one_unit_can_be_changed(policy, sample, before):
    call = dataclasses.replace(before.calls[0], arguments={"region": [100.1, 100.1, 100.4, 100.4], "refine": False})
    small = dataclasses.replace(before, turns=(dataclasses.replace(before.turns[0], calls=(call,)), *before.turns[1:]))
    widget = wi.WhatIf(policy, small, sample, PROFILE)
    assert widget.change == wi.Change()
