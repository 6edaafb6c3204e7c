"""Conversations to token ids, loss mask and pixels: the one place where training decides what is learnt.

`encode` renders with the same chat template as the inspection loop (`processing.render`) and marks with 1 exactly the
tokens the agent produced: its text and the end-of-turn token behind it. Image, instruction and observation tokens,
role headers and the newline after a turn stay 0 (paper section 5). SFT and RL both come through here; a test proves
that the ids are those the inspection loop feeds the model.

Text is tokenised turn by turn, as it was generated: the first characters of a reply never merge with the header
before it. A message may carry `token_ids`, the ids as sampled (`Reply.token_ids`); they are used as they are, since
decoding and encoding again need not give the same ids.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .policies import Conversation
from .processing import END_OF_TURN, IndusProcessor, images_of, render
from .protocol import FINDING, NAMED, ROUTE, TOOL_NAMES

IGNORED = -100  # label of a token that is not learnt
GIVEN, SPOKEN, NAME, DECISION = range(4)  # what a token is
BOX, MOST = 7, 30  # tokens of a box, four numbers with commas between; boxes told apart in a conversation
ON_DISK = 2**22  # bytes of a conversation's pictures from which they are not kept in memory; not in paper
SHARES = np.array([0, 0, 0.25, 1], np.float32)  # of the decision weight, by kind; not in paper


@dataclass(frozen=True)
class Encoded:
    """One conversation as tensors.

    Attributes:
        input_ids: (T,) int64, image placeholders expanded.
        mask: (T,) bool, True on what the agent generated.
        decision: (T,) float32, 1 where the agent chooses: what a thought says first that it sees (`protocol.FINDING`),
            whether to ask and which tool (`protocol.ROUTE`); 0.25 where it names a place or a type
            (`protocol.NAMED`); 0 on the rest, which follows from them.
        pixel_values: (patches, C * temporal * patch * patch), float16 to hold a corpus in memory, or float32.
        image_grid_thw: (images, 3) int64.
        place: (T,) int8, on the numbers of the boxes that observations name, and where the answer repeats one of them:
            1 to 4 for the first box, 5 to 8 for another one, and so on; -1 on the numbers of an answer's box that no
            observation names; 0 on the rest, and on a box whose numbers are not tokens of `number_ids`.
        second: Whether only the second round is learnt (`rounds_apart`).
    """

    input_ids: np.ndarray
    mask: np.ndarray
    decision: np.ndarray
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    place: np.ndarray
    second: bool = False

    @property
    def prompt_length(self) -> int:
        """Tokens before the first generated one (all of them when there is none)."""
        return int(self.mask.argmax()) if self.mask.any() else len(self.mask)

    @property
    def first_turn(self) -> int:
        """Tokens up to the end of the agent's first turn; all of them when it is the only one."""
        ends = np.flatnonzero(np.diff(self.mask.astype(int)) < 0)
        return int(ends[0]) + 1 if len(ends) else len(self)

    def __len__(self) -> int:
        return len(self.input_ids)


def encode(conversation: Conversation, processor: IndusProcessor, *, dtype: torch.dtype = torch.float32) -> Encoded:
    """Tokens, loss mask and pixels of a conversation that begins with the user and ends where it ends.

    Raises:
        ValueError: No image, or an image was named by text (a special token inside a message).
    """
    images = images_of(conversation)
    if not images:
        raise ValueError("a conversation to train on needs its image; the first message has none")
    pixels = processor.image_processor(images=images, return_tensors="pt")
    pieces = [piece for k in range(len(conversation)) for piece in _pieces(conversation, k, processor)]
    ids = np.concatenate([np.asarray(ids, dtype=np.int64) for ids, _ in pieces])
    kind = np.concatenate([np.full(len(ids), kind) for ids, kind in pieces])
    ids, kind = _expand(ids, kind, pixels["image_grid_thw"], processor)
    place = _places(ids, kind, processor)
    return Encoded(ids, kind != GIVEN, SHARES[kind], pixels["pixel_values"].to(dtype), pixels["image_grid_thw"], place)


def number_ids(processor: IndusProcessor) -> np.ndarray:
    """(101,) ids of 0, 10, ... 1000; (0,) for a tokenizer that has no token of its own for each."""
    found = [_ids(str(n), processor) for n in range(0, 1001, 10)]
    return np.array([i[0] for i in found] if all(len(i) == 1 for i in found) else [], dtype=np.int64)


def token(text: str, processor: IndusProcessor) -> int:
    """The first token of a text."""
    return _ids(text, processor)[0]


