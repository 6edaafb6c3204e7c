"""`EndpointPolicy` against real servers: `transformers serve`, and one of ours that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import signal
import time
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from endpoint_servers import ask, chat_server, completion, free_port, said, transformers_serve
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from PIL import Image

from indus_lib import report, tiny_model
from indus_lib.endpoint_policy import EndpointPolicy, data_uri
from indus_lib.episodes import Episode, Turn
from indus_lib.local_policy import LocalPolicy
from indus_lib.reply_cache import ReplyCache


def test_replies_keep_their_order_and_count_tokens() -> None:
    async def slow_first(body: dict[str, Any], number: int) -> Response:
        await asyncio.sleep(0.2 if said(body) == "q0" else 0)
        return completion(f"<answer>{said(body)}</answer>")

    seen: list[int] = []
    with chat_server(slow_first) as (url, bodies):
        policy = EndpointPolicy(url, "m", max_concurrency=4)
        replies = policy.reply(
            [ask(f"q{i}") for i in range(6)], max_new_tokens=9, on_reply=lambda index, reply: seen.append(index)
        )
    assert [r.text for r in replies] == [f"<answer>q{i}</answer>" for i in range(6)]
    assert sorted(seen) == list(range(6)) and seen[0] != 0, "handed on as they arrive, not in order"
    assert (replies[0].prompt_tokens, replies[0].completion_tokens, replies[0].error) == (7, 3, "")
    assert {b["max_tokens"] for b in bodies} == {9} and bodies[0]["temperature"] == 0.0 and bodies[0]["seed"] == 0


def test_concurrency_stays_below_the_bound() -> None:
    now = most = 0

    async def count(body: dict[str, Any], number: int) -> Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.03)
        now -= 1
        return completion("ok")

    with chat_server(count) as (url, _):
        EndpointPolicy(url, "m", max_concurrency=3).reply([ask("q")] * 12, max_new_tokens=1)
    assert most == 3


def test_images_arrive_exactly_and_tool_results_as_a_user_message() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    parts = [{"type": "text", "text": "<observation>"}, {"type": "image", "image": pixels}]
    conversation = [
        *ask("question"),
        {"role": "assistant", "content": [{"type": "text", "text": "<call_"}, {"type": "text", "text": "tool>"}]},
        {"role": "tool", "content": parts},
    ]
    with chat_server(lambda body, number: completion("ok")) as (url, bodies):
        EndpointPolicy(url, "m").reply([conversation], max_new_tokens=1)
    messages = bodies[0]["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "<call_tool>"
    header, _, payload = messages[2]["content"][1]["image_url"]["url"].partition(",")
    assert header == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(payload)))), pixels)
    assert conversation[2]["role"] == "tool", "the caller's conversation is left as it was"
    assert data_uri(pixels, "jpeg").startswith("data:image/jpeg;base64,/9j/")


def test_throttled_requests_wait_as_told_and_succeed() -> None:
    times: list[float] = []

    def throttle(body: dict[str, Any], number: int) -> Response:
        times.append(time.monotonic())
        wait = Response(status_code=429, headers={"Retry-After": "1"}, content=b'{"error": {"message": "slow down"}}')
        return wait if number == 0 else completion("late but there")

    with chat_server(throttle) as (url, _):
        (reply,) = EndpointPolicy(url, "m", retries=2).reply([ask("q")], max_new_tokens=1)
    assert reply.text == "late but there" and not reply.error
    assert len(times) == 2 and times[1] - times[0] >= 0.95, "Retry-After: 1 was not respected"


def test_time_out_is_retried_then_reported() -> None:
    async def hang_once(body: dict[str, Any], number: int) -> Response:
        await asyncio.sleep(1.0 if number == 0 or said(body) == "never" else 0)
        return completion("second try")

    with chat_server(hang_once) as (url, _):
        policy = EndpointPolicy(url, "m", timeout=0.3, retries=1)
        assert policy.reply([ask("q")], max_new_tokens=1)[0].text == "second try"
        (lost,) = policy.reply([ask("never")], max_new_tokens=1)
    assert lost.text == "" and "Timeout" in lost.error and lost.seconds >= 0.6


RUBBISH = {
    "truncated JSON": Response(b'{"id": "x", "choices": [{"mess', media_type="application/json"),
    "a page": PlainTextResponse("<html>bad gateway</html>"),
    "empty choices": JSONResponse({"id": "x", "object": "chat.completion", "choices": []}),
    "null choices": JSONResponse({"id": "x", "choices": None}),
    "no message": JSONResponse({"id": "x", "choices": [{"index": 0}]}),
    "content of another type": completion({"a": 1}),  # type: ignore[arg-type]
    "a list": JSONResponse([1, 2]),
    "nothing": Response(b"", media_type="application/json"),
    "choices by name": JSONResponse({"id": "x", "choices": {"a": 1}}),
    "a number of choices": JSONResponse({"id": "x", "choices": 3}),
    "a text as message": JSONResponse({"id": "x", "choices": [{"index": 0, "message": "fine"}]}),
    "too deep": Response(b'{"choices": ' + b"[" * 200_000, media_type="application/json"),
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_is_asked_again_and_then_an_error_not_a_crash(kind: str) -> None:
    with chat_server(lambda body, n: RUBBISH[kind] if said(body) == "bad" or n == 0 else completion("fine")) as (
        url,
        b,
    ):
        policy = EndpointPolicy(url, "m", retries=1, max_concurrency=1)
        assert policy.reply([ask("once")], max_new_tokens=1)[0].text == "fine"
        bad, good = policy.reply([ask("bad"), ask("good")], max_new_tokens=1)
    assert (bad.text, good.text, good.error) == ("", "fine", "") and "malformed" in bad.error
    assert len(b) == 2 + 2 + 1


@pytest.mark.parametrize("usage", [None, "x", {}, {"prompt_tokens": "7"}, [1], {"completion_tokens": None}])
def test_a_reply_is_not_lost_for_its_token_counts(usage: Any, tmp_path: Path) -> None:
    body = json.loads(completion("fine").body) | {"usage": usage}
    with chat_server(lambda _, number: JSONResponse(body)) as (url, _):
        cache = ReplyCache(EndpointPolicy(url, "m", retries=0), tmp_path / "r.jsonl")
        (reply,) = cache.reply([ask("q")], max_new_tokens=1)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.error) == ("fine", 0, 0, "")
    turn = Turn(reply.text, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
    assert cache.usage.prompt_tokens == report.cost([Episode("a", turns=(turn,))]).prompt_tokens == 0


def test_half_a_character_neither_comes_in_nor_goes_out(tmp_path: Path) -> None:
    body = completion("x").body.replace(b'"x"', b'"x \\ud83d y"', 2)
    with chat_server(lambda _, number: Response(body, media_type="application/json")) as (url, bodies):
        cache = ReplyCache(EndpointPolicy(url, "m", retries=0), tmp_path / "r.jsonl")
        (reply,) = cache.reply([ask("q \udc00")], max_new_tokens=1)
    assert (reply.text, said(bodies[0])) == ("x \ufffd y", "q \ufffd")


def test_a_refused_request_is_not_repeated_and_one_failure_does_not_lose_the_others() -> None:
    refuse = JSONResponse({"error": {"message": "image too large"}}, status_code=400)
    with chat_server(lambda body, n: refuse if said(body) == "bad" else completion("fine")) as (url, bodies):
        replies = EndpointPolicy(url, "m").reply([ask("a"), ask("bad"), ask("b")], max_new_tokens=1)
    assert [r.text for r in replies] == ["fine", "", "fine"]
    assert "image too large" in replies[1].error and len(bodies) == 3


def test_no_server_at_all() -> None:
    policy = EndpointPolicy(f"http://127.0.0.1:{free_port()}/v1", "m", retries=0)
    assert "Connection" in policy.reply([ask("q")], max_new_tokens=1)[0].error
    assert policy.margins([ask("q")]) == [None]


def test_the_key_travels_in_the_header_only(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    secret = "sk-very-secret-1234567890"
    monkeypatch.setenv("INDUS_TEST_KEY", secret)
    caplog.set_level(logging.DEBUG)
    echo = JSONResponse({"error": {"message": f"Incorrect key {secret}"}}, status_code=401)
    with chat_server(lambda body, number: echo) as (url, bodies):
        policy = EndpointPolicy(url, "m", api_key_env="INDUS_TEST_KEY")
        (reply,) = policy.reply([ask("q")], max_new_tokens=1)
        policy.margins([ask("q")])
    assert bodies[0]["_authorization"] == f"Bearer {secret}"
    assert "Incorrect key ***" in reply.error
    assert secret not in reply.error + policy.name + repr(policy)
    own = [r.getMessage() for r in caplog.records if r.name.startswith("indus_lib")]
    assert own and secret not in "".join(own)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"api_key_env": "INDUS_NOT_SET"}, "INDUS_NOT_SET"),
        ({"image_format": "bmp"}, "png or jpeg"),
        ({"max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_bad_settings_are_named(bad: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        EndpointPolicy(**{"base_url": "http://127.0.0.1:1/v1", "model": "m", **bad})


def test_thinking_that_the_server_split_off_is_put_back() -> None:
    with chat_server(lambda body, n: completion("<answer>No</answer>", message={"reasoning_content": "hm"})) as (
        url,
        _,
    ):
        (reply,) = EndpointPolicy(url, "m").reply([ask("q")], max_new_tokens=1)
    assert reply.text == "<think>hm</think><answer>No</answer>"
    own = "<think>a</think><answer>No</answer>"
    with chat_server(lambda body, n: completion(own, message={"reasoning_content": "a draft"})) as (url, _):
        (reply,) = EndpointPolicy(url, "m").reply([ask("q")], max_new_tokens=1)
    assert reply.text == own


def test_inside_a_running_event_loop_as_in_a_notebook() -> None:
    with chat_server(lambda body, number: completion("fine")) as (url, _):
        policy = EndpointPolicy(url, "m")

        async def cell() -> str:
            return policy.reply([ask("q")], max_new_tokens=1)[0].text

        assert asyncio.run(cell()) == "fine"


@pytest.mark.slow
def test_transformers_serve_says_what_the_model_says_here(tmp_path: Path, repo: Path) -> None:
    config = tiny_model.TinyConfig(vision_depth=3, depth=2, vocab=1024)
    model, processor = tiny_model.build(config, ["is this part all right ? Yes No"], seed=1)
    for name, weight in model.model.language_model.named_parameters():  # loud layers: a quiet start repeats one token
        if "o_proj" in name or "down_proj" in name:
            weight.data *= 20
    folder = tiny_model.save(model, processor, tmp_path / "mini")
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    first = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "is it ?"}]}]
    second = [
        *first,
        {"role": "assistant", "content": [{"type": "text", "text": "<think>hm</think>"}]},
        {"role": "tool", "content": [{"type": "text", "text": "a crop"}, {"type": "image", "image": image[:32, :32]}]},
    ]
    local = LocalPolicy.from_path(folder)
    expected = [local.reply([c], max_new_tokens=12)[0] for c in (first, second)]
    with transformers_serve(folder, repo, tmp_path / "serve.log") as url:
        policy = EndpointPolicy(url, str(folder), max_concurrency=2, timeout=60)
        replies = policy.reply([first, second], max_new_tokens=12)
        wrong = EndpointPolicy(url, "no/such-model", timeout=60, retries=0).reply([first], max_new_tokens=2)[0]
        assert policy.margins([first]) == [None], "transformers serve gives no log-probabilities"
    assert [r.error for r in replies] == ["", ""]
    assert [r.prompt_tokens for r in replies] == [r.prompt_tokens for r in expected]
    skip = local.processor.tokenizer
    plain = [skip.decode(r.token_ids, skip_special_tokens=True) for r in expected]
    assert all(plain) and [r.text for r in replies] == [text.strip() for text in plain]  # the server strips
    assert "pinned" in wrong.error


def test_bodies_are_json(repo: Path) -> None:
    with chat_server(lambda body, number: completion("ok")) as (url, bodies):
        EndpointPolicy(url, "m").reply([ask("Grüße ✓")], max_new_tokens=1)
    assert "Grüße ✓" in json.dumps(bodies[0], ensure_ascii=False)


def test_a_server_that_drips_is_given_up_and_a_cell_can_be_stopped() -> None:
    """The client's own timeout is between two bytes; a thread that waits for the server outlives an interrupt."""

    async def drip() -> Any:
        for _ in range(60):
            yield b" "
            await asyncio.sleep(0.1)

    with chat_server(lambda body, n: StreamingResponse(drip(), media_type="application/json")) as (url, _):
        start = time.perf_counter()
        (reply,) = EndpointPolicy(url, "m", timeout=0.5, retries=0).reply([ask("q")], max_new_tokens=1)
        assert "no whole reply within 0.5 s" in reply.error and time.perf_counter() - start < 3
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test worker may ignore it
        Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            with pytest.raises(KeyboardInterrupt):
                EndpointPolicy(url, "m", timeout=30.0, retries=0).reply([ask("q")], max_new_tokens=1)
        finally:
            signal.signal(signal.SIGINT, before)
        assert time.perf_counter() - start < 5


def test_a_port_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="0-65535"):
        EndpointPolicy("http://localhost:99999/v1", "m")
