"""The offline teacher at work: survey, plan, write, gate, in rounds until enough trajectories are accepted.

Every result is a function of (sample, choice, seed) and every plan of the results so far, so that a build that was
killed and resumed makes the same corpus as one that was not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import quality, teacher, teacher_tools
from .corpus_work import WorkLog
from .episodes import ToolCall, Turn
from .images import ImageError
from .samples import Sample
from .teacher_plan import by_category, interleave, plan_anomalous, plan_normal, quotas, showable
from .teacher_tools import rng_for

ROUNDS = 6  # of planning and writing; each fills what the last one's rejections left open
SPARE = 1.5  # anomalous samples surveyed per one wanted; some marks no tool can show
MAX_TAKES = 3  # trajectories of one image, with different tools, when the pool is small


@dataclass(frozen=True)
class Accepted:
    """One accepted trajectory. `key` is the sample's id, and `#2`, `#3` behind it for a further take."""

    key: str
    sample: Sample
    turns: tuple[Turn, ...]
    score: float
    drafts: int


@dataclass(frozen=True)
class Settings:
    """What the offline work depends on."""

    n: int
    seed: int
    detail: str
    exploration: float
    max_tokens: int | None
    workers: int = 1
    progress: str = ""


def produce(samples: Sequence[Sample], settings: Settings, log: WorkLog) -> tuple[list[Accepted], Counter[str]]:
    """Accepted trajectories, half of them anomalous, and counts of what was rejected by reason."""
    takes = _takes(samples, settings)
    anomalous = _Side(takes, settings, log, label=True)
    normal = _Side(takes, settings, log, label=False)
    _make_anomalous(anomalous, normal, settings)
    _make_normal(anomalous, normal, settings)
    accepted = anomalous.accepted + normal.accepted
    return accepted, anomalous.rejected + normal.rejected


