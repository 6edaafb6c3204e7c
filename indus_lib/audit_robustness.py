"""How accuracy falls: photographs disturbed at rising strength, tool results corrupted at rising rates.

Both come through the hooks of `loop.inspect` (`transform`, `corrupt`), so the audited path is the one that is used.
Every disturbance is a function of (strength, sample id): two runs disturb alike, whatever the batches.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_letters, digits
from typing import Any

import cv2
import numpy as np

from . import benchmarks, loop, metrics
from .episodes import Episode
from .paired import paired_difference
from .policies import Policy
from .profiles import Profile
from .samples import Sample
from .tables import Row, Table, percent
from .tools import ToolResult

Disturb = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian sensor noise; strength = standard deviation in grey levels."""
    grain = rng.normal(0, strength, image.shape).astype(np.float32)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def blur(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Defocus; strength = Gaussian sigma in thousandths of the longer side."""
    sigma = strength * max(image.shape[:2]) / 1000
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0 else image


def jpeg(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Compression; strength = 100 - quality."""
    quality = round(min(max(100 - strength, 1), 100))
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as JPEG")
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def rotation(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Turned by +-strength degrees about the centre, edges mirrored (boxes are not turned: verdicts only)."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(strength * rng.choice([-1, 1])), 1.0)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)


def exposure(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Over- or under-exposed by `strength` stops."""
    return np.clip(image.astype(np.float32) * 2.0 ** (strength * rng.choice([-1, 1])), 0, 255).astype(np.uint8)


IMAGES: dict[str, tuple[Disturb, tuple[float, ...]]] = {  # strengths: not in paper
    "noise": (noise, (4, 8, 16, 32)),
    "blur": (blur, (2, 4, 8, 16)),
    "JPEG": (jpeg, (30, 60, 80, 95)),
    "rotation": (rotation, (2, 5, 10, 20)),
    "exposure": (exposure, (0.25, 0.5, 1, 1.5)),
}
TOOL_RESULTS = "tool results"
RATES = (0.25, 0.5, 0.75, 1.0)  # share of tool results corrupted; not in paper


def stream(name: str, sample: Sample) -> np.random.Generator:
    """Random numbers that depend on the disturbance and the sample only."""
    return np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(f"{sample.dataset}:{sample.id}".encode())])


def strengths(name: str) -> tuple[float, ...]:
    """Rising strengths of a disturbance. Raises ValueError for an unknown name."""
    if name not in IMAGES:
        raise ValueError(f"unknown disturbance {name!r}; choose one of {', '.join(IMAGES)}")
    return IMAGES[name][1]


def image_transform(name: str, strength: float) -> Callable[[np.ndarray, Sample], np.ndarray]:
    """A `transform` for `loop.inspect`; strength 0 = untouched. Raises ValueError for an unknown name."""
    strengths(name)
    disturb = IMAGES[name][0]
    return lambda image, sample: disturb(image, strength, stream(name, sample)) if strength else image


def tool_corruption(rate: float) -> Callable[[ToolResult, Mapping[str, Any], Sample], ToolResult]:
    """A `corrupt` for `loop.inspect`: this share of results becomes noise images and letters without sense.

    The samples corrupted at a rate are among those corrupted at every higher rate, so that curves are comparable.
    """

    def corrupt(result: ToolResult, call: Mapping[str, Any], sample: Sample) -> ToolResult:
        rng = stream(f"tool {call['name']}", sample)
        return spoil(result, rng) if rng.random() < rate else result

    return corrupt


def spoil(result: ToolResult, rng: np.random.Generator) -> ToolResult:
    """Images become noise of the same mean and spread; every letter and digit of the text becomes another."""
    pictures = [np.clip(rng.normal(i.mean(), i.std() + 1, i.shape), 0, 255).astype(np.uint8) for i in result.images]
    return replace(result, images=pictures, text="".join(_another(c, rng) for c in result.text))


def _another(character: str, rng: np.random.Generator) -> str:
    for kind in (digits, ascii_letters):
        if character in kind:
            return kind[(kind.index(character) + int(rng.integers(1, len(kind)))) % len(kind)]
    return character


@dataclass(frozen=True)
class Point:
    """One measured condition."""

    disturbance: str
    strength: float
    episodes: tuple[Episode, ...]


def conditions(
    disturbances: Sequence[str] = tuple(IMAGES), rates: Sequence[float] = RATES, points: int | None = None
) -> list[tuple[str, float]]:
    """(disturbance, strength) of every condition, undisturbed first.

    Args:
        disturbances: Names of `IMAGES`.
        rates: Shares of corrupted tool results; () = none.
        points: Only the strongest so many strengths of each, None = all.
    """
    found = [("none", 0.0)]
    for name in disturbances:
        found += [(name, float(s)) for s in (strengths(name)[-points:] if points else strengths(name))]
    return found + [(TOOL_RESULTS, float(rate)) for rate in (rates[-points:] if points else rates)]


def point(
    policy: Policy, samples: Sequence[Sample], name: str, strength: float, *, profile: Profile, **options: Any
) -> Point:  # fmt: skip
    """One of the `conditions`."""
    hook: dict[str, Any] = {}
    if name == TOOL_RESULTS:
        hook = {"corrupt": tool_corruption(strength)}
    elif name != "none":
        hook = {"transform": image_transform(name, strength)}
    return Point(name, strength, tuple(loop.inspect(policy, samples, profile=profile, **hook, **options)))


def table(points: Sequence[Point], profile: str, config_hash: str) -> Table:
    """Balanced accuracy per condition, and the paired loss against the undisturbed run."""
    clean = metrics.outcomes(next(p.episodes for p in points if p.disturbance == "none"))
    rows: list[Row] = []
    for point in points:
        data = metrics.outcomes(point.episodes)
        name = "undisturbed" if point.disturbance == "none" else f"{point.disturbance} {point.strength:g}"
        rows.append(benchmarks.cell(name, "balanced accuracy", data, "balanced_accuracy"))
        rows.append(benchmarks.cell(name, "recall", data, "recall"))
        if point.disturbance != "none" and clean.n_normal and clean.n_anomalous:
            lost = paired_difference(clean, data)
            shown = replace(rows[-2], column="loss", value=percent(lost.value))
            rows.append(replace(shown, ci=tuple(percent(v) for v in lost.ci)))
    notes = (
        "noise: sigma in grey levels; blur: sigma in 1/1000 of the longer side; JPEG: 100 - quality; "
        "rotation: degrees; exposure: stops; tool results: share replaced by noise images and letters without sense.",
    )
    return Table("robustness", "Robustness", profile, config_hash, tuple(rows), notes)
