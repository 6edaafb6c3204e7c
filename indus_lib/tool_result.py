"""What every tool returns, and the one error a tool raises for an argument it cannot use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .samples import Box

Window = tuple[int, int, int, int]
"""Pixels of an image: (x1, y1, x2, y2), end exclusive."""


class ToolError(ValueError):
    """An argument that no schema can rule out but that the tool cannot use; its text goes to the model."""


@dataclass(frozen=True)
class ToolResult:
    """Outcome of one tool call.

    Attributes:
        ok: False when the call was invalid; `text` then says what was wrong and what is expected.
        text: Short plain text for the observation.
        images: uint8 H x W x 3 RGB arrays for the observation, possibly none.
        regions: Where the tool looked or measured, relative units (0..1000).
        ms: Wall time of the call in milliseconds.
        details: JSON-serialisable numbers for figures and tests; never shown to the model.
    """

    ok: bool
    text: str
    images: list[np.ndarray] = field(default_factory=list)
    regions: tuple[Box, ...] = ()
    ms: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


def rounded(value: float) -> int:
    """A measured number as an observation says it: steps of 5 to 50, of 10 to 100, of 50 beyond. No caliper is better
    on a few pixels, and a small model has to learn what each number means."""
    step = 5 if value <= 50 else 10 if value <= 100 else 50
    return step * round(value / step)


def graded(value: float, grades: Sequence[tuple[str, float]], beyond: str) -> str:
    """The word for a number: that of the first (word, limit) whose limit it stays under, else `beyond`."""
    return next((word for word, limit in grades if value < limit), beyond)
