"""Yes/No margins from a server's log-probabilities: of the loop's own prefixes, and equal to a local model's."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from endpoint_servers import ask, chat_server, completion, said
from fastapi.responses import JSONResponse, Response
from PIL import Image

from indus_lib import endpoint_margin, loop, profiles, protocol
from indus_lib.endpoint_policy import EndpointPolicy
from indus_lib.local_policy import LocalPolicy
from indus_lib.samples import Sample

THOUGHT = "<think>a</think>"


def logprobs(*steps: dict[str, float]) -> dict[str, Any]:
    """A choice's log-probabilities: of each step the tokens with their probabilities, of which the first is written."""
    content = []
    for step in steps:
        top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in step.items()]
        content.append({**top[0], "top_logprobs": top})
    return {"logprobs": {"content": content, "refusal": None}}


def opened(text: str, question: str = "q") -> list[dict[str, Any]]:
    """What the loop asks a margin for after the turn `text`."""
    return loop._decision(ask(question), text)


def next_tokens(body: dict[str, Any]) -> Response:
    """A model that would mostly answer No, with tags of several tokens as Qwen's, whose `>No` is one."""
    if body["messages"][-1]["content"].endswith("<answer"):
        return completion(">No", **logprobs({">No": 0.95, ">": 0.04, "s": 1e-9}, {"</": 1.0, "a": 1e-9}))
    step = {"answer": 0.6, "location": 0.1, "call": 0.3}
    return completion("<answer>No", **logprobs({"<": 1.0, "The": 1e-9}, step, {">": 1.0, "s": 1e-9}))


def test_margin_of_the_loops_own_prefix() -> None:
    """The loop stops at `</think>`, where neither Yes nor No can be the next token."""
    turn = '<think>hm</think><call_tool>{"name":"prior","arguments":{}}</call_tool>'

    def answer(body: dict[str, Any], number: int) -> Response:
        if "logprobs" in body:
            return next_tokens(body)
        return completion(turn if len(body["messages"]) == 1 else "<think>so</think><answer>No</answer>")

    frames, config = [np.zeros((32, 32, 3), np.uint8)], profiles.get("tiny").inspection
    with chat_server(answer) as (url, bodies):
        (trace,) = loop.rollout(EndpointPolicy(url, "m"), [Sample("a", Path("a"))], config=config, frames=frames)
    expected = math.log((0.1 + 0.6 * 0.04) / (0.6 * 0.95))
    assert trace.margin == pytest.approx(expected) and trace.margin_before == pytest.approx(expected)
    sent = [b for b in bodies if "logprobs" in b]
    ends = [b["messages"][-1]["content"] for b in sent]
    assert ends == ["<think>hm</think>", "<think>hm</think><answer", "<think>so</think>", "<think>so</think><answer"]
    assert [len(b["messages"]) for b in sent] == [2, 2, 4, 4]
    for body in sent:
        assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
        assert body["logprobs"] is True and body["top_logprobs"] == 20 and body["max_tokens"] == 4


def test_margin_of_a_terse_thought_and_of_no_thought() -> None:
    def answer(body: dict[str, Any], number: int) -> Response:
        last = body["messages"][-1]
        if last["role"] == "user":
            return completion("", **logprobs({"<": 1.0, "a": 1e-9}, {"think": 0.7, "answer": 0.2, "location": 0.1}))
        if last["content"] == "<think>see":
            return completion("", **logprobs({" something": 0.8, " nothing": 0.2}))
        return completion("", **logprobs({">": 0.6, ">No": 0.4}, {"Yes": 0.9, "No": 0.1}))

    asked = [opened("<think>see something</think><answer>No</answer>"), opened("It seems fine.")]
    with chat_server(answer) as (url, bodies):
        terse, unthought = EndpointPolicy(url, "m").margins(asked)
    expected = math.log((0.1 + 0.2 * 0.54) / (0.2 * 0.4))  # `>` and `No` apart is not learnt, and less than `>No`
    assert terse == pytest.approx(math.log(4)) and unthought == pytest.approx(expected)
    blank = next(b for b in bodies if b["messages"][-1]["role"] == "user")
    assert blank["add_generation_prompt"] is True and blank["continue_final_message"] is False


def read(*steps: dict[str, float], ends: tuple[str, str] = protocol.BRANCH, others: tuple[str, ...] = ()) -> Any:
    tops = [[(t, math.log(p)) for t, p in step.items()] for step in steps]
    found = endpoint_margin.log_p([(top[0][0], top) for top in tops], ends, others)
    return found and tuple(round(math.exp(p), 6) for p in found)


