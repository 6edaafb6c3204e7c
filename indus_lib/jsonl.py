"""JSON lines: what a line holds cannot break the file, and a line that does not read is told by file and number.

Lines are ASCII, everything else is escaped. A model can write half a character (`"\\ud83d"` in its arguments), which
has no UTF-8, and U+2028, U+2029 and U+0085, which `str.splitlines` takes for ends of lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def line(entry: Any) -> str:
    """One entry as a line, its end included."""
    return json.dumps(entry) + "\n"


def read(path: Path | str, take: Callable[[Any], T], *, wrong: str, advice: str) -> Iterator[T]:
    """`take(entry)` of every line that is not empty.

    Args:
        path: UTF-8 file; only a line feed ends a line.
        take: Makes of an entry what is wanted; raises where the entry is none of its kind.
        wrong: What a bad line is not, for the error ("not an episode").
        advice: What to do about it.

    Raises:
        ValueError: A line that is no JSON or that `take` does not take; names file, line, `wrong` and `advice`.
    """
    with Path(path).open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                entry = take(json.loads(raw.decode("utf-8")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}: {wrong} ({error}); {advice}") from error
            yield entry


def cut_torn_line(path: Path) -> None:
    """Cut off a last line without an end: the process died while it wrote that."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def append(path: Path, lines: str) -> None:
    """Add whole lines, or nothing: where the disk is full, half a line would spoil the next one. Raises OSError."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(lines)
    except OSError:
        if path.exists():  # else it could not even be opened
            os.truncate(path, size)
        raise


def encodable(text: str) -> str:
    """The text with every lone surrogate as U+FFFD: what a tokenizer or a socket takes."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
