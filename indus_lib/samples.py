"""`Sample`: one image to inspect and what is known about it. Readers yield these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Box = tuple[int, int, int, int]
"""(x1, y1, x2, y2) in 0..1000 of the image's width and height, x2 > x1, y2 > y1 (Qwen3-VL's convention)."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Attributes:
        id: Unique and stable inside a data set: `<category>/<split>/<file stem>` or longer, never absolute.
        image: Path of the image file.
        dataset: `mvtec`, `visa`, `mpdd`, `dtd`, `kolektorsdd`, `real-iad` or `custom`.
        category: Product name as the data set spells it.
        label: True = anomalous, False = normal, None = unknown (a user's own photograph).
        split: `train` or `test`.
        view: Camera view where the set has several (Real-IAD C1..C5), else "".
        defect: Raw defect name of the data set, "" when normal or unknown.
        node: Node of `data/taxonomy.yaml` that `defect` maps to, "" when normal or unknown.
        boxes: One box per connected region of the mask, relative units; empty when normal or unknown.
        mask: Path of the mask file, None when there is none.
        tile: Pixel window (x1, y1, x2, y2) of `image` and `mask` that this sample covers; None = the whole
            file. Used by the three-tile variant of KolektorSDD.
        mm_per_pixel: Physical scale where known.
    """

    id: str
    image: Path
    dataset: str = "custom"
    category: str = ""
    label: bool | None = None
    split: str = "test"
    view: str = ""
    defect: str = ""
    node: str = ""
    boxes: tuple[Box, ...] = ()
    mask: Path | None = None
    tile: tuple[int, int, int, int] | None = None
    mm_per_pixel: float | None = None