def _places(ids: np.ndarray, kind: np.ndarray, processor: IndusProcessor) -> np.ndarray:
    """See `Encoded.place`. ids, kind (T,)."""
    place, numbers = np.zeros(len(ids), np.int8), number_ids(processor)
    if len(ids) < BOX or not len(numbers):
        return place
    spans = np.lib.stride_tricks.sliding_window_view(ids, BOX)
    kinds = np.lib.stride_tricks.sliding_window_view(kind, BOX)[:, ::2]
    listed = np.isin(spans[:, ::2], numbers).all(1) & (spans[:, 1::2] == token(",", processor)).all(1)
    answers = np.flatnonzero(listed & (kinds == NAME).all(1))
    said = np.flatnonzero(listed & (kinds == GIVEN).all(1) & (np.arange(len(spans)) > int((kind != GIVEN).argmax())))
    boxes = {tuple(spans[at]): k for k, at in reversed(list(enumerate(said[:MOST])))}
    for at in (*said[:MOST], *answers):
        k = boxes.get(tuple(spans[at]))
        place[at : at + BOX : 2] = -1 if k is None else np.arange(4 * k + 1, 4 * k + 5)
    return place


def _pieces(conversation: Conversation, k: int, processor: IndusProcessor) -> list[tuple[list[int], int]]:
    """(ids, kind) of the parts of message k, in order."""
    before = _text(conversation[:k], processor)
    if conversation[k]["role"] != "assistant":
        return [(_ids(_text(conversation[: k + 1], processor)[len(before) :], processor), GIVEN)]
    header = render(processor, conversation[:k], prompt=True)[len(before) :]
    text = "".join(p["text"] for p in conversation[k]["content"])
    spoken = conversation[k].get("token_ids")
    if spoken is None:
        spoken = _ids(text + END_OF_TURN, processor)
    tail = _ids(END_OF_TURN + "\n", processor)
    if spoken and spoken[-1] == tail[0]:
        tail = tail[1:]  # the agent closed its turn itself
    last = k == len(conversation) - 1
    kinds = _kinds(text, len(spoken), processor)
    cuts = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(spoken)]
    own = [(list(spoken[a:b]), int(kinds[a])) for a, b in pairwise(cuts) if b > a]
    return [(_ids(header, processor), GIVEN), *own, ([] if last else tail, GIVEN)]


def _kinds(text: str, count: int, processor: IndusProcessor) -> np.ndarray:
    """(count,) kinds of a turn's tokens; places are counted by tokenising what stands before them."""
    kinds = np.full(count, SPOKEN)
    named = [(m, group) for m in NAMED.finditer(text) for group in range(1, NAMED.groups + 1) if m[group] is not None]
    chosen = [(m, m.lastindex) for m in (FINDING.search(text), *ROUTE.finditer(text)) if m is not None]
    for kind, found in ((NAME, named), (DECISION, chosen)):
        for match, group in found:
            first, end = (_tokens_before(text, at, processor) for at in match.span(group))
            kinds[first:end] = kind
    return kinds


def _tokens_before(text: str, end: int, processor: IndusProcessor) -> int:
    return len(_ids(text[:end], processor))


def _text(conversation: Conversation, processor: IndusProcessor) -> str:
    return processor.apply_chat_template(conversation, tokenize=False) if conversation else ""


