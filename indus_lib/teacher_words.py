"""The offline teacher's sentences: a small grammar with many alternatives, every slot filled from what was measured.

Short on purpose (a tiny model pays for every token) and free of the words that would give supervision away;
`quality.leaks` checks that. All wording is ours (not in paper).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import boxes
from .sight import Look

_ARTICLE = re.compile(r"\ba(?= [aeiou])")
_MASS = re.compile(
    r"\ban? (?=(?:[a-z]+ )?(?:dirt|corrosion|abrasion|melting|discolouration|glue residue|liquid residue)\b)"
)


@dataclass(frozen=True)
class Hunch:
    """What seems to stand out at first sight: tone and noun of it, where, how large (routing scale)."""

    tone: str
    noun: str
    place: str
    scale: str


def pick(rng: np.random.Generator, options: Sequence[str], **slots: object) -> str:
    """One alternative, slots filled."""
    text = options[int(rng.integers(len(options)))].format(**slots)
    return _ARTICLE.sub("an", _MASS.sub("", text))


def noun_for(rng: np.random.Generator, box: Sequence[float]) -> str:
    """A plain word for the shape of a region."""
    width, height = box[2] - box[0], box[3] - box[1]
    if max(width, height) > 3 * min(width, height):
        return pick(rng, ("line", "streak", "stripe"))
    if boxes.area(box) > 350 * 350:
        return pick(rng, ("area", "zone", "patch"))
    return pick(rng, ("spot", "mark", "speck") if boxes.area(box) < 90 * 90 else ("patch", "mark", "spot"))


_BODY = ("{texture} {colour} surface", "{colour} surface, {texture} grain", "{texture} {colour} finish",
         "{colour} tone near {grey}", "surface level near {grey}, {texture}", "{colour} face, {texture}")  # fmt: skip
_PART = ("{colour} part", "{texture} {colour} part", "part in {colour}, {texture}", "{colour} piece near {grey}",
         "whole {colour} part in view", "{texture} part, level near {grey}")  # fmt: skip
_SEEN = ("a {tone} {noun} at the {place}", "{place}: a {tone} {noun}", "{tone} {noun} in the {place} area",
         "something {tone} at the {place}", "a {tone} {noun}, {place}", "the {place} shows a {tone} {noun}",
         "one {tone} {noun} breaks the surface at the {place}", "a {noun} at the {place}, {tone}")  # fmt: skip
_UNSURE = ("perhaps a {tone} {noun} at the {place}", "maybe something {tone} at the {place}",
           "a {tone} {noun} at the {place}, not clear", "slight {tone} {noun} at the {place}")  # fmt: skip
_NOTHING = ("nothing stands out", "no clear mark", "looks even", "no mark at this size", "nothing odd so far",
            "even all over", "too small to judge details", "plain at first sight", "nothing catches the eye",
            "regular as far as seen")  # fmt: skip
_ROW = ("features in a row, gaps hard to judge", "a repeated row, spacing to check", "row of like features",
        "several features in line", "a row whose gaps need a number")  # fmt: skip
_ODDITY = ("is this feature meant", "what belongs here is not clear", "the usual look is not known",
           "design or fault, hard to say", "need to know the usual look")  # fmt: skip
_FINE = ("low contrast", "shading may hide faint marks", "faint marks would not show", "light is uneven",
         "grain may hide something")  # fmt: skip
_SMALL = ("details are lost at this size", "small marks would not show", "need a closer view",
          "fine detail is not resolved", "cannot see small marks")  # fmt: skip
_WHY = {"crop": _SMALL, "enhance": _FINE, "measure": _ROW, "prior": _ODDITY}


def first_evidence(rng: np.random.Generator, look: Look, hunch: Hunch | None, tool: str, sure: bool) -> str:
    """Evidence field of round one. `tool`: the first tool to be called, "none" without; `sure`: plain to see."""
    body = pick(rng, _PART if look.part != (0, 0, 1000, 1000) else _BODY, **_facts(look))
    if hunch is not None:
        slots = {"tone": hunch.tone, "noun": hunch.noun, "place": hunch.place}
        seen = pick(rng, _SEEN if sure else _UNSURE, **slots)
        return f"{body}, {seen}" if rng.random() < 0.45 else seen
    doubt = pick(rng, _WHY[tool]) if tool in _WHY and rng.random() < 0.6 else pick(rng, _NOTHING)
    return f"{body}, {doubt}"


def _facts(look: Look) -> dict[str, object]:
    return {"texture": look.texture, "colour": look.colour, "grey": look.grey}


TARGETS = {
    "crop": ("surface", "detail", "small marks", "edge"),
    "enhance": ("surface", "texture", "faint marks", "shading"),
    "measure": ("row", "spacing", "feature row"),
    "prior": ("part", "usual look", "features"),
    "none": ("part", "surface"),
}
CUES = {
    "crop": ("surface mark", "surface mark", "edge", "component", "corner"),
    "enhance": ("texture", "surface mark"),
    "measure": ("spacing", "spacing", "bending"),
    "prior": ("component", "component", "surface mark"),
    "none": ("surface mark", "unknown"),
}
QUERIES = ("", "", "marks that belong", "normal features", "normal surface", "print and holes")

# --- round two ----------------------------------------------------------------------------------------------------

_FOUND = {
    "crop": ("the crop shows a {tone} {kind} at its {inside}", "close up, the {tone} {kind} is plain at the {inside}",
             "in the crop there is a {tone} {kind}", "the patch holds a {tone} {kind}, {inside}",
             "at full size the {noun} is a {kind}", "the close view has a {tone} {kind} at the {inside}",
             "a {kind} is clear in the crop, {tone} against the rest"),
    "enhance": ("the {map} brings out a {kind} at the {place}", "in the {map} the {place} departs: a {kind}",
                "the {map} peaks at the {place}, a {tone} {kind}", "a {kind} at the {place} stands out in the {map}",
                "{place}: the {map} shows a {tone} {kind}", "with the {map} a {kind} appears at the {place}"),
    "measure": ("{count} features, one gap is {deviation} % off: {kind}", "a gap deviates {deviation} %, so a {kind}",
                "the row is uneven, {deviation} % at worst: {kind}", "{deviation} % deviation means a {kind}",
                "spacing breaks by {deviation} % among {count} features: {kind}"),
    "bent": ("{count} features, one is {offset} % out of line: {kind}", "sideways offset of {offset} %, so a {kind}",
             "one feature leaves the line by {offset} %: {kind}", "the line is broken by {offset} %: {kind}"),
    "prior": ("the {tone} {noun} at the {place} is not in the usual look: {kind}",
              "no such {noun} belongs at the {place}: {kind}", "the prior has no {tone} {noun} there, so a {kind}",
              "by the prior the {place} should be plain, this is a {kind}",
              "the usual look does not allow the {noun} at the {place}: {kind}"),
    "sign": ("the prior names a {sign}, the {noun} at the {place} is not that: {kind}",
             "only a {sign} belongs, so the {tone} {noun} is a {kind}", "a {sign} should be there, this is a {kind}",
             "{kind}: the {tone} {noun} at the {place} is no {sign}"),
}  # fmt: skip
_NOT_HELPED = {
    "crop": ("the crop adds nothing", "the close view shows only plain surface", "the patch is plain"),
    "enhance": ("the {map} adds nothing", "the {map} shows no more", "the {map} stays even"),
    "measure": ("the row reading does not help", "spacing says nothing here", "the measure is beside the point"),
    "prior": ("the prior does not settle it", "the prior does not speak of this", "the usual look leaves it open"),
}
_STANDS = ("yet the {tone} {kind} at the {place} is plain in the view", "still a {tone} {kind} shows at the {place}",
           "but the {place} has a clear {tone} {kind}", "the {kind} at the {place} stands all the same",
           "the view itself shows a {tone} {kind}, {place}")  # fmt: skip
_CLEAR = {
    "crop": ("the crop shows only {texture} surface", "close up it is {texture} and even", "no mark in the crop",
             "the patch is plain {colour}, {texture}", "at full size nothing but {texture} grain",
             "the close view is clean", "only normal {texture} detail in the crop"),
    "enhance": ("the {map} is even", "nothing departs in the {map}", "the {map} shows only the usual surface",
                "no peak in the {map}", "the {map} has just the normal grain", "even in the {map} nothing appears"),
    "measure": ("{count} features, worst gap {deviation} %: even", "spacing is regular, {deviation} % at most",
                "the row is even, {count} features", "gaps agree within {deviation} %",
                "{deviation} % is normal scatter"),
    "unread": ("no row could be read here", "too few features to compare", "the reading tells nothing"),
    "prior": ("all seen fits the usual look", "the prior allows what is seen", "this agrees with the prior",
              "the features belong, says the prior", "nothing against the usual look"),
    "unknown": ("nothing is known of this product", "the prior knows nothing here"),
    "spot": ("what stands out in the crop is regular", "the spot in the crop has an even outline, it belongs",
             "close up the spot is soft and regular", "the crop shows a regular feature, no damage",
             "only a clean, regular detail in the crop", "the spot is round and even at full size"),
    "sign": ("the {sign} belongs, says the prior", "a {sign} is expected here", "the prior allows the {sign}",
             "what is seen is the {sign} of the prior"),
}  # fmt: skip
_WITHDRAWN = ("the {tone} {noun} was only shading", "the first hunch was wrong", "the {noun} is harmless",
              "so the {noun} is part of the look", "first thought withdrawn",
              "the suspicion does not hold")  # fmt: skip
_MISSED = ("missed at first sight", "not seen at first", "the first look was wrong", "hidden at first")
_END_NO = ("no anomaly", "normal", "nothing to report", "it is fine", "part is in order")
_END_YES = ("not normal", "a real fault", "so anomalous", "must be reported")
_PLAIN_YES = ("a {tone} {kind} at the {place}", "{place}: a clear {tone} {kind}", "plain {kind} at the {place}",
              "the {place} has a {tone} {kind}", "a {kind} is easy to see, {place}, {tone}")  # fmt: skip
_MAPS = {
    "texture": ("texture map", "map"),
    "clahe": ("contrast view", "enhanced view"),
    "edges": ("edge map", "edges view"),
}


def plain_evidence(rng: np.random.Generator, look: Look, slots: dict[str, object]) -> str:
    """Evidence of a turn that answers Yes without tools: names the kind of mark."""
    seen = pick(rng, _PLAIN_YES, **slots)
    return f"{pick(rng, _BODY, **_facts(look))}, {seen}" if rng.random() < 0.4 else seen


def found(rng: np.random.Generator, tool: str, slots: dict[str, object]) -> str:
    """A tool showed the mark. `tool` may be `bent` for a row reading whose sideways offset gives it away."""
    return pick(rng, _FOUND[tool], **_with_map(rng, slots))


def not_helped(rng: np.random.Generator, tool: str, slots: dict[str, object]) -> str:
    """A tool showed nothing of a mark that is plain in the view."""
    return pick(rng, _NOT_HELPED[tool], **_with_map(rng, slots))


def stands(rng: np.random.Generator, slots: dict[str, object]) -> str:
    """The view itself shows the mark."""
    return pick(rng, _STANDS, **slots)


def clear(rng: np.random.Generator, tool: str, look: Look, slots: dict[str, object]) -> str:
    """A tool showed nothing wrong. `tool` may be `unread` (a row) or `unknown` (a product)."""
    return pick(rng, _CLEAR[tool], **_facts(look), **_with_map(rng, slots))


def closing(rng: np.random.Generator, anomalous: bool, hunch: Hunch | None) -> str:
    """What the first hunch was worth, or a short conclusion, or nothing."""
    if anomalous:
        options = _MISSED if hunch is None and rng.random() < 0.4 else _END_YES
        return pick(rng, options) if rng.random() < 0.5 else ""
    if hunch is not None:
        return pick(rng, _WITHDRAWN, tone=hunch.tone, noun=hunch.noun)
    return pick(rng, _END_NO) if rng.random() < 0.5 else ""


def _with_map(rng: np.random.Generator, slots: dict[str, object]) -> dict[str, object]:
    return {**slots, "map": pick(rng, _MAPS[str(slots.get("method") or "texture")])}
