"""Reading what a model wrote (paper section 3): the strict parser of tagged turns, and a lenient one for baselines.

Both are total: any string gives a result, with the violations by name, in time linear in its length. JSON goes through
`json.loads` with limits on size and depth; nothing is ever evaluated. `parse_free_text` lives in `free_text`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import boxes
from .free_text import parse_free_text
from .protocol import CHOICES, ROUTING_FIELDS, TAGS, TOOL_NAMES
from .samples import Box

VIOLATIONS = (
    "missing_think",  # no thinking, or an empty one
    "text_outside_tags",
    "unclosed_tag",  # a tag opened and not closed, closed and not opened, or nested
    "duplicate_tag",
    "tag_order",
    "observation_in_reply",  # the model wrote an observation itself
    "bad_call_json",  # not JSON, not {"name","arguments"}, too long or too deep, or half a character in it
    "unknown_tool",
    "too_many_calls",
    "call_after_observation",  # only round one may call
    "answer_and_call",
    "bad_location",
    "missing_location",
    "location_without_yes",
    "bad_type",
    "missing_type",
    "type_without_yes",
    "bad_answer",  # something else than exactly Yes or No
    "missing_answer",
)

MAX_CALLS = 4  # not in paper: one of each tool
MAX_JSON = 4000  # characters; not in paper
MAX_DEPTH = 6  # brackets; not in paper
MAX_TYPE = 80  # characters; not in paper

_TAG = re.compile(r"</?(?:" + "|".join(TAGS) + r")>")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_ORDER = {tag: rank for rank, tag in enumerate(("think", "call_tool", "location", "type", "answer"))}
_FIRST_KEY = re.compile(r"(?<!\S)(" + "|".join(ROUTING_FIELDS) + r")\s*:")
_KEY = re.compile(r"\s*(" + "|".join(ROUTING_FIELDS) + r")\s*:")


@dataclass(frozen=True)
class ParsedTurn:
    """One assistant turn.

    Attributes:
        think: The thinking, stripped; "" when missing.
        routing: Fields of round one found in it: `region` a Box, the others strings; invalid values are left out.
        calls: Every well-formed `{"name", "arguments"}`, also of a tool that is not allowed (see `refused`).
        location, type, answer: The verdict's parts, None / "" / None when missing or bad; `answer` True = Yes.
        violations: Names out of `VIOLATIONS` in that order; empty = strictly valid.
        refused: Names of called tools that are unknown or not allowed.
    """

    think: str = ""
    routing: dict[str, Any] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    location: Box | None = None
    type: str = ""
    answer: bool | None = None
    violations: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the turn keeps the format strictly."""
        return not self.violations


def parse_turn(text: str, allowed_tools: Sequence[str] = TOOL_NAMES, *, final: bool = False) -> ParsedTurn:
    """Read one assistant turn strictly.

    Args:
        text: What the model wrote, without chat-template tokens.
        allowed_tools: Tools that may be called.
        final: The turn after an observation: it must answer and may not call.

    Returns:
        What could be read and every violation by name; never raises.
    """
    found: set[str] = set()
    blocks = _blocks(text, found)
    think = blocks.get("think", "").strip()
    calls = _calls(blocks["call_tool"], found) if "call_tool" in blocks else []
    refused = tuple(call["name"] for call in calls if call["name"] not in allowed_tools)
    answer = _answer(blocks, found)
    location = _location(blocks.get("location"), found)
    kind = _type(blocks.get("type"), found)
    _check_turn(blocks, think, answer, final, found)
    if refused:
        found.add("unknown_tool")
    violations = tuple(name for name in VIOLATIONS if name in found)
    return ParsedTurn(think, parse_routing(think), calls, location, kind, answer, violations, refused)


def _blocks(text: str, found: set[str]) -> dict[str, str]:
    """First content of each tag; notes what is outside, nested, repeated or out of order."""
    blocks: dict[str, str] = {}
    opened, end, last_rank = "", 0, -1
    for match in _TAG.finditer(text):
        content, end_before = text[end : match.start()], end
        end = match.end()
        name, closing = match.group().strip("</>"), match.group().startswith("</")
        if name == "observation":
            found.add("observation_in_reply")
        if closing and opened == name:
            last_rank = _store(blocks, name, content, last_rank, found)
            opened = ""
            continue
        if closing or opened:
            found.add("unclosed_tag")
        if opened and end_before:  # a new tag inside an open one: what came so far is that one's content
            last_rank = _store(blocks, opened, content, last_rank, found)
        elif content.strip():
            found.add("text_outside_tags")
        opened = "" if closing else name
    if opened:
        found.add("unclosed_tag")
        _store(blocks, opened, text[end:], last_rank, found)
    elif text[end:].strip():
        found.add("text_outside_tags")
    return blocks


