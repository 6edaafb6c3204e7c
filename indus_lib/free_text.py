"""The verdict in an untagged reply (paper section 3): explicit verdict words, the last stated conclusion wins.

Rules, not a model: total on any string and linear in its length.
"""

from __future__ import annotations

import re

_TAGGED = re.compile(r"<answer>\s*(yes|no)\b[^<]{0,40}</answer>", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+(?:['\u2019][a-z]+)?|[.,;:!?()\n]")
_STOPS = frozenset(".;:!?\n,()")
_CLAUSE_WORDS = frozenset({"but", "however", "although", "though", "therefore", "thus", "so", "nor", "and", "while"})
_YES = frozenset({"yes", "anomalous", "defective", "abnormal", "faulty", "damaged", "flawed"})
_NOUNS = frozenset(
    (
        "defect",
        "defects",
        "anomaly",
        "anomalies",
        "abnormality",
        "abnormalities",
        "flaw",
        "flaws",
        "fault",
        "faults",
        "damage",
        "irregularity",
        "irregularities",
    )
)
_NO = frozenset({"normal", "flawless", "undamaged"})
_NEGATORS = frozenset(
    (
        "not",
        "no",
        "non",
        "never",
        "without",
        "neither",
        "nor",
        "nothing",
        "none",
        "cannot",
        "unable",
        "lacks",
        "lack",
        "absence",
    )
)
_AFTER_VERDICT_NO = frozenset(("the", "it", "this", "that", "there", "i", "we", "its", "is", "all", "everything"))
_VERDICTS = _YES | _NOUNS | _NO
_REACH = 8  # words between a negation and what it negates


def parse_free_text(text: str) -> bool | None:
    """The verdict of an untagged reply: True = anomalous, False = normal, None = none stated.

    An `<answer>` tag wins. Otherwise the last stated conclusion in explicit verdict words wins (paper section 3), with
    negations read ("not anomalous", "free of defects", "not normal"), and questions, alternatives ("normal or
    anomalous") and conditions ("whether it is defective") not taken for statements. Total and linear.
    """
    tagged = _TAGGED.findall(text)
    if tagged:
        return tagged[-1].casefold() == "yes"
    verdict = None
    for sentence in _sentences(_WORD.findall(text.casefold())):
        stated = _stated(sentence)
        verdict = stated if stated is not None else verdict
    return verdict


def _sentences(words: list[str]) -> list[list[str]]:
    """Split at sentence ends; questions are dropped, they state nothing."""
    sentences: list[list[str]] = []
    current: list[str] = []
    for word in words:
        if word in ".!?\n":
            if word != "?":
                sentences.append(current)
            current = []
        else:
            current.append(word)
    return [*sentences, current]


def _stated(words: list[str]) -> bool | None:
    """The last verdict of one sentence."""
    verdict, negations, since, condition = None, 0, 0, False
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        since += 1
        if word in _STOPS or word in _CLAUSE_WORDS:
            keep = word == "and" and negations and following in _VERDICTS  # "no scratches and defects"
            negations = negations if keep else 0
            condition = condition and word not in _STOPS
        if since > _REACH:
            negations = 0
        if word in ("doubt", "question"):  # "without a doubt defective" negates nothing
            negations = 0
        elif word in ("whether", "if"):
            condition = True
        elif _is_verdict_no(word, following):
            verdict, negations = False, 0
        elif word in _VERDICTS:
            value = _value(words, i, negations)
            if value is not None and not condition and not _is_alternative(words, i):
                verdict = value
        elif _is_negator(word, following):
            negations, since = negations + 1, 0
    return verdict


def _is_verdict_no(word: str, following: str) -> bool:
    return word == "no" and (not following or following in _STOPS or following in _AFTER_VERDICT_NO)


def _is_negator(word: str, following: str) -> bool:
    if word == "free":
        return following in ("of", "from")
    if word == "not" and following == "only":
        return False
    return word in _NEGATORS or word.endswith(("n't", "n\u2019t"))


def _value(words: list[str], i: int, negations: int) -> bool | None:
    word = words[i]
    if word in _NOUNS and i + 1 < len(words) and words[i + 1] == "free":  # "defect-free"
        negations += 1
    return (word not in _NO) ^ bool(negations % 2)


def _is_alternative(words: list[str], i: int) -> bool:
    """`normal or anomalous`, `yes or no`: a choice, not a statement."""
    low = max(i - 3, 0)
    if "or" not in words[low : i + 4]:
        return False
    at = words.index("or", low)
    left = [w in _NO or w == "no" for w in words[max(at - 1, 0) : at] if w in _VERDICTS or w == "no"]
    right = [w in _NO or w == "no" for w in words[at + 1 : at + 4] if w in _VERDICTS or w == "no"]
    return bool(left and right) and left[0] != right[0]