def _ids(text: str, processor: IndusProcessor) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def _expand(
    ids: np.ndarray, kind: np.ndarray, grid: torch.Tensor, processor: IndusProcessor
) -> tuple[np.ndarray, np.ndarray]:
    """One placeholder per image -> one per merged patch. ids, kind: (t,) -> (T,)."""
    counts = (grid.prod(-1) // processor.image_processor.merge_size**2).tolist()
    places = np.flatnonzero(ids == processor.image_token_id)
    if len(places) != len(counts) or kind[places].any():
        raise ValueError(f"{len(counts)} images but {len(places)} image placeholders, or one was generated as text")
    repeats = np.ones(len(ids), dtype=np.int64)
    repeats[places] = counts
    return ids.repeat(repeats), kind.repeat(repeats)


def encode_all(
    conversations: Iterable[Conversation], processor: IndusProcessor, *, max_length: int, total: int | None = None,
    progress: str = "encode",
) -> list[Encoded]:  # fmt: skip
    """Encode a corpus once, one conversation at a time: the photographs themselves are not kept.

    Raises:
        ValueError: Some are longer than `max_length` tokens; says how many and by how much. Cutting them would train on
            half an answer, and leaving them out would bend the corpus, so the caller decides.
    """
    bar = tqdm(conversations, desc=progress, total=total, disable=not progress, unit="conversation")
    encoded, long = [], []
    for conversation in bar:
        one = encode(conversation, processor, dtype=torch.float16)
        if len(one) > max_length:
            long.append(len(one))
        else:
            encoded.append(replace(one, pixel_values=_out_of_memory(one.pixel_values)))
    if long:
        raise ValueError(
            f"{len(long)} of {len(long) + len(encoded)} conversations have more than the {max_length} tokens of "
            f"max_length, up to {max(long)}: raise it, show smaller pictures, or shorten the trajectories"
        )
    return encoded


def _out_of_memory(pixels: torch.Tensor) -> torch.Tensor:
    """The same pixels, those of large pictures in an unnamed file: 3,000 conversations of the 8B would fill 75 GB."""
    if pixels.nbytes < ON_DISK:
        return pixels
    with tempfile.NamedTemporaryFile() as file:  # where TMPDIR says
        pixels.numpy().tofile(file)
        file.flush()  # numpy's memmap would keep a descriptor open for each, of which many systems allow 1,024
        return torch.from_file(file.name, shared=False, size=pixels.numel(), dtype=pixels.dtype).view(pixels.shape)


def offered(used: Iterable[str], key: str) -> tuple[str, ...]:
    """Tools to offer with a trajectory (its id: `key`) that calls those `used`: all in every other one, else a random
    part of those it does not call.

    An agent that has only ever read the full list breaks its format under a shorter one (docs/log.md).
    """
    used = set(used)
    rng = np.random.default_rng(zlib.crc32(f"offered {key}".encode()))
    whole, kept = rng.random() < 0.5, rng.random(len(TOOL_NAMES)) < 0.5  # not in paper
    return tuple(t for t, keep in zip(TOOL_NAMES, kept, strict=True) if whole or keep or t in used)


def rounds_apart(rows: Iterable[Encoded], processor: IndusProcessor) -> list[Encoded]:
    """Each two-round conversation as two: its first round alone, and the whole with only the second round learnt.

    Batches then hold one kind of choice, which tool or which verdict, and each is learnt at its own length.
    """
    apart = []
    for one in rows:
        end = one.first_turn
        if not one.mask[end:].any():
            apart.append(one)
            continue
        patches = one.image_grid_thw.prod(-1)
        tokens = int((one.input_ids[:end] == processor.image_token_id).sum())
        n = int((patches.cumsum(0) // processor.image_processor.merge_size**2 <= tokens).sum())  # pictures before it
        first = Encoded(one.input_ids[:end], one.mask[:end], one.decision[:end],
                        one.pixel_values[: int(patches[:n].sum())], one.image_grid_thw[:n],
                        one.place[:end])  # fmt: skip
        later = np.arange(len(one)) >= end
        apart += [first, replace(one, mask=one.mask & later, decision=one.decision * later, second=True)]
    return apart


def collate(batch: Sequence[Encoded], pad_id: int, image_id: int) -> dict[str, torch.Tensor]:
    """Right-padded training batch.

    Returns:
        input_ids, attention_mask, labels, mm_token_type_ids, decision (1 on decisions, else 0), place of shape (B, T);
        second (B,) bool; pixel_values (patches of all images, D); image_grid_thw (images, 3).
    """
    width = max(map(len, batch))
    ids = np.full((len(batch), width), pad_id, dtype=np.int64)
    attention = np.zeros_like(ids)
    labels = np.full_like(ids, IGNORED)
    decision, place = np.zeros(ids.shape, dtype=np.float32), np.zeros(ids.shape, dtype=np.int8)
    for row, one in enumerate(batch):
        ids[row, : len(one)] = one.input_ids
        attention[row, : len(one)] = 1
        labels[row, : len(one)] = np.where(one.mask, one.input_ids, IGNORED)
        decision[row, : len(one)], place[row, : len(one)] = one.decision, one.place
    tensors = {"input_ids": ids, "attention_mask": attention, "labels": labels, "decision": decision, "place": place}
    tensors["mm_token_type_ids"] = (ids == image_id).astype(np.int64)
    return {
        **{name: torch.from_numpy(value) for name, value in tensors.items()},
        "pixel_values": torch.cat([one.pixel_values for one in batch]).float(),
        "image_grid_thw": torch.cat([one.image_grid_thw for one in batch]),
        "second": torch.tensor([one.second for one in batch]),
    }


def spans(one: Encoded, processor: IndusProcessor) -> list[tuple[bool, str]]:
    """(learnt?, decoded text) of each run of equal mask, image placeholders folded to one: for notebooks and tests."""
    keep = np.ones(len(one), dtype=bool)
    keep[1:] = ~((one.input_ids[1:] == processor.image_token_id) & (one.input_ids[:-1] == processor.image_token_id))
    ids, mask = one.input_ids[keep], one.mask[keep]
    cuts = np.flatnonzero(np.diff(mask.astype(int))) + 1
    parts = zip(np.split(ids, cuts), np.split(mask, cuts), strict=True)
    return [(bool(m[0]), processor.tokenizer.decode(i.tolist(), skip_special_tokens=False)) for i, m in parts]


def with_ids(conversation: Conversation, replies: Sequence[Any]) -> Conversation:
    """The conversation with each assistant message carrying the ids of its `Reply` (those that have any)."""
    left = iter(replies)
    messages = []
    for message in conversation:
        reply = next(left, None) if message["role"] == "assistant" else None
        messages.append({**message, "token_ids": reply.token_ids} if reply and reply.token_ids else message)
    return messages
