"""Hand-made episodes on a drawn plate, shared by the widget tests: real tools, no model."""

from pathlib import Path

import cv2
import numpy as np

from indus_lib import images, tools
from indus_lib.episodes import Episode, ToolCall, Turn, Verdict
from indus_lib.samples import Sample

SCRATCH = (600, 300, 700, 340)


def plate(side: int = 1024) -> np.ndarray:
    """Grey plate with noise, a row of holes and one bright scratch inside SCRATCH; uint8 (side, side, 3)."""
    rng = np.random.default_rng(0)
    picture = np.full((side, side, 3), 120, np.uint8)
    for i in range(8):
        cv2.circle(picture, (side * (2 + i * 2) // 20, side * 3 // 4), side // 40, (30, 30, 30), -1)
    start, end = (int(side * 0.61), int(side * 0.31)), (int(side * 0.69), int(side * 0.33))
    cv2.line(picture, start, end, (230, 230, 230), max(2, side // 256))
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def write_sample(folder: Path, name: str = "plate", side: int = 1024, label: bool = True) -> Sample:
    """The plate as a file with its sample."""
    path = images.save_png(folder / f"{name}.png", plate(side))
    boxes = (SCRATCH,) if label else ()
    return Sample(f"plate/test/{name}", path, "custom", "plate", label, defect="scratch" * label, boxes=boxes)


def called(name: str, arguments: dict, sample: Sample) -> ToolCall:
    """A call as the loop would record it."""
    result = tools.run(name, arguments, images.load_image(sample.image), category=sample.category)
    return ToolCall(name, arguments, result.ok, result.text, tuple(result.regions), len(result.images), result.ms)


def episode(
    sample: Sample,
    calls: tuple[tuple[str, dict], ...] = (("crop", {"region": [560, 260, 740, 380]}),),
    box: tuple | None = (590, 300, 700, 340),
    answer: bool | None = True,
    margins: tuple[float | None, float | None] = (-0.5, 2.0),
    think: str = "A plate with holes; region: [560,260,740,380]; preliminary: No",
) -> Episode:
    """Two rounds: route with `calls`, then decide."""
    made = tuple(called(name, arguments, sample) for name, arguments in calls)
    first = Turn(f"<think>{think}</think><call_tool>...</call_tool>", made, margins[0], 0.2)
    final = "<think>A bright line.</think>" + (
        "" if answer is None else f"<answer>{'Yes' if answer else 'No'}</answer>"
    )
    verdict = None if answer is None else Verdict(answer, box if answer else None, "scratch" if answer else "")
    return Episode(
        sample.id,
        sample.dataset,
        sample.category,
        str(sample.image),
        sample.label,
        policy="hand-made",
        profile="tiny",
        turns=(first, Turn(final, (), margins[1], 0.3)),
        verdict=verdict,
        violations=() if answer is not None else ("missing_answer",),
        margin=margins[1],
        margin_before=margins[0],
    )
