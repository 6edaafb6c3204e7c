"""Work that survives being killed: an append-only log of results, and a pool that fills it in a fixed order."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from . import jsonl
from .workers import run_jobs

Job = Callable[..., dict[str, Any]]


class WorkLog:
    """Results by key in a JSONL file, one line each, flushed as they come.

    The first line holds a digest of what the results depend on. A log of other work is put aside (`.old`), a torn last
    line (the process died while writing) is cut off.
    """

    def __init__(self, path: Path, depends_on: Any) -> None:
        """Open or begin the log. `depends_on`: JSON-serialisable configuration of the work."""
        self.path = path
        self.results: dict[str, dict[str, Any]] = {}
        digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not self._load(digest):
            os.replace(path, path.with_suffix(".old"))
        if not path.exists():
            path.write_text(jsonl.line({"work": digest}), encoding="utf-8")

    def _load(self, digest: str) -> bool:
        with self.path.open("rb") as file:
            if file.readline() != jsonl.line({"work": digest}).encode():
                return False
        jsonl.cut_torn_line(self.path)
        advice = "delete the line, its work is then done again"
        self.results = dict(filter(None, jsonl.read(self.path, _entry, wrong="not a result", advice=advice)))
        return True

    def fill(self, jobs: Iterable[tuple[str, tuple[Any, ...]]], job: Job, workers: int, progress: str = "") -> None:
        """Run `job(*arguments)` for every key that has no result yet and log each result.

        Args:
            jobs: (key, arguments); arguments and results must pickle, results must be JSON.
            job: Module-level function.
            workers: Processes; 1 = in this one.
            progress: Text of the progress bar, "" = none.
        """
        missing = [(key, arguments) for key, arguments in dict(jobs).items() if key not in self.results]
        if not missing:
            return
        results = run_jobs(job, [arguments for _, arguments in missing], workers)
        bar = tqdm(results, total=len(missing), desc=progress, disable=not progress, unit="image")
        for (key, _), result in zip(missing, bar, strict=True):
            self.add({key: result})

    def add(self, results: Mapping[str, dict[str, Any]]) -> None:
        """Log results that came together, in one write."""
        lines = (jsonl.line({"key": key, "result": result}) for key, result in results.items())
        jsonl.append(self.path, "".join(lines))
        self.results.update(results)


def _entry(entry: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """(key, result) of a line; None for the first one, which holds the digest."""
    return None if "work" in entry else (entry["key"], entry["result"])


MAKERS = ("boxes", "corpus_offline", "free_text", "images", "parsing", "priors", "protocol", "quality", "row_",
          "sight", "taxonomy", "teacher", "tool")  # fmt: skip
"""Beginnings of the names of the modules that decide what a trajectory says."""


def made_with() -> str:
    """Digest of the code and data that trajectories depend on: results of an older library are not resumed."""
    here = Path(__file__).resolve().parent
    code = [p for p in sorted(here.glob("*.py")) if p.stem.startswith(MAKERS)]
    data = [*sorted((here.parent / "data" / "priors").glob("*.yaml")), here.parent / "data" / "taxonomy.yaml"]
    return digest_of([*code, *data])


def digest_of(files: Iterable[Path]) -> str:
    """Digest over the contents of files, in order."""
    total = hashlib.blake2b(digest_size=16)
    for path in files:
        total.update(hashlib.blake2b(path.read_bytes(), digest_size=16).digest())
    return total.hexdigest()


def write_atomically(path: Path, text: str) -> Path:
    """Write a text file under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    return path
