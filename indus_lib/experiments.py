"""How each run of the tables (`variants`) is trained and evaluated: the glue that the notebooks call.

Everything a run makes lies under `results/<profile>/work`: models, episodes. Each piece is known by the hash of all
that decides it, so that calling again does only what is missing or changed, and a killed run goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from . import comparisons, corpus, grpo, loop, profiles, readers, sft, train_data, training_runs
from .episodes import Episode, is_kept, keep_episodes, read_episodes
from .local_policy import LocalPolicy
from .processing import load_processor
from .profiles import Profile
from .reply_cache import teacher_of_environment
from .samples import Sample
from .selection import balanced_limit
from .teacher_endpoint import EndpointTeacher
from .variants import ABLATIONS, VARIANTS, Variant
from .workers import gpus, run_jobs

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "source.txt"  # beside an SFT model: what it was made of
MOST_WORKERS = 4  # runs side by side on a CPU; each holds up to 3 GB
HELD_OUT = 6  # every so many products of Real-IAD are the validation part; not in paper
AT_SIGHT = {"looking": 0, "reading": 0, "practice": 0, "withheld": 0.0, "named_only": False}  # no lessons about tools
_CURRENT: set[Path | str] = set()  # SFT models that the parent process has compared with the corpus


def wanted(profile: Profile) -> list[str]:
    """The runs of the ablation notebook, each once, in the order of the tables."""
    return list(profile.runs) or list(dict.fromkeys(run for runs in ABLATIONS.values() for run in runs))


def folder(profile: Profile) -> Path:
    """`results/<profile>`."""
    return ROOT / "results" / profile.name


def data_root(profile: Profile) -> Path:
    """Where the profile's data sets lie."""
    return ROOT / profile.data.root


def model_path(profile: Profile, run: str, seed: int = 0) -> Path | str:
    """Folder of a run's model; `base` and `shipped` are the profile's, by path or hub name.

    Raises FileNotFoundError: The profile ships no agent."""
    if run in ("base", "shipped"):
        name = profile.model.base if run == "base" else profile.model.agent
        if not name:
            raise FileNotFoundError(f"profile {profile.name} ships no trained agent")
        return ROOT / name if (ROOT / name).is_dir() else name
    return folder(profile) / "work" / "models" / f"{run}-s{seed}"


def test_sets(profile: Profile, limit: int | None = None) -> dict[str, list[Sample]]:
    """The five test sets, in the paper's order; `limit` images each, both classes alike, spread evenly."""
    root = data_root(profile)
    sets = {name: readers.read(name, root / name, dataset=name) for name in profiles.SETS}
    return {name: balanced_limit(samples, limit) for name, samples in sets.items()}


def pool(profile: Profile, split: str = "train") -> list[Sample]:
    """The training pool (Real-IAD layout) without the categories that overlap a test set: `train`, or `test` for its
    own validation part, on which everything is tuned.

    The drawn pool's lists have different products. Real-IAD's have the same ones, and no anomalies in `train`: there
    every `HELD_OUT`-th product is the validation part.
    """
    return corpus.disjoint(_listed(profile, split), test_categories(profile))[0]


def _listed(profile: Profile, split: str) -> list[Sample]:
    path = data_root(profile) / profile.data.pool
    if profile.data.standins:
        return readers.read("real-iad", path, split=split)
    samples = _both_lists(path)
    held = set(sorted({s.category for s in samples})[HELD_OUT - 1 :: HELD_OUT])
    return [s for s in samples if (s.category in held) == (split == "test")]


@lru_cache(maxsize=1)  # fifty thousand masks to read
def _both_lists(path: Path) -> list[Sample]:
    return readers.read("real-iad", path, split="all")


def test_categories(profile: Profile) -> list[str]:
    """Every product of the test sets."""
    root = data_root(profile)
    return sorted({s.category for name in profiles.SETS for s in readers.read(name, root / name, boxes=False)})


def mechanisms(profile: Profile) -> dict[str, str]:
    """`<dataset>:<sample id>` -> mechanism of the stand-ins; empty for the real sets, which say nothing of it."""
    return comparisons.read_mechanisms(data_root(profile), test_sets(profile))


def build_corpus(profile: Profile, seed: int = 0, teacher: Any = None) -> corpus.BuildReport:
    """Indus-CoT of the profile, in `results/<profile>/work/corpus`. Raises ValueError without the profile's teacher."""
    c, out = profile.corpus, folder(profile) / "work/corpus"
    if c.teacher == "endpoint" and teacher is None:
        teacher = EndpointTeacher(teacher_of_environment(out / "replies.jsonl"))
    return corpus.build(
        _listed(profile, "train"), out, n=c.n, teacher=teacher or c.teacher, seed=seed,
        test_categories=test_categories(profile), detail=profile.inspection.detail, validation=c.validation,
        exploration=c.exploration, progress="Indus-CoT",
    )  # fmt: skip


