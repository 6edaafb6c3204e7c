"""Thoughts cut short, for a model of a few million parameters: what it compares and what it sees (not in the paper)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .protocol import FINDING, FORM, FOUND, THINK_CLOSE, THINK_OPEN, UNSURE, routing_text


def to_compare(results: Iterable[tuple[Any, Any]]) -> str:
    """`prior dot, crop bar, ` from (call, result) pairs: the form that the prior names first and that of the crop's
    find, side by side to be compared; "" unless both name one."""
    said = {call.name: r.text if call.name == "prior" else r.details.get("named", "") for call, r in results}
    due, found = (FORM.search(said.get(tool, "")) for tool in ("prior", "crop"))
    return f"prior {due[0]}, crop {found[0]}, " if due and found else ""


def terse(text: str, names: str = "", suspicion: str = "") -> str:
    """A turn whose thought is cut to `see something` or `see nothing`, or to `unsure` where it asks a tool; as it is
    without a finding. The `names` that are to be compared (`to_compare`) are repeated first, and behind `unsure` stands
    the level of `suspicion`, if there is one (`suspicion.levels`).

    For a model of five million parameters: sentences drawn at random were most of its loss, and where twenty kinds
    share the probability of a fault, "nothing" wins every greedy choice (docs/log.md). The teacher's own hunch before a
    call is left out: on the corpus it goes with the label, and who leans on it has nothing where there is no hunch.
    """
    found, rest = FINDING.search(text), text[text.find(THINK_CLOSE) :]
    if found is None:
        return text
    if "<call_tool>" in rest:
        level = f", {routing_text({'suspicion': suspicion})}" if suspicion else ""
        return THINK_OPEN + UNSURE + level + rest
    return THINK_OPEN + names + "see" + FOUND[found[1].strip() == FOUND[1].strip()] + rest
