"""The strict parser and the free-text parser: right on known strings, total on any."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indus_lib.parsing import MAX_JSON, VIOLATIONS, parse_direct, parse_free_text, parse_turn
from indus_lib.protocol import TAGS

CALL = '<call_tool>{"name":"crop","arguments":{"region":[0,0,500,500]}}</call_tool>'
YES = "<location>[1,2,30,40]</location><type>dent</type><answer>Yes</answer>"

CASES = {
    "<think>a</think>" + CALL: (),
    "<think>a</think>\n" + YES: (),
    " <think>a</think><answer>No</answer>\n": (),
    "": ("missing_think", "missing_answer"),
    "<think>  </think><answer>No</answer>": ("missing_think",),
    "<answer>No</answer>": ("missing_think",),
    "hm <think>a</think><answer>No</answer>": ("text_outside_tags",),
    "<think>a</think><answer>No</answer> bye": ("text_outside_tags",),
    "<think>a</think>so<answer>No</answer>": ("text_outside_tags",),
    "<think>a<answer>No</answer>": ("unclosed_tag",),
    "<think>a</think><answer>No": ("unclosed_tag",),
    "<think>a</think></type><answer>No</answer>": ("unclosed_tag",),
    "<think>a</think><think>b</think><answer>No</answer>": ("duplicate_tag",),
    "<answer>No</answer><think>a</think>": ("tag_order",),
    "<think>a</think><observation>x</observation><answer>No</answer>": ("observation_in_reply",),
    "<think>a</think><call_tool>{'name':'crop'}</call_tool>": ("bad_call_json",),
    '<think>a</think><call_tool>{"name":"crop"}</call_tool>': ("bad_call_json",),
    '<think>a</think><call_tool>{"name":"crop","arguments":{},"x":1}</call_tool>': ("bad_call_json",),
    '<think>a</think><call_tool>{"name":"crop","arguments":{"a":NaN}}</call_tool>': ("bad_call_json",),
    '<think>a</think><call_tool>{"name":"crop","arguments":{"a":1e999}}</call_tool>': ("bad_call_json",),
    "<think>a</think><call_tool>[]</call_tool>": ("bad_call_json",),
    '<think>a</think><call_tool>{"name":"saw","arguments":{}}</call_tool>': ("unknown_tool",),
    "<think>a</think>" + CALL + "<answer>No</answer>": ("answer_and_call",),
    "<think>a</think><location>[1,2,3]</location><type>x</type><answer>Yes</answer>": ("bad_location",),
    "<think>a</think><location>[9,2,3,4]</location><type>x</type><answer>Yes</answer>": ("bad_location",),
    "<think>a</think><location>[0,0,1,1001]</location><type>x</type><answer>Yes</answer>": ("bad_location",),
    "<think>a</think><location>[0,0,true,2]</location><type>x</type><answer>Yes</answer>": ("bad_location",),
    "<think>a</think><answer>Yes</answer>": ("missing_location", "missing_type"),
    "<think>a</think><location>[1,2,3,4]</location><answer>No</answer>": ("location_without_yes",),
    "<think>a</think><type>x</type><answer>No</answer>": ("type_without_yes",),
    "<think>a</think><location>[1,2,3,4]</location><type> </type><answer>Yes</answer>": ("bad_type",),
    "<think>a</think><answer>maybe</answer>": ("bad_answer",),
    "<think>a</think><answer>no</answer>": ("bad_answer",),
    "<think>a</think>": ("missing_answer",),
}


@pytest.mark.parametrize(("text", "expected"), CASES.items())
def test_each_violation_has_its_name(text: str, expected: tuple[str, ...]) -> None:
    assert parse_turn(text).violations == expected


def test_every_violation_is_reached() -> None:
    seen = {name for names in CASES.values() for name in names}
    assert set(VIOLATIONS) - seen == {"too_many_calls", "call_after_observation"}
    many = "[" + ",".join(['{"name":"prior","arguments":{}}'] * 5) + "]"
    assert parse_turn(f"<think>a</think><call_tool>{many}</call_tool>").violations == ("too_many_calls",)
    assert "call_after_observation" in parse_turn("<think>a</think>" + CALL, final=True).violations


def test_what_is_read() -> None:
    turn = parse_turn("<think>a</think>" + YES)
    assert (turn.location, turn.type, turn.answer, turn.valid) == ((1, 2, 30, 40), "dent", True, True)
    assert parse_turn("<think>a</think><answer>no.</answer>").answer is False  # read, but a violation
    assert parse_turn("<think>a</think><answer>maybe</answer>").answer is None


def test_a_tool_that_is_not_allowed_is_refused_by_name() -> None:
    turn = parse_turn("<think>a</think>" + CALL, allowed_tools=("prior",))
    assert turn.refused == ("crop",) and turn.violations == ("unknown_tool",) and turn.calls[0]["name"] == "crop"


def test_routing_ignores_bad_values() -> None:
    think = (
        "<think>hm evidence: a ring; region: [0,0,2000,1]; scale: huge; cue: edge; nonsense: 1; preliminary: No</think>"
    )
    assert parse_turn(think).routing == {"evidence": "a ring", "cue": "edge", "preliminary": "No"}


tagged = st.lists(
    st.sampled_from([f"<{t}>" for t in TAGS] + [f"</{t}>" for t in TAGS] + ["Yes", "No", "[1,2,3,4]", "{}", "x", CALL]),
    max_size=14,
).map("".join)


@given(st.text() | tagged, st.booleans())
@settings(max_examples=300, deadline=None)
def test_total(text: str, final: bool) -> None:
    turn = parse_turn(text, final=final)
    assert set(turn.violations) <= set(VIOLATIONS)
    if turn.valid:
        assert turn.think and (bool(turn.calls) != (turn.answer is not None))
        assert (turn.location is not None) == (turn.answer is True) == bool(turn.type)
    parse_direct(text)
    assert parse_free_text(text) in (True, False, None)


@pytest.mark.parametrize(
    "nasty",
    [
        "<think>" * 60_000,
        "<answer>" + "[" * 500_000 + "</answer>",
        "<location>" + "[" * 500_000 + "</location>",
        "<call_tool>" + '{"a":' * 100_000 + "</call_tool>",
        "<location>[" + "9" * 500_000 + ",1,2,3]</location>",
        "evidence:" * 60_000 + ";" * 100_000,
        "no or " * 100_000,
        "<answer>" + " " * 500_000,
        "<answer> " * 60_000,
        "\x00\ud800" * 100_000,
    ],
    ids=range(10),
)
def test_hostile_strings_take_linear_time(nasty: str) -> None:
    begin = time.process_time()
    parse_turn("<think>a</think>" + nasty)
    parse_turn("<think>" + nasty + "</think>")
    parse_free_text(nasty)
    assert time.process_time() - begin < 5


def test_json_limits() -> None:
    long = '{"name":"prior","arguments":{"query":"' + "a" * MAX_JSON + '"}}'
    deep = '{"name":"prior","arguments":{"query":' + "[" * 9 + "]" * 9 + "}}"
    for body in (long, deep):
        assert parse_turn(f"<think>a</think><call_tool>{body}</call_tool>").violations == ("bad_call_json",)


FREE = {
    "Yes.": True,
    "No": False,
    "The answer is no.": False,
    "The part is anomalous.": True,
    "It is not anomalous.": False,
    "There is no defect": False,
    "The surface is free of defects": False,
    "The surface is defect-free.": False,
    "It is not free of defects": True,
    "It is not normal": True,
    "It isn't normal": True,
    "non-defective": False,
    "nothing abnormal": False,
    "no defects or anomalies": False,
    "neither defective nor damaged": False,
    "I do not see any signs of an anomaly": False,
    "No, the part is defective": True,
    "No visible scratches. The part is normal": False,
    "There is no doubt it is defective": True,
    "without a doubt anomalous": True,
    "This is not only unusual but defective": True,
    "**Answer:** Yes": True,
    "Yes\nNo": False,
    "It is abnormal, not normal": True,
    "It looks normal at first. But there is a crack, so it is defective.": True,
    "It looks abnormal, however it is normal": False,
    "Is the part anomalous? No.": False,
    "Is the part anomalous?": None,
    "normal or anomalous": None,
    "Yes or no: No": False,
    "I cannot tell whether it is defective": None,
    "If it were defective there would be a crack. It is normal": False,
    # A list stays negated to its end.
    "There are no visible scratches, dents, or defects.": False,
    "No, there are no visible scratches, dents, or defects.": False,
    "The surface is uniform without scratches, dents or other defects.": False,
    "No defects, anomalies, or damage were found.": False,
    "I don't see any scratches, stains or damage.": False,
    "I don\u2019t see any scratches, stains or damage.": False,
    "No cracks, chips, dents, scratches, stains, holes, burrs, bends, tears or other visible surface defects": False,
    "The part is free of scratches, dents, and visible damage.": False,
    "The surface shows no scratches, dents and no damage": False,
    "No dents, no scratches, no defects.": False,
    "It isn't cracked, chipped, or damaged.": False,
    "It is neither scratched, dented, nor damaged": False,
    "It is without a scratch, a dent, or a defect": False,
    "No part is scratched, dented, or defective": False,
    "None of the screws are bent, loose or damaged.": False,
    "There are no scratches on the lid, dents on the rim, or defects.": False,
    "No visible scratches, dents, or irregularities that would indicate an anomaly.": False,
    "No scratches, dents, or stains are visible that would suggest a defect": False,
    "No scratches, chipping, or damage": False,
    "No scratches and/or defects": False,
    "No anomalies, normal surface": False,
    "No visible damage, defect-free": False,
    "No dents, not defective": False,
    "The absence of scratches, dents, or defects suggests a normal part": False,
    "There are no defects on this normal part": False,
    "I see nothing, design or fault, who knows": True,
    "No dents, or defects, and the part appears normal": False,
    # A clause behind the comma is not.
    "The cap is not round, it is defective": True,
    "The cap is not round, defective": True,
    "It is not normal, defective": True,
    "It isn't intact, clearly damaged": True,
    "It is not defect-free, damaged at the rim": True,
    "There is no defect-free area": True,
    "Nothing is normal here": True,
    "It is not normal due to a defect": True,
    "It is no longer normal, so it counts as defective": True,
    "The edge is not straight, indicating a defect.": True,
    "The pattern is not uniform, which suggests an anomaly": True,
    "The seam is not closed, a clear defect": True,
    "There is no label, a clear anomaly": True,
    "There are no scratches, the part is defective all the same": True,
    "There are no scratches, but there is damage": True,
    "There are no scratches, dents, or stains, but a defect at the hole": True,
    "There are no scratches, dents, or stains, and the rim is damaged": True,
    "There are no dents, parts look damaged": True,
    "no dents, however a defect is visible": True,
    "no dents, only minor damage": True,
    "no scratches, with damage at the rim": True,
    "The bottle has no cap and visible damage at the neck": True,
    "It is not free of scratches, dents, or defects": True,
    "not only scratched, but damaged": True,
    "not just scratched, damaged too": True,
    "No, it is damaged": True,
    # Denied behind the noun.
    "Defects: none": False,
    "**Defects:** None observed": False,
    "Anomaly detected: none": False,
    "Damage: N/A": False,
    '{"anomalous": false, "reason": "clean"}': False,
    "Anomaly present: False": False,
    "Defects were not found.": False,
    "The defect isn't visible": False,
    "Anomalies have not been detected in this image.": False,
    "No scratches. Defects are absent.": False,
    "There are zero defects.": False,
    "0 defects found": False,
    "There are 10 defects": True,
    "Anomalous: true": True,
    "Defects: one crack": True,
    "The damage is not small.": True,
    "The defect is a crack, not a stain": True,
    # No verdict word (paper section 3): a named defect alone is none.
    "not only scratched, but dented": None,
    "no dents, however a scratch is visible": None,
    "bright, right, notable, knowing, yesterday, anormal": None,
    "": None,
    "<answer>No</answer> although it looks defective": False,
    "<answer>Yes</answer> I first said <answer>no</answer>": False,
}


@pytest.mark.parametrize(("text", "expected"), FREE.items())
def test_free_text(text: str, expected: bool | None) -> None:
    assert parse_free_text(text) is expected


@settings(deadline=None)
@given(
    st.sampled_from([k for k, v in FREE.items() if v is not None and "<" not in k]), st.sampled_from(["Yes.", "No."])
)
def test_last_conclusion_wins(before: str, last: str) -> None:
    assert parse_free_text(f"{before}\n{last}") is (last == "Yes.")


def test_direct_reply_takes_tags_where_there_are_any() -> None:
    turn = parse_direct("I see a dent. " + YES)
    assert (turn.answer, turn.location, turn.type, turn.violations) == (True, (1, 2, 30, 40), "dent", ())
    assert parse_direct("who knows").violations == ("missing_answer",)
    assert parse_direct("It is normal. <location>[1,2,3,4]</location>").location is None
