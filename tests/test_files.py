"""A text file is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indus_lib import files

ERRORS = [KeyboardInterrupt(), OSError(28, "No space left on device")]


def test_the_file_holds_exactly_the_text_in_utf_8_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = files.write_text(str(tmp_path / "new" / "folder" / "a.txt"), "ü\r\n✓\n")
    assert path == tmp_path / "new" / "folder" / "a.txt" and path.read_bytes() == "ü\r\n✓\n".encode()
    files.write_text(path, "shorter")
    assert path.read_text() == "shorter" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("step", ["write", "rename"])
def test_an_interrupted_write_leaves_the_old_text_and_no_temporary_file(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.write_text(tmp_path / "a.txt", "old")
    write = Path.write_text

    def half(target: Path, text: str, **options: str) -> None:
        write(target, text[: len(text) // 2], **options)
        raise error

    def never(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(Path, "write_text", half)
        else:
            patch.setattr(os, "replace", never)
        with pytest.raises(type(error)):
            files.write_text(path, "a longer text")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for wrong in ("folder", "file/a.txt"):
        with pytest.raises(OSError, match=wrong.partition("/")[0]):
            files.write_text(tmp_path / wrong, "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_half_a_character_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "a.txt", "caf\udce9")
    assert not list(tmp_path.iterdir())
