"""References that show what a number is worth: always-yes, always-no and a coin.

Each gives episodes like the agent's, so tables and figures treat them alike. The training-free visual reference is in
`self_similarity`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from .episodes import Episode, Turn, Verdict
from .samples import Sample


def always(samples: Sequence[Sample], anomalous: bool, *, profile: str = "") -> list[Episode]:
    """The same verdict for every image: balanced accuracy 50 by construction, whatever the class ratio."""
    name = "always_yes" if anomalous else "always_no"
    return [verdict_episode(s, anomalous, name, profile=profile) for s in samples]


def coin(samples: Sequence[Sample], *, seed: int = 0, profile: str = "") -> list[Episode]:
    """A fair coin per image, fixed by seed and sample id: shows how far chance strays at this N."""
    found = []
    for sample in samples:
        key = zlib.crc32(f"{sample.dataset}:{sample.id}".encode())
        margin = float(np.random.default_rng([seed, key]).normal())
        found.append(verdict_episode(sample, margin > 0, "coin", margin=margin, seed=seed, profile=profile))
    return found


def verdict_episode(
    sample: Sample,
    anomalous: bool,
    policy: str,
    *,
    margin: float | None = None,
    box: tuple[int, int, int, int] | None = None,
    seed: int = 0,
    profile: str = "",
    seconds: float = 0.0,
) -> Episode:
    """An episode of something that only gives verdicts. The turn says so in words, for the trace player."""
    return Episode(
        sample_id=sample.id,
        dataset=sample.dataset,
        category=sample.category,
        image=str(sample.image),
        label=sample.label,
        policy=policy,
        profile=profile,
        mode="direct",
        turns=(Turn(f"{'Yes' if anomalous else 'No'} ({policy}, no language model)", margin=margin, seconds=seconds),),
        verdict=Verdict(anomalous, box if anomalous else None),
        margin=margin,
        seconds=seconds,
        seed=seed,
    )


def references(samples: Sequence[Sample], *, seed: int = 0, profile: str = "") -> dict[str, list[Episode]]:
    """The three references without any model, by run name."""
    return {
        "always_yes": always(samples, True, profile=profile),
        "always_no": always(samples, False, profile=profile),
        "coin": coin(samples, seed=seed, profile=profile),
    }