def _store(blocks: dict[str, str], name: str, content: str, last_rank: int, found: set[str]) -> int:
    if name not in _ORDER:
        return last_rank
    if name in blocks:
        found.add("duplicate_tag")
        return last_rank
    blocks[name] = content
    if _ORDER[name] < last_rank:
        found.add("tag_order")
    return max(last_rank, _ORDER[name])


def _check_turn(blocks: dict[str, str], think: str, answer: bool | None, final: bool, found: set[str]) -> None:
    rules = {
        "missing_think": not think,
        "answer_and_call": "call_tool" in blocks and bool(blocks.keys() & {"location", "type", "answer"}),
        "call_after_observation": final and "call_tool" in blocks,
        "missing_answer": "answer" not in blocks and ("call_tool" not in blocks or final),
        "missing_location": answer is True and "location" not in blocks,
        "missing_type": answer is True and "type" not in blocks,
        "location_without_yes": answer is not True and "location" in blocks,
        "type_without_yes": answer is not True and "type" in blocks,
    }
    found.update(name for name, broken in rules.items() if broken)


def _answer(blocks: dict[str, str], found: set[str]) -> bool | None:
    if "answer" not in blocks:
        return None
    word = blocks["answer"].strip()
    if word not in ("Yes", "No"):
        found.add("bad_answer")  # read all the same where the meaning is plain: only the format is at fault
    return {"yes": True, "no": False}.get(word.rstrip(".!").casefold())


def _location(content: str | None, found: set[str]) -> Box | None:
    if content is None:
        return None
    box = _as_box(_load_json(content))
    if box is None:
        found.add("bad_location")
    return box


def _type(content: str | None, found: set[str]) -> str:
    kind = "" if content is None else " ".join(content.split())
    if content is not None and not 0 < len(kind) <= MAX_TYPE:
        found.add("bad_type")
        return ""
    return kind


def _calls(content: str, found: set[str]) -> list[dict[str, Any]]:
    data = _load_json(content)
    items = data if isinstance(data, list) else [data]
    calls = [item for item in items if _is_call(item)]
    if len(calls) < len(items) or not items:
        found.add("bad_call_json")
    if len(calls) > MAX_CALLS:
        found.add("too_many_calls")
    return calls[:MAX_CALLS]


def _is_call(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and item.keys() == {"name", "arguments"}
        and isinstance(item["name"], str)
        and isinstance(item["arguments"], dict)
    )


def _load_json(text: str) -> Any:
    """The JSON value, or None for what is not JSON, too long or too deep (None itself is never wanted here)."""
    if len(text) > MAX_JSON:
        return None
    depth = deepest = 0
    for char in _STRING.sub("", text):
        depth += (char in "[{") - (char in "]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return None
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # "\ud83d" alone is no text: no tokenizer takes it
    except ValueError:
        return None
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value


def _as_box(data: Any) -> Box | None:
    if not isinstance(data, list | tuple) or len(data) != 4:
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not abs(v) <= boxes.SCALE for v in data):
        return None
    box = tuple(round(v) for v in data)
    return box if boxes.valid(box) else None  # type: ignore[return-value]


def parse_routing(think: str) -> dict[str, Any]:
    """Routing fields at the end of the first thinking; invalid values and unknown keys are left out."""
    routing: dict[str, Any] = {}
    _, key, tail = think.rpartition("evidence:")
    segments = (key + tail if key else think).split(";")
    for number, segment in enumerate(segments):
        match = _FIRST_KEY.search(segment) if number == 0 else _KEY.match(segment)  # prose may stand before the first
        if match and match[1] not in routing:
            value = _routing_value(match[1], segment[match.end() :].strip())
            if value is not None:
                routing[match[1]] = value
    return routing


def _routing_value(name: str, value: str) -> Any:
    if name == "region":
        return _as_box(_load_json(value))
    if name in CHOICES:
        return value if value in CHOICES[name] else None
    return value or None


def parse_direct(text: str) -> ParsedTurn:
    """A baseline's reply: tags where it wrote them, the verdict by `parse_free_text`.

    Only an unreadable verdict is a violation here (`missing_answer`): baselines are not held to the trajectory format.
    """
    found: set[str] = set()
    blocks = _blocks(text, found)
    answer = parse_free_text(text)
    location = _location(blocks.get("location"), found) if answer else None
    kind = _type(blocks.get("type"), found) if answer else ""
    violations = ("missing_answer",) if answer is None else ()
    return ParsedTurn(blocks.get("think", "").strip(), {}, [], location, kind, answer, violations)