def test_reading_two_ways_by_hand() -> None:
    words, calls = endpoint_margin.VERDICTS, ("<call_tool>",)
    assert read({"<answer>": 0.7, "<location>": 0.2, "x": 0.1}) == (0.2, 0.7)
    assert read({"<": 0.5, "x": 0.4}, {"location": 0.6, "answer": 0.2}) == (0.3, 0.1)
    assert read({"\n": 0.5, "x": 0.1}, {"<answer": 0.6, "<loc": 0.2}) == (0.1, 0.3), "white space is passed over"
    assert read({"<": 1.0}, {"answer": 0.9, "call": 0.05, "x": 0.01}) == (0.01, 0.9), "the least likely bounds"
    call = ({"<": 1.0}, {"call": 0.9, "answer": 0.06, "location": 0.04})
    assert read(*call, others=calls) == (0.04, 0.06) and read(*call) is None
    assert read({"<": 1.0}, {"call": 0.9, "x": 0.1}, others=calls) is None, "neither is listed"
    assert read({"The": 0.9, "<answer>": 0.1}) is None, "the server began a new message"
    assert read({"\n": 0.9, "x": 0.1}) is None and read() is None
    assert read({" No": 0.6, "No": 0.1, "Yes": 0.3}, ends=words) == (0.3, 0.6)
    assert read({"Normal": 0.6, "No": 0.3, "Yes": 0.1}, ends=words) is None, "Normal is another word"
    assert read({"No.": 0.6, "Yes": 0.3}, ends=words) == (0.3, 0.6)
    ends = (">Yes", ">No")
    assert read({">No": 0.7, ">": 0.2, "x": 0.1}, ends=ends) == (0.2, 0.7), "what may begin it bounds it"
    assert read({">": 0.7, ">No": 0.2}, {"Yes": 0.9, "No": 0.1}, ends=ends) == (0.63, 0.2)
    assert read({"No": 0.7, "\n": 0.2, "x": 0.1}, ends=words) == (0.1, 0.7), "white space begins nothing"


def test_how_a_server_writes_the_tag_tells_behind_what_to_ask() -> None:
    apart, whole = [("<", [("<", 0.0), ("a", -9.0)])], [("<location>", [("<location>", -0.1), ("<answer>", -2.0)])]
    assert endpoint_margin.answer_opened(apart) == ("<answer", (">Yes", ">No"))
    assert endpoint_margin.answer_opened(whole) == ("<answer>", ("Yes", "No"))


class Pieces:
    """A tokenizer that writes, like Qwen's, `>No` as one token and `>Yes` as two."""

    words = ("<", "</", "answer", "location", ">No", ">", "Yes", "No", " something", " nothing")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = []
        while text:
            word = max((w for w in self.words if text.startswith(w)), key=len)
            ids.append(self.words.index(word))
            text = text[len(word) :]
        return ids

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return [0 for _ in tokens]


def test_margin_where_the_end_of_the_tag_and_no_are_one_token() -> None:
    """An agent that says No with 0.998 has a margin far below 0; behind a lone `>` it has only ever seen Yes."""
    policy = LocalPolicy(None, SimpleNamespace(tokenizer=Pieces()))
    chances = [{"<": 1.0}, {"answer": 0.999, "location": 0.001}, {">No": 0.999, ">": 0.001}, {"Yes": 0.98, "No": 0.02}]
    log_p = torch.full((1, 4, len(Pieces.words)), -50.0)
    for k, step in enumerate(chances):
        for word, p in step.items():
            log_p[0, k, Pieces.words.index(word)] = math.log(p)
    no = 0.999 * (0.999 + 0.001 * 0.02)
    assert policy._margin(log_p).item() == pytest.approx(math.log((0.001 + 0.999 * 0.001 * 0.98) / no), abs=1e-4)


class ModelServer:
    """Answers as vLLM would, with a model of this process: greedy, and it continues an open message."""

    def __init__(self, local: LocalPolicy) -> None:
        self.local, self.tokenizer = local, local.processor.tokenizer

    def answer(self, body: dict[str, Any], number: int) -> Response:
        talk = [{**m, "content": parts(m["content"])} for m in body["messages"]]
        if "logprobs" not in body:
            return completion(self.local.reply([talk], max_new_tokens=body["max_tokens"])[0].text)
        steps = []
        for _ in range(body["max_tokens"]):
            words = self.next(talk, body["top_logprobs"])
            begun = talk if talk[-1]["role"] == "assistant" else protocol.add_assistant(talk, "")
            talk = protocol.extend_open(begun, next(iter(words)))
            steps.append(words)
        return completion("", **logprobs(*steps))

    @torch.no_grad()
    def next(self, talk: list[dict[str, Any]], n: int) -> dict[str, float]:
        inputs = self.local.encode([talk], prompt=talk[-1]["role"] == "user")
        best = self.local.model(**inputs).logits[0, -1].log_softmax(-1).topk(n)
        words = self.tokenizer.batch_decode(best.indices[:, None])
        return {w: math.exp(p) for w, p in zip(words, best.values.tolist(), strict=True)}


def parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [p if p["type"] == "text" else {"type": "image", "image": picture(p)} for p in content]


def picture(part: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_margins_are_the_local_ones_through_the_whole_loop(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the loop, where both ends are listed; behind thoughts that the agent was never taught, where the least likely
    may not be among the 20, its bound is never less than it is, and with all tokens listed nothing is left of it."""
    local = LocalPolicy.from_path(repo / "data/models/indus-tiny-agent")
    rng = np.random.default_rng(0)
    frames = [rng.integers(90, 130, (160, 160, 3), dtype=np.uint8) for _ in range(3)]
    frames[1][60:80, 40:120] = 255
    frames[2][20:30, 20:30] = 0
    samples = [Sample(str(i), Path("x")) for i in range(3)]
    options: dict[str, Any] = {"config": profiles.get("tiny").inspection, "frames": frames}
    prefixes = [opened(f"<think>{t}</think>", "is it ?") for t in ("plain surface", "a dark line", "see")]
    with chat_server(ModelServer(local).answer) as (url, _):
        policy = EndpointPolicy(url, "m", max_concurrency=1)
        ours, theirs = loop.rollout(local, samples, **options), loop.rollout(policy, samples, **options)
        bounded = policy.margins(prefixes)
        monkeypatch.setattr(endpoint_margin, "TOP_LOGPROBS", len(local.processor.tokenizer))
        given = policy.margins(prefixes)
    for a, b in zip(ours, theirs, strict=True):
        assert [r.text for r in a.replies] == [r.text for r in b.replies]
        assert b.margin == pytest.approx(a.margin, abs=1e-3)
        assert b.margin_before == pytest.approx(a.margin_before, abs=1e-3)
    exact = local.margins(prefixes)
    assert given == pytest.approx(exact, abs=1e-3)
    assert all(b > a - 1e-3 for a, b in zip(exact, bounded, strict=True))


REFUSED = JSONResponse({"error": {"message": "maximum context length is 4096 tokens"}}, status_code=400)
DOWN = Response("down", 503)


def test_a_server_without_log_probabilities_gives_none_and_is_asked_once() -> None:
    with chat_server(lambda body, number: completion("Yes")) as (url, _):
        assert EndpointPolicy(url, "m").margins([opened(THOUGHT)] * 2) == [None, None]
    refuse = JSONResponse({"detail": "Unexpected fields in the request"}, status_code=422)
    with chat_server(lambda body, number: refuse) as (url, bodies):
        policy = EndpointPolicy(url, "m")
        assert policy.margins([opened(THOUGHT)] * 5) == [None] * 5
        assert policy.margins([opened(THOUGHT)]) == [None]
    assert len(bodies) == 1


def test_one_conversation_too_long_costs_one_margin() -> None:
    with chat_server(lambda body, n: REFUSED if said(body) == "long" else next_tokens(body)) as (url, _):
        policy = EndpointPolicy(url, "m")
        talks = [opened(THOUGHT, q) for q in ("q", "long", "q", "q")]
        given = policy.margins(talks)
        assert [m is None for m in given] == [False, True, False, False]
        assert policy.margins(talks[:1]) == given[:1], "and none of the next call"


def test_a_refusal_holds_and_a_lost_first_request_is_none() -> None:
    with chat_server(lambda body, n: REFUSED if n == 0 else DOWN) as (url, bodies):
        policy = EndpointPolicy(url, "m", retries=0)
        assert policy.margins([opened(THOUGHT)] * 9) == [None] * 9
        assert policy.margins([opened(THOUGHT)] * 9) == [None] * 9 and len(bodies) == 1
    with chat_server(lambda body, n: DOWN if n == 0 else next_tokens(body)) as (url, _):
        first, second = EndpointPolicy(url, "m", retries=0).margins([opened(THOUGHT)] * 2)
    assert first is None and second is not None


ODD = (
    "x", {"content": "x"}, {"content": [5]}, {"content": [{"token": "<answer>"}]}, {"content": {}},
    {"content": [{"token": "<answer>", "top_logprobs": 3}]}, {"content": [{"token": [], "top_logprobs": [1, None]}]},
    {"content": [{"token": "<answer>", "top_logprobs": [{"token": "<answer>", "logprob": "-1"}]}]},
    {"content": [{"token": "<answer>", "top_logprobs": [{"token": "<answer>", "logprob": 10**400}]}]},
)  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_log_probabilities_of_any_kind_cost_one_margin(odd: Any) -> None:
    with chat_server(lambda b, n: completion("x", logprobs=odd) if said(b) == "bad" else next_tokens(b)) as (url, _):
        bad, good = EndpointPolicy(url, "m").margins([opened(THOUGHT, q) for q in ("bad", "good")])
    assert bad is None and good is not None
