"""Qwen3-VL family in this process: batched generation and Yes/No margins with transformers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from . import tiny_model
from .fast_vision import accelerate
from .policies import Conversation, Reply
from .processing import VISION_TOKENS, IndusProcessor, images_of, render
from .protocol import BRANCH, FOUND, MARGIN_PREFIX, extend_open, looks, open_text
from .vision_memory import SHARED

MARGINS_AT_ONCE = 16  # conversations a pass on a CPU: less padding, and its cache holds them; of 128, 2.4 s for 4.0


class LocalPolicy:
    """A loaded model. `batch`: conversations per forward pass (memory), never a change of result beyond rounding;
    `top_p`: nucleus of what is sampled above temperature 0."""

    def __init__(
        self, model: Any, processor: IndusProcessor, *, name: str = "local", batch: int = 64, top_p: float = 1.0
    ):
        self.name, self.batch, self.top_p = name, batch, top_p
        self.model, self.processor = model, processor
        tokenizer = processor.tokenizer
        self._suppress = tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))  # an image cannot be spoken
        self._location, self._answer = (tokenizer.encode(w, add_special_tokens=False) for w in BRANCH)
        self._found = [tokenizer.encode(w, add_special_tokens=False)[0] for w in FOUND]
        pairs = zip(self._location, self._answer, strict=False)
        self._parting = next(i for i, (a, b) in enumerate(pairs) if a != b)  # 0 where a tag is one token
        self._verdict = [self._spellings(word) for word in ("Yes", "No")]

    def _spellings(self, word: str) -> list[tuple[int, int]]:
        """How `<answer>` goes on to a word: (tokens of the tag before it, its token). Qwen writes the end of the tag
        and `No` as one token, `>No`, but not `>Yes`: what it has learnt of No is never seen behind a whole tag."""
        encode = self.processor.tokenizer.encode
        alone, whole = (encode(text, add_special_tokens=False) for text in (word, f"{BRANCH[1]}{word}</answer>"))
        found = [(len(self._answer), alone[0])]
        merged = [i for i, (a, b) in enumerate(zip(self._answer, whole, strict=False)) if a != b]
        return found + [(at, whole[at]) for at in merged[:1]]

    @classmethod
    def from_path(cls, path: Path | str, *, name: str = "", batch: int = 64, **options: Any) -> LocalPolicy:
        """Open a local folder or hub name, an adapter unmerged; options as for `tiny_model.load`."""
        options = (tiny_model.unmerged(path) if "adapter" not in options else {"path": path}) | options
        model, processor = tiny_model.load(**options)
        if model.device.type == "cpu":
            core = accelerate(model.get_base_model() if options.get("adapter") else model)
            SHARED.attach(core.model.visual.requires_grad_(False))
        return cls(model, processor, name=name or Path(path).name, batch=batch)

    def encode(self, conversations: Sequence[Conversation], *, prompt: bool) -> dict[str, torch.Tensor]:
        """Left-padded model inputs of a batch, on the model's device and in its dtype."""
        texts = [render(self.processor, c, prompt=prompt) for c in conversations]
        images = [images_of(c) for c in conversations]
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return inputs

    def reply(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Reply]:
        """See `Policy.reply`."""
        with torch.random.fork_rng(enabled=temperature > 0):
            if temperature > 0:
                torch.manual_seed(seed)
            chunks = self._chunks(conversations, self.batch)
            return [r for chunk in chunks for r in self._reply(chunk, max_new_tokens, temperature)]

    @torch.no_grad()
    def _reply(self, conversations: Sequence[Conversation], max_new_tokens: int, temperature: float) -> list[Reply]:
        start = time.perf_counter()
        inputs = self.encode(conversations, prompt=True)
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": self.top_p}
        output = self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            suppress_tokens=self._suppress,
            **(drawn if temperature > 0 else {"do_sample": False}),
        )
        width = inputs["input_ids"].shape[1]
        seconds = (time.perf_counter() - start) / len(conversations)
        lengths = inputs["attention_mask"].sum(1).tolist()
        return [self._decode(row, n, seconds) for row, n in zip(output[:, width:].tolist(), lengths, strict=True)]

    def _decode(self, row: list[int], prompt_tokens: int, seconds: float) -> Reply:
        end = self.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
        stop = row.index(end) if end in row else len(row)
        ids = tuple(row[: stop + 1])
        text = self.processor.tokenizer.decode(row[:stop], skip_special_tokens=False)
        return Reply(text, prompt_tokens, len(ids), seconds, ids, truncated=end not in row)

    @torch.no_grad()
    def margins(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """See `Policy.margins`. One forward pass over "... </think><answer>": the branch into `<location>` or
        `<answer>` is read where the two tags part, Yes against No after the second. A terse thought that stands open
        where it says what it sees (`protocol.looks`) is read right there.

        Raises:
            ValueError: A terse thought, and a tokenizer that cannot tell its two endings by their first token.
        """
        values: list[float | None] = []
        size = min(self.batch, MARGINS_AT_ONCE) if self.model.device.type == "cpu" else self.batch
        for chunk in self._chunks(conversations, size):
            terse = [looks(open_text(c)) for c in chunk]
            if any(terse) and self._found[0] == self._found[1]:
                raise ValueError(
                    f"this tokenizer begins {FOUND[0]!r} and {FOUND[1]!r} alike: a terse thought has no margin"
                )
            ended = [c if t else extend_open(c, MARGIN_PREFIX) for c, t in zip(chunk, terse, strict=True)]
            inputs = self.encode(ended, prompt=False)
            log_p = self.model(**inputs, logits_to_keep=len(self._answer) + 1).logits.float().log_softmax(-1)
            found = log_p[:, -1, self._found[0]] - log_p[:, -1, self._found[1]]
            values += torch.where(torch.tensor(terse, device=found.device), found, self._margin(log_p)).tolist()
        return values

    def _margin(self, log_p: torch.Tensor) -> torch.Tensor:
        """(B, tag tokens + 1, V) log-probabilities -> (B,) log p(Yes) - log p(No)."""
        parts, found = self._parting, []
        for spellings in self._verdict:
            ways = [
                sum(log_p[:, i, self._answer[i]] for i in range(parts, at)) + log_p[:, at, token]
                for at, token in spellings
            ]
            found.append(reduce(torch.logaddexp, ways))
        return torch.logaddexp(log_p[:, parts, self._location[parts]], found[0]) - found[1]

    @staticmethod
    def _chunks(conversations: Sequence[Conversation], size: int) -> Iterator[Sequence[Conversation]]:
        return (conversations[i : i + size] for i in range(0, len(conversations), size))
