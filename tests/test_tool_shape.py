"""What the crop says of the shape of its find."""

import cv2
import numpy as np
import pytest

from indus_lib import factory, tools
from indus_lib.tool_shape import blob_shape


def face(sign: int, draw: str) -> np.ndarray:
    image = np.full((200, 200, 3), 120, np.uint8)
    colour = (120 + sign * 70,) * 3
    if draw == "line":
        cv2.line(image, (70, 90), (130, 110), colour, 4)
    elif draw == "cross":
        cv2.line(image, (80, 100), (120, 100), colour, 7)
        cv2.line(image, (100, 80), (100, 120), colour, 7)
    else:
        cv2.circle(image, (100, 100), 18, colour, -1 if draw == "disc" else 6)
    return image


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("draw", "words"),
    [("disc", "solid round"), ("ring", "hollow round"), ("cross", "ragged round"), ("line", "solid line")],
)
def test_the_words_tell_the_printed_signs_apart(sign: int, draw: str, words: str) -> None:
    shape = blob_shape(face(sign, draw), (76, 76, 124, 124) if draw != "line" else (66, 86, 134, 114))
    assert shape is not None
    assert shape.words.split(maxsplit=1)[1] == f"{'dark' if sign < 0 else 'bright'} {words}"


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
