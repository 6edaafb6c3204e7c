"""What the generated world holds: which images, of which category and mechanism, under which official file name.

Everything is decided here, before the first pixel, from the set's name, the seed and the scale alone.
Counts and shares are ours (`# not in paper`): 300 + 300 images keep the 95 % half-width of a balanced accuracy under
4 points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .factory import Category, members
from .factory_render import planned_defect

SETS = ("mvtec", "visa", "mpdd", "dtd", "kolektorsdd", "pool")
_GROUP = {"kolektorsdd": "sdd"}
MIX = {
    "mvtec": {"plain": 0.25, "small": 0.25, "geometric": 0.2, "prior": 0.15, "faint": 0.15},
    "visa": {"small": 0.35, "geometric": 0.25, "prior": 0.2, "plain": 0.1, "faint": 0.1},
    "mpdd": {"plain": 0.3, "geometric": 0.25, "faint": 0.2, "small": 0.15, "prior": 0.1},
    "dtd": {"faint": 0.45, "plain": 0.3, "small": 0.25},
    "kolektorsdd": {"small": 0.4, "faint": 0.3, "plain": 0.3},
    "pool": {"small": 0.256, "plain": 0.218, "faint": 0.191, "prior": 0.184, "geometric": 0.151},  # a part a product
}
COUNTS = {**dict.fromkeys(("mvtec", "visa", "mpdd", "dtd"), (300, 300)), "kolektorsdd": (150, 60), "pool": (2000, 2000)}
"""(normal, anomalous) test images; parts for the pool, where each part is seen by two of the five cameras."""
TRAIN_GOOD = 4  # per category
POOL_VIEWS = ((0, 1), (0, 2), (0, 3), (0, 4))
STAMP = "20260520"  # the place of Real-IAD's time stamp


@dataclass(frozen=True)
class Job:
    """One image to draw: what, and the paths (relative to the set's folder) of the image and, when faulty, its mask."""

    image: str
    mask: str
    category: str
    seed: int
    anomalous: bool
    mechanism: str
    view: int = 0
    split: str = "test"


def part_plan(name: str, seed: int, scale: float) -> list[tuple[Category, str, bool, int]]:
    """(category, mechanism, anomalous, part seed) of each part of a set, shares exact, categories in turn."""
    cats = members(_GROUP.get(name, name))
    base = seed * 1_000_000 + SETS.index(name) * 100_000
    parts: list[tuple[Category, str, bool, int]] = []
    for mechanism, share in MIX[name].items():
        able = [c for c in cats if mechanism in c.mechanisms]
        for anomalous in (False, True):
            wanted = max(1, round(COUNTS[name][anomalous] * share * scale))
            for k in range(wanted):
                parts.append((able[k % len(able)], mechanism, anomalous, base + len(parts)))
    return parts


def jobs(name: str, seed: int, scale: float) -> list[Job]:
    """Every image of a set in its official layout. Raises ValueError for a set that is not one of `SETS`."""
    if name not in SETS:
        raise ValueError(f"unknown set {name!r}; choose from {', '.join(SETS)}")
    make = {"visa": _visa, "kolektorsdd": _kolektor, "pool": _pool}.get(name, _mvtec)
    return list(make(name, seed, scale))


def defect_of(job: Job) -> str:
    """Raw defect name of a planned image, "" when normal."""
    return planned_defect(job.category, job.seed, job.mechanism) if job.anomalous else ""


def _train(name: str, seed: int, scale: float) -> Iterator[tuple[Category, int, int]]:
    """(category, part seed, running number) of the few normal training images."""
    n = max(1, round(TRAIN_GOOD * min(scale, 1.0)))
    for i, category in enumerate(members(_GROUP.get(name, name))):
        for k in range(n):
            yield category, seed * 1_000_000 + SETS.index(name) * 100_000 + 50_000 + i * 100 + k, k


def _main(category: Category) -> str:
    return max(category.mechanisms, key=lambda m: category.mechanisms[m])


def _mvtec(name: str, seed: int, scale: float) -> Iterator[Job]:
    number: Counter[tuple[str, str]] = Counter()
    for category, part, k in _train(name, seed, scale):
        path = f"{category.name}/train/good/{k:03d}.png"
        yield Job(path, "", category.name, part, False, _main(category), split="train")
    for category, mechanism, anomalous, part in part_plan(name, seed, scale):
        job = Job("", "", category.name, part, anomalous, mechanism)
        defect = defect_of(job) or "good"
        k = number[category.name, defect]
        number[category.name, defect] += 1
        mask = f"{category.name}/ground_truth/{defect}/{k:03d}_mask.png" if anomalous else ""
        yield Job(f"{category.name}/test/{defect}/{k:03d}.png", mask, category.name, part, anomalous, mechanism)


def _visa(name: str, seed: int, scale: float) -> Iterator[Job]:
    number: Counter[tuple[str, bool]] = Counter()
    train = [(c, _main(c), False, p, "train") for c, p, _ in _train(name, seed, scale)]
    test = [(*part, "test") for part in part_plan(name, seed, scale)]
    for category, mechanism, anomalous, part, split in train + test:
        k = number[category.name, anomalous]
        number[category.name, anomalous] += 1
        kind, data = ("Anomaly" if anomalous else "Normal"), f"{category.name}/Data"
        width = 3 if anomalous else 4  # as the official names
        mask = f"{data}/Masks/Anomaly/{k:0{width}d}.png" if anomalous else ""
        yield Job(
            f"{data}/Images/{kind}/{k:0{width}d}.JPG", mask, category.name, part, anomalous, mechanism, split=split
        )


def _kolektor(name: str, seed: int, scale: float) -> Iterator[Job]:
    parts = part_plan(name, seed, scale)
    order = sorted(range(len(parts)), key=lambda k: (k * 7919) % 10007)  # faulty ones spread over the items
    for k, at in enumerate(order):
        category, mechanism, anomalous, part = parts[at]
        stem = f"kos{k // 8 + 1:02d}/Part{k % 8}"
        yield Job(f"{stem}.jpg", f"{stem}_label.bmp", category.name, part, anomalous, mechanism)


def _pool(name: str, seed: int, scale: float) -> Iterator[Job]:
    number: Counter[str] = Counter()
    for k, (category, mechanism, anomalous, part) in enumerate(part_plan(name, seed, scale)):
        number[category.name] += 1
        serial, split = number[category.name], "test" if category.held_out else "train"
        for view in POOL_VIEWS[k % len(POOL_VIEWS)]:
            job = Job("", "", category.name, part, anomalous, mechanism)
            code = defect_of(job)
            folder = f"{category.name}/NG/{code}" if anomalous else f"{category.name}/OK"
            middle = f"NG_{code}" if anomalous else "OK"
            stem = f"{folder}/S{serial:04d}/{category.name}_{serial:04d}_{middle}_C{view + 1}_{STAMP}"
            mask = f"{stem}.png" if anomalous else ""
            yield Job(f"{stem}.jpg", mask, category.name, part, anomalous, mechanism, view, split)
