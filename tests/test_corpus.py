"""The corpus: balanced, disjoint, resumable to the byte, readable, and silent about the labels."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from corpus_pool import make_pool
from endpoint_servers import chat_server
from fastapi import Response

from indus_lib import corpus, corpus_stats, images, loop, parsing, profiles, protocol, quality, teacher_endpoint
from indus_lib.corpus_work import WorkLog
from indus_lib.endpoint_policy import EndpointPolicy
from indus_lib.episodes import Episode, ToolCall, Turn
from indus_lib.figures_corpus import corpus_figures
from indus_lib.policies import ScriptedPolicy
from indus_lib.processing import images_of
from indus_lib.reply_cache import ReplyCache, request_key


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("pool"), 48, ("plate", "lid", "cover"))


@pytest.fixture(scope="module")
def built(pool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    report = corpus.build(pool, folder, n=40, workers=1, test_categories=["covers"], max_tokens=96)
    return folder, report, corpus.read(folder)


def test_every_trajectory_passes_the_gate_again(built) -> None:
    folder, report, records = built
    assert report.n == len(records) >= 36
    for record in records:
        sample = corpus.to_sample(record, folder)
        assert quality.check(corpus.to_turns(record), sample, max_tokens=96) == ()


def test_balance_and_disjointness(built) -> None:
    _, report, records = built
    labels = Counter(r["label"] for r in records)
    assert 0.45 <= labels[False] / len(records) <= 0.55
    assert "cover" in report.dropped and not any(r["category"] == "cover" for r in records)
    assert len({r["id"] for r in records}) == len(records)


def test_tools_do_not_tell_the_label_within_a_category(built) -> None:
    _, report, _ = built
    bits = report.statistics["tool_information_bits"]
    assert bits["actual"] <= bits["by_chance"] + 0.02


def test_images_exist_under_relative_paths(built) -> None:
    folder, _, records = built
    for record in records:
        assert not record["image"].startswith("/")
        assert corpus.to_sample(record, folder).image.is_file()


def test_conversation_is_what_the_inspection_loop_would_build(built) -> None:
    """Replaying a record's turns through the loop gives the same messages, images included."""
    folder, _, records = built
    profile = profiles.get("tiny")
    record = next(r for r in records if any(c["n_images"] for m in r["messages"] for c in m["calls"]))
    texts = [t.text for t in corpus.to_turns(record)]
    sample = corpus.to_sample(record, folder)
    trace = loop.rollout(ScriptedPolicy(texts), [sample], config=profile.inspection, margins=False)[0]
    ours = corpus.conversation(record, folder, profile.inspection)
    assert [m["role"] for m in ours] == [m["role"] for m in trace.conversation]
    for a, b in zip(ours, trace.conversation, strict=True):
        for x, y in zip(a["content"], b["content"], strict=True):
            assert x["type"] == y["type"]
            assert np.array_equal(x["image"], y["image"]) if x["type"] == "image" else x["text"] == y["text"]


def test_a_terse_answer_repeats_what_prior_and_crop_name(built) -> None:
    folder, _, records = built
    config, crop = profiles.get("tiny").inspection, ToolCall("crop", {"region": [0, 0, 1000, 1000]})
    record = next(r for r in records if r["label"] and r["defect"] != "scratch" and len(r["messages"]) > 1)

    def thought(*calls: ToolCall) -> str:
        first = {**record["messages"][0], "calls": [asdict(c) | {"arguments": json.dumps(c.arguments)} for c in calls]}
        talk = corpus.conversation(
            {**record, "category": "push_button", "messages": [first, *record["messages"][1:]]},
            folder,
            config,
            terse=True,
        )
        return talk[-1]["content"][0]["text"].partition("</think>")[0]

    assert thought(crop) == "<think>see something"
    assert thought(ToolCall("prior", {}), crop) == "<think>prior dot, crop dot, see something"


