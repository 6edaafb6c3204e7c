"""Which tool each trajectory of the offline teacher uses, so that the choice says nothing about the label.

Within a category the anomalous images get tools by what their surveys found useful, with a share of deliberate
exploration (a tool that will show nothing more). The normal images then get exactly the same tools in the same
numbers. What a router can learn is thus which tool tends to help on this kind of product, not the label.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .sight import VISIBLE
from .teacher_tools import NONE, PAIRS, rng_for

TARGET = {"none": 0.36, "crop": 0.24, "enhance": 0.18, "measure": 0.18, "prior": 0.04}  # not in paper
"""What the choices steer towards where several would do. `prior` is low here: products whose faults only the design
can tell get it anyway."""
PAIR_SHARE = 0.08  # trajectories with two tools, as far as a fitting pair exists; not in paper
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
    surveys: Sequence[tuple[str, Mapping[str, Any]]], counts: Counter[str], *, exploration: float, seed: int
) -> list[Item]:
    """A choice for every surveyed sample.

    Args:
        surveys: (key, `teacher_tools.survey` result), in order, all `showable`.
        counts: Tools of what is already accepted; steers towards `TARGET`. Not modified.
        exploration: Share of samples for which a tool that will not help is tried, where the view shows the mark.
        seed: Of the build.
    """
    counts, plan = Counter(counts), []
    for key, survey in surveys:
        rng = rng_for(seed, key, "plan")
        options = _options(survey, rng.random() < exploration)
        total = sum(counts.values()) + 1
        choice = max(options, key=lambda c: (TARGET[tool_of(c)] - counts[tool_of(c)] / total, c))
        counts[tool_of(choice)] += 1
        plan.append((key, _paired(choice, survey, rng)))
    return plan


def showable(survey: Mapping[str, Any]) -> bool:
    """Whether the view or a tool shows the mark, so that an honest Yes can be written."""
    return survey["visible"] >= VISIBLE or bool(survey["shown"])


def _options(survey: Mapping[str, Any], explore: bool) -> list[str]:
    visible = survey["visible"] >= VISIBLE
    if visible and explore:
        return [c for c in survey["tried"] if c not in survey["useful"]] or [NONE]
    helpful = [c for c in survey["useful"] if c != NONE]  # what helps is asked: a router learns from what recurs
    return helpful or ([NONE] if visible else list(survey["shown"]))


def _paired(choice: str, survey: Mapping[str, Any], rng: np.random.Generator) -> str:
    """Now and then a pair of tools that contains the choice (measure goes alone: two long calls fill a turn)."""
    pairs = [p for p in PAIRS if choice in p.split("+")]
    return pairs[int(rng.integers(len(pairs)))] if pairs and rng.random() < 3 * PAIR_SHARE else choice


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
