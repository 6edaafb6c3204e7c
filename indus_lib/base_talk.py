"""Short questions about a view and their answers: the language side of pre-training (`base_data`).

Kinds, places, counts, signs, rows, materials; never whether something is wrong. Answers are one token or one box, and
"nothing there" is as frequent as something, so that guessing from the question alone earns little.
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
Empty = Sequence[tuple[float, float]]
Pair = tuple[str, str]
YES_OR_NO = " Answer Yes or No."  # as the direct prompt ends
LISTED = 4  # marks named in a list, the strongest first


@dataclass(frozen=True)
class Seen:
    """A mark that can be seen in the view: its kind, relative box, and whether it is brighter than its ground."""

    kind: str
    box: Box
    bright: bool

    @property
    def name(self) -> str:
        """`scratch`, or `dark ring` for a printed sign."""
        return f"{'bright' if self.bright else 'dark'} {self.kind}" if self.kind in GLYPHS else self.kind

    @property
    def middle(self) -> tuple[float, float]:
        """Relative centre."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Facts:
    """What can be said of a view. `seen`: marks, strongest first; `row`: relative end points (x1, y1, x2, y2), empty
    without a row in view; `features`: their number and shape in words, or ""; `surface`: surface and material."""

    seen: tuple[Seen, ...]
    row: tuple[int, ...]
    features: str
    surface: str

    @classmethod
    def of_json(cls, data: Sequence[object]) -> Facts:
        """From the list that `json.dumps(dataclasses.astuple(facts))` wrote."""
        seen, row, features, surface = data
        marks = tuple(Seen(kind, tuple(box), bright) for kind, box, bright in seen)  # type: ignore[attr-defined]
        return cls(marks, tuple(row), features, surface)  # type: ignore[arg-type]


def tens(values: Sequence[float]) -> str:
    """`[120,40,300,90]`: multiples of ten, each one token."""
    return box_text([min(max(10 * round(v / 10), 0), SCALE) for v in values])


def talk(rng: np.random.Generator, facts: Facts, empty: Sequence[tuple[float, float]], short: bool = False) -> Pair:
    """A question with its answer on one view.

    Args:
        rng: Source of every choice.
        facts: What can be said of the view.
        empty: Relative points where nothing lies.
        short: Only questions with an answer of a word or two: a language model learns to look from these first.
    """
    some, signs = bool(facts.seen), any(m.kind in GLYPHS for m in facts.seen)
    tasks = {_strongest: 4, _sign: 2.5, _is: 2, _is_sign: 2 if signs else 0.5, _at: 1.5, _larger: 1.5, _count: 0.5,
             _tone: 0.5 if some else 0}  # fmt: skip
    if not short:
        tasks |= {_where: 3 if some else 0, _row: 3 if facts.row else 0.8, _repeat: 1.5, _list: 0.3, _surface: 0.3}
    share = np.array(list(tasks.values()))
    task = list(tasks)[int(rng.choice(len(tasks), p=share / share.sum()))]
    return task(rng, facts, empty)


def _one(rng: np.random.Generator, options: Sequence) -> object:
    return options[int(rng.integers(len(options)))]


def _at(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """What lies at a point: a mark, or nothing, half and half."""
    if facts.seen and (not empty or rng.random() < 0.5):
        mark = _one(rng, facts.seen)
        return f"What is at {tens(mark.middle)}?", f"{mark.name}."
    return f"What is at {tens(_one(rng, empty) if empty else (500, 500))}?", "nothing."


def _tone(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    mark = _one(rng, facts.seen)
    return f"Tone at {tens(mark.middle)}?", "bright." if mark.bright else "dark."


def _is(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """Whether a kind is there, half and half."""
    present = sorted({m.kind for m in facts.seen})
    there = bool(present) and rng.random() < 0.5
    kind = _one(rng, present if there else [n for n in NAMES if n not in present])
    return f"Is there a {kind}?{YES_OR_NO if rng.random() < 0.5 else ''}", "Yes" if there else "No"


def _is_sign(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """Whether a printed sign is there, named by tone and shape."""
    present = sorted({m.name for m in facts.seen if m.kind in GLYPHS})
    if present and rng.random() < 0.5:
        return f"Is there a {_one(rng, present)}?", "Yes"
    absent = [n for n in (f"{tone} {g}" for tone in ("dark", "bright") for g in GLYPHS) if n not in present]
    return f"Is there a {_one(rng, absent)}?", "No"


def _sign(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    signs = [m for m in facts.seen if m.kind in GLYPHS]
    return "Which sign?", f"{signs[0].name}." if signs else "no sign."


def _strongest(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    return "What do you see?", f"{facts.seen[0].name if facts.seen else 'nothing'}."


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


def _larger(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """Order of the numbers that a tool may report; nothing to do with the picture."""
    a, b = (round(float(np.exp(rng.uniform(0, np.log(120))))) for _ in range(2))
    return f"Is {a} % more than {b} %?{YES_OR_NO if rng.random() < 0.5 else ''}", "Yes" if a > b else "No"


def _repeat(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    """To read a box that the text names; nothing to do with the picture."""
    low, high = np.sort(rng.uniform(0, SCALE, (2, 2)), axis=0)
    box = tens((*low, *high))
    return f"It lies at {box}. Where is it?", f"{box}."


def _surface(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    return "What surface is this?", f"{facts.surface}."


def _list(rng: np.random.Generator, facts: Facts, empty: Empty) -> Pair:
    named = "; ".join(f"{m.name} at {tens(m.box)}" for m in facts.seen[:LISTED])
    return "What marks are there?", f"{named or 'no mark'}."
