"""Protocol cards: what each data set is, which split counts, how many images there must be, and under what hash.

A table prints the hash of the card its numbers were made under; `check_counts` says whether the set at hand is the
whole one, a known variant, or a part ("partial (14/1725)").
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from . import paper
from .samples import Sample

DATA = Path(__file__).resolve().parents[1] / "data"

Counts = tuple[int, int]
"""Normal and anomalous test images."""


@dataclass(frozen=True)
class Card:
    """One data set's protocol. `total` and a category's counts are None where they are not known with certainty."""

    name: str
    title: str
    source: str
    licence: str
    layout: str
    folder: str
    structure: str
    split: str
    certainty: str
    total: Counts | None
    categories: Mapping[str, Counts | None]
    variants: tuple[Mapping[str, Any], ...] = field(default=())
    notes: str = ""

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the card's content; layout and order of the YAML do not matter."""
        content = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class CountReport:
    """What was counted against what was expected.

    Attributes:
        complete: Every expected image is there, none beside them.
        label: Short text for a table: `complete (467/1258)`, `partial (14/1725)`, `variant ...`, ...
        lines: One line per finding, for people.
        counts: Counted (normal, anomalous) images.
    """

    complete: bool
    label: str
    lines: tuple[str, ...]
    counts: Counts


def names() -> tuple[str, ...]:
    """Names of all cards."""
    return tuple(sorted(path.stem for path in (DATA / "cards").glob("*.yaml")))


def load_card(name: str, standins: bool = False) -> Card:
    """Read a card.

    Args:
        name: `mvtec`, `visa`, `mpdd`, `dtd`, `kolektorsdd`, `kolektorsdd-tiles` or `real-iad`.
        standins: The procedural stand-in of that set instead; its counts come from data/standins.json.

    Raises:
        ValueError: No such card, a broken one, or a stand-in that was never written.
    """
    path = DATA / "cards" / f"{name}.yaml"
    if name not in names():
        raise ValueError(f"no protocol card {name!r}; there are: {', '.join(names())}")
    card = card_from(yaml.safe_load(path.read_text(encoding="utf-8")), path)
    return _standin(card, DATA / "standins.json") if standins else card


def card_from(data: Mapping[str, Any], source: Path | str) -> Card:
    """A card from parsed YAML. Raises ValueError where a field is missing or the categories miss the total."""
    try:
        categories = {key: _counts(value) for key, value in data["categories"].items()}
        variants = tuple({**variant, "total": _counts(variant["total"])} for variant in data["variants"])
        card = Card(**{**data, "total": _counts(data["total"]), "categories": categories, "variants": variants})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: not a protocol card ({error})") from error
    known = [value for value in categories.values() if value is not None]
    if known and len(known) == len(categories) and card.total != _sum(known):
        raise ValueError(f"{source}: categories sum to {_sum(known)}, the card's total is {card.total}")
    return card


def check_counts(card: Card, samples: Sequence[Sample]) -> CountReport:
    """Compare samples with what the card expects. Never raises: the caller labels or refuses.

    Args:
        card: The protocol.
        samples: What a reader gave for the card's split, in full or cut down to some categories.
    """
    found: dict[str, Counter[bool | None]] = {}
    for sample in samples:
        found.setdefault(sample.category, Counter())[sample.label] += 1
    counted = _sum([(c[False], c[True]) for c in found.values()])
    lines = [line for name in sorted(found) for line in _category_lines(card, name, found[name])]
    absent = sorted(set(map(_key, card.categories)) - set(map(_key, found)))
    if absent:
        lines.append(f"categories without images: {', '.join(absent)}")
    unlabelled = sum(c[None] for c in found.values())
    if unlabelled:
        lines.append(f"{unlabelled} images without a label")
    if card.total is not None and counted != card.total:
        lines.append(f"in all {_text(counted)} normal/anomalous, expected {_text(card.total)}")
    complete = not lines and card.total == counted
    return CountReport(complete, _label(card, counted, found, complete), tuple(lines), counted)


def notes(sets: Mapping[str, Sequence[Sample]], standins: bool) -> tuple[str, ...]:
    """A line for a table: of each data set the hash of its card and whether it is whole, a variant or partial.

    Args:
        sets: Samples by the data set's name, which is its card's.
        standins: As for `load_card`.
    """
    cards = {name: load_card(name, standins) for name in sets}
    lines = [
        f"{paper.column_of(name)}: card {cards[name].hash()}, {check_counts(cards[name], samples).label}"
        for name, samples in sets.items()
    ]
    return ("Data (N says how many of the images stand behind a number): " + "; ".join(lines) + ".",) if lines else ()


def _label(card: Card, counted: Counts, found: Mapping[str, Counter[bool | None]], complete: bool) -> str:
    known = {_key(name) for name in card.categories}
    if complete:
        return f"complete ({_text(counted)})"
    if known and not any(_key(name) in known for name in found):
        return f"another set ({_text(counted)}), not {card.title}"
    variant = next((v for v in card.variants if v["total"] == counted), None)
    if variant is not None:
        return f"variant {variant['name']} ({_text(counted)})"
    if card.total is None:
        return f"no counts expected ({_text(counted)})"
    over = any(have > want for have, want in zip(counted, card.total, strict=True))
    return f"{'unexpected' if over else 'partial'} ({sum(counted)}/{sum(card.total)})"


def _category_lines(card: Card, name: str, have: Counter[bool | None]) -> list[str]:
    expected = {_key(key): value for key, value in card.categories.items()}
    if not expected:
        return []  # a stand-in written without counts per category
    if _key(name) not in expected:
        return [f"{name}: not a category of {card.title} ({have[False]}/{have[True]} images)"]
    want = expected[_key(name)]
    if want is None or want == (have[False], have[True]):
        return []
    return [f"{name}: {have[False]}/{have[True]} normal/anomalous, expected {_text(want)}"]


def _standin(card: Card, path: Path) -> Card:
    entry = json.loads(path.read_text(encoding="utf-8")).get(card.name) if path.is_file() else None
    if entry is None:
        raise ValueError(f"{path.name} has no entry for {card.name!r}: write the stand-ins first")
    categories = {name: _counts(value) for name, value in (entry.get("categories") or {}).items()}
    return replace(
        card,
        title=f"stand-in for {card.title}",
        source=f"procedural factory, version {entry.get('version')}, content {entry.get('hash')}",
        licence="ours, as the repository",
        folder="data/generated",
        certainty="counted when the stand-in was written",
        total=(int(entry["n_normal"]), int(entry["n_anomalous"])),
        categories=categories,
        variants=(),
        notes="Not the real set: numbers on it say nothing about the real one.",
    )


def _counts(value: Any) -> Counts | None:
    if value is None:
        return None
    normal, anomalous = value
    return int(normal), int(anomalous)


def _sum(values: Sequence[Counts]) -> Counts:
    return sum(v[0] for v in values), sum(v[1] for v in values)


def _text(counts: Counts) -> str:
    return f"{counts[0]}/{counts[1]}"


def _key(name: str) -> str:
    return name.lower().replace(" ", "_")
