"""Which tool each trajectory of the offline teacher uses, so that the choice says nothing about the label.

The anomalous images of a product get the tool that settles most of them, where it or the view shows the mark, with a
share of deliberate exploration (a tool that will show nothing more). The normal images of a category then get exactly
the same tools in the same numbers. What a router can learn is thus which tool tends to help on this kind of product,
not the label.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from .sight import VISIBLE
from .teacher_tools import ASK_AND_LOOK, NONE, rng_for

Item = tuple[str, str]
"""(key of a sample, choice)."""


def tool_of(choice: str) -> str:
    """First tool of a choice: `crop` of `crop:whole+enhance:texture`."""
    return choice.split(":")[0]


def quotas(available: Mapping[str, int], total: int) -> dict[str, int]:
    """Share `total` over categories as evenly as `available` allows."""
    left, quota = dict(available), dict.fromkeys(available, 0)
    while total > 0 and any(left.values()):
        open_ = sorted(c for c, n in left.items() if n)
        each = max(total // len(open_), 1)
        for category in open_[: total if each == 1 else None]:
            taken = min(each, left[category], total)
            quota[category] += taken
            left[category] -= taken
            total -= taken
    return quota


def interleave(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Take from the groups in turn, so that any prefix is balanced."""
    queues = [list(groups[name]) for name in sorted(groups)]
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]


def plan_anomalous(
    surveys: Sequence[tuple[str, Mapping[str, Any]]], category: Mapping[str, str], *, exploration: float, seed: int
) -> list[Item]:
    """A choice for every surveyed sample: mostly the tool that settles most samples of its product.

    A router sees the product, not the mark, so what it can learn is what the product asks for. Models of one product,
    told apart by a number at the end of the name (`pcb1`, `pcb2`), vote together: a few images of each are too few.
    A sample whose mark that tool would not show, nor the view, gets the tool that settles it.

    Args:
        surveys: (key, `teacher_tools.survey` result), in order, all `showable`.
        category: Key -> category.
        exploration: Share of samples for which a tool that will not help, or none, is tried where the view shows the
            mark.
        seed: Of the build.
    """
    plan: list[Item] = []
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for key, survey in surveys:
        votes[product(category[key])][tool_of(_best(survey))] += _best(survey) != NONE
    for key, survey in surveys:
        rng = rng_for(seed, key, "plan")
        usual = _usual(survey, votes[product(category[key])].most_common(1)[0][0])
        options = _explored(survey) if survey["visible"] >= VISIBLE and rng.random() < exploration else [usual]
        plan.append((key, options[int(rng.integers(len(options)))]))
    return plan


def product(category: str) -> str:
    """A category's name without the number of its model: `pcb` of `pcb4`."""
    return re.sub(r"\d+$", "", category) or category


def showable(survey: Mapping[str, Any]) -> bool:
    """Whether the view or a tool shows the mark, so that an honest Yes can be written."""
    return survey["visible"] >= VISIBLE or bool(survey["shown"])


def _explored(survey: Mapping[str, Any]) -> list[str]:
    return [NONE, *(c for c in survey["tried"] if c not in survey["useful"])]


def _best(survey: Mapping[str, Any]) -> str:
    """The tool an inspector would ask. What decides by itself (a reading of the row, what belongs on the product) goes
    first, then a closer look at what the view shows already, then whatever shows the hidden mark best.

    One clear rule, because a router learns from what recurs (docs/log.md). A closer look serves wherever nothing points
    to another tool. What belongs on the product is asked for together with a closer look, to compare them.
    """
    shown = {tool_of(c): c for c in survey["shown"]}
    if "measure" in shown or "prior" in shown:
        return shown.get("measure", ASK_AND_LOOK)
    if survey["visible"] >= VISIBLE and "crop" in shown:
        return shown["crop"]
    return max(survey["shown"], key=lambda c: survey["gain"][c], default=NONE)


def _usual(survey: Mapping[str, Any], tool: str) -> str:
    """What was tried of the product's `tool`, if an honest Yes can follow, else what settles this very sample."""
    tried = next((c for c in survey["tried"] if tool_of(c) == tool), NONE)
    if tried == NONE or not (survey["visible"] >= VISIBLE or tried in survey["shown"]):
        return _best(survey)
    return ASK_AND_LOOK if tool == "prior" else tried


def plan_normal(
    wanted: Mapping[str, Counter[str]],
    available: Mapping[str, Sequence[str]],
    done: Mapping[str, Counter[str]],
    seed: int,
) -> list[Item]:
    """The choices that anomalous samples of a category got, handed to its normal ones.

    Args:
        wanted: Category -> choices of the accepted anomalous trajectories.
        available: Category -> unused normal samples, in order.
        done: Category -> choices of the normal trajectories accepted so far.
        seed: Of the build.
    """
    plan = []
    for category in sorted(wanted):
        missing = sorted((wanted[category] - done.get(category, Counter())).elements())
        order = rng_for(seed, category, "normal").permutation(len(missing))
        plan += [(key, missing[i]) for key, i in zip(available.get(category, ()), order, strict=False)]
    return plan


def by_category(keys: Sequence[str], category: Mapping[str, str]) -> dict[str, list[str]]:
    """Group keys, order kept."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        groups[category[key]].append(key)
    return dict(groups)
