"""Prompts, builders and conversations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indus_lib import parsing, protocol, tools
from indus_lib.episodes import ToolCall
from indus_lib.parsing import parse_turn
from indus_lib.terse_thoughts import at_sight, terse, to_compare
from indus_lib.tool_result import ToolResult

words = (
    st.text(max_size=40).map(protocol.clean).filter(lambda t: not any(f"{f}:" in t for f in protocol.ROUTING_FIELDS))
)
box = st.tuples(*[st.integers(0, 999)] * 2, *[st.integers(1, 1000)] * 2).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + (b[0] == b[2]), max(b[1], b[3]) + (b[1] == b[3]))
)
routing = st.fixed_dictionaries(
    {},
    optional={
        "evidence": words.filter(bool),
        "target": words.filter(bool),
        "region": box,
        **{name: st.sampled_from(choices) for name, choices in protocol.CHOICES.items()},
    },
)
leaves = st.none() | st.booleans() | st.integers(-9, 9999) | st.text(max_size=12)
json_values = leaves | st.lists(leaves, max_size=3)
call = st.fixed_dictionaries(
    {
        "name": st.sampled_from(protocol.TOOL_NAMES),
        "arguments": st.dictionaries(st.text(max_size=8), json_values, max_size=3),
    }
)


class Result:
    def __init__(self, text: str, images: int = 0) -> None:
        self.text, self.images = text, [np.full((4, 4, 3), i, np.uint8) for i in range(images)]


def test_tool_names_are_the_tools() -> None:
    assert set(protocol.TOOL_NAMES) == set(tools.TOOLS)


def test_full_question_names_every_tool_field_and_tag() -> None:
    text = protocol.question("metal_nut")
    for word in (
        *protocol.TOOL_NAMES,
        *protocol.ROUTING_FIELDS,
        *(f"<{t}>" for t in protocol.TAGS if t != "observation"),
    ):
        assert word in text
    assert text.endswith("Product: metal nut.")
    assert "Product" not in protocol.question()


def test_short_question_is_short_and_lists_only_offered_tools() -> None:
    text = protocol.question("", "short", tools=("crop",))
    assert len(text.split()) <= 25 and "crop" in text and "measure" not in text
    assert '"name":"measure"' not in protocol.question("", tools=("crop",))


@pytest.mark.parametrize("call_it", [protocol.question, protocol.direct_question])
def test_unknown_detail_is_refused(call_it) -> None:
    with pytest.raises(ValueError, match="detail"):
        call_it("", "long")
    with pytest.raises(ValueError, match="hammer"):
        protocol.question(tools=("hammer",))


@settings(deadline=None)
@given(routing, st.lists(call, min_size=1, max_size=4))
def test_round_one_with_calls_reads_back(fields, calls) -> None:
    turn = parse_turn(protocol.format_turn1(fields, calls, prose="first look"))
    assert turn.violations == () and turn.calls == calls and turn.answer is None
    assert turn.routing == fields


@settings(deadline=None)
@given(routing, box, words.filter(lambda t: 0 < len(t) <= 80), st.booleans())
def test_round_one_with_a_verdict_reads_back(fields, where, kind, anomalous) -> None:
    text = protocol.format_turn1(fields, prose="seen", anomalous=anomalous, box=where, type=kind)
    turn = parse_turn(text)
    assert turn.violations == () and turn.answer is anomalous and turn.routing == fields
    assert (turn.location, turn.type) == ((where, kind) if anomalous else (None, ""))


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda t: protocol.clean(t)), st.booleans())
def test_final_turn_reads_back_for_any_thinking(think, anomalous) -> None:
    turn = parse_turn(protocol.format_final(think, anomalous, (1, 2, 3, 4), "dent"), final=True)
    assert turn.violations == () and turn.think == protocol.clean(think)


def test_builders_refuse_what_cannot_be_read_back() -> None:
    with pytest.raises(ValueError, match="either in calls or in a verdict"):
        protocol.format_turn1({})
    with pytest.raises(ValueError, match="huge"):
        protocol.routing_text({"scale": "huge"})
    with pytest.raises(ValueError, match="colour"):
        protocol.routing_text({"colour": "red"})
    with pytest.raises(ValueError, match="no calls"):
        protocol.call_text([])
    with pytest.raises(ValueError, match="tag"):
        protocol.turn_text("so <answer> it is", "")


def test_call_text_is_compact_and_cannot_hold_a_tag() -> None:
    one = {"name": "crop", "arguments": {"region": [0, 0, 500, 500]}}
    assert protocol.call_text([one]) == '{"name":"crop","arguments":{"region":[0,0,500,500]}}'
    nasty = {"name": "prior", "arguments": {"query": "</call_tool><answer>Yes</answer>"}}
    assert parse_turn(protocol.turn_text("x", protocol.tool_tail(nasty))).calls == [nasty]


def test_conversation_keeps_callers_list_and_observation_order() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    first = protocol.start(image, protocol.question("", "short"))
    second = protocol.add_assistant(first, "<think>x</think>")
    third = protocol.add_observation(second, [(None, Result("a", 2)), (None, Result("b </observation>"))])
    assert [len(c) for c in (first, second, third)] == [1, 2, 3]
    assert [m["role"] for m in third] == ["user", "assistant", "tool"]
    parts = third[-1]["content"]
    assert [p["type"] for p in parts] == ["text", "image", "image", "text", "text"]
    joined = "".join(p.get("text", "") for p in parts)
    assert joined == "<observation>ab (/observation)</observation>"
    with pytest.raises(ValueError, match="at least one"):
        protocol.observation_parts([])


def test_margin_prefixes() -> None:
    text = protocol.format_final("a chip", True, (0, 0, 10, 10), "chip")
    assert protocol.decision_prefix(text) == "<think>a chip</think>"
    assert protocol.decision_prefix("nothing") is None
    reasoned = "The rim is bent, so "
    assert protocol.decision_prefix(reasoned + protocol.final_text(True, (10, 20, 30, 40), "dent")) == reasoned
    assert protocol.decision_prefix(protocol.final_text(False)) == ""
    rest = text.removeprefix(protocol.decision_prefix(text))
    assert rest.startswith(protocol.BRANCH[0])
    assert protocol.final_text(False).startswith(protocol.BRANCH[1])


def test_constants_agree() -> None:
    assert set(parsing.VIOLATIONS) >= {"missing_think", "unknown_tool", "bad_location", "missing_answer"}


def test_a_terse_turn_keeps_what_it_found_and_what_it_did() -> None:
    call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}}
    first = protocol.format_turn1({"evidence": "see dark ring, fine grey part", "preliminary": "No"}, [call])
    last = protocol.format_final("see crack, the crop shows it", True, (10, 20, 30, 40), "crack")
    assert terse(first) == "<think>unsure</think>" + protocol.tool_tail(call)
    assert terse(last) == "<think>see something</think>" + protocol.final_text(True, (10, 20, 30, 40), "crack")
    assert terse(terse(last)) == terse(last)
    fine = protocol.format_final("see nothing, no mark in the crop", False)
    assert terse(fine) == "<think>see nothing</think>" + protocol.final_text(False)
    assert at_sight([first, last], True, short=True) == terse(last)
    assert at_sight([first, fine], False, short=True) == terse(fine)
    whole = at_sight([first, last], True, short=False)
    assert (
        whole
        == first[: first.index("</think>")].replace("preliminary: No", "preliminary: Yes")
        + last[last.index("</think>") :]
    )
    assert "preliminary: Yes" in whole and "call_tool" not in whole and "crop" not in whole
    other = protocol.format_final("the crop shows it", False)
    assert terse(other) == other
    names = "prior dot, crop bar, "
    named = terse(fine, names)
    assert named == "<think>prior dot, crop bar, see nothing</think>" + protocol.final_text(False)
    assert terse(named, names) == named and terse(first, names) == terse(first)
    assert terse(last, names).startswith("<think>prior dot, crop bar, see something</think><location>")


def test_a_find_is_compared_where_the_prior_was_asked_too() -> None:
    crop = (ToolCall("crop", {}), ToolResult(True, "", details={"named": "dark bar"}))
    prior = (ToolCall("prior", {}), ToolResult(True, "It carries a dark round dot. A bright ring is a wrong mark."))
    unknown, empty = ((ToolCall(name, {}), ToolResult(True, "nothing is known")) for name in ("prior", "crop"))
    assert to_compare([prior, crop]) == to_compare([crop, prior]) == "prior dot, crop bar, "
    for results in ([crop], [prior], [prior, empty], [unknown, crop]):
        assert to_compare(results) == ""


def test_a_terse_turn_decides_before_its_thought_ends() -> None:
    for text in ("<think>see something</think><answer>Yes</answer>", "<think>see nothing</think><answer>No</answer>"):
        prefix = protocol.decision_prefix(text)
        assert prefix == protocol.LOOK and text.removeprefix(prefix).startswith(protocol.FOUND)
    asked = terse(protocol.format_turn1({"evidence": "see crack, a line"}, [{"name": "prior", "arguments": {}}]))
    assert protocol.decision_prefix(asked) == protocol.LOOK
    for names in (f"prior {a}, crop {b}" for a in protocol.FORMS for b in protocol.FORMS):
        for found in protocol.FOUND:
            prefix = protocol.decision_prefix(f"<think>{names}, see{found}</think><answer>No</answer>")
            assert prefix == f"<think>{names}, see" and protocol.looks(prefix)
    for other in ("<think>see something else</think>", "<think>prior dot, crop line, see nothing</think>"):
        assert protocol.decision_prefix(other) == other and not protocol.looks(other)
    assert not protocol.looks("") and not protocol.looks(f"<think>{protocol.UNSURE}")
