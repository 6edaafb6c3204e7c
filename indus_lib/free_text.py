"""The verdict in an untagged reply (paper section 3): explicit verdict words, the last stated conclusion wins.

Rules, not a model: total on any string and linear in its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TAGGED = re.compile(r"<answer>\s*(yes|no)\b[^<]{0,40}</answer>", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+(?:['\u2019][a-z]+)?|(?<![\d.])0(?![\d.])|[.,;:!?()\n]")
_STOPS = frozenset(".;:!?\n,()")
_CLAUSE_WORDS = _words("but however although though therefore thus so nor and while because yet except whereas")
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
        "zero",
        "0",
    )
)
_NONE = frozenset({"none", "no", "false", "nil", "zero", "0", "n", "absent", "nothing"})
"""What denies the noun before a colon: `Defects: none`; of `n/a` the first letter."""
_SEEN = _words(
    "found visible present detected observed seen evident apparent noticeable identified noted there discernible been"
)
"""What is said not to be so of a defect that is not there; "the damage is not small" is none."""
_AFTER_VERDICT_NO = frozenset(("the", "it", "this", "that", "there", "i", "we", "its", "is", "all", "everything"))
_VERDICTS = _YES | _NOUNS | _NO
_REACH = 8  # words between a negation, or the last item of its list, and what it negates

# What tells, behind a comma, a new clause ("not round, it is defective") from the next item ("no dents, or defects").
_SUBJECTS = _words("a an the this these those it its they there here i we you he she one")
_VERBS = _words(
    "is are was were be been has have had does do did can could will would should may might must shows show exhibits "
    "exhibit displays appears appear seems seem looks look remains contains contain suggests suggest indicates "
    "indicate reveals suffers means makes"
)
_OPENERS = _words(
    "that which who whose what where when with since as if due indicating suggesting resulting causing showing making "
    "leaving meaning implying revealing signifying confirming constituting exhibiting displaying having being "
    "appearing representing creating demonstrating pointing clearly obviously definitely evidently apparently probably "
    "likely possibly hence only just rather instead still even also"
)
"""These begin a clause at the start of an item only; later they belong to it: "or marks that suggest a defect"."""
_PREPOSITIONS = _words("on in of at along around across near to with from over between for by within inside into under")
_GOOD = _NO | _words(
    "good ok okay fine perfect intact clean smooth uniform even straight round flat complete correct acceptable free"
)
_PREDICATE_ENDS = _STOPS | _words("and due because since as with given") | {""}
_PLAIN = _words("not never cannot neither nor non nothing none")
_NOT = ("n't", "n\u2019t")


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


@dataclass
class _Negation:
    """What stands negated: `count` negations, the last one `since` words ago. A list carries them on."""

    count: int = 0
    since: int = 0
    plain: bool = False  # "not": it says of a thing what it is not; "no", "without" say what is not there
    article: bool = False  # "without a dent": a further "a" begins the next item
    listed: bool = False  # a comma came
    loose: bool = False  # in an item that may turn out to be a clause
    chosen: bool = False  # in the item behind "or"

    def clear(self) -> None:
        """Nothing is negated any more."""
        self.count, self.listed, self.loose = 0, False, False

    def add(self, word: str, following: str) -> None:
        """A negator: one more ("not free of"), or the first of a new item ("no dents, no defects")."""
        self.count = 1 if self.loose else self.count + 1
        self.since, self.article, self.listed, self.loose, self.chosen = 0, False, False, False, False
        self.plain = word in _PLAIN or word.endswith(_NOT) or following == "longer"

    def pass_by(self, word: str, before: str, following: str) -> None:
        """Any word: whether what was negated still is."""
        self.since += 1
        if not self.count:
            return
        if self.since > _REACH or (word == "," and before in ("nothing", "none")):
            self.clear()
        elif word == "or":
            self.since, self.chosen = 0, True
        elif word == "," or (word == "and" and (self.listed or following == "or")):
            self.since, self.listed, self.loose, self.chosen = 0, True, True, False
        elif word in _STOPS or (word in _CLAUSE_WORDS and not (word == "and" and _continues(following))):
            self.clear()
        elif self.loose:
            self._weigh(word, before)
        elif word in ("a", "an"):
            self.article = True

    def _weigh(self, word: str, before: str) -> None:
        """A word of an item: a clause begins ("it is"), the item is complete ("or dents are seen"), or it goes on."""
        if word in _OPENERS:
            self.loose = False
            if before in (",", "and", "or"):
                self.clear()
        elif word in _VERBS:
            self.loose = False
            if not self.chosen:
                self.clear()
        elif word in _SUBJECTS and before not in _PREPOSITIONS and not (self.article and word in ("a", "an")):
            self.clear()


def _continues(following: str) -> bool:
    """Whether `and` goes on with what is negated: "no scratches and defects"."""
    return following in _VERDICTS - _NO - {"yes"}


def _stated(words: list[str]) -> bool | None:
    """The last verdict of one sentence."""
    verdict, condition, negation = None, False, _Negation()
    for i, word in enumerate(words):
        before, following = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        negation.pass_by(word, before, following)
        if word in _STOPS:
            condition = False
        if word in ("doubt", "question"):  # "without a doubt defective" negates nothing
            negation.clear()
        elif word in ("whether", "if"):
            condition = True
        elif _is_verdict_no(word, following):
            verdict = False
            negation.clear()
        elif word in _VERDICTS:
            good = word in _NO or word == "yes"
            if good and not negation.plain:  # "the lack of dents is normal"
                negation.clear()
            if negation.listed and (good or following == "free"):  # "not dented, normal"
                negation.clear()
            value = _value(words, i, negation.count + _denied(words, i))
            if value is not None and not condition and not _is_alternative(words, i):
                verdict = value
        elif _is_negator(word, following):
            negation.add(word, following)
        if word in _GOOD and negation.plain and following in _PREDICATE_ENDS:  # "not normal, defective": said
            negation.clear()
    return verdict


def _is_verdict_no(word: str, following: str) -> bool:
    return word == "no" and (not following or following in _STOPS or following in _AFTER_VERDICT_NO)


def _is_negator(word: str, following: str) -> bool:
    if word == "free":
        return following in ("of", "from")
    if word == "not" and following in ("only", "just", "merely", "simply"):
        return False
    return word in _NEGATORS or word.endswith(_NOT)


def _value(words: list[str], i: int, negations: int) -> bool | None:
    word = words[i]
    if word in _NOUNS and i + 1 < len(words) and words[i + 1] == "free":  # "defect-free"
        negations += 1
    return (word not in _NO) ^ bool(negations % 2)


def _denied(words: list[str], i: int) -> bool:
    """Whether what follows says that it is not there: `Defects: none`, `anomalous: false`, `damage is not visible`."""
    clause = words[i + 1 : i + 8]
    ends = [k for k, word in enumerate(clause) if word in _STOPS]
    at = ends[0] if ends else len(clause)
    if at < 4 and clause[at : at + 1] == [":"] and clause[at + 1 : at + 2] and clause[at + 1] in _NONE:
        return True
    if words[i] not in _NOUNS or not at or not (clause[0] in _VERBS or clause[0].endswith(_NOT)):
        return False
    said = clause[1:at]
    denied = clause[0].endswith(_NOT) or (bool(said) and said[0] == "not")
    return "absent" in said[:2] or (denied and bool(_SEEN & set(said[:3])))


def _is_alternative(words: list[str], i: int) -> bool:
    """`normal or anomalous`, `yes or no`: a choice, not a statement."""
    low = max(i - 3, 0)
    if "or" not in words[low : i + 4]:
        return False
    at = words.index("or", low)
    left = [w in _NO or w == "no" for w in words[max(at - 1, 0) : at] if w in _VERDICTS or w == "no"]
    right = [w in _NO or w == "no" for w in words[at + 1 : at + 4] if w in _VERDICTS or w == "no"]
    return bool(left and right) and left[0] != right[0]
