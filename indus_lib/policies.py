"""A policy turns a batch of conversations into a batch of replies. The loop knows nothing else about a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Conversation = list[dict[str, Any]]
"""HF chat messages; content is a list of {"type": "text"|"image", ...} parts, images are uint8 HxWx3 arrays."""


@dataclass(frozen=True)
class Reply:
    """One assistant message. `error`: why there is none (an endpoint that stays down); the loop records it."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    token_ids: tuple[int, ...] = ()  # as sampled, without padding; RL trains on these, not on re-encoded text
    truncated: bool = False
    error: str = ""


class Policy(Protocol):
    """What the inspection loop needs."""

    name: str

    def reply(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Reply]:
        """One reply per conversation, in order. Temperature 0 is greedy."""
        ...

    def margins(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """log p(Yes) - log p(No) at the decision position; each conversation ends in an open assistant message that
        stops there, right after `</think>`.

        A Yes turn goes on with `<location>`, a No turn with `<answer>No`, so p(Yes) counts both `<location>` and
        `<answer>Yes`. (At `<answer>` itself the question is settled: location and type stand before a Yes.) A terse
        thought has decided before it ends, so it is asked there: log p(something) - log p(nothing) after "see".
        None where the policy cannot say."""
        ...


class ScriptedPolicy:
    """Replies from a function of (conversation, turn number): for tests and worked examples."""

    def __init__(self, script: Callable[[Conversation, int], str] | Sequence[str], name: str = "scripted"):
        self.name = name
        self._script = script if callable(script) else lambda _, turn: script[min(turn, len(script) - 1)]

    def reply(self, conversations: Sequence[Conversation], **_: Any) -> list[Reply]:
        """One scripted reply each."""
        turns = [sum(m["role"] == "assistant" for m in c) for c in conversations]
        return [Reply(self._script(c, t)) for c, t in zip(conversations, turns, strict=True)]

    def margins(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """A script has no probabilities."""
        return [None] * len(conversations)
