"""The quality gate of Indus-CoT (paper section 4): validity, consistency, no leak of supervision, a judge, repairs.

A trajectory is a tuple of `episodes.Turn`, one or two. `check` gives every reason to reject it by name; `judge` scores
what passed, so that the best of several drafts is kept; `repair` mends what is only wrong in form. Whether supervision
leaks through *choices* rather than words (which tool, which region) can only be seen over a corpus: `tool_information`.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from . import boxes, parsing, taxonomy
from .episodes import Turn
from .free_text import parse_free_text
from .samples import Sample

Trajectory = tuple[Turn, ...]

MIN_IOU = 0.25  # of the final location; small boxes lose much to rounding; not in paper
MIN_TYPE = 0.6  # taxonomy similarity of the final type; not in paper
LEAK_IOU = 0.7  # an argument this close to the annotated box was copied from it; not in paper
LEAK_AREA = 250_000  # ... unless the box is so large that the part itself has it (units of 0..1000 squared)

LEAK_WORDS = (
    "ground truth", "groundtruth", "annotation", "annotations", "annotated", "annotator", "labelled", "labeled",
    "image label", "class label", "true label", "given label", "label says", "label is given", "label given", "mask",
    "masked", "supervision", "constraint", "constraints", "as given", "was given", "given box", "given location",
    "given type", "given that it is", "provided label", "provided location", "provided information", "provided box",
    "i was told", "we are told", "known to be", "the hint", "hinted", "the dataset", "data set", "reference answer",
    "correct answer", "expected answer", "bounding box", "metadata", "file name", "filename",
    "according to the instruction", "supposed to be anomalous", "supposed to be normal", "the user", "must not reveal",
    "not mention that", "pretend", "the required verdict", "verdict is given",
)  # fmt: skip
"""Words that speak of supervision. A bare "label" is not among them: a bottle may carry one."""
_LEAK = re.compile(r"\b(?:" + "|".join(w.replace(" ", r"[\s_-]+") for w in LEAK_WORDS) + r")\b")
_TOKEN = re.compile(r"</?[a-z_]+>|\d{1,4}| ?[A-Za-z]+|\s+|[^\sA-Za-z\d]")


def rough_tokens(text: str) -> int:
    """Tokens of a text as the tiny tokenizer splits it, an upper bound for a subword model with these words."""
    return len(_TOKEN.findall(text))


def check(turns: Trajectory, sample: Sample, *, max_tokens: int | None = None) -> tuple[str, ...]:
    """Every reason to reject a trajectory; empty = accepted.

    Args:
        turns: One or two turns with the calls that were really run.
        sample: With its label; boxes and node when anomalous.
        max_tokens: Longest turn in `rough_tokens`; None = any.
    """
    parsed = [parsing.parse_turn(t.text, final=i > 0) for i, t in enumerate(turns)]
    reasons = [f"format:{name}" for p in parsed for name in p.violations]
    if not 1 <= len(turns) <= 2 or not parsed or (len(turns) == 1) == bool(parsed[0].calls):
        return (*reasons, "wrong_number_of_turns")
    reasons += _check_calls(turns, parsed[0])
    reasons += _check_verdict(parsed[-1], sample)
    reasons += leaks(turns, sample)
    stated = parse_free_text(parsed[-1].think.rpartition("suspicion:")[0] or parsed[-1].think)
    if stated is not None and parsed[-1].answer is not None and stated != parsed[-1].answer:
        reasons.append("thinking_contradicts_answer")
    if max_tokens and any(rough_tokens(t.text) > max_tokens for t in turns):
        reasons.append("too_long")
    return tuple(dict.fromkeys(reasons))


def _check_calls(turns: Trajectory, first: parsing.ParsedTurn) -> list[str]:
    run = [{"name": c.name, "arguments": c.arguments} for c in turns[0].calls]
    reasons = ["calls_not_run"] if run != first.calls else []
    return reasons + ["failed_call"] * any(not c.ok for t in turns for c in t.calls)


def _check_verdict(last: parsing.ParsedTurn, sample: Sample) -> list[str]:
    if last.answer is None:
        return ["no_answer"]
    if last.answer != sample.label:
        return ["wrong_answer"]
    if not last.answer:
        return []
    reasons = []
    if last.location is None or boxes.best_iou(last.location, sample.boxes) < MIN_IOU:
        reasons.append("wrong_location")
    if not _type_fits(last.type, sample.node):
        reasons.append("wrong_type")
    return reasons


def _type_fits(text: str, node: str) -> bool:
    tree = taxonomy.load()
    if node not in tree.nodes() or tree.parent(node) is None:
        return bool(text)  # the data set itself does not say what kind it is
    named = tree.of_text(text)
    return named is not None and tree.similarity(named, node) >= MIN_TYPE


def leaks(turns: Trajectory, sample: Sample) -> list[str]:
    """Supervision that shows: forbidden words, or a tool region or routing region that is the annotated box."""
    found = ["leak:words"] if any(_LEAK.search(t.text.casefold()) for t in turns) else []
    small = [b for b in sample.boxes if boxes.area(b) < LEAK_AREA]
    regions = [c.arguments.get("region") for t in turns for c in t.calls]
    regions += [parsing.parse_turn(t.text).routing.get("region") for t in turns[:1]]
    points = [c.arguments.get("points") for t in turns for c in t.calls]
    regions += [boxes.hull([(*p, *p) for p in group]) for group in points if group]
    usable = [r for r in regions if r and len(r) == 4]
    if any(boxes.iou(region, box) > LEAK_IOU for region in usable for box in small):
        found.append("leak:region")
    return found


# --- judge --------------------------------------------------------------------------------------------------------


def judge(turns: Trajectory, sample: Sample) -> float:
    """Rule judge: 0..1 for a trajectory that passed `check`. Grounded, to the point, not repeating itself.

    Equal parts: routing filled in; the last thinking speaks of the tools called; it names where or how much (a place
    word, or a number the observation holds); each thinking is of a good length; few repeated words.
    """
    parsed = [parsing.parse_turn(t.text, final=i > 0) for i, t in enumerate(turns)]
    last = parsed[-1].think.casefold()
    calls = [c for t in turns for c in t.calls]
    named = [any(word in last for word in _TOOL_WORDS[c.name]) for c in calls if c.name in _TOOL_WORDS]
    numbers = set(re.findall(r"\d+", " ".join(c.text for c in calls))) & set(re.findall(r"\d+", last))
    spoken = re.findall(r"[a-z]+", " ".join(p.think for p in parsed).casefold())
    lengths = [_length_score(rough_tokens(p.think), 50 if i == 0 else 20) for i, p in enumerate(parsed)]
    parts = (
        min(len(parsed[0].routing) / 5, 1.0),
        sum(named) / len(named) if named else 1.0,
        1.0 if numbers or any(p in last for p in _PLACES) or not sample.label else 0.0,
        sum(lengths) / len(lengths),
        len(set(spoken)) / len(spoken) if spoken else 0.0,
    )
    return round(sum(parts) / len(parts), 4)


_TOOL_WORDS = {
    "crop": ("crop", "close", "patch", "full size"),
    "enhance": ("map", "view", "enhanc", "contrast", "edge"),
    "measure": ("spacing", "gap", "row", "%", "measure", "features", "line"),
    "prior": ("prior", "look", "belong", "product"),
}
_PLACES = ("left", "right", "top", "bottom", "centre", "center", "upper", "lower", "corner", "edge", "middle")


def _length_score(tokens: int, good: int) -> float:
    return math.exp(-abs(math.log(max(tokens, 1) / good)))


# --- repair -------------------------------------------------------------------------------------------------------

_OPENED = re.compile(r"<(think|call_tool|location|type|answer)>([^<]*)")


def repair(text: str) -> str | None:
    """A turn mended in form alone (tags closed, put in order, stray text dropped), or None where that cannot be.

    The content stays what it was: a wrong answer, a missing location or broken JSON are not invented here.
    """
    blocks: dict[str, str] = {}
    for tag, content in _OPENED.findall(text):
        if content.strip() and tag not in blocks:
            blocks[tag] = " ".join(content.split())
    if "think" not in blocks:
        head = text.partition("<")[0].strip()  # thinking written without its tag
        if not head:
            return None
        blocks["think"] = " ".join(head.split())
    answer = blocks.get("answer", "").strip(" .!").casefold()
    if answer in ("yes", "no"):
        blocks["answer"] = answer.capitalize()
    keep = (
        ("call_tool",) if "call_tool" in blocks else ("location", "type", "answer") if answer == "yes" else ("answer",)
    )
    mended = "".join(f"<{tag}>{blocks[tag]}</{tag}>" for tag in ("think", *keep) if tag in blocks)
    return mended if parsing.parse_turn(mended).valid else None


# --- over a corpus ------------------------------------------------------------------------------------------------


def tool_information(rows: Iterable[tuple[str, bool, str]], shuffles: int = 20) -> tuple[float, float]:
    """Bits that the choice of tools gives away about the label, within a category.

    Args:
        rows: (category, label, choice), one per trajectory.
        shuffles: Permutations of the labels within each category for the level that chance alone reaches.

    Returns:
        (mutual information, its mean under permutation); the first should not exceed the second by much.
    """
    groups: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for category, label, choice in rows:
        groups[category].append((label, choice))
    rng, total = np.random.default_rng(0), sum(map(len, groups.values()))
    if not total:
        return 0.0, 0.0
    actual = chance = 0.0
    for _, pairs in sorted(groups.items()):
        labels, choices = [p[0] for p in pairs], [p[1] for p in pairs]
        share = len(pairs) / total
        actual += share * _information(labels, choices)
        shuffled = [_information([labels[i] for i in rng.permutation(len(labels))], choices) for _ in range(shuffles)]
        chance += share * sum(shuffled) / shuffles
    return actual, chance


def _information(labels: Sequence[bool], choices: Sequence[str]) -> float:
    n = len(labels)
    joint, left, right = Counter(zip(labels, choices, strict=True)), Counter(labels), Counter(choices)
    return sum(c / n * math.log2(c * n / (left[a] * right[b])) for (a, b), c in joint.items())