def test_an_agent_without_tools_is_taught_verdicts_at_first_sight(built) -> None:
    """One turn, no tool offered, nothing of what a tool said; label, place and type as they were."""
    folder, _, records = built
    config = profiles.get("tiny").inspection
    for record in (r for r in records if len(r["messages"]) > 1):
        talk = corpus.conversation(record, folder, config, at_sight=True, terse=True)
        assert [m["role"] for m in talk] == ["user", "assistant"] and len(images_of(talk)) == 1
        assert talk[0]["content"][-1]["text"] == protocol.question("", config.detail, ())
        said, whole = talk[-1]["content"][0]["text"], record["messages"][-1]["text"]
        assert said == f"<think>see {'some' if record['label'] else 'no'}thing" + whole[whole.index("</think>") :]
        assert parsing.parse_turn(said, allowed_tools=(), final=False).answer is bool(record["label"])


def test_episode_survives_its_own_json(built) -> None:
    for record in built[2]:
        episode = corpus.to_episode(record)
        assert episode.correct and Episode.from_json(json.loads(json.dumps(episode.to_json()))) == episode


def test_datasets_reads_it(built, tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset("json", data_files=str(built[0] / corpus.FILE), split="train", cache_dir=str(tmp_path))
    assert len(data) == len(built[2])
    assert data[0]["messages"][0]["text"] == built[2][0]["messages"][0]["text"]


def test_same_arguments_same_bytes_also_with_two_processes(pool, tmp_path) -> None:
    a = corpus.build(pool, tmp_path / "a", n=36, workers=1).path.read_text()
    b = corpus.build(pool, tmp_path / "b", n=36, workers=2).path.read_text()
    assert a == b
    assert corpus.build(pool, tmp_path / "c", n=36, seed=1, workers=1).path.read_text() != a


BUILD = "import sys; from corpus_pool import make_pool; from pathlib import Path; from indus_lib import corpus; " \
    "corpus.build(make_pool(Path(sys.argv[1]), 48), sys.argv[2], n=40, workers=1)"  # fmt: skip


def test_killed_and_resumed_equals_uninterrupted(repo, tmp_path) -> None:
    samples = make_pool(tmp_path / "pool", 48)
    whole = corpus.build(samples, tmp_path / "whole", n=40, workers=1).path.read_bytes()
    environment = {**os.environ, "PYTHONPATH": f"{repo}:{repo / 'tests'}", "OMP_NUM_THREADS": "1"}
    work, cut = tmp_path / "cut" / corpus.WORK, 0
    for lines in (8, 30):
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, str(tmp_path / "pool"), str(tmp_path / "cut")], env=environment
        )
        while process.poll() is None and (not work.exists() or work.read_bytes().count(b"\n") < lines):
            time.sleep(0.01)
        cut += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        with work.open("ab") as file:
            file.write(b'{"key": "write:torn')  # what a death in the middle of a write leaves
    assert cut, "the build was done before it could be killed"
    assert not (tmp_path / "cut" / corpus.FILE).exists()
    assert corpus.build(samples, tmp_path / "cut", n=40, workers=1).path.read_bytes() == whole


def test_another_build_in_the_same_folder_does_not_reuse_results(tmp_path) -> None:
    log = WorkLog(tmp_path / "w.jsonl", {"seed": 0})
    log.fill([("k", (2,))], _double, workers=1)
    assert WorkLog(tmp_path / "w.jsonl", {"seed": 0}).results == {"k": {"x": 4}}
    assert WorkLog(tmp_path / "w.jsonl", {"seed": 1}).results == {}


def _double(x: int) -> dict:
    return {"x": 2 * x}


def test_copied_corpus_stands_alone(pool, tmp_path) -> None:
    corpus.build(pool[:16], tmp_path / "c", n=8, workers=1, image_files="copy")
    for record in corpus.read(tmp_path / "c"):
        assert record["image"].startswith("images/")
        shown = [i for m in record["messages"] for i in m["images"]]
        assert len(shown) == sum(c["n_images"] for m in record["messages"] for c in m["calls"])
        for file in (record["image"], *shown):
            images.load_image(tmp_path / "c" / file)


