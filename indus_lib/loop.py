"""The one inspection loop (paper section 3): route, run tools, decide; any policy, many samples in batches.

Evaluation, corpus, RL, quick start, widgets and audits all come through `rollout`. What differs between them is given
as arguments: the policy, the tools allowed, how images or tool results are disturbed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import cv2
import numpy as np
from tqdm.auto import tqdm

from . import images, parsing, protocol, tools
from .episodes import Episode, ToolCall, Turn, Verdict
from .policies import Conversation, Policy, Reply
from .profiles import Inspection, Profile
from .samples import Sample
from .tools import ToolResult

Call = dict[str, Any]
Corrupt = Callable[[ToolResult, Call, Sample], ToolResult]
Transform = Callable[[np.ndarray, Sample], np.ndarray]


@dataclass
class Trace:
    """A trajectory while it is being made; `episode` freezes it."""

    sample: Sample
    image: np.ndarray | None = None
    conversation: Conversation = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    parsed: list[parsing.ParsedTurn] = field(default_factory=list)
    results: list[list[tuple[Call, ToolResult]]] = field(default_factory=list)
    margin_before: float | None = None
    margin: float | None = None
    error: str = ""
    seconds: float = 0.0

    @property
    def waits(self) -> bool:
        """Has called tools and not yet answered."""
        return not self.error and len(self.parsed) == 1 and bool(self.parsed[0].calls)


def inspect(
    policy: Policy, samples: Sequence[Sample], *, profile: Profile, progress: str = "",
    done: Mapping[str, Episode] | None = None, on_batch: Callable[[list[Episode]], None] | None = None, **options: Any,
) -> list[Episode]:  # fmt: skip
    """Inspect every sample; a sample whose image cannot be read gives an episode with `error` and no verdict.

    Args:
        policy: Who answers.
        samples: What to inspect, in the order of the episodes.
        profile: Its `inspection` values rule prompt wording, lengths and batch size.
        progress: Text of the progress bar, "" = none.
        done: Episodes of an earlier run by sample id; those samples are not inspected again.
        on_batch: Called with the new episodes of each batch, to store them.
        **options: As for `rollout`.
    """
    done = done or {}
    batches = images.batches(samples, profile.inspection.batch)
    episodes: list[Episode] = []
    seed, mode = options.get("seed", 0), options.get("mode", "agent")
    with tqdm(total=len(samples), desc=progress, disable=not progress, unit="image") as bar:
        for number, batch in enumerate(batches):
            settings = {**options, "config": profile.inspection, "seed": seed * 100_003 + number}
            todo = [s for s in batch if s.id not in done]
            made = rollout(policy, todo, **settings) if todo else []
            fresh = [episode(t, policy.name, profile.name, mode, seed) for t in made]
            del made  # its photographs, before the next ones are read
            if fresh and on_batch:
                on_batch(fresh)
            new = iter(fresh)
            episodes += [done[s.id] if s.id in done else next(new) for s in batch]
            bar.update(len(batch))
    return episodes


def rollout(
    policy: Policy,
    samples: Sequence[Sample],
    *,
    config: Inspection,
    mode: str = "agent",
    allowed_tools: Sequence[str] = tools.TOOLS,
    temperature: float | None = None,
    seed: int = 0,
    transform: Transform | None = None,
    corrupt: Corrupt | None = None,
    margins: bool = True,
    frames: Sequence[np.ndarray] | None = None,
) -> list[Trace]:
    """One batch of trajectories.

    Args:
        policy, samples: As for `inspect`.
        config: Prompt wording, lengths.
        mode: `agent`, or `direct`: one zero-shot prompt without tools, free-text parser (baselines, section 3).
        allowed_tools: What the prompt offers and the loop runs.
        temperature: None = the profile's.
        seed: Of the sampling.
        transform: Changes the photograph before anybody sees it (robustness). Called from several threads.
        corrupt: Changes a tool's result before the policy sees it (audits). Called from several threads.
        margins: Whether to ask for Yes/No margins: exactly two batched calls, whatever the trajectories (a number
            that depended on them would deadlock sharded training).
        frames: Images already loaded, one per sample (RL repeats each prompt G times).
    """
    temperature = config.temperature if temperature is None else temperature
    traces = [Trace(s) for s in samples]
    given = frames if frames is not None else [None] * len(traces)
    _parallel(lambda t, frame: _open(t, config, mode, allowed_tools, transform, frame), traces, given)
    _speak(policy, [t for t in traces if not t.error], config, temperature, seed, mode, allowed_tools)
    if mode == "agent":
        waiting = [t for t in traces if t.waits]
        found = _parallel(lambda t: run_calls(t, config, allowed_tools, corrupt), waiting)
        for trace, results in zip(waiting, found, strict=True):
            _observe(trace, results)
        _speak(policy, waiting, config, temperature, seed + 1, mode, allowed_tools)
    if margins:
        take_margins(policy, [t for t in traces if not t.error])
    return traces


def _parallel(job: Callable[..., Any], *over: Sequence[Any]) -> list[Any]:
    """Results of a job on images, in order; what numpy and OpenCV do runs outside the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(job, *over))


