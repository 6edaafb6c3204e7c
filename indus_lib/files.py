"""Text files that are there whole or not at all. Standard library only, so that every script can use it."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path | str, text: str) -> Path:
    """Write UTF-8 through a temporary name beside `path`, so that a killed run leaves no half file; missing folders are
    made.

    Raises:
        OSError: The disk is full or `path` cannot be written; an older file stays as it was.
        UnicodeEncodeError: `text` holds half a character (`jsonl.encodable` replaces those).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # two processes that write one file keep apart
    try:
        part.write_text(text, encoding="utf-8", newline="")  # the same bytes on every system
        os.replace(part, path)
    finally:  # whatever happens, Ctrl-C included
        part.unlink(missing_ok=True)
    return path
