"""Any OpenAI-compatible chat endpoint (vLLM, `transformers serve`, a vendor) as a policy.

Requests of a batch run concurrently up to a bound; the client's own retries honour `Retry-After` and back off. A
request that keeps failing becomes a `Reply` with `error` set: the episode is then counted as unparsed, with the reason.

Messages as sent: images are data URIs. The tool role is sent as a user message, because few servers take images (or a
tool message without a native call) in the tool role; Qwen's chat template shows tool results in a user turn anyway, and
ours gives the same tokens for both.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from PIL import Image

from . import endpoint_margin, protocol
from .jsonl import encodable
from .policies import Conversation, Reply

CALL = "<call_tool>"
PAUSE = 60.0  # s, the longest that the client waits before it asks again
log = logging.getLogger(__name__)
T = TypeVar("T")


class MalformedReply(ValueError):
    """The server answered 200 with something that is no chat completion."""


class EndpointPolicy:
    """Chat completions over HTTP; see the module's text.

    Args:
        base_url: Up to and including `/v1`.
        model: Model name as the server knows it.
        api_key_env: Name of the environment variable that holds the key; "" sends none (a local server). The key is
            read here, kept in the client's header alone and cut out of every error text.
        max_concurrency: Requests in flight at a time.
        timeout: Seconds for one attempt.
        retries: Further attempts after a dropped connection, time-out, 408, 409, 429 or 5xx (the client's own
            back-off) and after a malformed body.
        image_format: `png` (exact) or `jpeg` (smaller, quality 95).

    Raises:
        ValueError: Unusable URL, format or number, or `api_key_env` names a variable that is not set.
    """

    def __init__(
        self, base_url: str, model: str, *, api_key_env: str = "", max_concurrency: int = 8,
        timeout: float = 120.0, retries: int = 5, image_format: str = "png",
    ):  # fmt: skip
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # beyond 65535 it raises
            raise ValueError("endpoint base_url must look like http://host:port/v1")
        if image_format not in ("png", "jpeg"):
            raise ValueError(f"image_format {image_format!r}: png or jpeg")
        if max_concurrency < 1 or retries < 0 or timeout <= 0:
            raise ValueError("endpoint: max_concurrency >= 1, retries >= 0 and timeout > 0 are needed")
        if api_key_env and not os.environ.get(api_key_env):
            raise ValueError(f"endpoint key: environment variable {api_key_env} is not set")
        self.name = f"{model}@{parts.hostname}"
        self._base_url, self._model, self._format = base_url, model, image_format
        self._key = os.environ[api_key_env] if api_key_env else ""
        self._limits = (max_concurrency, timeout, retries)
        self._margins_asked = self._margins_refused = False

    def reply(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0,
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:  # fmt: skip
        """See `Policy.reply`. `on_reply(index, reply)` is called as each one arrives, to store what was paid for."""
        options = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed}

        async def one(client: openai.AsyncOpenAI, index: int) -> Reply:
            reply = await self._reply(client, conversations[index], options)
            if on_reply:
                on_reply(index, reply)
            return reply

        return self._gather(one, range(len(conversations)))

    def margins(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """See `Policy.margins`, and `endpoint_margin` for what can differ from a local model's.

        Needs a server that continues the last message and gives log-probabilities (vLLM). The very first request goes
        alone: where that is refused (400, 422), no further one is made.

        Returns:
            None for each conversation where the server gives no log-probabilities or would not go on with a tag.
        """

        async def one(client: openai.AsyncOpenAI, index: int) -> float | None:
            return await self._margin(client, conversations[index])

        indices = range(len(conversations))
        first = [] if self._margins_asked else self._gather(one, indices[:1])
        self._margins_asked = self._margins_asked or bool(first)
        rest = indices[len(first) :]
        return first + ([None] * len(rest) if self._margins_refused else self._gather(one, rest))

    def _gather(self, one: Callable[[openai.AsyncOpenAI, int], Awaitable[T]], indices: Sequence[int]) -> list[T]:
        async def all_of_them() -> list[T]:
            concurrency, timeout, retries = self._limits
            gate = asyncio.Semaphore(concurrency)
            client = openai.AsyncOpenAI(
                base_url=self._base_url, api_key=self._key or "none", timeout=timeout, max_retries=retries
            )

            async def bounded(index: int) -> T:
                async with gate:
                    return await one(client, index)

            async with client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(bounded(i)) for i in indices]
            return [t.result() for t in tasks]

        loop = asyncio.new_event_loop()
        whole = loop.create_task(all_of_them())
        try:
            with ThreadPoolExecutor(1) as thread:  # a notebook's own event loop is running already: use another thread
                waiting = thread.submit(loop.run_until_complete, whole)
                try:
                    return waiting.result()
                except KeyboardInterrupt:  # the thread would be waited for until the server answers
                    loop.call_soon_threadsafe(whole.cancel)
                    raise
        finally:
            loop.close()

    async def _reply(self, client: openai.AsyncOpenAI, conversation: Conversation, options: dict[str, Any]) -> Reply:
        start = time.perf_counter()
        try:
            completion = await self._complete(client, conversation, options)
        except (openai.OpenAIError, MalformedReply) as error:
            return Reply("", seconds=time.perf_counter() - start, error=self._explain(error))
        choice, usage = completion.choices[0], completion.usage
        return Reply(
            _text(choice.message),
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
            seconds=time.perf_counter() - start,
            truncated=choice.finish_reason == "length",
        )

    async def _margin(self, client: openai.AsyncOpenAI, conversation: Conversation) -> float | None:
        text = protocol.open_text(conversation)
        try:
            if protocol.looks(text):
                found = endpoint_margin.log_p(await self._steps(client, conversation), protocol.FOUND)
                return found and found[0] - found[1]
            others = (CALL,) if text else (CALL, protocol.THINK_OPEN)
            steps = await self._steps(client, conversation)
            branch = endpoint_margin.log_p(steps, protocol.BRANCH, others)
            opened, ends = endpoint_margin.answer_opened(steps)
            answered = protocol.extend_open(conversation, opened)
            verdict = branch and endpoint_margin.log_p(await self._steps(client, answered), ends)
        except (openai.OpenAIError, MalformedReply) as error:
            refused = isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError)
            self._margins_refused = self._margins_refused or (refused and not self._margins_asked)
            what = "no margins at all" if self._margins_refused else "one margin is missing"
            log.warning("%s: %s: %s", self.name, what, self._explain(error))
            return None
        return endpoint_margin.margin(branch, verdict) if branch and verdict else None

    async def _steps(self, client: openai.AsyncOpenAI, conversation: Conversation) -> list[endpoint_margin.Step]:
        """What the server would go on with; an assistant message of no words yet is what any begins by itself."""
        begun = bool(protocol.open_text(conversation))
        options = {
            "max_tokens": endpoint_margin.MAX_STEPS, "temperature": 0.0, "logprobs": True,
            "top_logprobs": endpoint_margin.TOP_LOGPROBS,
            "extra_body": {"continue_final_message": begun, "add_generation_prompt": not begun},
        }  # fmt: skip
        completion = await self._complete(client, conversation if begun else conversation[:-1], options)
        return endpoint_margin.steps_of(completion.choices[0])

    async def _complete(
        self, client: openai.AsyncOpenAI, conversation: Conversation, options: dict[str, Any]
    ) -> ChatCompletion:
        messages = [self._message(m) for m in conversation]
        _, timeout, retries = self._limits
        try:
            async with asyncio.timeout(timeout * (retries + 1) + PAUSE * retries):  # the client's is between two bytes
                return await self._answer(client, messages, options, retries)
        except TimeoutError as error:
            raise MalformedReply(f"no whole reply within {timeout:g} s, {retries + 1} times") from error

    async def _answer(
        self, client: openai.AsyncOpenAI, messages: list[dict[str, Any]], options: dict[str, Any], retries: int
    ) -> ChatCompletion:
        for attempt in range(retries + 1):
            try:
                completion = await client.chat.completions.create(model=self._model, messages=messages, **options)
                return _checked(completion)
            except (ValueError, RecursionError) as error:  # our own check, or a body that is no JSON or too deep
                if attempt == retries:
                    raise MalformedReply(f"malformed reply, {retries + 1} times: {error}") from error
        raise AssertionError("unreachable")

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        role = "user" if message["role"] == "tool" else message["role"]
        content = message["content"]
        if isinstance(content, str) or all(p["type"] == "text" for p in content):
            return {
                "role": role,
                "content": encodable(content if isinstance(content, str) else "".join(p["text"] for p in content)),
            }
        return {"role": role, "content": [self._part(p) for p in content]}

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            return {"type": "text", "text": encodable(part["text"])}
        return {"type": "image_url", "image_url": {"url": data_uri(part["image"], self._format)}}

    def _explain(self, error: Exception) -> str:
        told = str(error)
        if isinstance(error, openai.APIStatusError) and " - " not in told:  # not OpenAI's error format: show the body
            told += f" - {error.response.text}"
        text = " ".join(f"{type(error).__name__}: {told}".split())
        return (text.replace(self._key, "***") if self._key else text)[:300]


def data_uri(image: np.ndarray | Image.Image, image_format: str = "png") -> str:
    """Image (uint8 HxWx3) as `data:image/...;base64,...`."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, format=image_format, **({"quality": 95} if image_format == "jpeg" else {}))
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _checked(completion: Any) -> ChatCompletion:
    """The client passes on whatever JSON (or text) came with status 200: look before use."""
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if not isinstance(message, ChatCompletionMessage) or not isinstance(message.content, str | None):
        raise ValueError(f"no message in {str(completion)[:120]!r}")
    return completion


def _count(usage: Any, name: str) -> int:
    """Tokens as the server counts them, 0 where it does not say: no reply is lost for that."""
    value = getattr(usage, name, None)
    return value if isinstance(value, int) else 0


def _text(message: ChatCompletionMessage) -> str:
    """Assistant text; a server with a reasoning parser hands the thinking back apart, so put it back in front. Where
    the text has its own thought in front, what came apart is a reasoning model's draft of it."""
    thinking = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    text = message.content or ""
    apart = thinking and not text.lstrip().startswith(protocol.THINK_OPEN)
    return encodable((f"<think>{thinking}</think>" if apart else "") + text)