def encoded(
    profile: Profile, split: str = "train", share: float = 1.0, at_sight: bool = False
) -> list[train_data.Encoded]:
    """The first `share` of the corpus as tokens, masks and pixels, kept for the process; `at_sight`: without tools."""
    file = folder(profile) / "work/corpus/corpus.jsonl"
    changed = file.stat().st_mtime_ns if file.is_file() else 0
    return list(_encoded(profile, split, str(model_path(profile, "base")), changed, share, at_sight))


@lru_cache(maxsize=2)  # train and val
def _encoded(
    profile: Profile, split: str, base: str, changed: int, share: float, at_sight: bool
) -> tuple[train_data.Encoded, ...]:  # fmt: skip
    work = folder(profile) / "work/corpus"
    records = corpus.read(work, split)
    records = records[: max(int(len(records) * share), 1)]
    offers = (train_data.offered((c.name for t in corpus.to_turns(r) for c in t.calls), r["id"]) for r in records)
    talks = (
        corpus.conversation(r, work, profile.inspection, terse=profile.sft.terse, offer=offer, at_sight=at_sight)
        for r, offer in zip(records, offers, strict=True)
    )
    found = train_data.encode_all(
        talks, load_processor(base), max_length=profile.sft.max_length, total=len(records), progress=f"encode {split}"
    )
    return tuple(found)


@dataclass(frozen=True)
class Images:
    """What all runs of a table look at, read from the data sets once: fourteen seconds for the miniature's.

    Attributes:
        sets: As `test_sets` without a limit.
        prompts: By seed, as `prompts`.
    """

    sets: Mapping[str, Sequence[Sample]]
    prompts: Mapping[int, Sequence[Sample]]


def train(profile: Profile, run: str, seed: int = 0, images: Images | None = None) -> Path | str:
    """The model of a run, trained if it is not there yet (and the SFT model it starts from)."""
    variant = VARIANTS[run]
    if variant.model_of:
        return train(profile, variant.model_of, seed, images)
    if not variant.trained:
        ready = variant.start in ("base", "shipped")
        return model_path(profile, variant.start) if ready else _sft(profile, run, variant.share, seed)
    start = model_path(profile, "base") if variant.start == "base" else _sft(profile, variant.start, 1.0, seed)
    return grpo.train(
        start, images.prompts[seed] if images else prompts(profile, seed), model_path(profile, run, seed), profile,
        weights=variant.weights, config=replace(profile.grpo, **variant.config), allowed_tools=variant.tools, seed=seed,
    )  # fmt: skip


def prompts(profile: Profile, seed: int = 0) -> list[Sample]:
    """Images of the pool for RL, both labels alike. Those of the corpus are left out while enough others are left: on
    what SFT knows by heart no tool is ever worth its cost."""
    samples, config = pool(profile), profile.grpo
    work = folder(profile) / "work/corpus"
    shown = {r["sample_id"] for r in corpus.read(work)} if work.is_dir() else set()
    new = grpo.balanced([s for s in samples if s.id not in shown], 10**9, seed)
    return new if len(new) >= config.prompts * max(config.steps, 1) else grpo.balanced(samples, 10**9, seed)


def _sft(profile: Profile, run: str, share: float, seed: int) -> Path:
    out, model, start = model_path(profile, run, seed), profile.model, model_path(profile, "base")
    mark, at_sight = out / SOURCE, not VARIANTS[run].tools
    if out in _CURRENT:
        return out
    source = _source(profile, share, seed)
    if mark.is_file() and mark.read_text() == source:
        return out
    config = replace(profile.sft, **AT_SIGHT) if at_sight else profile.sft
    rows = encoded(profile, share=share, at_sight=at_sight)
    held_out = encoded(profile, "val", at_sight=at_sight) if share == 1.0 and profile.corpus.validation else ()
    options = {"lora": model.lora, "dtype": model.dtype, "seed": seed, "validation": held_out}
    sft.train(start, rows, out, config, **options)
    mark.write_text(source)
    return out


def _source(profile: Profile, share: float, seed: int) -> str:
    """Hash of all that an SFT model is made of, without encoding the corpus, which takes a minute: records, the size of
    every photograph, settings, tokenizer and code. Another hash costs that minute, and a training only if `sft` says
    so."""
    work, base = folder(profile) / "work/corpus", model_path(profile, "base")
    paths = [corpus.to_sample(record, work).image for record in corpus.read(work)]
    texts = {p.name: p.read_text(encoding="utf-8") for p in sorted(Path(base).glob("*.json*"))}
    return training_runs.identity(
        base, ["experiments"], records=(work / corpus.FILE).read_text(encoding="utf-8"), texts=texts,
        sizes=[path.stat().st_size for path in paths], profile=asdict(profile), share=share, seed=seed,
    )  # fmt: skip