@pytest.mark.parametrize(
    ("options", "what"),
    [({"n": 1}, "n is 1"), ({"detail": "long"}, "detail"), ({"validation": 1.0}, "validation"),
     ({"image_files": "zip"}, "image_files"), ({"test_categories": ["plate", "lid", "cover"]}, "were dropped")],
)  # fmt: skip
def test_unusable_arguments_are_named_and_nothing_is_written(pool, tmp_path, options, what) -> None:
    with pytest.raises(ValueError, match=what):
        corpus.build(pool, tmp_path / "c", **{"n": 10, **options})
    assert not (tmp_path / "c").exists()


def test_broken_files_are_named(tmp_path) -> None:
    (tmp_path / corpus.FILE).write_text('{"version": 1}\n{"version": 2}\n')
    with pytest.raises(ValueError, match=r"line 2.*version 2"):
        corpus.read(tmp_path)


def test_diversity_by_hand() -> None:
    assert corpus_stats.distinct_n(["a b a b"], 1) == 0.5
    assert corpus_stats.distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert corpus_stats.identical_share(["x", "x", "y", "z"]) == 0.5
    assert corpus_stats.identical_share([]) == 0.0


def test_figures_and_card(built) -> None:
    folder, _, records = built
    assert len(corpus_figures(records).axes) == 4
    many = [{**r, "category": f"part{k}"} for k in range(60) for r in records[:4]]
    assert "60 categories" in corpus_figures(many).axes[0].get_title()
    with pytest.raises(ValueError, match="no records"):
        corpus_figures([])
    assert f"{len(records)} trajectories" in (folder / corpus.CARD).read_text()


# --- endpoint teacher, against a real server ----------------------------------------------------------------------


def _completion(text: str) -> Response:
    body = {
        "id": "1", "object": "chat.completion", "created": 0, "model": "t",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip
    return Response(json.dumps(body), media_type="application/json")


def _prompt(body: dict) -> str:
    parts = body["messages"][0]["content"]
    return parts if isinstance(parts, str) else " ".join(p.get("text", "") for p in parts)


THINK = "<think>evidence: a plate; scale: small; cue: surface mark; suspicion: low; preliminary: No</think>"


def _teach(body: dict) -> str:
    """What a middling VLM might say: a JSON description, then a trajectory in the form that was asked for."""
    prompt = _prompt(body)
    if "Reply with one JSON object" in prompt:
        call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}}
        return "Here: " + json.dumps({"description": "A grey plate.", "calls": [call]})
    if "Reply with the number alone" in prompt:
        return "7"
    if "The verdict to arrive at: No" in prompt:
        call = "<call_tool>{}</call_tool><observation>x</observation>"
        return THINK + call + "<think>only plain surface</think><answer>No</answer>"
    box, kind = prompt.split("location ")[1].split(";")[0], prompt.split("; type ")[1].split(".")[0]
    end = f"<location>{box}</location><type>{kind}</type><answer>Yes</answer>"
    return THINK + f"<call_tool>{{}}</call_tool><think>the crop shows a dark {kind}</think>" + end


def _teacher(url: str, folder, **options):
    policy = EndpointPolicy(url, "t", timeout=1.0, retries=4, max_concurrency=4)
    return teacher_endpoint.EndpointTeacher(ReplyCache(policy, folder / "replies.jsonl"), **options)


