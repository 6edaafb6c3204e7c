"""Short questions about a view and their answers: the language side of pre-training (`base_data`).

Kinds, places, counts, signs, rows, surfaces, and what a tool's words say; never whether something is wrong. Answers are
one token or one box, and "nothing there" is as frequent as something, so that guessing from the question alone earns
little. Some questions need no picture: to find a box in a sentence, to compare numbers, to see whether a list names a
thing, which a large model can do and a small one has to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .boxes import SCALE
from .factory_base import BASE_KINDS
from .factory_patterns import GLYPHS
from .protocol import box_text
from .samples import Box

NAMES = (*BASE_KINDS, *GLYPHS)
Empty = Sequence[Sequence[float]] | np.ndarray  # (n, 2)
Pair = tuple[str, str]
NOTHING = "nothing"
YES_OR_NO = " Answer Yes or No."  # as the direct prompt ends
LISTED = 4  # marks named in a list, the strongest first
ADJECTIVES = ("round", "short", "thin", "plain", "printed", "small")  # a text may put one before a sign
THERE = ("It carries {}.", "{} is meant to be there.", "Legitimate is {}.", "Only {} belongs.", "Normal: {}.")
ABSENT = ("{} is not meant to be there.", "No {} belongs here.", "{} is foreign.", "Not normal: {}.")


def mark_name(kind: str, bright: bool) -> str:
    """`scratch`, or `dark ring` for a printed sign."""
    return f"{'bright' if bright else 'dark'} {kind}" if kind in GLYPHS else kind


@dataclass(frozen=True)
class Seen:
    """A mark that can be seen in the view: its kind, relative box, and whether it is brighter than its ground."""

    kind: str
    box: Box
    bright: bool

    @property
    def name(self) -> str:
        """See `mark_name`."""
        return mark_name(self.kind, self.bright)

    @property
    def middle(self) -> tuple[float, float]:
        """Relative centre."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Report:
    """What a tool says, what is really there (a name, `nothing`, or how a row runs), the box that the tool names
    (relative units of the whole picture) and what of."""

    text: str
    told: str
    box: Box | tuple[()]
    what: str


@dataclass(frozen=True)
class Facts:
    """What can be said of a view. `seen`: marks, strongest first; `row`: relative end points (x1, y1, x2, y2), empty
    without a row in view; `features`: their number and shape in words, or ""; `surface`: of the part or surface;
    `report`: of the tool that made the view or measured in it."""

    seen: tuple[Seen, ...]
    row: tuple[int, ...]
    features: str
    surface: str
    report: Report | None = None

    @classmethod
    def of_json(cls, data: Sequence[object]) -> Facts:
        """From the list that `json.dumps(dataclasses.astuple(facts))` wrote."""
        seen, row, features, surface, report = data
        marks = tuple(Seen(kind, tuple(box), bright) for kind, box, bright in seen)  # type: ignore[attr-defined]
        told = Report(report[0], report[1], tuple(report[2]), report[3]) if report else None  # type: ignore[index]
        return cls(marks, tuple(row), features, surface, told)  # type: ignore[arg-type]

    @property
    def signs(self) -> list[str]:
        """Names of the printed signs in view."""
        return sorted({m.name for m in self.seen if m.kind in GLYPHS})


def tens(values: Sequence[float]) -> str:
    """`[120,40,300,90]`: multiples of ten, each one token."""
    return box_text([min(max(10 * round(v / 10), 0), SCALE) for v in values])


def talk(
    rng: np.random.Generator, facts: Facts, empty: Empty, short: bool = False, surfaces: Sequence[str] = ()
) -> Pair:
    """A question with its answer on one view.

    Args:
        rng: Source of every choice.
        facts: What can be said of the view.
        empty: Relative points where nothing lies.
        short: Only questions with an answer of a word or two: a language model learns to look from these first.
        surfaces: Names of surfaces to ask for, beside the one in view.
    """
    some, signs, report = bool(facts.seen), facts.signs, facts.report
    sign_told = report is not None and report.told.split()[-1] in GLYPHS
    tasks = {
        _strongest: 4, _sign: 1.5, _is: 2, _is_sign: 1.5 if signs else 0.3, _at: 1.5, _larger: 1, _count: 0.3,
        _tone: 0.5 if some else 0, _surface: 1, _member: 0.7, _told: 5 if report else 0,
        _belongs: 4 if sign_told or len(signs) == 1 else 0.5,
    }  # fmt: skip
    if not short:
        tasks |= {_where: 2 if some else 0, _row: 3 if facts.row else 0.8, _lookup: 1.5, _list: 0.3,
                  _told_where: 3 if report and report.box else 0}  # fmt: skip
    share = np.array(list(tasks.values()))
    task = list(tasks)[int(rng.choice(len(tasks), p=share / share.sum()))]
    if task is _surface:
        return _surface(rng, facts, surfaces)
    return task(rng, facts, empty)


def _one(rng: np.random.Generator, options: Sequence) -> object:
    return options[int(rng.integers(len(options)))]


def _asked(rng: np.random.Generator, question: str, yes: bool) -> Pair:
    """A question with Yes or No for its answer; every other one says so."""
    return f"{question}{YES_OR_NO if rng.random() < 0.5 else ''}", "Yes" if yes else "No"


