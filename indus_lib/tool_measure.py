"""T_measure: distance, angle, relative position and spacing between coordinates the agent gives (paper section 2).

`row` is a caliper: it finds the repeated features between two rough end points itself (see tool_row.py), because
an agent that reads a small view cannot place ten points to a pixel. Where there is no row, it reads the clearest one
of the image and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import boxes, row_search
from .boxes import SCALE
from .samples import Box
from .tool_besides import besides
from .tool_result import ToolError, ToolResult, Window, graded, rounded
from .tool_row import ODD_GAP, Row

KINDS = ("distance", "angle", "position", "spacing", "row")
MAX_POINTS = 64  # not in paper
GAPS = (("even", 10), ("uneven", ODD_GAP), ("odd", 70))  # % of the median spacing up to which; not in paper
OFFSETS = (("straight", 20), ("uneven", 35))  # % of the median spacing up to which; not in paper

MARGIN = 0.15  # spacings around a row that are part of it; not in paper
NUMBERS = ("no", "one", "two", "three", "several")  # from four on what is off is the row; not in paper

_COUNTS = {"distance": (2, 2), "angle": (2, 3), "position": (2, 2), "spacing": (3, MAX_POINTS), "row": (2, 2)}


def measure(
    image: np.ndarray, kind: str, points: Sequence[Sequence[float]], mm_per_pixel: float | None = None
) -> ToolResult:
    """Measure between points of the original image.

    Args:
        image: uint8 H x W x 3; only `row` looks at its content.
        kind: One of `KINDS`.
        points: [[x, y], ...], relative units 0..1000.
        mm_per_pixel: Physical scale where known; lengths are then given in mm too.

    Returns:
        Text only; numbers in `details` (pixels, degrees, percent).

    Raises:
        ToolError: Wrong number of points for this kind, or points that coincide.
    """
    least, most = _COUNTS[kind]
    if not least <= len(points) <= most:
        raise ToolError(f"{kind} needs {least if least == most else f'{least} to {most}'} points, got {len(points)}")
    height, width = image.shape[:2]
    pixels = np.array(points, dtype=float) * (width, height) / SCALE
    mm = mm_per_pixel if mm_per_pixel and math.isfinite(mm_per_pixel) and mm_per_pixel > 0 else None
    if kind != "position" and np.hypot(*np.diff(pixels, axis=0).T).min() < 1:
        raise ToolError(f"{kind} needs points at least 1 pixel apart")
    if kind == "row":
        return _row(image, pixels, mm)
    text, details = {"distance": _distance, "angle": _angle, "position": _position, "spacing": _spacing}[kind](
        pixels, mm
    )
    return ToolResult(True, text, regions=(_around(pixels, width, height),), details={"kind": kind, **details})


def length(pixels: float, mm: float | None) -> str:
    """A length as the observation writes it: "31 px", or "31 px = 1.55 mm"."""
    return f"{round(pixels)} px" + (f" = {pixels * mm:.3g} mm" if mm else "")


def _around(pixels: np.ndarray, width: int, height: int) -> Box:
    """Relative box around points, at least one unit wide and high."""
    low = np.floor(pixels.min(0) * SCALE / (width, height)).astype(int).clip(0, SCALE - 1)
    high = np.ceil(pixels.max(0) * SCALE / (width, height)).astype(int).clip(None, SCALE)
    return int(low[0]), int(low[1]), int(max(high[0], low[0] + 1)), int(max(high[1], low[1] + 1))


def _distance(p: np.ndarray, mm: float | None) -> tuple[str, dict[str, Any]]:
    d = float(np.hypot(*(p[1] - p[0])))
    return f"distance: {length(d, mm)}", {"px": d, "mm": d * mm if mm else None}


def _angle(p: np.ndarray, mm: float | None) -> tuple[str, dict[str, Any]]:
    if len(p) == 3:
        a, b = p[0] - p[1], p[2] - p[1]
        degrees = math.degrees(math.atan2(abs(a[0] * b[1] - a[1] * b[0]), a @ b))
        return f"angle: {round(degrees)} degrees at the second point", {"degrees": degrees}
    dx, dy = p[1] - p[0]
    degrees = math.degrees(math.atan2(-dy, dx))  # counter-clockwise from the right: image rows grow downwards
    degrees = (degrees + 90) % 180 - 90  # a line has no direction: -90 <= degrees < 90
    return f"angle: {round(degrees)} degrees to the horizontal", {"degrees": degrees}


def _position(p: np.ndarray, mm: float | None) -> tuple[str, dict[str, Any]]:
    dx, dy = (float(v) for v in p[1] - p[0])
    parts = []
    if round(abs(dx)):
        parts.append(f"{length(abs(dx), mm)} {'right of' if dx > 0 else 'left of'}")
    if round(abs(dy)):
        parts.append(f"{length(abs(dy), mm)} {'below' if dy > 0 else 'above'}")
    where = " and ".join(parts) or "at the same place as"
    return f"position: the second point is {where} the first", {"dx": dx, "dy": dy}


def _spacing(p: np.ndarray, mm: float | None) -> tuple[str, dict[str, Any]]:
    gaps = np.hypot(*np.diff(p, axis=0).T)
    median = float(np.median(gaps))
    worst = float(np.abs(gaps - median).max() / median * 100)
    listed = ", ".join(str(round(g)) for g in gaps[:12]) + (", ..." if len(gaps) > 12 else "")
    text = f"spacing: {listed} px; median {length(median, mm)}, largest deviation {round(worst)} %"
    return text, {"gaps": gaps.tolist(), "median": median, "deviation": worst}


def _row(image: np.ndarray, p: np.ndarray, mm: float | None) -> ToolResult:
    height, width = image.shape[:2]
    row, there = row_search.read_near(image, p[0], p[1])
    region = _around(row.centres if len(row.centres) else p, width, height)
    details: dict[str, Any] = {
        "kind": "row",
        "centres": row.centres.tolist(),
        "median": row.median,
        "deviation": row.deviation,
        "offset": row.offset,
        "polarity": row.polarity,
        "at_points": there,
        "odd_gaps": row.odd_gaps,
        "turned": row.turned,
    }
    if len(row.centres) < 3:
        told, more = besides(image, (0, 0, width, height))
        text, details = f"row: no row of repeated features found; {told}", details | more
        return ToolResult(True, text, regions=(region,), details=details)
    assert row.odd is not None
    details["odd"] = list(row.odd)
    name, spacing = "row" if there else "row elsewhere", length(row.median, mm)
    text = (
        f"{name}: {len(row.centres)} features, spacing {graded(row.deviation, GAPS, 'broken')}, "
        f"line {graded(row.offset, OFFSETS, 'bent')}, {_counted(row)}, median spacing {spacing}, largest gap deviation "
        f"{rounded(row.deviation)} %, largest sideways offset {rounded(row.offset)} %, "
        f"worst at {boxes.coarse_text(row.odd, width, height)}"
    )
    told, more = besides(image, (0, 0, width, height), _covered(row, image.shape))
    text, details = f"{text}; {told}", details | more
    return ToolResult(True, text, regions=(region,), details=details)


def _covered(row: Row, shape: tuple[int, ...]) -> Window:
    """Pixel window of the row, features and all."""
    assert row.odd is not None
    half = np.subtract(row.odd[2:], row.odd[:2]) / 2 + MARGIN * row.median
    low, high = row.centres.min(0) - half, row.centres.max(0) + half
    x1, y1 = np.maximum(low, 0).astype(int)
    x2, y2 = np.minimum(high, (shape[1], shape[0])).astype(int)
    return int(x1), int(y1), int(x2), int(y2)


def _counted(row: Row) -> str:
    """What is odd, counted: one odd gap lacks a feature, two beside each other have one out of place."""
    gaps = f"{NUMBERS[min(row.odd_gaps, 4)]} gap{'s' * (row.odd_gaps > 1)} odd"
    return gaps + (f", {NUMBERS[min(row.turned, 4)]} feature{'s' * (row.turned > 1)} turned" if row.turned else "")
