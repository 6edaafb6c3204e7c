"""What the agent is told and how a trajectory is written (paper section 3): prompts, tags, turns, conversations.

Everything that builds text for the model is here, deterministic and shared by the inspection loop, the corpus, SFT
and RL, so that one episode gives the same tokens everywhere. `parsing` is the inverse.

A conversation is a list of chat messages whose content is always a list of parts: `{"type": "text", "text": ...}` or
`{"type": "image", "image": uint8 array of shape (H, W, 3)}`. Roles: user (image, instruction), assistant (one turn),
tool (one observation).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TOOL_NAMES = ("crop", "prior", "enhance", "measure")
"""The paper's T in its order (section 2); a test keeps it equal to `tools.TOOLS`, which is heavier to import."""

TAGS = ("think", "call_tool", "observation", "location", "type", "answer")
ROUTING_FIELDS = ("evidence", "target", "region", "scale", "cue", "suspicion", "preliminary")
SCALES = ("tiny", "small", "medium", "large", "unknown")
CUES = ("edge", "corner", "spacing", "bending", "surface mark", "component", "texture", "unknown")
SUSPICIONS = ("low", "medium", "high")
CHOICES = {"scale": SCALES, "cue": CUES, "suspicion": SUSPICIONS, "preliminary": ("Yes", "No")}

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
UNSURE = "unsure"  # thought of a terse turn that asks a tool
FORMS = ("dot", "bar", "ring", "cross")
"""Forms that have a name, on a product by design or found by a tool."""
FORM = re.compile(rf"\b(?:{'|'.join(FORMS)})\b")
_NAMES = rf"(?:prior {FORM.pattern}, crop {FORM.pattern}, )?"  # see `terse_thoughts.to_compare`
FINDING = re.compile(rf"(?:<think>{_NAMES}|evidence: )see( [^,;:<]*)")
"""Where a turn says what it sees, if it does: see `finding`. The group is what it sees, with the space before it."""
ROUTE = re.compile(rf'<think>({UNSURE}|see)\b|"name":\s*"(\w+)"')
"""Where a turn chooses: to ask or to answer, in the first group (terse turns alone), and which tool, in the second."""
NAMED = re.compile(r"<location>\[(\d+),(\d+),(\d+),(\d+)\]|<type>([^<]+)")
"""What an answer names, in the groups: where it is and what."""
MARGIN_PREFIX = "<answer>"
"""The text right before the answer token."""
BRANCH = ("<location>", "<answer>")
"""What may follow the last think: a Yes turn goes on with the first, a No turn with the second. The verdict is thus
already taken here, one or more tokens before `<answer>`: see `decision_prefix`."""
LOOK = "<think>see"
FOUND = (" something", " nothing")
"""How a terse thought begins where it repeats no name, and what may follow: there the verdict is taken (`terse`)."""
_TERSE = re.compile(rf"(<think>{_NAMES}see)(?:{'|'.join(FOUND)})|<think>{UNSURE}")

_FULL = """You inspect a photograph of one industrial product or surface and decide whether it is anomalous. There is \
no reference image: judge from what is visible and from what the tools return.

You may work in two rounds. In the first, look and decide whether a tool would settle what you cannot see for certain. \
Any combination of tools is allowed, and none when the picture already suffices. In the second, you get what the tools \
returned and you decide.

Coordinates are integers from 0 to 1000, relative to the full image: [x1,y1,x2,y2] with x to the right and y down.

Tools, with their arguments as JSON schema:
{tools}

Round one is exactly
<think>evidence: ...; target: ...; region: [x1,y1,x2,y2]; scale: {scales}; cue: {cues}; suspicion: {suspicions}; \
preliminary: Yes|No</think>
followed by either
<call_tool>{{"name":"...","arguments":{{...}}}}</call_tool>   (or a JSON list of such objects)
or, when no tool is needed, the final tags below.

Round two, after the observation, is <think>what the observation shows and why it decides</think> and the final tags:
<location>[x1,y1,x2,y2]</location><type>short name of the anomaly</type><answer>Yes</answer>   when it is anomalous,
<answer>No</answer>   when it is normal.

Rules: keep the thinking short. Write nothing outside the tags. Give location and type only with Yes. Never write an \
observation yourself. Rest the answer on visible evidence; a tool that shows nothing is evidence too.{product}"""