def _takes(samples: Sequence[Sample], settings: Settings) -> dict[str, Sample]:
    """Key -> sample; images are used again, under further keys, only as far as the pool is too small."""
    smaller = min(sum(bool(s.label) == label for s in samples) for label in (True, False))
    enough = settings.n / 2 * SPARE
    repeats = min(max(-(-int(enough) // max(smaller, 1)), 1), MAX_TAKES)
    takes = {s.id: s for s in samples}
    for k in range(2, repeats + 1):
        takes |= {f"{s.id}#{k}": s for s in samples}
    return takes


class _Side:
    """Normal or anomalous half of a build: what is left to use, what is accepted, what was rejected."""

    def __init__(self, takes: Mapping[str, Sample], settings: Settings, log: WorkLog, *, label: bool) -> None:
        self.samples = {k: s for k, s in takes.items() if bool(s.label) == label}
        self.category = {k: s.category for k, s in self.samples.items()}
        self.settings, self.log = settings, log
        self.accepted: list[Accepted] = []
        self.choices: dict[str, Counter[str]] = defaultdict(Counter)
        self.rejected: Counter[str] = Counter()
        self.left = self._order()

    def _order(self) -> list[str]:
        """Balanced over categories, and inside them over takes, views and defect names, else shuffled."""
        groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for key in sorted(self.samples):
            s = self.samples[key]
            groups[s.category][f"{key.partition('#')[2]}|{s.view}|{s.defect}"].append(key)
        ordered = {}
        for category, parts in groups.items():
            rng = rng_for(self.settings.seed, category, "order")
            shuffled = {name: [keys[i] for i in rng.permutation(len(keys))] for name, keys in sorted(parts.items())}
            first = {n: k for n, k in shuffled.items() if n.startswith("|")}
            again = {n: k for n, k in shuffled.items() if not n.startswith("|")}
            ordered[category] = interleave(first) + interleave(again)
        return interleave(ordered)

    def write(self, plan: Sequence[tuple[str, str]]) -> None:
        """Write and gate the planned trajectories; each uses its sample up, what passes is accepted."""
        s = self.settings
        jobs = [
            (f"write:{key}:{choice}", (self.samples[key], choice, s.seed, key, s.detail, s.max_tokens))
            for key, choice in plan
        ]
        self.log.fill(jobs, write_job, s.workers, s.progress and f"{s.progress}: writing")
        used = {key for key, _ in plan}
        self.left = [key for key in self.left if key not in used]
        for key, choice in plan:
            self._take(key, choice, self.log.results[f"write:{key}:{choice}"])

    def _take(self, key: str, choice: str, result: Mapping[str, Any]) -> None:
        self.rejected.update(result["rejected"])
        if result["turns"]:
            turns = tuple(turn_from_json(t) for t in result["turns"])
            self.accepted.append(Accepted(key, self.samples[key], turns, result["score"], result["drafts"]))
            self.choices[self.category[key]][choice] += 1


def _make_anomalous(side: _Side, normal: _Side, settings: Settings) -> None:
    partners = {c: len(keys) for c, keys in by_category(list(normal.samples), normal.category).items()}
    for _ in range(ROUNDS):
        left = by_category(side.left, side.category)
        room = {c: min(len(keys), partners.get(c, 0) - side.choices[c].total()) for c, keys in left.items()}
        need = quotas({c: max(n, 0) for c, n in room.items()}, settings.n // 2 - len(side.accepted))
        if not any(need.values()):
            return
        usable = _usable(side, _survey(side, need), need)
        side.write(plan_anomalous(usable, side.category, exploration=settings.exploration, seed=settings.seed))


def _survey(side: _Side, need: Mapping[str, int]) -> list[tuple[str, dict[str, Any]]]:
    """Surveys of the next unused samples of each category, `SPARE` times what it still needs."""
    s, wanted, chosen = side.settings, {c: int(n * SPARE + 0.999) for c, n in need.items()}, []
    for key in side.left:
        if wanted.get(side.category[key], 0) > 0:
            wanted[side.category[key]] -= 1
            chosen.append(key)
    jobs = [(f"survey:{key}", (side.samples[key], s.seed, key)) for key in chosen]
    side.log.fill(jobs, survey_job, s.workers, s.progress and f"{s.progress}: surveying")
    return [(key, side.log.results[f"survey:{key}"]) for key in chosen]


def _usable(
    side: _Side, surveys: Sequence[tuple[str, dict[str, Any]]], need: Mapping[str, int]
) -> list[tuple[str, dict[str, Any]]]:
    """The first `need` samples of each category that a trajectory can be written for; the useless leave the pool."""
    room, kept = dict(need), []
    for key, survey in surveys:
        refused = survey.get("refused") or (None if showable(survey) else "mark_not_shown")
        if refused:
            side.left.remove(key)
            side.rejected[refused] += 1
        elif room[side.category[key]] > 0:
            room[side.category[key]] -= 1
            kept.append((key, survey))
    return kept


def _make_normal(anomalous: _Side, normal: _Side, settings: Settings) -> None:
    for _ in range(ROUNDS):
        available = by_category(normal.left, normal.category)
        plan = plan_normal(anomalous.choices, available, normal.choices, settings.seed)
        if not plan:
            return
        normal.write(plan)


# --- jobs (run in worker processes) -------------------------------------------------------------------------------


def survey_job(sample: Sample, seed: int, key: str) -> dict[str, Any]:
    """`teacher_tools.survey`, or the name of the reason why not."""
    try:
        return teacher_tools.survey(replace(sample, id=key), seed)
    except ImageError:
        return {"refused": "unreadable_image"}
    except ValueError:
        return {"refused": "no_box"}


def write_job(sample: Sample, choice: str, seed: int, key: str, detail: str, max_tokens: int | None) -> dict[str, Any]:
    """Drafts of one trajectory through the gate: the best that passed, its score, reasons of the rejected ones."""
    try:
        drafts = teacher.write(replace(sample, id=key), choice, seed, detail=detail)
    except teacher.Refused as refused:
        return {"turns": [], "score": 0.0, "drafts": 0, "rejected": [str(refused)]}
    except ImageError:
        return {"turns": [], "score": 0.0, "drafts": 0, "rejected": ["unreadable_image"]}
    return best_of(drafts, sample, max_tokens)


def best_of(drafts: Sequence[tuple[Turn, ...]], sample: Sample, max_tokens: int | None) -> dict[str, Any]:
    """Gate and judge drafts; the first of the best-scored ones is kept."""
    rejected: list[str] = []
    best: tuple[float, tuple[Turn, ...]] | None = None
    for turns in drafts:
        reasons = quality.check(turns, sample, max_tokens=max_tokens)
        rejected += reasons
        score = quality.judge(turns, sample) if not reasons else 0.0
        if not reasons and (best is None or score > best[0]):
            best = score, turns
    turns = [turn_to_json(t) for t in best[1]] if best else []
    return {"turns": turns, "score": best[0] if best else 0.0, "drafts": len(drafts), "rejected": rejected}


def turn_to_json(turn: Turn) -> dict[str, Any]:
    """Text and calls of a turn as plain JSON."""
    calls = [
        {"name": c.name, "arguments": c.arguments, "ok": c.ok, "text": c.text, "regions": c.regions, "n": c.n_images}
        for c in turn.calls
    ]
    return {"text": turn.text, "calls": calls}


def turn_from_json(data: Mapping[str, Any]) -> Turn:
    """Inverse of `turn_to_json`."""
    calls = [
        ToolCall(c["name"], c["arguments"], c["ok"], c["text"], tuple(tuple(r) for r in c["regions"]), c["n"])
        for c in data["calls"]
    ]
    return Turn(data["text"], tuple(calls))
