"""What the crop says of the shape of its find."""

import re

import cv2
import numpy as np
import pytest

from indus_lib import factory, protocol, tools
from indus_lib.factory_patterns import glyph
from indus_lib.tool_shape import blob_shape


def face(sense: int, draw: str) -> np.ndarray:
    """A mark on an even ground: a line, an ellipse, or a printed sign of the factory's about 36 px wide."""
    cover = np.zeros((200, 200), np.float32)
    if draw == "line":
        cv2.line(cover, (70, 90), (130, 110), 1, 4)
    elif draw == "ellipse":
        cv2.ellipse(cover, (100, 100), (24, 12), 20, 0, 360, 1, -1)
    else:
        cover[78:122, 78:122] = glyph(44, draw, angle=7, bold=0.21)
    return np.repeat(np.round(120 + 70 * sense * cover)[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("sense", [-1, 1])
@pytest.mark.parametrize(
    ("draw", "words"),
    [("dot", "dot"), ("ring", "ring"), ("bar", "bar"), ("cross", "cross"), ("square", "dot"), ("line", "solid line"),
     ("ellipse", "solid oval"), ("chevron", "ragged oval")],
)  # fmt: skip
def test_signs_are_named_and_other_marks_described(sense: int, draw: str, words: str) -> None:
    shape = blob_shape(face(sense, draw), (76, 76, 124, 124) if draw != "line" else (66, 86, 134, 114))
    tone = "dark" if sense < 0 else "bright"
    assert shape is not None and shape.words.split(maxsplit=1)[1] == f"{tone} {words}"
    assert shape.name == ("" if " " in words else f"{tone} {words}")


def test_a_sign_has_one_name_everywhere() -> None:
    """In the crop, in the priors, and where a terse thought repeats it: else the texts cannot be compared."""
    for sign, (form, sense) in factory.SIGNS.items():
        shape = blob_shape(face(sense, form), (76, 76, 124, 124))
        assert shape.name.split() == [w for w in sign.split() if w != "short"]
        assert protocol.FORM.search(shape.name)
        entry = next(c.name for c in factory.CATEGORIES.values() if c.sign == sign)
        text = tools.run("prior", {"product": entry}, face(1, "dot")).text
        assert re.search(shape.name.replace(" ", "( round)? "), text)


def test_the_crop_names_the_sign_that_was_drawn() -> None:
    """Of validation products of the pool, by the right name and no other."""
    names = [n for n, c in factory.CATEGORIES.items() if c.sign and c.held_out][:16]
    said = []
    for k, name in enumerate(names):
        scene = factory.render(name, 50 + k, anomalous=False, mechanism="prior", view=k % 5)
        named = tools.run("crop", {"region": [0, 0, 1000, 1000]}, scene.image).details.get("named")
        said += [named == factory.CATEGORIES[name].sign.removeprefix("short ")] if named else []
    assert all(said) and len(said) >= 0.8 * len(names)


def test_a_composed_product_shows_nothing_but_its_sign() -> None:
    """Else the crop finds something else, and "wrong mark" is a label that nothing tells (pool version 5: 28 %)."""
    names = [n for n, c in factory.CATEGORIES.items() if c.sign and "assembly" in n]
    hits = 0
    for k, name in enumerate(names):
        scene = factory.render(name, 730, anomalous=True, mechanism="prior", view=k % 5)
        result = tools.run("crop", {"region": [0, 0, 1000, 1000]}, scene.image)
        x1, y1, x2, y2 = result.details["window_px"]
        y, x = (v.mean() for v in np.nonzero(scene.mask))
        hits += x1 <= x <= x2 and y1 <= y <= y2 and x2 - x1 < 0.6 * scene.image.shape[1]
    assert hits / len(names) >= 0.8
