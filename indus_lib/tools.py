"""The four tools behind one door: published JSON schemas, validation of every model-made argument, dispatch.

A tool is a pure function of (image, arguments), so an episode stores no images: `run` makes them again.
Paper section 2: T = {crop, prior, enhance, measure}.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cache
from threading import Condition
from typing import Any

import numpy as np
from cachetools import LRUCache, cached
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from . import priors
from .tool_crop import crop
from .tool_enhance import METHODS, enhance
from .tool_measure import KINDS, MAX_POINTS, measure
from .tool_result import ToolError, ToolResult

__all__ = ["TOOLS", "ToolError", "ToolResult", "run", "schemas"]

TOOLS: tuple[str, ...] = ("crop", "prior", "enhance", "measure")

MAX_VALUES = 4 * MAX_POINTS  # what the largest valid call stays under; more is refused before validation
REMEMBERED = 2**28  # bytes of results kept: the rollouts of a group and the runs of a table make the same calls

_UNIT = {"type": "number", "minimum": 0, "maximum": 1000}
_BOX = {
    "type": "array",
    "items": _UNIT,
    "minItems": 4,
    "maxItems": 4,
    "description": "[x1, y1, x2, y2] in 0..1000 of the image's width and height, x2 > x1, y2 > y1",
}
_POINT = {"type": "array", "items": _UNIT, "minItems": 2, "maxItems": 2}

_PARAMETERS: dict[str, dict[str, Any]] = {
    "crop": {
        "properties": {
            "region": _BOX,
            "refine": {"type": "boolean", "description": "false: exactly the asked region (default true)"},
            "signs": {
                "type": "boolean",
                "description": "true: a printed dot, ring, bar or cross comes before what stands out more, to be "
                "compared with what the product should bear (default false)",
            },
        },
        "required": ["region"],
    },
    "prior": {
        "properties": {
            "query": {"type": "string", "maxLength": 300, "description": "what to know, e.g. a material or a part"},
            "product": {"type": "string", "maxLength": 100, "description": "product name, if not the known one"},
        },
        "required": [],
    },
    "enhance": {
        "properties": {"method": {"type": "string", "enum": list(METHODS)}, "region": _BOX},
        "required": ["method"],
    },
    "measure": {
        "properties": {
            "kind": {"type": "string", "enum": list(KINDS)},
            "points": {
                "type": "array",
                "items": _POINT,
                "minItems": 2,
                "maxItems": MAX_POINTS,
                "description": "[[x, y], ...] in 0..1000",
            },
        },
        "required": ["kind", "points"],
    },
}

_DESCRIPTIONS = {
    "crop": "High-resolution view of a suspicious region, cut from the original image. The region is refined to "
    "what stands out in it.",
    "prior": "Text that says what a defect-free product of this category looks like.",
    "enhance": "Filtered image against reflections and low contrast: clahe (local contrast), edges (Canny), "
    "texture (map of what departs from the smooth surface, noise suppressed).",
    "measure": "Geometry between points: distance (2 points), angle (3 points, or 2 against the horizontal), position "
    "(of the second point relative to the first), spacing (3 or more points), row (the 2 ends of a row of "
    "repeated features, which the tool finds and measures).",
}

_EXPECTED = {
    "crop": '{"region": [x1, y1, x2, y2]}, optional "refine" and "signs": true or false',
    "prior": '{}, optional "query" and "product" as strings',
    "enhance": '{"method": "clahe", "edges" or "texture"}, optional "region": [x1, y1, x2, y2]',
    "measure": '{"kind": "distance", "angle", "position", "spacing" or "row", "points": [[x, y], ...]}',
}


def _parameters(name: str) -> dict[str, Any]:
    return {"type": "object", **_PARAMETERS[name], "additionalProperties": False}


def schemas() -> list[dict[str, Any]]:
    """The tools in OpenAI function format, in the order of `TOOLS` (a fresh copy)."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": _DESCRIPTIONS[name],
                "parameters": copy.deepcopy(_parameters(name)),
            },
        }
        for name in TOOLS
    ]


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(_parameters(name))


def _non_finite(value: Any) -> bool:
    """NaN and infinities: JSON parsers let them through and `minimum` does not catch NaN."""
    if isinstance(value, (list, tuple)):
        return any(_non_finite(v) for v in value)
    return isinstance(value, float) and not math.isfinite(value)


