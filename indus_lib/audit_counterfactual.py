"""Does the agent use what its tools return? The same first turns, other observations, decided again.

Each trajectory with a tool call is decided again from its own first turn under the true observation (`kept`, the
control) and under altered ones. What changes beyond the control is due to the observation alone:

- `blanked`: images grey, texts "(no result)";
- `words blanked`: texts "(no result)", images as they are;
- `shuffled`: the result of the same tool on another image;
- `random crop`: an image result replaced by a random window of the same photograph and size, text unchanged.

Counted are the trajectories in which something was altered: a measurement has no picture to be cut at random.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from . import images, loop, metrics
from .comparisons import mechanism_episodes
from .episodes import Episode
from .paired import p_value, paired_difference
from .policies import Policy
from .profiles import Profile
from .samples import Sample
from .tables import Row, Table, percent, rounded
from .tools import ToolResult

MECHANISM_TOOL = {"small": "crop", "faint": "enhance", "geometric": "measure", "prior": "prior"}
KINDS = ("kept", "blanked", "words blanked", "shuffled", "random crop")
Results = list[tuple[dict[str, Any], ToolResult]]
GREY = 128
NO_RESULT = "(no result)"


@dataclass(frozen=True)
class Flip:
    """One trajectory decided twice: under its true observation and under an altered one.

    Attributes:
        episode: Decided under the true observation.
        altered: Decided under the altered one.
        tools: Names of the tools that were called.
        kind: One of `KINDS`.
    """

    episode: Episode
    altered: Episode
    tools: tuple[str, ...]
    kind: str

    @property
    def broke(self) -> bool:
        """Right, and wrong without the observation: the observation was used."""
        return self.episode.correct and not self.altered.correct

    @property
    def mended(self) -> bool:
        """Wrong, and right without the observation: the observation misled."""
        return self.altered.correct and not self.episode.correct

    @property
    def margin_change(self) -> float | None:
        """Loss of margin towards the true label through the alteration; None without margins."""
        if self.episode.margin is None or self.altered.margin is None:
            return None
        return (self.episode.margin - self.altered.margin) * (1 if self.episode.label else -1)


def rerun_tools(episode: Episode, sample: Sample) -> Results:
    """The calls of the first turn with their results made again (episodes store no images)."""
    photograph = images.load_image(sample.image, sample.tile)
    calls = [{"name": c.name, "arguments": c.arguments} for c in episode.turns[0].calls]
    return [(call, loop.run_call(call, photograph, sample)) for call in calls]


def blank(results: Results, pictures: bool = True) -> Results:
    """Same calls, results without content, or without words alone."""
    grey = [[np.full_like(i, GREY) for i in r.images] if pictures else r.images for _, r in results]
    return [(call, replace(r, text=NO_RESULT, images=i)) for (call, r), i in zip(results, grey, strict=True)]


def shuffle(every: Sequence[Results], seed: int = 0) -> list[Results]:
    """Each result swapped with the result of the same tool on another image; a tool called once only stays."""
    pools: dict[tuple[str, bool], list[tuple[int, int]]] = defaultdict(list)
    for i, results in enumerate(every):
        for j, (call, result) in enumerate(results):
            pools[call["name"], result.ok].append((i, j))
    rng = np.random.default_rng(seed)
    found = [list(results) for results in every]
    for places in pools.values():
        order = [places[k] for k in rng.permutation(len(places))]
        for (i, j), (a, b) in zip(order, order[1:] + order[:1], strict=True):  # one cycle: nobody keeps his own
            found[i][j] = (every[i][j][0], every[a][b][1])
    return found


def random_crops(results: Results, photograph: np.ndarray, seed: int = 0) -> Results:
    """Image results replaced by random windows of the photograph; the text stays, so only the picture lies."""
    rng = np.random.default_rng(seed)
    return [(call, replace(r, images=[_window(photograph, i.shape, rng) for i in r.images])) for call, r in results]


def _window(photograph: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    height, width = photograph.shape[:2]
    h, w = min(shape[0], height), min(shape[1], width)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    window = photograph[y : y + h, x : x + w]
    return window if window.shape == tuple(shape) else cv2.resize(window, (shape[1], shape[0]))


def alter(kind: str, every: Sequence[Results], samples: Sequence[Sample], seed: int = 0) -> list[Results]:
    """The results of all trajectories under one of `KINDS`. Raises ValueError for another kind."""
    if kind == "kept":
        return list(every)
    if kind in ("blanked", "words blanked"):
        return [blank(results, pictures=kind == "blanked") for results in every]
    if kind == "shuffled":
        return shuffle(every, seed)
    if kind == "random crop":
        pictures = (images.load_image(s.image, s.tile) for s in samples)
        return [random_crops(r, p, seed + i) for i, (r, p) in enumerate(zip(every, pictures, strict=True))]
    raise ValueError(f"unknown alteration {kind!r}; choose one of {', '.join(KINDS)}")


def audit(
    policy: Policy,
    episodes: Sequence[Episode],
    samples: Iterable[Sample],
    *,
    profile: Profile,
    kinds: Sequence[str] = KINDS[1:],
    seed: int = 0,
) -> list[Flip]:
    """Decide every trajectory that called a tool again under each kind of observation.

    Args:
        policy: The agent that made the episodes.
        episodes: One seed; those without a tool call are left out (nothing to alter).
        samples: The samples they were made from.
        profile: As for `loop.inspect`.
        kinds: Alterations, each against the control `kept`.
        seed: Of shuffles and random windows.

    Raises:
        KeyError: an episode's sample is not among `samples`.
        ValueError: episodes of several seeds: each seed is a model of its own, audit them one by one.
    """
    if len({e.seed for e in episodes}) > 1:
        raise ValueError("episodes of several seeds: audit one seed, with the policy that made it")
    known = {(s.dataset, s.id): s for s in samples}
    used = [e for e in episodes if e.turns and e.turns[0].calls]
    chosen = [known[e.dataset, e.sample_id] for e in used]
    firsts = [e.turns[0].text for e in used]
    results = [rerun_tools(e, s) for e, s in zip(used, chosen, strict=True)]
    kept = loop.redecide(policy, chosen, firsts, results, profile=profile)
    names = [tuple(dict.fromkeys(call.name for call in e.turns[0].calls)) for e in used]
    flips: list[Flip] = []
    for kind in kinds:
        others = alter(kind, results, chosen, seed)
        at = [k for k, (own, other) in enumerate(zip(results, others, strict=True)) if not _same(own, other)]
        part = [[values[k] for k in at] for values in (chosen, firsts, others)]
        decided = loop.redecide(policy, *part, profile=profile)
        flips += [Flip(kept[k], altered, names[k], kind) for k, altered in zip(at, decided, strict=True)]
    return flips


def _same(one: Results, other: Results) -> bool:
    """Whether both say and show the same."""
    return all(
        a.text == b.text and len(a.images) == len(b.images) and all(map(np.array_equal, a.images, b.images))
        for (_, a), (_, b) in zip(one, other, strict=True)
    )


# --- table -------------------------------------------------------------------------------------------------------


def table(flips: Sequence[Flip], profile: str, config_hash: str, mechanisms: Mapping[str, str] | None = None) -> Table:
    """Accuracy under the true and the altered observation, flips and margin change: all, per tool, per mechanism."""
    rows: list[Row] = []
    for kind in dict.fromkeys(f.kind for f in flips):
        for name, group in groups([f for f in flips if f.kind == kind], mechanisms or {}).items():
            rows += group_rows(f"{kind}, {name}", group)
    notes = (
        "Only trajectories whose observation is altered; each is decided again from its own first turn, so that "
        "accuracy 'as it was' is the control. Drop: balanced accuracy where both classes occur, else plain accuracy.",
        "Right to wrong: the observation was used. Wrong to right: it misled. Margin: towards the true label.",
    )
    return Table("counterfactual", "What the observation is worth", profile, config_hash, tuple(rows), notes)


def groups(flips: Sequence[Flip], mechanisms: Mapping[str, str]) -> dict[str, list[Flip]]:
    """All flips, those that called each tool, those of each mechanism, and each mechanism with its own tool."""
    found = {"all": list(flips)}
    for tool in sorted({tool for f in flips for tool in f.tools}):
        found[f"tool {tool}"] = [f for f in flips if tool in f.tools]
    for name in sorted(set(mechanisms.values()) - {""}):
        found[f"mechanism {name}"] = own = of_mechanism(flips, mechanisms, name)
        if name in MECHANISM_TOOL:
            tool = MECHANISM_TOOL[name]
            found[f"mechanism {name} with {tool}"] = [f for f in own if tool in f.tools]
    return found


def of_mechanism(flips: Sequence[Flip], mechanisms: Mapping[str, str], name: str) -> list[Flip]:
    """Flips whose sample counts for a mechanism (see `comparisons.mechanism_table`)."""
    kept = {id(e) for e in mechanism_episodes([f.episode for f in flips], mechanisms, name)}
    return [f for f in flips if id(f.episode) in kept]


def group_rows(name: str, flips: Sequence[Flip]) -> list[Row]:
    """The cells of one group of flips; none for an empty group."""
    if not flips:
        return []
    before, after = metrics.outcomes([f.episode for f in flips]), metrics.outcomes([f.altered for f in flips])
    both = before.n_normal and before.n_anomalous
    metric = "balanced_accuracy" if both else "accuracy"
    counts = (before.n_normal, before.n_anomalous, before.n_unparsed + after.n_unparsed, 1)
    lost = paired_difference(before, after, metric)
    changes = [f.margin_change for f in flips if f.margin_change is not None]
    p = p_value(before, after)
    n = len(flips)
    rows = [
        Row(name, "as it was", percent(metrics.value(before, metric)), None, *counts),
        Row(name, "altered", percent(metrics.value(after, metric)), None, *counts),
        Row(name, "drop", percent(lost.value), tuple(percent(v) for v in lost.ci), *counts, note=f"p={p:.3g}"),
    ]
    for column, hits in (
        ("right to wrong", sum(f.broke for f in flips)),
        ("wrong to right", sum(f.mended for f in flips)),
    ):
        bounds = metrics.wilson(hits, n)
        rows.append(Row(name, column, percent(hits / n), tuple(percent(v) for v in bounds or (0, 0)), *counts))
    if changes:
        rows.append(Row(name, "margin lost", rounded(float(np.mean(changes)), 2), None, *counts))
    return rows
