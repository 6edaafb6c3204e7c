"""The paper's teacher: a strong VLM behind any policy, in two prompts (paper section 4).

1. *Description*: the image, its category and view. What is visible, and which tools would help. One choice is ours
   (not in paper): this prompt does **not** carry the label, so that the choice of tools cannot give it away.
2. The tools really run.
3. *Trajectory*: the description, the real observation, and label, location and coarse type as constraints that the
   text must not reveal. The reply is the tagged trajectory; its calls are replaced by those that were run.

What fails the gate in form is mended by rule; what fails otherwise goes back once with the reasons named. Of several
valid candidates a judge, where one is given, keeps the best. Every raw reply is kept (`ReplyCache`).
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import boxes, images, parsing, protocol, quality, tools
from .corpus_offline import Accepted
from .episodes import ToolCall, Turn
from .loop import shown
from .policies import Conversation
from .reply_cache import ReplyCache
from .samples import Sample
from .teacher_plan import by_category, interleave
from .teacher_tools import rng_for, target_box

log = logging.getLogger(__name__)
BATCH = 64  # samples in flight; their replies are stored one by one
NO_TOOL = "No tool was used."
MENDED = "Mend it and run again: what it has answered is kept"
CALL = re.compile(r"\{.*\}", re.DOTALL)

DESCRIBE = """You are shown one photograph of an industrial product{product}{view}. Describe in two or three sentences \
what is visible: shape, material, light, anything that stands out and where. Then decide which of these tools, if any, \
would help to judge it; none is a good answer when the picture suffices.
{tools}
Coordinates are 0 to 1000 relative to the image. Reply with one JSON object and nothing else:
{{"description": "...", "calls": [{{"name": "...", "arguments": {{...}}}}]}}"""

WRITE = """Write how an inspector reasons about this photograph{product}, as a trajectory with exactly these tags.
{form}
The first thinking ends in the items `evidence: ...; target: ...; region: [x1,y1,x2,y2]; scale: {scales}; cue: {cues}; \
suspicion: {suspicions}; preliminary: Yes|No`. Keep each thinking under 60 words and rest it on what is visible.

Your description was: {description}
{observed}
The verdict to arrive at: {verdict}
You know the verdict only to keep the reasoning sound. The text must read as if nothing but the image and the tool \
results were known: never mention that a verdict, a label, a location or any instruction was given."""

MEND = "That reply cannot be used: {reasons}. Write the whole trajectory again, with nothing outside the tags."
JUDGE = """Score this inspection of the photograph from 0 (useless) to 10 (excellent): is the reasoning grounded in \
what is visible, is the use of tools sensible, does the conclusion follow? Reply with the number alone.

