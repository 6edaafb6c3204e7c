"""Thoughts cut short, for a model of a few million parameters: what it compares and what it sees (not in the paper)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from .protocol import FINDING, FORM, FOUND, THINK_CLOSE, THINK_OPEN, UNSURE

_PRELIMINARY = re.compile(r"(\bpreliminary: )(?:Yes|No)\b")


def to_compare(results: Iterable[tuple[Any, Any]]) -> str:
    """`prior dot, crop bar, ` from (call, result) pairs: the form that the prior names first and that of the crop's
    find, side by side to be compared; "" unless both name one."""
    said = {call.name: r.text if call.name == "prior" else r.details.get("named", "") for call, r in results}
    due, found = (FORM.search(said.get(tool, "")) for tool in ("prior", "crop"))
    return f"prior {due[0]}, crop {found[0]}, " if due and found else ""


def terse(text: str, names: str = "") -> str:
    """A turn whose thought is cut to `see something` or `see nothing`, or to `unsure` where it asks a tool; as it is
    without a finding. The `names` that are to be compared (`to_compare`) are repeated first.

    For a model whose language part has 1.4 million parameters: sentences drawn at random were most of its loss, and
    where twenty kinds share the probability of a fault, "nothing" wins every greedy choice (docs/log.md). A hunch
    before a call is left out: on the corpus it goes with the label, and a model that leans on it has nothing where it
    has no hunch itself.
    """
    found, rest = FINDING.search(text), _behind(text)
    if found is None:
        return text
    if "<call_tool>" in rest:
        return THINK_OPEN + UNSURE + rest
    return THINK_OPEN + names + "see" + FOUND[found[1].strip() == FOUND[1].strip()] + rest


def at_sight(turns: Sequence[str], anomalous: bool, *, short: bool) -> str:
    """A trajectory as who sees the photograph alone tells it in one turn: the first thought and the last verdict, as
    which the thought's `preliminary` field reads then; `short`: `see something` or `see nothing` for the thought."""
    if short:
        return THINK_OPEN + "see" + FOUND[not anomalous] + _behind(turns[-1])
    thought = turns[0][: turns[0].find(THINK_CLOSE)]
    return _PRELIMINARY.sub(rf"\g<1>{'Yes' if anomalous else 'No'}", thought) + _behind(turns[-1])


def _behind(text: str) -> str:
    """What follows the thought, its closing tag first."""
    return text[text.find(THINK_CLOSE) :]