def _open(
    trace: Trace, config: Inspection, mode: str, allowed: Sequence[str], transform: Transform | None, frame: Any
) -> None:
    try:
        trace.image = images.load_image(trace.sample.image, trace.sample.tile) if frame is None else frame
    except (images.ImageError, OSError) as error:
        trace.error = str(error)
        return
    if transform is not None:
        trace.image = transform(trace.image, trace.sample)
    name = trace.sample.category if config.name_category else ""
    text = (
        protocol.question(name, config.detail, allowed)
        if mode == "agent"
        else protocol.direct_question(name, config.detail)
    )
    trace.conversation = protocol.start(shown(trace.image, config.max_side), text)


def shown(image: np.ndarray, max_side: int) -> np.ndarray:
    """What the model is shown: at most `max_side` pixels a side (area average); tools keep the original."""
    scale = max_side / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _speak(
    policy: Policy, traces: list[Trace], config: Inspection, temperature: float, seed: int, mode: str,
    allowed: Sequence[str],
) -> None:  # fmt: skip
    if not traces:
        return
    replies = policy.reply(
        [t.conversation for t in traces], max_new_tokens=config.max_new_tokens, temperature=temperature, seed=seed
    )
    for trace, reply in zip(traces, replies, strict=True):
        final = bool(trace.parsed)
        parse = parsing.parse_direct if mode == "direct" else parsing.parse_turn
        extra = {} if mode == "direct" else {"allowed_tools": allowed, "final": final}
        trace.replies.append(reply)
        trace.parsed.append(parse(reply.text, **extra))
        trace.conversation = protocol.add_assistant(trace.conversation, reply.text)
        trace.seconds += reply.seconds
        trace.error = reply.error


def run_calls(
    trace: Trace, config: Inspection, allowed: Sequence[str], corrupt: Corrupt | None = None
) -> list[tuple[Call, ToolResult]]:
    """Run the calls of the last turn; a tool that is not allowed answers that it is not."""
    results = []
    for call in trace.parsed[-1].calls[: config.max_calls]:
        if call["name"] not in allowed:
            result = ToolResult(False, f"no tool {call['name']!r} here; there are: {', '.join(allowed) or 'none'}")
        else:
            result = run_call(call, trace.image, trace.sample)
        results.append((call, corrupt(result, call, trace.sample) if corrupt else result))
    return results


def run_call(call: Call, image: np.ndarray, sample: Sample) -> ToolResult:
    """One tool call on the full-resolution original. Deterministic, so figures and widgets call it again."""
    context = {"category": sample.category, "view": sample.view, "mm_per_pixel": sample.mm_per_pixel}
    return tools.run(call["name"], call["arguments"], image, **context)


def _observe(trace: Trace, results: list[tuple[Call, ToolResult]]) -> None:
    trace.results.append(results)
    trace.conversation = protocol.add_observation(trace.conversation, results)
    trace.seconds += sum(r.ms for _, r in results) / 1000