def _clip(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _larger_than(value: Any, limit: int) -> bool:
    """Whether nested lists and dictionaries hold more than `limit` values; stops counting there."""
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        count += 1
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else ()
        if count + len(waiting) + len(inner) > limit:
            return True
        waiting.extend(inner)
    return False


def _problem(name: str, arguments: Any) -> str | None:
    """What is wrong with `arguments`, None when nothing is."""
    if _larger_than(arguments, MAX_VALUES):
        return f"arguments hold more than {MAX_VALUES} values"
    error = best_match(_validator(name).iter_errors(arguments))
    if error is not None:
        where = "".join(f"[{p}]" if isinstance(p, int) else str(p) for p in error.absolute_path) or "arguments"
        return f"{where}: {_reason(error)}"
    for key, value in arguments.items():
        if _non_finite(value):
            return f"{key}: every coordinate must be a finite number"
    box = arguments.get("region")
    if box is not None and not (box[2] > box[0] and box[3] > box[1]):
        return f"region: need x2 > x1 and y2 > y1, got {_clip(json.dumps(box))}"
    return None


def _reason(error: Any) -> str:
    """jsonschema's message without the value it may quote at any length."""
    match error.validator:
        case "minItems" | "maxItems":
            return f"needs {'at least' if error.validator == 'minItems' else 'at most'} {error.validator_value} items"
        case "maxLength":
            return f"at most {error.validator_value} characters"
        case "type":
            return f"must be of type {error.validator_value}, got {_clip(repr(error.instance), 40)}"
        case _:
            return _clip(error.message, 120)


def _check_image(image: np.ndarray) -> None:
    if not (isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8):
        raise ValueError("tools need an image of shape H x W x 3, uint8 RGB; read it with images.load_image")
    if min(image.shape[:2]) < 1:
        raise ValueError(f"tools need a non-empty image, got shape {image.shape}")


def run(
    name: str,
    arguments: Any,
    image: np.ndarray,
    *,
    category: str = "",
    view: str = "",
    mm_per_pixel: float | None = None,
    retriever: priors.Retriever | None = None,
) -> ToolResult:
    """Run one tool call as a model wrote it.

    Args:
        name: One of `TOOLS`; anything else gives a result with `ok` False.
        arguments: Decoded JSON of the call, relative units 0..1000; anything is tolerated.
        image: The full-resolution original, uint8 H x W x 3 RGB. Not modified.
        category, view: What the harness knows about the product, for `prior`.
        mm_per_pixel: Physical scale of the original where known, for `measure`.
        retriever: Where `prior` looks things up; the descriptions in `data/priors` when None.

    Returns:
        The result; `ok` False with an explanation for any bad name or argument. Deterministic, so that a call made
        again is remembered (its images then cannot be written to); `ms` is what it took the first time.

    Raises:
        ValueError: The image is not what this library passes around (a caller's mistake, not the model's).
    """
    _check_image(image)
    if not isinstance(name, str) or name not in TOOLS:
        return ToolResult(False, f"unknown tool {_clip(repr(name), 40)}: use one of {', '.join(TOOLS)}")
    problem = _problem(name, arguments)
    if problem:
        return _invalid(name, problem)
    if name == "prior":
        return _timed(name, lambda: priors.answer(arguments, category, view, retriever))
    return _look(name, arguments, image, mm_per_pixel)


def _key(name: str, arguments: dict[str, Any], image: np.ndarray, mm_per_pixel: float | None) -> Hashable:
    pixels = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
    return name, json.dumps(arguments, sort_keys=True), image.shape, pixels, mm_per_pixel


def _size(result: ToolResult) -> int:
    return 1000 + sum(image.nbytes for image in result.images)


# a condition: threads that make the same call at once wait for the first one
@cached(LRUCache(REMEMBERED, _size), key=_key, condition=Condition())
def _look(name: str, arguments: dict[str, Any], image: np.ndarray, mm_per_pixel: float | None) -> ToolResult:
    """A valid call of a tool that looks at the image."""
    match name:
        case "crop":
            result = _timed(name, lambda: crop(image, **arguments))
        case "enhance":
            result = _timed(name, lambda: enhance(image, arguments["method"], arguments.get("region")))
        case _:
            result = _timed(name, lambda: measure(image, arguments["kind"], arguments["points"], mm_per_pixel))
    for picture in result.images:
        picture.setflags(write=False)
    return result


forget = _look.cache_clear
"""Drop the remembered results (measurements, tests)."""


def _timed(name: str, job: Callable[[], ToolResult]) -> ToolResult:
    start = time.perf_counter()
    try:
        result = job()
    except ToolError as error:
        result = _invalid(name, str(error))
    return replace(result, ms=(time.perf_counter() - start) * 1e3)


def _invalid(name: str, problem: str) -> ToolResult:
    return ToolResult(False, f"{name}: invalid call, {problem}. Expected {_EXPECTED[name]}.")