def test_endpoint_teacher_survives_a_bad_server_and_pays_once(pool, tmp_path) -> None:
    """Throttled, timed out, cut off, garbled, wrong in form: nothing is lost, and a rerun asks nothing."""

    def answer(body: dict, number: int):
        if number % 11 == 3:
            return Response("slow down", 429, headers={"retry-after": "0"})
        if number % 11 == 5:
            return Response("down", 503, headers={"retry-after": "0"})
        if number % 11 == 7:
            return Response("<html>proxy error</html>", media_type="application/json")
        if number == 9:
            return _late(body)
        if number % 13 == 12:
            return _completion("I am not sure what you mean.")
        return _completion(_teach(body))

    async def _late(body: dict) -> Response:
        await asyncio.sleep(1.5)
        return _completion(_teach(body))

    with chat_server(answer) as (url, bodies):
        first = _teacher(url, tmp_path)
        report = corpus.build(pool, tmp_path / "one", n=12, teacher=first, detail="full")
        asked = len(bodies)
        again = _teacher(url, tmp_path)
        second = corpus.build(pool, tmp_path / "two", n=12, teacher=again, detail="full")
    assert report.n >= 10 and 0.4 <= report.statistics["normal_share"] <= 0.6
    assert first.replies.usage.prompt_tokens >= 10 * report.n
    assert first.replies.usage.failed == 0 and again.replies.usage.prompt_tokens == 0
    assert len(bodies) == asked, "a rerun must not ask again"
    for a, b in zip(corpus.read(report.path), corpus.read(second.path), strict=True):
        assert {**a, "image": 0} == {**b, "image": 0}
    for record in corpus.read(report.path):
        assert record["messages"][0]["calls"][0]["text"].startswith("crop [")


def test_stage_one_does_not_carry_the_label(pool, tmp_path) -> None:
    with chat_server(lambda body, _: _completion(_teach(body))) as (url, bodies):
        corpus.build(pool, tmp_path / "c", n=6, teacher=_teacher(url, tmp_path), detail="full")
    describing = [_prompt(b) for b in bodies if "Reply with one JSON object" in _prompt(b)]
    assert describing
    for prompt in describing:
        assert not any(word in prompt for word in ("verdict", "stain", "scratch", "pit", "anomalous", "normal"))


def test_llm_judge_decides_between_candidates(pool, tmp_path) -> None:
    def answer(body: dict, number: int) -> Response:
        if "Score this inspection" in _prompt(body):
            return _completion("9" if "second" in _prompt(body) else "2")
        text = _teach(body)
        return _completion(text.replace("a plate", "a second plate") if body.get("seed") == 1 else text)

    with chat_server(answer) as (url, _):
        replies = _teacher(url, tmp_path).replies
        judged = teacher_endpoint.EndpointTeacher(replies, judge=replies)
        report = corpus.build(pool, tmp_path / "c", n=4, teacher=judged, detail="full")
    for record in corpus.read(report.path):
        assert record["score"] == 0.9 and "second" in record["messages"][0]["text"]


def test_a_dead_endpoint_gives_reasons_not_a_crash(pool, tmp_path) -> None:
    policy = EndpointPolicy("http://127.0.0.1:9/v1", "t", timeout=0.2, retries=0)
    cache = ReplyCache(policy, tmp_path / "r.jsonl")
    report = corpus.build(pool[:8], tmp_path / "c", n=4, teacher=teacher_endpoint.EndpointTeacher(cache))
    assert report.n == 0 and report.rejected["endpoint_failed"] >= 4 and cache.usage.failed >= 4


def test_a_teacher_that_fails_for_long_stops_the_build(pool, tmp_path, monkeypatch) -> None:
    """A quota that ends must not leave the half of the corpus that came first; mended, the build goes on."""
    monkeypatch.setattr(teacher_endpoint, "BATCH", 4)
    spent = []

    def answer(body: dict, number: int) -> Response:
        if spent or "The verdict to arrive at: No" in _prompt(body):
            spent.append(1)
            return Response('{"error": {"message": "quota is spent"}}', 402, media_type="application/json")
        return _completion(_teach(body))

    with chat_server(answer) as (url, bodies):
        with pytest.raises(RuntimeError, match=r"endpoint failed for the last 4 samples: .*quota is spent.* run again"):
            corpus.build(pool, tmp_path / "c", n=12, teacher=_teacher(url, tmp_path), detail="full")
        assert not (tmp_path / "c/corpus.jsonl").exists()
    with chat_server(lambda body, _: _completion(_teach(body))) as (url, bodies):
        report = corpus.build(pool, tmp_path / "c", n=12, teacher=_teacher(url, tmp_path), detail="full")
    assert report.n == 12 and not any("The verdict to arrive at: Yes" in _prompt(b) for b in bodies)


