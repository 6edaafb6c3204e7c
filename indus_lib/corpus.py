"""Indus-CoT, built as the paper does (section 4): filter, sample in balance, teach, gate, write.

`build` makes the corpus from any pool of labelled samples; `read`, `to_sample` and `conversation` are what training,
figures and widgets use, `to_episode` shows a record like any other trajectory. `docs/corpus.md` has the schema.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import corpus_stats, images, jsonl, leakage, parsing, protocol, terse_thoughts, tools
from .corpus_offline import Accepted, Settings, produce
from .corpus_work import WorkLog, digest_of, made_with, write_atomically
from .episodes import Episode, ToolCall, Turn, Verdict
from .loop import shown
from .policies import Conversation
from .profiles import Inspection
from .samples import Sample
from .teacher_tools import rng_for

VERSION = 1
FILE, REPORT, CARD, WORK = "corpus.jsonl", "report.json", "DATA_CARD.md", "work.jsonl"
Record = dict[str, Any]


@dataclass(frozen=True)
class BuildReport:
    """What came of a build. `rejected`: drafts and samples by reason; `dropped`: categories the filter removed."""

    path: Path
    n: int
    requested: int
    rejected: dict[str, int]
    dropped: dict[str, str]
    statistics: dict[str, Any] = field(default_factory=dict)


def build(
    samples: Sequence[Sample],
    out_dir: Path | str,
    *,
    n: int = 3000,
    teacher: Any = "offline",
    seed: int = 0,
    workers: int = 2,
    test_categories: Iterable[str] = (),
    detail: str = "short",
    validation: float = 0.05,
    exploration: float = 0.3,
    max_tokens: int | None = None,
    image_files: str = "reference",
    progress: str = "",
) -> BuildReport:
    """Build the corpus in `out_dir`: `corpus.jsonl`, `report.json`, `DATA_CARD.md`.

    A build that was killed goes on where it was when called again with the same arguments, and ends with the same
    bytes. `work.jsonl` holds its state; it may be deleted afterwards.

    Args:
        samples: Labelled training samples (any reader's); anomalous ones with boxes.
        out_dir: Made when missing.
        n: Trajectories wanted, half of them anomalous (paper section 4: about 3,000).
        teacher: `offline`, or a `teacher_endpoint.EndpointTeacher`.
        seed: Of sampling and wording.
        workers: Processes of the offline teacher.
        test_categories: Names of every category of the test sets; training categories that overlap are dropped.
        detail: `short` routing fields for a tiny context, or `full`.
        validation: Share that gets `split` "val".
        exploration: Share of trajectories with a tool that may not help.
        max_tokens: Longest turn, counted as the tiny tokenizer splits; None = any.
        image_files: `reference` writes paths relative to `out_dir`; `copy` copies the photographs and the tools'
            images into `out_dir/images`, so that the folder stands alone.
        progress: Text of the progress bars, "" = none.

    Raises:
        ValueError: Unusable arguments, or no sample is left after the filter.
    """
    _check_arguments(n, detail, validation, image_files)
    out_dir = Path(out_dir)
    kept, dropped = disjoint(samples, test_categories)
    usable = [s for s in kept if s.label is not None]
    _check_samples(usable, dropped)
    if teacher == "offline":
        settings = Settings(n, seed, detail, exploration, max_tokens, workers, progress)
        content = digest_of(s.image for s in usable if Path(s.image).is_file())
        depends = [VERSION, n, seed, detail, exploration, max_tokens, made_with(), content, [str(s) for s in usable]]
        accepted, rejected = produce(usable, settings, WorkLog(out_dir / WORK, depends))
        name = "offline"
    else:
        accepted, rejected = teacher.produce(usable, n=n, seed=seed, detail=detail, max_tokens=max_tokens)
        name = teacher.name
    records = [_record(a, out_dir, name, seed, validation, image_files) for a in accepted]
    records.sort(key=lambda r: rng_for(seed, r["id"], "shuffle").random())
    return _write(records, out_dir, n, seed, name, rejected, dropped)


def _check_arguments(n: int, detail: str, validation: float, image_files: str) -> None:
    if n < 2:
        raise ValueError(f"corpus: n is {n}, at least 2 are needed (one normal, one anomalous)")
    if detail not in ("short", "full"):
        raise ValueError(f"corpus: detail {detail!r}: short or full")
    if not 0 <= validation < 1:
        raise ValueError(f"corpus: validation {validation}: a share in 0..1")
    if image_files not in ("reference", "copy"):
        raise ValueError(f"corpus: image_files {image_files!r}: reference or copy")


def _check_samples(usable: Sequence[Sample], dropped: Mapping[str, str]) -> None:
    labels = Counter(s.label for s in usable)
    if not labels[True] or not labels[False]:
        raise ValueError(
            f"corpus: {labels[False]} normal and {labels[True]} anomalous samples are left of the pool after "
            f"{len(dropped)} categories were dropped ({', '.join(dropped) or 'none'}); both kinds are needed"
        )


def disjoint(samples: Sequence[Sample], test_categories: Iterable[str]) -> tuple[list[Sample], dict[str, str]]:
    """Samples of categories that overlap with no test category, and the dropped categories with the reason.

    Paper section 4: exact names, and names that are equal after normalising variants.
    """
    kept, overlaps = leakage.disjoint(samples, test_categories)
    return kept, {o.train: f"{o.reason}: {o.test}" for o in overlaps}


def _record(a: Accepted, out_dir: Path, teacher: str, seed: int, validation: float, image_files: str) -> Record:
    s = a.sample
    name = a.key.replace("/", "_")
    copies = image_files == "copy"
    image = _copy(s, out_dir, name) if copies else os.path.relpath(s.image, out_dir)
    return {
        "version": VERSION, "id": a.key, "sample_id": s.id, "image": Path(image).as_posix(),
        "tile": list(s.tile) if s.tile and not copies else None, "dataset": s.dataset, "category": s.category,
        "view": s.view, "label": bool(s.label), "defect": s.defect, "node": s.node, "boxes": [list(b) for b in s.boxes],
        "mm_per_pixel": s.mm_per_pixel, "messages": _messages(a, out_dir, name if copies else ""),
        "split": "val" if rng_for(seed, s.id, "split").random() < validation else "train",
        "teacher": teacher, "score": a.score,
    }  # fmt: skip


def _copy(sample: Sample, out_dir: Path, name: str) -> str:
    """Copy the photograph (its tile, where it has one) into the corpus."""
    if sample.tile:
        target = Path("images") / f"{name}.png"
        images.save_png(out_dir / target, images.load_image(sample.image, sample.tile))
        return str(target)
    target = Path("images") / f"{name}{Path(sample.image).suffix.lower()}"
    (out_dir / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sample.image, out_dir / target)
    return str(target)


def _messages(a: Accepted, out_dir: Path, name: str) -> list[dict[str, Any]]:
    """Assistant and tool messages. Arguments are JSON text: one column type for every tool (Arrow needs that)."""
    messages: list[dict[str, Any]] = []
    for turn in a.turns:
        calls = [
            {"name": c.name, "arguments": json.dumps(c.arguments), "ok": c.ok, "text": c.text,
             "regions": [list(r) for r in c.regions], "n_images": c.n_images}
            for c in turn.calls
        ]  # fmt: skip
        messages.append({"role": "assistant", "text": turn.text, "calls": calls, "images": []})
        if turn.calls:
            files = _export(a, turn.calls, out_dir, name) if name else []
            messages.append({"role": "tool", "text": _observed(turn.calls), "calls": [], "images": files})
    return messages


def _observed(calls: Sequence[ToolCall]) -> str:
    return "<observation>" + "".join(c.text.replace("<", "(").replace(">", ")") for c in calls) + "</observation>"


def _export(a: Accepted, calls: Sequence[ToolCall], out_dir: Path, name: str) -> list[str]:
    shown = [image for _, result in run_calls(a.sample, calls) for image in result.images]
    files = [f"images/{name}.{i}.png" for i in range(len(shown))]
    for file, image in zip(files, shown, strict=True):
        images.save_png(out_dir / file, image)
    return files


def _write(
    records: list[Record],
    out_dir: Path,
    n: int,
    seed: int,
    teacher: str,
    rejected: Counter[str],
    dropped: dict[str, str],
) -> BuildReport:
    statistics = corpus_stats.statistics(records)
    report = {
        "version": VERSION, "n": len(records), "requested": n, "seed": seed, "teacher": teacher,
        "rejected": dict(sorted(rejected.items())),
        "dropped_categories": dropped, "statistics": statistics,
    }  # fmt: skip
    path = write_atomically(out_dir / FILE, "".join(map(jsonl.line, records)))
    write_atomically(out_dir / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out_dir / CARD, corpus_stats.data_card(report))
    return BuildReport(path, len(records), n, dict(rejected), dropped, statistics)


# --- reading ------------------------------------------------------------------------------------------------------


def read(path: Path | str, split: str | None = None) -> list[Record]:
    """Records of a `corpus.jsonl` or the folder that holds it.

    Raises:
        ValueError: A line that is no record, or another schema version.
        FileNotFoundError: No such file.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    records = jsonl.read(path, _checked, wrong="not a corpus record", advice="build the corpus again")
    return [r for r in records if split is None or r["split"] == split]


def _checked(record: Record) -> Record:
    if record["version"] != VERSION:
        raise ValueError(f"schema version {record['version']}, this library reads {VERSION}")
    return record


def to_sample(record: Record, folder: Path | str) -> Sample:
    """The sample behind a record. `folder`: where `corpus.jsonl` lies."""
    return Sample(
        id=record["sample_id"], image=Path(os.path.normpath(Path(folder) / record["image"])),
        dataset=record["dataset"], category=record["category"], label=record["label"], split="train",
        view=record["view"], defect=record["defect"], node=record["node"],
        boxes=tuple(tuple(b) for b in record["boxes"]), tile=tuple(record["tile"]) if record["tile"] else None,
        mm_per_pixel=record["mm_per_pixel"],
    )  # fmt: skip


def to_turns(record: Record) -> tuple[Turn, ...]:
    """Assistant turns with their calls."""
    return tuple(Turn(m["text"], tuple(map(_call, m["calls"]))) for m in record["messages"] if m["role"] == "assistant")


def _call(c: Mapping[str, Any]) -> ToolCall:
    regions = tuple(tuple(r) for r in c["regions"])
    return ToolCall(c["name"], json.loads(c["arguments"]), c["ok"], c["text"], regions, c["n_images"])


def to_episode(record: Record) -> Episode:
    """A record as an episode, for figures, the trace player and metrics."""
    turns = to_turns(record)
    last = parsing.parse_turn(turns[-1].text, final=len(turns) > 1)
    return Episode(
        sample_id=record["sample_id"], dataset=record["dataset"], category=record["category"], image=record["image"],
        label=record["label"], policy=f"teacher:{record['teacher']}", turns=turns,
        verdict=None if last.answer is None else Verdict(last.answer, last.location, last.type),
        extra={"corpus_id": record["id"], "split": record["split"], "score": record["score"]},
    )  # fmt: skip


def run_calls(sample: Sample, calls: Sequence[ToolCall], image: Any = None) -> list[tuple[ToolCall, tools.ToolResult]]:
    """Run a turn's calls again; tools are pure, so this gives the images that the teacher saw."""
    image = images.load_image(sample.image, sample.tile) if image is None else image
    context = {"category": sample.category, "view": sample.view, "mm_per_pixel": sample.mm_per_pixel}
    return [(c, tools.run(c.name, c.arguments, image, **context)) for c in calls]


def conversation(
    record: Record, folder: Path | str, config: Inspection, *, terse: bool = False,
    offer: Sequence[str] = protocol.TOOL_NAMES, at_sight: bool = False,
) -> Conversation:  # fmt: skip
    """The whole trajectory with the tokens of the inspection loop: what SFT trains on.

    Args:
        record: One of `read`.
        folder: Where `corpus.jsonl` lies.
        config: The profile's `inspection`: wording of the instruction, size of the shown image.
        terse: Thoughts are cut to their finding (`terse_thoughts.terse`).
        offer: The tools that the instruction names.
        at_sight: No tool is offered, and the verdict follows the first thought: what an agent without tools learns.
    """
    sample, turns = to_sample(record, folder), to_turns(record)
    image = images.load_image(sample.image, sample.tile)
    name = sample.category if config.name_category else ""
    question = protocol.question(name, config.detail, () if at_sight else offer)
    talk = protocol.start(shown(image, config.max_side), question)
    if at_sight:
        texts = [turn.text for turn in turns]
        return protocol.add_assistant(talk, terse_thoughts.at_sight(texts, bool(sample.label), short=terse))
    names = ""
    for turn in turns:
        talk = protocol.add_assistant(talk, terse_thoughts.terse(turn.text, names) if terse else turn.text)
        if turn.calls:
            results = run_calls(sample, turn.calls, image)
            names, talk = terse_thoughts.to_compare(results), protocol.add_observation(talk, results)
    return talk
