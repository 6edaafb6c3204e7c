"""A finding of the consistency audit, and how a printed number is compared with a computed one.

A printed percent stands for a range: half a unit to either side if it was rounded, up to one unit above if it was cut
off. A *contradiction* is what neither convention, kept throughout, can repair; *rounding* is what one can; an
*observation* is no contradiction but weighs on a reader's trust.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .tables import rounded

HALF = 0.05  # the paper prints percent with one decimal
CONVENTIONS = {"rounded": (-HALF, HALF), "cut off": (0.0, 2 * HALF)}
SLACK = 1e-9  # of floating point
ORDER = ("contradiction", "observation", "rounding", "consistent")


@dataclass(frozen=True)
class Finding:
    """One check of one printed number.

    Attributes:
        check: Kind of check.
        where: Tables, row and column.
        printed: The paper's number, None for a statement in words.
        computed: What it should be; low, high: the range that rounding of its inputs allows.
        verdict: One of `ORDER`.
        text: One sentence.
    """

    check: str
    where: str
    printed: float | None
    computed: float | None
    low: float | None
    high: float | None
    verdict: str
    text: str


def compare(
    check: str, where: str, printed: float, computed: float, ranges: Mapping[str, tuple[float, float]], text: str
) -> Finding:
    """Verdict on a printed number against the range its inputs allow under each of `CONVENTIONS`."""
    fits = [
        low - SLACK <= printed + CONVENTIONS[name][1] and high + SLACK >= printed + CONVENTIONS[name][0]
        for name, (low, high) in ranges.items()
    ]
    verdict = "consistent" if rounded(computed) == printed else "rounding" if any(fits) else "contradiction"
    return Finding(check, where, printed, computed, *ranges["rounded"], verdict, text)