{text}"""


@dataclass
class _Work:
    """One sample on its way through the stages."""

    sample: Sample
    image: np.ndarray
    shown: np.ndarray
    description: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[tuple[dict[str, Any], tools.ToolResult]] = field(default_factory=list)
    candidates: list[tuple[Turn, ...]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class EndpointTeacher:
    """Two-stage teacher over a cached policy; give it to `corpus.build(teacher=...)`. `judge`: another (or the same)
    cached policy that scores the `candidates` of a sample; None = the rule judge. It sees images of at most `max_side`
    px, tools work on the original; a reply has at most `max_new_tokens`."""

    def __init__(
        self, replies: ReplyCache, *, judge: ReplyCache | None = None, candidates: int = 2,
        max_new_tokens: int = 700, max_side: int = 1024,
    ) -> None:  # fmt: skip
        self.replies, self.judge, self.name = replies, judge, replies.name
        self._error = ""  # the last one of the endpoint
        self._candidates, self._tokens, self._side = candidates, max_new_tokens, max_side

    def produce(
        self, samples: Sequence[Sample], *, n: int, seed: int, detail: str = "full", max_tokens: int | None = None
    ) -> tuple[list[Accepted], Counter[str]]:
        """Accepted trajectories, half anomalous, and what was rejected by reason. See `corpus.build`.

        Raises RuntimeError when the endpoint fails for `BATCH` samples in a row: a spent quota, a wrong key.
        """
        accepted: list[Accepted] = []
        rejected, failed = Counter(), 0
        for label in (True, False):
            queue, got = _balanced([s for s in samples if s.label is label and (s.boxes or not label)], seed), 0
            while queue and got < n // 2:
                batch, queue = queue[: min(BATCH, n // 2 - got)], queue[min(BATCH, n // 2 - got) :]
                before = rejected["endpoint_failed"]
                made = self._batch(batch, seed, max_tokens, rejected)
                accepted += made
                got += len(made)
                failed = failed + len(batch) if not made and rejected["endpoint_failed"] > before else 0
                if failed >= BATCH:
                    raise RuntimeError(
                        f"{self.name}: the endpoint failed for the last {failed} samples: {self._error}. {MENDED}"
                    )
            if got < n // 2:
                log.warning("%s: %d of %d trajectories with label %s", self.name, got, n // 2, label)
        return accepted, rejected

    def _batch(
        self, samples: Sequence[Sample], seed: int, max_tokens: int | None, rejected: Counter[str]
    ) -> list[Accepted]:
        works = [w for w in (self._open(s, rejected) for s in samples) if w]
        self._describe(works, seed)
        for work in works:
            work.results = [(c, _run(work, c)) for c in work.calls]
        self._write(works, seed, max_tokens)
        for work in works:
            rejected.update(work.reasons)
        return [self._best(w, seed) for w in works if w.candidates]

    def _open(self, sample: Sample, rejected: Counter[str]) -> _Work | None:
        try:
            image = images.load_image(sample.image, sample.tile)
        except images.ImageError:
            rejected["unreadable_image"] += 1
            return None
        return _Work(sample, image, shown(image, self._side))

    def _ask(self, talks: Sequence[Conversation], seed: int, temperature: float) -> list[str | None]:
        """Texts; None where the endpoint failed for good."""
        if not talks:
            return []
        found = self.replies.reply(talks, max_new_tokens=self._tokens, temperature=temperature, seed=seed)
        self._error = next((r.error for r in found if r.error), self._error)
        return [None if r.error else r.text for r in found]

    def _describe(self, works: list[_Work], seed: int) -> None:
        listing = "\n".join(json.dumps(s["function"]) for s in tools.schemas())
        talks = []
        for w in works:
            text = DESCRIBE.format(product=_product(w.sample), view=_view(w.sample), tools=listing)
            talks.append(protocol.start(w.shown, text))
        for work, text in zip(works, self._ask(talks, seed, 0.7), strict=True):
            if text is None:
                work.reasons.append("endpoint_failed")
                continue
            work.description, work.calls = read_description(text)

    def _write(self, works: list[_Work], seed: int, max_tokens: int | None) -> None:
        asked = [w for w in works if "endpoint_failed" not in w.reasons for _ in range(self._candidates)]
        talks = [_writing_talk(w) for w in asked]
        texts: list[str | None] = [None] * len(asked)
        for k in range(self._candidates):  # candidates differ by their seed
            at = list(range(k, len(asked), self._candidates))
            for i, text in zip(at, self._ask([talks[i] for i in at], seed + k, 0.8), strict=True):
                texts[i] = text
        again = [i for i, (w, t) in enumerate(zip(asked, texts, strict=True)) if not _keep(w, t, max_tokens)]
        retry = [i for i in again if texts[i]]
        mended = self._ask([_mending_talk(talks[i], texts[i] or "", asked[i]) for i in retry], seed, 0.8)
        for i, text in zip(retry, mended, strict=True):
            if _keep(asked[i], text, max_tokens):
                asked[i].reasons.append("self_corrected")

    def _best(self, work: _Work, seed: int) -> Accepted:
        scores = self._scores(work, seed)
        best = max(range(len(scores)), key=lambda i: (scores[i], -i))
        return Accepted(work.sample.id, work.sample, work.candidates[best], scores[best], len(scores))

    def _scores(self, work: _Work, seed: int) -> list[float]:
        """0..1 per candidate. A judge's reply without a number counts as the rule judge's score."""
        rule = [quality.judge(turns, work.sample) for turns in work.candidates]
        if self.judge is None or len(rule) < 2:
            return rule
        prompts = [JUDGE.format(text="\n".join(t.text for t in turns)) for turns in work.candidates]
        talks = [protocol.start(work.shown, p) for p in prompts]
        replies = self.judge.reply(talks, max_new_tokens=8, temperature=0.0, seed=seed)
        return [_score(r.text, fallback) for r, fallback in zip(replies, rule, strict=True)]


def _balanced(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """By category and view in turn, shuffled within."""
    by_id = {s.id: s for s in samples}
    order = rng_for(seed, "endpoint").permutation(len(by_id))
    keys = [sorted(by_id)[i] for i in order]
    groups = by_category(keys, {k: f"{s.category}|{s.view}|{s.defect}" for k, s in by_id.items()})
    return [by_id[k] for k in interleave(groups)]


def read_description(text: str) -> tuple[str, list[dict[str, Any]]]:
    """(description, well-formed calls) of a stage-one reply, the first of each tool; any text gives something. What a
    reasoning model thought first is not part of it."""
    text = text.rpartition(protocol.THINK_CLOSE)[2]
    match = CALL.search(text[:8000])
    try:
        data = json.loads(match[0]) if match else {}
    except (ValueError, RecursionError):
        data = {}
    data = data if isinstance(data, dict) else {}
    listed = data.get("calls") or []
    calls: dict[str, dict[str, Any]] = {}
    for item in listed if isinstance(listed, list) else [listed]:
        for call in parsing.parse_turn(f"<call_tool>{json.dumps(item)}</call_tool>").calls:
            if call["name"] in protocol.TOOL_NAMES:
                calls.setdefault(call["name"], call)
    return str(data.get("description") or text)[:1200], list(calls.values())[: parsing.MAX_CALLS]


def _run(work: _Work, call: dict[str, Any]) -> tools.ToolResult:
    s = work.sample
    return tools.run(call["name"], call["arguments"], work.image, category=s.category, view=s.view,
                     mm_per_pixel=s.mm_per_pixel)  # fmt: skip


def _product(sample: Sample) -> str:
    return f" ({sample.category.replace('_', ' ')})" if sample.category else ""


def _view(sample: Sample) -> str:
    return f", camera view {sample.view}" if sample.view else ""


def _writing_talk(work: _Work) -> Conversation:
    options = {"scales": "|".join(protocol.SCALES), "cues": "|".join(protocol.CUES),
               "suspicions": "|".join(protocol.SUSPICIONS)}  # fmt: skip
    final = protocol.final_text(bool(work.sample.label), (1, 2, 3, 4), "...").replace("[1,2,3,4]", "[x1,y1,x2,y2]")
    call = protocol.tool_tail(work.calls) if work.calls else ""
    form = f"<think>...</think>{call}\n<think>...</think>{final}" if call else f"<think>...</think>{final}"
    observed = "The tools returned: " + " ".join(r.text for _, r in work.results) if work.results else NO_TOOL
    text = WRITE.format(product=_product(work.sample), form=form, description=work.description, observed=observed,
                        verdict=_constraint(work.sample), **options)  # fmt: skip
    talk = protocol.start(work.shown, text)
    extra = [{"type": "image", "image": i} for _, r in work.results for i in r.images]
    return [{"role": "user", "content": talk[0]["content"][:1] + extra + talk[0]["content"][1:]}]


def _constraint(sample: Sample) -> str:
    if not sample.label:
        return "No, the part is normal. Do not invent a defect."
    box = boxes.snap(target_box(sample.boxes), outward=False)
    return f"Yes; location {protocol.box_text(box)}; type {sample.node or sample.defect or 'anomaly'}."


def _mending_talk(talk: Conversation, text: str, work: _Work) -> Conversation:
    reasons = ", ".join(dict.fromkeys(work.reasons[-6:])) or "it did not keep the form"
    told = protocol.add_assistant(talk, text)
    return [*told, {"role": "user", "content": [{"type": "text", "text": MEND.format(reasons=reasons)}]}]


def _keep(work: _Work, text: str | None, max_tokens: int | None) -> bool:
    """Put a reply through mending and the gate; True when it became a candidate."""
    if text is None:
        work.reasons.append("endpoint_failed")
        return False
    turns = assemble(text, work.calls, work.results)
    if turns is None:
        work.reasons.append("format:unreadable")
        return False
    reasons = quality.check(turns, work.sample, max_tokens=max_tokens)
    work.reasons += reasons
    if not reasons:
        work.candidates.append(turns)
    return not reasons


def assemble(
    text: str, calls: list[dict[str, Any]], results: Sequence[tuple[dict[str, Any], tools.ToolResult]]
) -> tuple[Turn, ...] | None:
    """Turns of a stage-two reply, with the calls that were run in place of what it wrote; None where hopeless."""
    text = re.sub(r"<observation>[^<]*</observation>|</?observation>", "", text)
    thoughts = re.findall(r"<think>([^<]*)(?:</think>)?", text)
    if not calls:
        mended = text.strip() if parsing.parse_turn(text).valid else quality.repair(text)
        return (Turn(mended),) if mended else None
    last = text.rfind("<think>")
    if len(thoughts) < 2 or last < 0:
        return None
    final = quality.repair(text[last:])
    if final is None or not thoughts[0].strip():
        return None
    run = tuple(
        ToolCall(c["name"], c["arguments"], r.ok, r.text, tuple(tuple(b) for b in r.regions), len(r.images))
        for c, r in results
    )
    first = protocol.turn_text(" ".join(thoughts[0].split()), protocol.tool_tail(calls))
    return Turn(first, run), Turn(final)


def _score(text: str, fallback: float) -> float:
    match = re.search(r"\d{1,2}(?:\.\d{1,3})?", text)
    return round(min(float(match[0]), 10.0) / 10, 4) if match else fallback
