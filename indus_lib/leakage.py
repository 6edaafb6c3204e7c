"""Leakage ledger: is a test image, or a test category, in the training pool? By name, by bytes, by picture.

The paper removes every Real-IAD category that overlaps a test benchmark, after normalising variants such as
pcb ~ pcb1..4 (section 4). Names are half of it: we also compare files and pictures, and stop the build on a hit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from . import picture_match
from .samples import Sample

SYNONYMS = Path(__file__).resolve().parents[1] / "data" / "synonyms.yaml"
KINDS = ("category", "file", "picture")


class LeakageError(ValueError):
    """A test image or category is in the training data. The message counts and names the first hits."""


@dataclass(frozen=True)
class Overlap:
    """A training category that means a test category. `reason`: exact, normalised or synonym."""

    train: str
    test: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One hit: a category pair or an image pair.

    Attributes:
        kind: `category`, `file` (same bytes) or `picture` (same picture, encoded, resized or toned anew).
        train, test: Category names, or sample ids.
        dataset: Test data set.
        detail: How it was found.
    """

    kind: str
    train: str
    test: str
    dataset: str
    detail: str


@dataclass(frozen=True)
class Ledger:
    """Everything that training and test have in common. `waiver` is the recorded reason to go on nevertheless."""

    rows: tuple[Row, ...]
    n_train: int
    n_test: int
    waiver: str = ""

    def counts(self) -> dict[tuple[str, str], int]:
        """{(test data set, kind): number of hits}."""
        totals: dict[tuple[str, str], int] = {}
        for row in self.rows:
            totals[row.dataset, row.kind] = totals.get((row.dataset, row.kind), 0) + 1
        return totals


def normalise_category(name: str) -> str:
    """Case, separators, plural, trailing digits and synonyms taken out: PCB-2 -> pcb, Bottle Caps -> bottlecap."""
    plain = _plain(name)
    return _synonyms().get(plain, plain)


def overlaps(train: Iterable[str], test: Iterable[str]) -> tuple[Overlap, ...]:
    """Every pair of a training and a test category that means the same product."""
    tests = sorted(set(test))
    pairs = [(a, b) for a in sorted(set(train)) for b in tests if normalise_category(a) == normalise_category(b)]
    return tuple(Overlap(a, b, _reason(a, b)) for a, b in pairs)


def disjoint(pool: Sequence[Sample], test_categories: Iterable[str]) -> tuple[list[Sample], tuple[Overlap, ...]]:
    """The samples whose category overlaps no test category, and the overlaps that cost the others their place."""
    found = overlaps({sample.category for sample in pool}, test_categories)
    removed = {overlap.train for overlap in found}
    return [sample for sample in pool if sample.category not in removed], found


def ledger(train: Sequence[Sample], test: Sequence[Sample], cache: Path | str | None = None) -> Ledger:
    """Compare training samples with test samples.

    Args:
        train: Training samples (paths must be readable).
        test: Test samples of one or several data sets.
        cache: File to keep fingerprints in between runs; None = none.

    Raises:
        images.ImageError: An image cannot be read.
    """
    marks = picture_match.fingerprints([*train, *test], cache)
    left, right = marks.part(0, len(train)), marks.part(len(train), len(train) + len(test))
    same_file = picture_match.same_files(left, right)
    known = set(same_file)
    rows = _category_rows(train, test)
    rows += [_image_row("file", train[i], test[j], "same bytes") for i, j in same_file]
    for i, j, residual, correlation in picture_match.same_pictures(left, right):
        if (i, j) not in known:
            detail = f"grey levels differ by {residual:.1f}, fine detail correlates {correlation:.2f}"
            rows.append(_image_row("picture", train[i], test[j], detail))
    return Ledger(tuple(rows), len(train), len(test))


def check(found: Ledger, waiver: str | None = None) -> Ledger:
    """Let a clean ledger pass; stop the build otherwise.

    Args:
        found: The ledger.
        waiver: Reason, in words, to go on with leakage; it is kept in the returned ledger and belongs in the report.

    Raises:
        LeakageError: Anything was found and there is no waiver.
    """
    if waiver is not None and len(waiver.strip()) < 10:
        raise LeakageError("a waiver is a reason in words (10 characters at least), so that a reader can judge it")
    if not found.rows:
        return found
    if waiver is None:
        kinds = ", ".join(f"{sum(row.kind == kind for row in found.rows)} by {kind}" for kind in KINDS)
        first = "; ".join(f"{row.kind} {row.train} = {row.dataset} {row.test}" for row in found.rows[:3])
        raise LeakageError(
            f"test data in the training pool ({kinds}), first: {first}. "
            "Remove them (leakage.disjoint drops categories) or pass waiver='reason'"
        )
    return replace(found, waiver=waiver.strip())


def _category_rows(train: Sequence[Sample], test: Sequence[Sample]) -> list[Row]:
    rows: list[Row] = []
    for dataset in sorted({sample.dataset for sample in test}):
        names = {sample.category for sample in test if sample.dataset == dataset and sample.category}
        found = overlaps({sample.category for sample in train if sample.category}, names)
        rows += [Row("category", o.train, o.test, dataset, f"{o.reason} name") for o in found]
    return rows


def _image_row(kind: str, train: Sample, test: Sample, detail: str) -> Row:
    return Row(kind, train.id, test.id, test.dataset, detail)


def _reason(a: str, b: str) -> str:
    if a == b:
        return "exact"
    return "normalised" if _plain(a) == _plain(b) else "synonym"


def _plain(name: str) -> str:
    """Lower-case words without plural endings, joined, without a trailing number (unless there is nothing else)."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W_]+", spaced.lower())
    while len(words) > 1 and words[-1].isdecimal():
        words.pop()
    if words:
        words[-1] = re.sub(r"(?<=\D)\d+$", "", words[-1])
    return "".join(_singular(word) for word in words) or name.strip().lower()


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(ss|x|ch|sh|z)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


@cache
def _synonyms() -> dict[str, str]:
    groups = yaml.safe_load(SYNONYMS.read_text(encoding="utf-8"))
    return {_plain(name): _plain(group[0]) for group in groups for name in group}
