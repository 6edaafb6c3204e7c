"""The quality gate: each planted fault is caught by its name, and nothing else is."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indus_lib import parsing, protocol, quality
from indus_lib.episodes import ToolCall, Turn
from indus_lib.samples import Sample

BAD = Sample("a/1", Path("a.png"), label=True, defect="scratch", node="scratch", boxes=((100, 100, 200, 200),))
GOOD = Sample("a/2", Path("a.png"), label=False)
FIELDS = {
    "evidence": "a dark line",
    "scale": "small",
    "cue": "surface mark",
    "suspicion": "medium",
    "preliminary": "Yes",
}
CROP = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}}


def trajectory(sample, *, call=CROP, think="the crop shows a dark scratch at the upper left", ok=True, **final):
    fields = {"anomalous": sample.label, "box": (100, 100, 200, 200), "type": "scratch", **final}
    run = (ToolCall(call["name"], call["arguments"], ok, "crop [0,0,500,500]"),)
    return (
        Turn(protocol.format_turn1(FIELDS, [call]), run),
        Turn(protocol.format_final(think, fields["anomalous"], fields["box"], fields["type"])),
    )


def test_a_sound_trajectory_passes() -> None:
    assert quality.check(trajectory(BAD), BAD) == ()
    assert quality.check(trajectory(GOOD, think="the crop is plain, no anomaly"), GOOD) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"anomalous": False, "think": "plain"}, "wrong_answer"),
        ({"box": (700, 700, 900, 900)}, "wrong_location"),
        ({"type": "missing part"}, "wrong_type"),
        ({"type": "qwerty"}, "wrong_type"),
        ({"ok": False}, "failed_call"),
        ({"think": "the annotation marks a scratch"}, "leak:words"),
        ({"think": "as the ground-truth says, a scratch"}, "leak:words"),
        ({"think": "the scratch was given"}, "leak:words"),
        ({"think": "so the part is normal"}, "thinking_contradicts_answer"),
        ({"call": {"name": "crop", "arguments": {"region": [100, 100, 200, 210]}}}, "leak:region"),
        ({"call": {"name": "measure", "arguments": {"kind": "distance", "points": [[100, 100], [200, 200]]}}},
         "leak:region"),
    ],
)  # fmt: skip
def test_each_fault_has_its_name(change, reason) -> None:
    assert reason in quality.check(trajectory(BAD, **change), BAD)


def test_a_printed_label_is_no_leak() -> None:
    assert quality.check(trajectory(BAD, think="a dark scratch crosses the paper label of the bottle"), BAD) == ()


def test_calls_must_be_those_that_ran_and_turns_must_add_up() -> None:
    first, last = trajectory(BAD)
    assert "calls_not_run" in quality.check((Turn(first.text), last), BAD)
    assert "wrong_number_of_turns" in quality.check((first,), BAD)
    assert "wrong_number_of_turns" in quality.check((), BAD)
    assert "too_long" in quality.check((first, last), BAD, max_tokens=10)
    assert any(r.startswith("format:") for r in quality.check((first, Turn(last.text + "bye")), BAD))


def test_judge_prefers_the_grounded_draft() -> None:
    grounded, vague = trajectory(BAD), trajectory(BAD, think="yes yes yes yes a scratch")
    assert 0 <= quality.judge(vague, BAD) < quality.judge(grounded, BAD) <= 1


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("Sure! <think>a</think><answer>No</answer> Done.", "<think>a</think><answer>No</answer>"),
        ("<think>a<answer>no.</answer>", "<think>a</think><answer>No</answer>"),
        ("<think>a</think><location>[1,2,3,4]</location><answer>No</answer>", "<think>a</think><answer>No</answer>"),
        ("<answer>Yes</answer><type>dent</type><location>[1,2,3,4]</location><think>a</think>",
         "<think>a</think><location>[1,2,3,4]</location><type>dent</type><answer>Yes</answer>"),
        ("It is fine. <answer>No</answer>", "<think>It is fine.</think><answer>No</answer>"),
        ("<think>a</think><answer>Yes</answer>", None),
        ("<think>a</think><answer>maybe</answer>", None),
        ("nothing", None),
        ("", None),
    ],
)  # fmt: skip
def test_repair_mends_form_and_invents_nothing(broken, mended) -> None:
    assert quality.repair(broken) == mended


@settings(deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "Yes", "No", "</answer>", "a "])).map("".join)
)
def test_repair_is_total_and_gives_valid_turns(text) -> None:
    mended = quality.repair(text)
    assert mended is None or parsing.parse_turn(mended).valid


def test_tool_information_by_hand() -> None:
    told = [("a", label, "crop" if label else "none") for label in (True, False) * 50]
    silent = [("a", label, tool) for label in (True, False) for tool in ("crop", "none") * 25]
    assert quality.tool_information(told)[0] == pytest.approx(1.0)
    assert quality.tool_information(silent)[0] == pytest.approx(0.0)
    assert quality.tool_information([]) == (0.0, 0.0)
    across = [("a", True, "crop")] * 20 + [("b", False, "none")] * 20  # differs between categories, not within
    assert quality.tool_information(across)[0] == 0.0


def test_rough_tokens() -> None:
    assert Counter(quality.rough_tokens(t) for t in ("", "a", "<think>a 100")) == Counter({0: 1, 1: 1, 4: 1})
