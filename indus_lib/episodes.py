"""`Episode`: what happened in one inspection. The only currency between loop, corpus, training, metrics, widgets.

Images are not stored: a tool is a pure function of (image, arguments), so a reader makes them again with
`tools.run`. An episode is frozen, versioned and goes to JSONL and back without loss.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import jsonl
from .samples import Box

VERSION = 1


@dataclass(frozen=True)
class ToolCall:
    """One call and its result. `ok` False: the observation says what was wrong (never an exception)."""

    name: str
    arguments: dict[str, Any]
    ok: bool = True
    text: str = ""
    regions: tuple[Box, ...] = ()  # where the tool looked or measured, relative units (for figures)
    n_images: int = 0
    ms: float = 0.0


@dataclass(frozen=True)
class Turn:
    """One assistant message and the calls that were run because of it."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    margin: float | None = None  # log p(Yes) - log p(No) had the agent answered here, after this turn's think
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Verdict:
    """The final answer. `box` and `type` only when `anomalous`."""

    anomalous: bool
    box: Box | None = None
    type: str = ""


@dataclass(frozen=True)
class Episode:
    """One inspection of one sample.

    Attributes:
        sample_id, dataset, category, image: Copied from the sample, so that a file of episodes stands alone.
        mode: `agent` (tools, strict tags) or `direct` (one zero-shot prompt, free-text parser).
        turns: Assistant turns in order; at most two for the agent (route, decide; paper section 3).
        verdict: None when the answer did not parse: counted as wrong, never dropped.
        violations: Names of format violations, empty when the trajectory is strictly valid.
        margin: log p(Yes) - log p(No) at the final decision; None when the policy gives no log-probabilities.
        margin_before: The same without tool calls and results (delta_conf's second term; paper section 6).
        error: Why there is no answer (endpoint down, broken image), "" otherwise.
    """

    sample_id: str
    dataset: str = "custom"
    category: str = ""
    image: str = ""
    label: bool | None = None
    policy: str = ""
    profile: str = ""
    mode: str = "agent"
    turns: tuple[Turn, ...] = ()
    verdict: Verdict | None = None
    violations: tuple[str, ...] = ()
    margin: float | None = None
    margin_before: float | None = None
    seconds: float = 0.0
    seed: int = 0
    error: str = ""
    version: int = VERSION
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every tool call in order."""
        return tuple(call for turn in self.turns for call in turn.calls)

    @property
    def correct(self) -> bool:
        """Right verdict against a known label; an unparsed answer is wrong."""
        return self.verdict is not None and self.verdict.anomalous == self.label

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-serialisable dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Episode:
        """Inverse of `to_json`. Raises ValueError for another schema version."""
        if data.get("version") != VERSION:
            raise ValueError(f"episode schema version {data.get('version')!r}, this library reads {VERSION}")
        turns = tuple(_turn(t) for t in data["turns"])
        verdict = data["verdict"] and Verdict(
            data["verdict"]["anomalous"], _box(data["verdict"]["box"]), data["verdict"]["type"]
        )
        return cls(**{**data, "turns": turns, "verdict": verdict, "violations": tuple(data["violations"])})


def _box(values: Iterable[int] | None) -> Any:
    return None if values is None else tuple(values)


def _turn(data: dict[str, Any]) -> Turn:
    calls = tuple(ToolCall(**{**c, "regions": tuple(_box(r) for r in c["regions"])}) for c in data["calls"])
    return Turn(**{**data, "calls": calls})


def write_episodes(path: Path | str, episodes: Iterable[Episode]) -> Path:
    """Write JSONL atomically (temporary name, then rename): a killed run leaves no half file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    with part.open("w", encoding="utf-8") as file:
        for episode in episodes:
            file.write(jsonl.line(episode.to_json()))
    os.replace(part, path)
    return path


def read_episodes(path: Path | str) -> Iterator[Episode]:
    """Episodes of a JSONL file. Raises ValueError naming the line that does not read."""
    return jsonl.read(path, Episode.from_json, wrong="not an episode", advice="delete the line or inspect again")


def is_kept(target: Path, key: str) -> bool:
    """Whether `target` holds the episodes that `keep_episodes` wrote under this very key."""
    mark = target.with_suffix(".key")
    return target.is_file() and mark.is_file() and mark.read_text() == key


def keep_episodes(target: Path, key: str, episodes: Sequence[Episode]) -> None:
    """Write episodes and, last, the key of all that decided them: its presence says that they are whole."""
    target.with_suffix(".key").unlink(missing_ok=True)
    write_episodes(target, episodes)
    part = target.with_suffix(".key.part")
    part.write_text(key)
    os.replace(part, target.with_suffix(".key"))
