"""The Yes/No margin from a server's most likely next tokens, as `LocalPolicy.margins` takes it from all of them:

    p(Yes) = p(<location>) + p(<answer>) p(Yes | <answer>)        p(No) = p(<answer>) p(No | <answer>)

One request asks what follows `</think>`, a second what follows `<answer>`; or `<answer`, unless the tag is one token:
Qwen's `>No` is one, and what it has learnt of No is never seen behind a whole tag. Where a tag is several tokens, the
server's own greedy path is followed to the token where the tags part. What differs from `LocalPolicy`:

- A tag or word that is not among the top 20 counts as likely as a token there that may begin it, else as the least
  likely of them, which it cannot exceed.
- White space before a tag is passed over where the server would write it.
- There is no margin where the server would go on with something else than a tag: it then did not continue our message,
  or the model keeps no form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

TOP_LOGPROBS = 20  # the most that OpenAI and vLLM give; both ends are among them unless one is certain
MAX_STEPS = 4  # tokens asked for: white space, then the two or three up to where the tags part
VERDICTS = ("Yes", "No")
ANSWER = "<answer>"

Step = tuple[str, list[tuple[str, float]]]
"""A token that was written, and the most likely tokens in its place, itself included, with their log-probabilities."""


def steps_of(choice: Any) -> list[Step]:
    """Steps of a completion's choice, up to the first without usable log-probabilities. Any JSON gives something."""
    content = getattr(choice.logprobs, "content", None)
    steps: list[Step] = []
    for item in content if isinstance(content, list) else []:
        top = _top(getattr(item, "top_logprobs", None))
        written = [token for token, _ in top if token == getattr(item, "token", None)]
        if not written:
            break
        steps.append((written[0], top))
    return steps


def _top(listed: Any) -> list[tuple[str, float]]:
    given = listed if isinstance(listed, list) else []
    pairs = [(getattr(entry, "token", None), getattr(entry, "logprob", None)) for entry in given]
    return [(t, p) for t, p in pairs if isinstance(t, str) and isinstance(p, int | float) and abs(p) < 1e6]


def log_p(steps: Sequence[Step], ends: tuple[str, str], others: Sequence[str] = ()) -> tuple[float, float] | None:
    """Log-probabilities of two ways to go on, read where they part.

    Args:
        steps: What the server wrote, with its alternatives.
        ends: The two ways. One that is not listed where they part is given its bound.
        others: Further ways that the server may prefer and still have gone on with our message.

    Returns:
        None where it went on with none of these, or where neither end is listed where they part.
    """
    written, path = "", 0.0
    best = [-math.inf, -math.inf]
    for token, top in steps:
        for candidate, value in top:
            fits = _fitting(written + candidate, (*ends, *others))
            for i, end in enumerate(ends):
                if fits == [end]:
                    best[i] = max(best[i], path + value)
        fits = _fitting(written + token, (*ends, *others))
        if not fits or not set(ends) <= set(fits):
            if not fits or max(best) == -math.inf:
                return None
            bounds = [path + _bound(written, top, end, listed=b > -math.inf) for b, end in zip(best, ends, strict=True)]
            return max(best[0], bounds[0]), max(best[1], bounds[1])
        written, path = written + token, path + dict(top)[token]
    return None


def _bound(written: str, top: Sequence[tuple[str, float]], end: str, *, listed: bool) -> float:
    """What is not listed is at most as likely as the least likely token; and an end of which no token is its own, as
    the likeliest that may begin it: `>` of `>Yes` beside `>No`."""
    least = min(value for _, value in top)
    begun = [p for token, p in top if token.strip() and end in _fitting(written + token, (end,))]
    return least if listed else max(begun, default=least)


def answer_opened(steps: Sequence[Step]) -> tuple[str, tuple[str, str]]:
    """What to ask the verdict behind, and its two ways to go on, by how the server writes `ANSWER`."""
    whole = any(token.strip() == ANSWER for _, top in steps for token, _ in top)
    return (ANSWER, VERDICTS) if whole else (ANSWER[:-1], (f">{VERDICTS[0]}", f">{VERDICTS[1]}"))


def _fitting(text: str, ways: Sequence[str]) -> list[str]:
    """The ways that `text` begins or begins with; "Normal" does not begin with "No"."""
    text = "".join(text.split())
    return [way for way in ways if way.strip().startswith(text) or _begins(text, way.strip())]


def _begins(text: str, way: str) -> bool:
    after = text[len(way) : len(way) + 1]
    return text.startswith(way) and not (way[-1].isalnum() and after.isalnum())


def margin(branch: tuple[float, float], verdict: tuple[float, float]) -> float:
    """log p(Yes) - log p(No) from log p of (<location>, <answer>) and of (Yes, No) behind `<answer>`."""
    (location, answer), (yes, no) = branch, verdict
    return float(np.logaddexp(location, answer + yes)) - (answer + no)