def _at(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """What lies at a point: a mark, or nothing, half and half."""
    if facts.seen and (len(empty) == 0 or rng.random() < 0.5):
        mark = _one(rng, facts.seen)
        return f"What is at {tens(mark.middle)}?", f"{mark.name}."
    return f"What is at {tens(_one(rng, empty) if len(empty) else (500, 500))}?", f"{NOTHING}."


def _tone(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    mark = _one(rng, facts.seen)
    return f"Tone at {tens(mark.middle)}?", "bright." if mark.bright else "dark."


def _is(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """Whether a kind is there, half and half."""
    present = sorted({m.kind for m in facts.seen})
    there = bool(present) and rng.random() < 0.5
    kind = _one(rng, present if there else [n for n in NAMES if n not in present])
    return _asked(rng, f"Is there a {kind}?", there)


def _is_sign(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """Whether a printed sign is there, named by tone and shape."""
    if facts.signs and rng.random() < 0.5:
        return f"Is there a {_one(rng, facts.signs)}?", "Yes"
    return f"Is there a {_one(rng, _signs_but(facts.signs))}?", "No"


def _signs_but(names: Sequence[str]) -> list[str]:
    return [n for n in (f"{tone} {g}" for tone in ("dark", "bright") for g in GLYPHS) if n not in names]


def _sign(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    signs = [m for m in facts.seen if m.kind in GLYPHS]
    return "Which sign?", f"{signs[0].name}." if signs else "no sign."


def _strongest(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    question = _one(rng, ("What do you see?", "What is on it?", "What stands out?"))
    return str(question), f"{facts.seen[0].name if facts.seen else NOTHING}."


def _where(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    mark = _one(rng, facts.seen)
    return f"Where is the {mark.name}?", f"{tens(mark.box)}."


def _row(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    if not facts.row:
        return "Where is the row?", "no row."
    counted = f", {facts.features}" if facts.features else ""
    return "Where is the row?", f"{tens(facts.row[:2])} to {tens(facts.row[2:])}{counted}."


def _count(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    return "How many marks?", f"{len(facts.seen)}."


def _told(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """What is really where a tool found something."""
    report = facts.report
    assert report is not None
    return f"{report.text}. What is {report.what}?", f"{report.told}."


def _told_where(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """The box in a tool's words."""
    report = facts.report
    assert report is not None
    return f"{report.text}. Where is {report.what}?", f"{tens(report.box)}."


def _belongs(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """Whether a text allows a sign: the one a tool describes, the one in view, or one that is named."""
    report, given = facts.report, ""
    if report is not None and report.told.split()[-1] in GLYPHS:
        name, given = report.told, f" {report.text}."
    elif len(facts.signs) == 1:
        name = facts.signs[0]
    else:
        name = str(_one(rng, _signs_but([])))
        given = f" There is a {name}."
    others = [str(n) for n in rng.permutation(_signs_but([name]))[: int(rng.integers(1, 5))]]
    allowed = bool(rng.random() < 0.5)
    good, bad = ([name], others) if allowed else (others[:1], [name, *others[1:]])
    texts = (
        [_listed(rng, THERE, good), _listed(rng, ABSENT, bad)] if rng.random() < 0.7 else [_listed(rng, THERE, good)]
    )
    texts = [texts[k] for k in rng.permutation(len(texts))]
    return _asked(rng, f"{' '.join(texts)}{given} Does it belong?", allowed)


def _listed(rng: np.random.Generator, templates: Sequence[str], names: Sequence[str]) -> str:
    """A sentence that names signs in any order, some with an adjective."""
    words = []
    for name in rng.permutation(list(names)):
        tone, shape = str(name).split()
        adjective = _one(rng, ADJECTIVES) if rng.random() < 0.5 else ""
        words.append(" ".join(w for w in ((adjective, tone, shape), (tone, adjective, shape))[rng.integers(2)] if w))
    listed = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return str(_one(rng, templates)).format(f"a {listed}")


def _larger(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """Order of the numbers that a tool may report; nothing to do with the picture."""
    a, b = (round(float(np.exp(rng.uniform(0, np.log(120))))) for _ in range(2))
    return _asked(rng, f"Is {a} % more than {b} %?", a > b)


def _member(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """Whether a list names a thing; nothing to do with the picture."""
    names = [str(n) for n in rng.permutation(NAMES)[: int(rng.integers(2, 6))]]
    asked = _one(rng, names if rng.random() < 0.5 else [n for n in NAMES if n not in names])
    return _asked(rng, f"Listed: {', '.join(names)}. Is {asked} listed?", asked in names)


def _lookup(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """To find a box in a text, or what a text puts at a box; nothing to do with the picture."""
    names = [str(n) for n in rng.permutation(NAMES)[: int(rng.integers(1, 4))]]
    placed = []
    for _ in names:
        low, high = np.sort(rng.uniform(0, SCALE, (2, 2)), axis=0)
        placed.append(tens((*low, *high)))
    text = ", ".join(f"{name} at {box}" for name, box in zip(names, placed, strict=True))
    k = int(rng.integers(len(names)))
    if rng.random() < 0.25:
        return f"Said: {text}. What is said at {placed[k]}?", f"{names[k]}."
    return f"Said: {text}. Where is the {names[k]}?", f"{placed[k]}."


def _surface(rng: np.random.Generator, facts: Facts, surfaces: Sequence[str]) -> Pair:
    """Its name, or whether it is one that is named."""
    others = [s for s in surfaces if s != facts.surface]
    if not others or rng.random() < 0.6:
        return "What surface is this?", f"{facts.surface}."
    same = bool(rng.random() < 0.5)
    return _asked(rng, f"Is this {facts.surface if same else _one(rng, others)}?", same)


def _list(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    named = "; ".join(f"{m.name} at {tens(m.box)}" for m in facts.seen[:LISTED])
    return "What marks are there?", f"{named or 'no mark'}."
