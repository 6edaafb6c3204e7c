"""Files of JSON lines: no character inside a text breaks them, and a bad line is told with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indus_lib import corpus, jsonl, loop, parsing, profiles, protocol
from indus_lib.corpus_work import WorkLog
from indus_lib.episodes import Episode, ToolCall, Turn, read_episodes, write_episodes
from indus_lib.policies import ScriptedPolicy
from indus_lib.reply_cache import ReplyCache, request_key
from indus_lib.samples import Sample

NASTY = "half \ud83d, breaks \u2028 \u2029 \x85 \x0b \r\n, plain ü ✓"
OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "temperature": 0.0, "seed": 0}


def talk(text: str = "q") -> list[dict[str, Any]]:
    return protocol.start(np.zeros((8, 8, 3), np.uint8), text)


def test_episodes_keep_every_character(tmp_path: Path) -> None:
    call = ToolCall("prior", {"query": NASTY}, text=NASTY)
    episodes = [Episode("a", turns=(Turn(NASTY, (call,)),)), Episode("b")]
    path = write_episodes(tmp_path / "e.jsonl", episodes)
    assert list(read_episodes(path)) == episodes and path.read_bytes().count(b"\n") == 2


def test_the_cache_keeps_every_character_and_is_read_again(tmp_path: Path) -> None:
    cache = ReplyCache(ScriptedPolicy([NASTY]), tmp_path / "r.jsonl")
    assert cache.reply([talk(), talk(NASTY)], **OPTIONS)[0].text == NASTY
    again = ReplyCache(ScriptedPolicy(["another"]), tmp_path / "r.jsonl")
    assert [r.text for r in again.reply([talk(), talk(NASTY)], **OPTIONS)] == [NASTY, NASTY]


def test_what_an_older_library_stored_is_read(tmp_path: Path) -> None:
    """Line separators stood there as they are, and a count could be null."""
    entry = {"request": request_key("scripted", talk(), OPTIONS), "text": "a\u2028b\x85c", "prompt_tokens": None,
             "completion_tokens": 3}  # fmt: skip
    (tmp_path / "r.jsonl").write_text(json.dumps(entry, ensure_ascii=False) + "\n", encoding="utf-8")
    (reply,) = ReplyCache(ScriptedPolicy(["another"]), tmp_path / "r.jsonl").reply([talk()], **OPTIONS)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("a\u2028b\x85c", 0, 3)


def test_work_and_corpus_keep_line_separators(tmp_path: Path) -> None:
    log = WorkLog(tmp_path / "w.jsonl", 1)
    log.fill([("k", (NASTY,))], _echo, workers=1)
    text = (tmp_path / "w.jsonl").read_text(encoding="utf-8").replace("\\u2028", "\u2028")  # as older ones wrote it
    (tmp_path / "w.jsonl").write_text(text, encoding="utf-8")
    assert WorkLog(tmp_path / "w.jsonl", 1).results == {"k": {"x": NASTY}}
    (tmp_path / corpus.FILE).write_text('{"version": 1, "id": "a\u2028b"}\n', encoding="utf-8")
    assert corpus.read(tmp_path) == [{"version": 1, "id": "a\u2028b"}]


def _echo(text: str) -> dict[str, str]:
    return {"x": text}


@pytest.mark.parametrize("bad", ["{", "[1]", "5", '{"request": "x"}', '{"key": "x"}', "\udcff"], ids=range(6))
def test_a_bad_line_is_told_with_file_number_and_what_to_do(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    line = (bad + "\n").encode(errors="surrogateescape")
    WorkLog(path, 1)
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(ValueError, match=r"file\.jsonl, line 2: not a result .*delete the line"):
        WorkLog(path, 1)
    assert WorkLog(path, 2).results == {}, "a log of other work is put aside unread"
    path.write_bytes(b"\n" + line)
    with pytest.raises(ValueError, match=r"file\.jsonl, line 2: not a stored reply .*asked again"):
        ReplyCache(ScriptedPolicy(["x"]), path)
    with pytest.raises(ValueError, match=r"file\.jsonl, line 2: not an episode .*delete the line"):
        list(read_episodes(path))
    with pytest.raises(ValueError, match=r"file\.jsonl, line 2: not a corpus record .*build the corpus again"):
        corpus.read(path)


def test_half_a_character_in_a_call_is_no_json_and_the_inspection_goes_on(tmp_path: Path) -> None:
    call = '<think>a</think><call_tool>{"name":"prior","arguments":{"query":"x \\ud83d"}}</call_tool>'
    assert parsing.parse_turn(call).violations == ("bad_call_json",)
    assert parsing.parse_turn(call.replace("\\ud83d", "\\ud83d\\ude00")).valid, "both halves are a character"
    image = np.zeros((32, 32, 3), np.uint8)
    policy = ScriptedPolicy([call, "<think>a \ud83d</think><answer>No</answer>"])
    traces = loop.rollout(policy, [Sample("a", Path("x"))], config=profiles.get("tiny").inspection, frames=[image])
    episode = loop.episode(traces[0], "p", "tiny", "agent", 0)
    assert list(read_episodes(write_episodes(tmp_path / "e.jsonl", [episode]))) == [episode]


def test_encodable() -> None:
    assert jsonl.encodable("a\ud83d\ude00b ü") == "a😀b ü"
    assert jsonl.encodable("x \ud83d y \udc00") == "x \ufffd y \ufffd"


def test_what_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next answer would be glued to it; and what is not stored is not taken for known."""
    path = tmp_path / "r.jsonl"
    cache = ReplyCache(ScriptedPolicy(lambda conversation, turn: "an answer"), path)
    cache.reply([talk("a")], **OPTIONS)
    full = path.read_bytes()

    class Full:
        def __init__(self, file: Any):
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def write(self, text: str) -> None:
            self.file.write(text[: len(text) // 2])
            self.file.flush()
            raise OSError(28, "No space left on device")

    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda p, *a, **k: Full(opened(p, *a, **k)))
        with pytest.raises(OSError, match="No space"):
            cache.reply([talk("b")], **OPTIONS)
    assert path.read_bytes() == full
    with pytest.raises(FileNotFoundError, match="no_folder"):
        jsonl.append(tmp_path / "no_folder" / "r.jsonl", "a line\n")
    cache.reply([talk("b"), talk("c")], **OPTIONS)
    assert len(ReplyCache(ScriptedPolicy(lambda *_: ""), path)._known) == 3
