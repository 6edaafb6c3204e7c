"""Choosing some samples of many, always the same ones: spread over the sorted list, both classes alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from .samples import Sample

Item = TypeVar("Item")


def balanced_limit(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` samples, half of each class where both have enough, in their order; None = all."""
    if limit is None or limit >= len(samples):
        return list(samples)
    classes = [[s for s in samples if s.label], [s for s in samples if not s.label]]
    small = min(classes, key=len)
    few = min(len(small), limit // 2)
    kept = {s.id for group in classes for s in spread(group, few if group is small else limit - few)}
    return [s for s in samples if s.id in kept]


def spread(items: Sequence[Item], n: int) -> list[Item]:
    """`n` of the items, evenly from the first on, in their order; all of them when there are no more."""
    n = min(n, len(items))
    return [items[i * len(items) // n] for i in range(n)]
