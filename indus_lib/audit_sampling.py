"""The part of the consistency audit that counts images: recalls that no count gives, leads within sampling noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from . import paper
from .audit_finding import CONVENTIONS, SLACK, Finding

Z95 = 1.96


def attainable(printed: float, n: int, convention: str = "rounded") -> bool:
    """Whether some k of n images prints as this percentage."""
    low, high = CONVENTIONS[convention]
    values = 100 * (np.rint(printed / 100 * n) + np.arange(-1, 2)) / n - printed
    return bool(((values >= low - SLACK) & (values <= high + SLACK)).any())


def granularity() -> Iterator[Finding]:
    """A recall over n images is k/n: is the printed one among them? (Pooled over categories, as section 7 says.)"""
    for row in paper.rows("table2_recall"):
        for column, printed in row["values"].items():
            if column in paper.load()["counts"]:
                yield _attainable(row["row"], column, printed)


def _attainable(name: str, column: str, printed: float) -> Finding:
    sizes = {variant: n for variant, (_, n) in paper.load()["counts"][column].items()}
    fits = [name for name in CONVENTIONS if any(attainable(printed, n, name) for n in sizes.values())]
    nearest = min((100 * round(printed / 100 * n) / n for n in sizes.values()), key=lambda v: abs(v - printed))
    listing = ", ".join(f"{n} ({variant})" for variant, n in sizes.items())
    text = f"Recall {printed:.1f} as k of n anomalous images, n = {listing}: nearest possible {nearest:.2f}."
    verdict = "consistent" if "rounded" in fits else "rounding" if fits else "contradiction"
    if verdict == "contradiction" and any(
        attainable(printed, n - left_out) for n in sizes.values() for left_out in (1, 2)
    ):
        verdict, text = "observation", f"{text} With one or two images left out it could be."
    return Finding("granularity", f"Table 2, {name}, {column}", printed, nearest, None, None, verdict, text)


def half_width(balanced: float, normal: int, anomalous: int) -> float:
    """95 % half-width in points of one balanced accuracy at equal class rates (normal approximation, independent)."""
    p = min(max(balanced / 100, 0.0), 1.0)
    return float(100 * Z95 * 0.5 * np.sqrt(p * (1 - p) * (1 / normal + 1 / anomalous)))


def noise() -> Iterator[Finding]:
    """No seeds, no intervals: one image's weight, and the lead over the runner-up, against sampling noise."""
    data, table_id = paper.load(), "table1_balanced_accuracy"
    if data["seeds"] is None and data["intervals"] is None:
        text = "The paper gives neither the number of seeds nor an interval for any of its numbers."
        yield Finding("no intervals", "all tables", None, None, None, None, "observation", text)
    own = paper.row_of_run(table_id, "full")
    for column in paper.COLUMNS:
        normal, anomalous = next(iter(data["counts"][column].values()))
        others = [r for r in paper.rows(table_id, later=False) if r is not own]
        top = max(others, key=lambda r: r["values"][column])
        value, lead = own["values"][column], own["values"][column] - top["values"][column]
        step, width = 100 / (2 * anomalous), half_width(value, normal, anomalous)
        text = (
            f"{anomalous} anomalous images on {column}: one is {step:.2f} points of balanced accuracy; 95 % half-width "
            f"about {width:.1f}. The lead over {top['row']} is {lead:.1f}."
        )
        where = f"Table 1, {own['row']}, {column}"
        verdict = "observation" if lead < max(step, width) else "consistent"
        yield Finding("sampling noise", where, lead, width, step, width, verdict, text)
