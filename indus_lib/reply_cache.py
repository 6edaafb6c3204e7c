"""Every raw reply of a policy kept on disk by a hash of the request, so that a rerun pays for nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import jsonl
from .endpoint_policy import EndpointPolicy
from .policies import Conversation, Policy, Reply


@dataclass
class Usage:
    """What was asked and what it took."""

    requests: int = 0
    from_cache: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ReplyCache:
    """A policy whose replies are kept in an append-only JSONL file.

    Failures are not kept: a rerun asks again. A torn last line (the process died while writing) is cut off.
    """

    def __init__(self, policy: Policy, path: Path | str) -> None:
        """Open the cache in `path`, made when missing."""
        self.policy, self.path, self.name = policy, Path(path), policy.name
        self.usage = Usage()
        self._known: dict[str, Reply] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        jsonl.cut_torn_line(self.path)
        advice = "delete the line, its request is then asked again"
        self._known = dict(jsonl.read(self.path, _entry, wrong="not a stored reply", advice=advice))

    def reply(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Reply]:
        """See `Policy.reply`; asks only what was never answered. Identical requests of a batch are asked once."""
        options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        keys = [request_key(self.name, c, options) for c in conversations]
        missing = [i for i, k in enumerate(keys) if k not in self._known and keys.index(k) == i]
        failed: dict[str, Reply] = {}

        def store(number: int, reply: Reply) -> None:
            key = keys[missing[number]]
            self.usage.requests += 1
            if reply.error:
                self.usage.failed += 1
                failed[key] = reply
                return
            self.usage.prompt_tokens += reply.prompt_tokens
            self.usage.completion_tokens += reply.completion_tokens
            self._append(key, reply)
            self._known[key] = reply

        self.usage.from_cache += len(keys) - len(missing)
        if missing:
            asked = [conversations[i] for i in missing]
            if isinstance(self.policy, EndpointPolicy):  # stores each reply as it arrives
                self.policy.reply(asked, **options, on_reply=store)
            else:
                for number, reply in enumerate(self.policy.reply(asked, **options)):
                    store(number, reply)
        return [self._known.get(k) or failed[k] for k in keys]

    def _append(self, key: str, reply: Reply) -> None:
        entry = {"request": key, "text": reply.text, "prompt_tokens": reply.prompt_tokens,
                 "completion_tokens": reply.completion_tokens}  # fmt: skip
        jsonl.append(self.path, jsonl.line(entry))


def _entry(entry: dict[str, Any]) -> tuple[str, Reply]:
    counts = (entry[name] or 0 for name in ("prompt_tokens", "completion_tokens"))  # null: an older library's
    return entry["request"], Reply(entry["text"], *counts)


def request_key(name: str, conversation: Conversation, options: dict[str, Any]) -> str:
    """Hash of model, options, texts and pixels."""
    digest = hashlib.sha256(json.dumps([name, options], sort_keys=True).encode())
    for message in conversation:
        digest.update(message["role"].encode())
        for part in message["content"]:
            if part["type"] == "text":
                digest.update(b"\0t" + part["text"].encode("utf-8", "surrogatepass"))
            else:
                digest.update(b"\0i" + repr(part["image"].shape).encode() + part["image"].tobytes())
    return digest.hexdigest()


def teacher_of_environment(path: Path | str) -> ReplyCache:
    """The policy that `INDUS_TEACHER_URL` and `INDUS_TEACHER_MODEL` name, any OpenAI-compatible server's; its key, if
    it wants one, in `INDUS_TEACHER_KEY`. `path`: file that keeps what was paid for.

    Raises:
        ValueError: One of the two is not set, or the URL is none.
    """
    url, model = (os.environ.get(name, "") for name in ("INDUS_TEACHER_URL", "INDUS_TEACHER_MODEL"))
    if not url or not model:
        raise ValueError(
            "this profile's Indus-CoT is written by a strong VLM: set INDUS_TEACHER_URL (http://host:port/v1) and "
            "INDUS_TEACHER_MODEL, and INDUS_TEACHER_KEY where the server wants a key"
        )
    key = "INDUS_TEACHER_KEY" if os.environ.get("INDUS_TEACHER_KEY") else ""
    return ReplyCache(EndpointPolicy(url, model, api_key_env=key), path)