_SHORT = "Is this part anomalous? Tools: {tools}. Think, then call a tool or answer Yes or No.{product}"
_DIRECT_FULL = """Look at this photograph of an industrial product or surface and decide whether it is anomalous. \
There is no reference image. Explain briefly what you see, then end with
<location>[x1,y1,x2,y2]</location><type>short name of the anomaly</type><answer>Yes</answer>   if it is anomalous \
(integers from 0 to 1000, relative to the image), or
<answer>No</answer>   if it is normal.{product}"""
_DIRECT_SHORT = "Is this part anomalous? Answer Yes or No.{product}"


def question(category: str = "", detail: str = "full", tools: Sequence[str] = TOOL_NAMES) -> str:
    """The agent's instruction Q.

    Args:
        category: Product name, named in the text when given.
        detail: `full` (tags, tool schemas, fields, rules) or `short` (for a model that learnt the format in SFT).
        tools: The tools offered, a subset of `TOOL_NAMES`.

    Raises:
        ValueError: For another `detail` or an unknown tool.
    """
    unknown = [name for name in tools if name not in TOOL_NAMES]
    if unknown:
        raise ValueError(f"unknown tools {unknown}; there are {', '.join(TOOL_NAMES)}")
    product = _product(category)
    if _detail(detail) == "short":
        return _SHORT.format(tools=", ".join(tools) or "none", product=product)
    listing = "\n".join(_schema_lines(tools)) or "(none)"
    options = {"scales": "|".join(SCALES), "cues": "|".join(CUES), "suspicions": "|".join(SUSPICIONS)}
    return _FULL.format(tools=listing, product=product, **options)


def direct_question(category: str = "", detail: str = "full") -> str:
    """The baselines' single zero-shot prompt, asking for the same final tags (paper section 3)."""
    template = _DIRECT_SHORT if _detail(detail) == "short" else _DIRECT_FULL
    return template.format(product=_product(category))


def _detail(detail: str) -> str:
    if detail not in ("full", "short"):
        raise ValueError(f"detail is 'full' or 'short', not {detail!r}")
    return detail


def _product(category: str) -> str:
    name = clean(category.replace("_", " "))
    return f" Product: {name}." if name else ""


def _schema_lines(names: Sequence[str]) -> list[str]:
    from . import tools  # late: the tools load OpenCV, which the prompts of a training worker do not need

    wanted = [s["function"] for s in tools.schemas() if s["function"]["name"] in names]
    return [json.dumps(schema, ensure_ascii=False, separators=(",", ":")) for schema in wanted]


# --- text of one turn ---------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Free text that cannot break the tags: one line, no angle brackets, no field separator."""
    return " ".join(text.replace("<", "(").replace(">", ")").replace(";", ",").split())


def box_text(box: Sequence[float]) -> str:
    """`[x1,y1,x2,y2]` with integers and no spaces."""
    return "[" + ",".join(str(round(v)) for v in box) + "]"


def routing_text(fields: Mapping[str, Any]) -> str:
    """Routing fields as `key: value` items in the paper's order, separated by `; `; absent ones are left out.

    Raises:
        ValueError: For an unknown field or a value outside the field's choices.
    """
    unknown = set(fields) - set(ROUTING_FIELDS)
    if unknown:
        raise ValueError(f"unknown routing fields {sorted(unknown)}; there are {', '.join(ROUTING_FIELDS)}")
    for name, choices in CHOICES.items():
        if name in fields and fields[name] not in choices:
            raise ValueError(f"routing field {name}: {fields[name]!r} is none of {', '.join(choices)}")
    return "; ".join(f"{name}: {_field(name, fields[name])}" for name in ROUTING_FIELDS if name in fields)


def _field(name: str, value: Any) -> str:
    return box_text(value) if name == "region" else clean(str(value))


