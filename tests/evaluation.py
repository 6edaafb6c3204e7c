"""Hand-made episodes for the evaluation tests."""

from __future__ import annotations

import numpy as np

from indus_lib.episodes import Episode, ToolCall, Turn, Verdict

SETS = ("mvtec", "mpdd", "visa", "dtd", "kolektorsdd")


def episode(n: int, label: bool, said: bool | None, *, dataset: str = "mvtec", tools: tuple[str, ...] = (), **more):
    """One episode; `said` None = unparsed."""
    calls = tuple(ToolCall(name, {}, ok=name != "broken", ms=2.0) for name in tools)
    turns = (
        Turn("route", calls, seconds=0.1, prompt_tokens=50, completion_tokens=10),
        Turn("decide", prompt_tokens=70),
    )
    verdict = None if said is None else Verdict(said)
    base = {"sample_id": f"part/test/{n:04d}", "dataset": dataset, "category": f"c{n % 3}", "label": label}
    return Episode(**{**base, "turns": turns, "verdict": verdict, "seconds": 0.2, **more})


def run(recall: float, specificity: float, *, n: int = 60, dataset: str = "mvtec", seed: int = 0, **more):
    """n normal + n anomalous episodes with about these rates and margins that agree with the verdicts."""
    rng = np.random.default_rng([seed, n, sum(map(ord, dataset))])
    found = []
    for i in range(2 * n):
        label = i % 2 == 0
        right = rng.random() < (recall if label else specificity)
        said = label == right
        margin = float((1 if said else -1) * rng.exponential(2))
        found.append(episode(i, label, said, dataset=dataset, seed=seed, margin=margin, **more))
    return found


def sets(recall: float, specificity: float, **more):
    """The same over the five data sets."""
    return {name: run(recall, specificity, dataset=name, **more) for name in SETS}