def evaluate(
    profile: Profile, run: str, seed: int = 0, images: Images | None = None, **options: Any
) -> dict[str, list[Episode]]:
    """Episodes of a run on the five sets, inspected if they are not there yet for this very model and data. `images`:
    read here if not given; `options`: `limit` images per set (default: the profile's, smaller for ablations), else as
    for `loop.inspect`."""
    variant = VARIANTS[run]
    default = profile.data.limit if variant.full_sets else profile.data.ablation_limit
    limit = options.pop("limit", default)
    sets = {name: balanced_limit(s, limit) for name, s in images.sets.items()} if images else test_sets(profile, limit)
    path = train(profile, run, seed, images)
    policy = None
    found: dict[str, list[Episode]] = {}
    for name, samples in sets.items():
        target = folder(profile) / "work/episodes" / f"{run}-s{seed}" / f"{name}.jsonl"
        key = _key(path, profile, samples, variant, options)
        if not is_kept(target, key):
            policy = policy or LocalPolicy.from_path(path, name=run, batch=profile.inspection.batch)
            episodes = loop.inspect(
                policy, samples, profile=profile, mode=variant.mode, allowed_tools=variant.tools, seed=seed,
                progress=f"{run} s{seed} {name}", **options,
            )  # fmt: skip
            keep_episodes(target, key, episodes)
        found[name] = list(read_episodes(target))
    return found


def _key(path: Path | str, profile: Profile, samples: Sequence[Sample], variant: Variant, options: Any) -> str:
    """Hash of the weights, the code that inspects, its settings and every image's name, size and label."""
    images = [(s.id, s.label, s.image.stat().st_size) for s in samples]
    facts = {"tools": variant.tools, "mode": variant.mode, "options": {k: str(v) for k, v in options.items()}}
    return training_runs.identity(
        path, ["loop", "local_policy"], inspection=asdict(profile.inspection), images=images, **facts
    )


def ablate(profile: Profile, runs: Sequence[str], seeds: int = 1) -> dict[str, dict[str, list[Episode]]]:
    """Train and evaluate `runs` for seeds 0..`seeds`-1; the episodes of all seeds stand in one list per set.

    On a CPU the runs go side by side, one thread each: the miniature keeps one core busy, not two. SFT begins: longest.
    """
    todo = [(run, seed) for run in runs for seed in range(1 if run == "base" else seeds)]
    taught = {seed for run, seed in todo if VARIANTS[VARIANTS[run].model_of or run].trained}
    images = Images(test_sets(profile), {seed: prompts(profile, seed) for seed in sorted(taught)})
    starts = {(VARIANTS[VARIANTS[run].model_of or run].start, seed) for run, seed in todo}
    current = [train(profile, start, seed) for start, seed in sorted(starts) if start not in ("base", "shipped")]
    models = sorted({(VARIANTS[r].model_of or r, s): 0 for r, s in todo}, key=lambda model: VARIANTS[model[0]].trained)
    training_runs.free_memory()  # the workers' GPUs
    for job, part, text in ((_train_job, models, "train runs"), (_evaluate_job, todo, "inspect runs")):
        jobs = [(profile, run, seed, images, tuple(current)) for run, seed in part]
        done = run_jobs(job, jobs, min(side_by_side(), len(part)), few=2, gpus=gpus())
        current += [path for path in tqdm(done, total=len(part), desc=text, disable=len(part) < 2) if path]
    found: dict[str, dict[str, list[Episode]]] = {}
    for run, seed in todo:
        for name, episodes in evaluate(profile, run, seed, images).items():
            found.setdefault(run, {}).setdefault(name, []).extend(episodes)
    _CURRENT.clear()  # jobs that ran in this process left theirs
    return found


def side_by_side() -> int:
    """Processes that compute at a time: one thread each on a CPU, one on each GPU."""
    return len(gpus()) or min(os.cpu_count() or 1, MOST_WORKERS)


def _train_job(
    profile: Profile, run: str, seed: int, images: Images, current: tuple[Path | str, ...]
) -> Path | str:  # fmt: skip
    _CURRENT.update(current)
    return train(profile, run, seed, images)


def _evaluate_job(
    profile: Profile, run: str, seed: int, images: Images, current: tuple[Path | str, ...]
) -> None:  # fmt: skip
    _CURRENT.update(current)
    evaluate(profile, run, seed, images)  # finds the result on disk later


def read_runs(profile: Profile, runs: Sequence[str] = (), seeds: int = 1) -> dict[str, dict[str, list[Episode]]]:
    """Every run's episodes that lie on disk, seeds 0..`seeds`-1 together, in the order of `VARIANTS`."""
    base = folder(profile) / "work/episodes"
    found: dict[str, dict[str, list[Episode]]] = {}
    for run in runs or VARIANTS:
        for path in (p for seed in range(seeds) for p in sorted(base.glob(f"{run}-s{seed}/*.jsonl"))):
            found.setdefault(run, {}).setdefault(path.stem, []).extend(read_episodes(path))
    return found