def call_text(calls: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Compact JSON of one call `{"name", "arguments"}` or of a list of them (a list of one is written as one)."""
    calls = [calls] if isinstance(calls, Mapping) else list(calls)
    if not calls:
        raise ValueError("no calls to write; a turn without tools has no <call_tool>")
    items = [{"name": call["name"], "arguments": dict(call["arguments"])} for call in calls]
    body = json.dumps(items[0] if len(items) == 1 else items, ensure_ascii=False, separators=(",", ":"))
    return body.replace("<", "\\u003c").replace(">", "\\u003e")  # same JSON, and no tag can appear inside


def final_text(anomalous: bool, box: Sequence[float] | None = None, type: str = "") -> str:
    """The closing tags of a verdict: location and type only with Yes."""
    if not anomalous:
        return "<answer>No</answer>"
    location = f"<location>{box_text(box)}</location>" if box is not None else ""
    kind = f"<type>{clean(type)}</type>" if clean(type) else ""
    return f"{location}{kind}<answer>Yes</answer>"


def finding(name: str) -> str:
    """`see crack`, or `see nothing`: how a thought of the offline teacher begins. The verdict is really taken here,
    in one or two tokens; the sentence behind only explains it."""
    return f"see {clean(name) or 'nothing'}"


def looks(text: str) -> bool:
    """Whether a turn stands open where a terse thought says what it sees: at `LOOK`, maybe with a name before `see`."""
    return _TERSE.fullmatch(text + FOUND[0]) is not None


def turn_text(think: str, tail: str) -> str:
    """`<think>..</think>` and what follows it: `tool_tail(calls)` or `final_text(..)`."""
    if any(f"<{tag}>" in think or f"</{tag}>" in think for tag in TAGS):
        raise ValueError(f"the thinking holds a tag: {think[:80]!r}")
    return f"<think>{think.strip()}</think>{tail}"


def tool_tail(calls: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """`<call_tool>..</call_tool>` around `call_text`."""
    return f"<call_tool>{call_text(calls)}</call_tool>"


def format_turn1(
    fields: Mapping[str, Any],
    calls: Sequence[Mapping[str, Any]] = (),
    *,
    prose: str = "",
    anomalous: bool | None = None,
    box: Sequence[float] | None = None,
    type: str = "",
) -> str:
    """Round one: thinking that ends in the routing fields, then the calls, or the verdict when there are none."""
    if bool(calls) == (anomalous is not None):
        raise ValueError("round one ends either in calls or in a verdict")
    think = " ".join(part for part in (clean(prose), routing_text(fields)) if part)
    return turn_text(think, tool_tail(calls) if calls else final_text(bool(anomalous), box, type))


def format_final(think: str, anomalous: bool, box: Sequence[float] | None = None, type: str = "") -> str:
    """Round two: thinking, then the verdict."""
    return turn_text(clean(think), final_text(anomalous, box, type))


# --- conversations ------------------------------------------------------------------------------------------------


def observation_parts(results: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """Content of the tool message for `(call, result)` pairs; a result has `.text` and `.images`.

    The texts and images come in the order of the calls, between `<observation>` and `</observation>`.
    """
    parts: list[dict[str, Any]] = []
    for _, result in results:
        text = result.text.replace("<", "(").replace(">", ")")  # an echoed argument must not close the observation
        parts.append({"type": "text", "text": text if parts else "<observation>" + text})
        parts += [{"type": "image", "image": image} for image in result.images]
    if not parts:
        raise ValueError("an observation needs at least one tool result")
    return [*parts, {"type": "text", "text": "</observation>"}]


def start(image: Any, text: str) -> list[dict[str, Any]]:
    """A new conversation: the image, then the instruction (`question(..)` or `direct_question(..)`)."""
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def add_assistant(conversation: Sequence[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The conversation with one assistant turn added; the caller's list stays as it is."""
    return [*conversation, {"role": "assistant", "content": [{"type": "text", "text": text}]}]


def open_text(conversation: Sequence[dict[str, Any]]) -> str:
    """Text of the last message."""
    return "".join(part.get("text", "") for part in conversation[-1]["content"])


def extend_open(conversation: Sequence[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The conversation with `text` added to its open assistant message; the caller's list stays as it is."""
    last = conversation[-1]
    return [*conversation[:-1], {**last, "content": [*last["content"], {"type": "text", "text": text}]}]


def add_observation(conversation: Sequence[dict[str, Any]], results: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """The conversation with the observation of `results` added; the caller's list stays as it is."""
    return [*conversation, {"role": "tool", "content": observation_parts(results)}]


# --- where the margin is taken ------------------------------------------------------------------------------------


def decision_prefix(text: str) -> str | None:
    """The turn up to where its verdict is taken; None when the thinking does not end and no verdict follows.

    That is behind `</think>`, where verdict and format part ways: the next token opens `BRANCH[0]` (Yes) or `BRANCH[1]`
    (No). A terse turn has decided before: its prefix is one that `looks`, what follows one of `FOUND`. A reply to the
    direct question has reasons without `</think>`: up to the first of the two.
    """
    head, tag, _ = text.partition(THINK_CLOSE)
    if not tag:
        verdict = min((at for at in map(text.find, BRANCH) if at >= 0), default=-1)
        return text[:verdict] if verdict >= 0 else None
    found = _TERSE.fullmatch(head)
    return (found[1] or LOOK) if found else head + tag