def take_margins(policy: Policy, traces: list[Trace]) -> None:
    """Fill `margin_before` (the first thinking, no calls, no results) and `margin` (everything)."""
    if not traces:
        return
    start = time.perf_counter()
    before = policy.margins([_decision(t.conversation[:1], t.replies[0].text) for t in traces])
    last = [1 if len(t.replies) == 1 else 3 for t in traces]
    after = policy.margins(
        [_decision(t.conversation[:n], t.replies[-1].text) for t, n in zip(traces, last, strict=True)]
    )
    share = (time.perf_counter() - start) / len(traces)
    for trace, m0, m1 in zip(traces, before, after, strict=True):
        trace.margin_before, trace.margin, trace.seconds = m0, m1, trace.seconds + share


def _decision(conversation: Conversation, text: str) -> Conversation:
    """Ends in an open assistant message at the decision; an unfinished thought is judged from no thought at all."""
    return protocol.add_assistant(conversation, protocol.decision_prefix(text) or "")


def decide(
    policy: Policy, sample: Sample, first: str, results: Iterable[tuple[Call, ToolResult]], *, profile: Profile
) -> Episode:
    """Second round only: the first turn and its tool results are given (what-if widget, counterfactual audit)."""
    return redecide(policy, [sample], [first], [list(results)], profile=profile)[0]


def redecide(
    policy: Policy,
    samples: Sequence[Sample],
    firsts: Sequence[str],
    results: Sequence[list[tuple[Call, ToolResult]]],
    *,
    profile: Profile,
) -> list[Episode]:
    """`decide` for a batch. An empty list of results means that the first turn already answered."""
    config, known = profile.inspection, iter([*zip(samples, firsts, results, strict=True)])
    episodes: list[Episode] = []
    for batch in images.batches(samples, config.batch):
        traces = [_told(*given, config) for given in islice(known, len(batch))]
        chunk = [t for t in traces if not t.error]
        _speak(policy, [t for t in chunk if t.results], config, 0.0, 0, "agent", tools.TOOLS)
        take_margins(policy, chunk)
        episodes += [episode(t, policy.name, profile.name, "agent", 0) for t in traces]
    return episodes


def _told(sample: Sample, first: str, given: list[tuple[Call, ToolResult]], config: Inspection) -> Trace:
    """A trajectory up to its second round."""
    trace = Trace(sample)
    _open(trace, config, "agent", tools.TOOLS, None, None)
    if not trace.error:
        trace.replies, trace.parsed = [Reply(first)], [parsing.parse_turn(first)]
        trace.conversation = protocol.add_assistant(trace.conversation, first)
        if given:
            _observe(trace, given)
    return trace


def episode(trace: Trace, policy: str, profile: str, mode: str, seed: int) -> Episode:
    """Freeze a trajectory. Verdict None unless the last turn answered in a form the parser reads."""
    last = trace.parsed[-1] if trace.parsed and not trace.error else None
    answered = last is not None and last.answer is not None and not trace.waits
    verdict = Verdict(last.answer, last.location if last.answer else None, last.type) if answered else None
    wrong_calls = any(not r.ok for results in trace.results for _, r in results)
    violations = [v for p in trace.parsed for v in p.violations] + ["invalid_call"] * wrong_calls
    s = trace.sample
    return Episode(
        sample_id=s.id, dataset=s.dataset, category=s.category, image=str(s.image), label=s.label, policy=policy,
        profile=profile, mode=mode, turns=_turns(trace), verdict=verdict, violations=tuple(violations),
        margin=trace.margin, margin_before=trace.margin_before, seconds=trace.seconds, seed=seed, error=trace.error,
    )  # fmt: skip


def _turns(trace: Trace) -> tuple[Turn, ...]:
    margins = [trace.margin_before, trace.margin] if len(trace.replies) == 2 else [trace.margin]
    results = [*trace.results, []]
    return tuple(
        Turn(r.text, tuple(_call(c, x) for c, x in found), m, r.seconds, r.prompt_tokens, r.completion_tokens)
        for r, found, m in zip(trace.replies, results, margins, strict=False)
    )


def _call(call: Call, result: ToolResult) -> ToolCall:
    regions = tuple(tuple(box) for box in result.regions)
    return ToolCall(
        call["name"], call["arguments"], result.ok, result.text, regions, len(result.images), round(result.ms, 3)
    )