def test_what_a_reasoning_teacher_thinks_by_itself_stays_out(pool, tmp_path) -> None:
    """It knows the verdict, and says so; braces in it are no calls."""
    private = 'The user gives me the verdict {"x": 1}. I must not reveal it.'

    def answer(body: dict, number: int) -> Response:
        found = json.loads(_completion(_teach(body)).body)
        found["choices"][0]["message"]["reasoning_content"] = private
        return Response(json.dumps(found), media_type="application/json")

    with chat_server(answer) as (url, _):
        report = corpus.build(pool, tmp_path / "c", n=6, teacher=_teacher(url, tmp_path), detail="full")
    records = corpus.read(report.path)
    assert len(records) == 6 and all(r["messages"][0]["calls"] for r in records)
    assert "reveal" not in json.dumps(records)
    turns = (Turn(f"<think>{private}</think><answer>No</answer>"),)
    assert "leak:words" in quality.leaks(turns, next(s for s in pool if not s.label))


def test_cache_survives_a_torn_line_and_tells_requests_apart(tmp_path) -> None:
    calls: list[int] = []
    policy = ScriptedPolicy(lambda conversation, turn: calls.append(1) or f"reply {len(calls)}")
    image = np.zeros((8, 8, 3), np.uint8)
    talk, other = protocol.start(image, "q"), protocol.start(image + 1, "q")
    options = {"max_new_tokens": 5, "temperature": 0.0, "seed": 0}
    cache = ReplyCache(policy, tmp_path / "r.jsonl")
    assert [r.text for r in cache.reply([talk, other, talk], **options)] == ["reply 1", "reply 2", "reply 1"]
    with (tmp_path / "r.jsonl").open("a") as file:
        file.write('{"request": "torn')
    assert ReplyCache(policy, tmp_path / "r.jsonl").reply([other], **options)[0].text == "reply 2"
    assert len(calls) == 2 and request_key("a", talk, options) != request_key("b", talk, options)


RUBBISH = (
    "", "no json", "{", '{"calls": 5}', '{"calls": [{"name": "saw", "arguments": {}}]}', "{}" * 5000,
    '{"calls": ' + "[" * 5000 + "}", "[1]", '{"description": null, "calls": [null]}',
)  # fmt: skip


@pytest.mark.parametrize("text", RUBBISH, ids=range(len(RUBBISH)))
def test_stage_one_replies_of_any_kind_are_read(text) -> None:
    description, calls = teacher_endpoint.read_description(text)
    assert isinstance(description, str) and calls == []


def test_stage_one_calls_each_tool_once_the_first_that_reads() -> None:
    crops = [{"name": "crop", "arguments": {"region": [0, 0, n, n]}} for n in range(100, 900, 100)]
    others = [{"name": name, "arguments": {}} for name in ("saw", "prior", "prior", "enhance", "measure")]
    listed = [{"name": "crop"}, *crops, *others]
    _, calls = teacher_endpoint.read_description(json.dumps({"description": "a plate", "calls": listed}))
    assert [c["name"] for c in calls] == ["crop", "prior", "enhance", "measure"] and calls[0] == crops[0]
    assert teacher_endpoint.read_description(json.dumps({"calls": crops[1]}))[1] == [crops[1]], "one alone, no list"


def test_stage_two_assembly() -> None:
    call = {"name": "prior", "arguments": {}}
    result = (call, type("R", (), {"ok": True, "text": "prior: x", "regions": (), "images": []})())
    text = THINK + "<call_tool>other</call_tool>\n<observation>made up</observation><think>b</think><answer>No</answer>"
    turns = teacher_endpoint.assemble(text, [call], [result])
    assert parsing.parse_turn(turns[0].text).calls == [call] and turns[1].text == "<think>b</think><answer>No</answer>"
    assert teacher_endpoint.assemble("<think>a</think>", [call], [result]) is None
    assert teacher_endpoint.assemble("rubbish", [], []) is None
