"""Where the base model looks: the grounding head of the pre-training on drawn and on real photographs. The miniature's
base has such a head; of other models nothing is said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from . import boxes, experiments, figures, images, loop, probes, readers
from .profiles import Profile
from .samples import Sample
from .selection import balanced_limit
from .tables import Row, Table

REAL = {
    "KolektorSDD": ("kolektorsdd", "kolektorsdd_official/KolektorSDD"),
    "MVTec grid": ("mvtec", "mvtec_ad_grid_subset"),
    "hazelnut": ("mvtec", "hazelnut_toy"),
    "magnetic tile": ("mvtec", "magnetic_tile"),
}
FINE = 192  # pixels a side of the second, finer look; not in paper
NO_HEAD = "Not measured here: the base model has no grounding head."
WINDOW = 256  # px at the photograph's own scale, about what a crop shows; windows overlap by a quarter or more


def real_folder() -> Path | None:
    """Folder of real photographs: `INDUS_REAL`, or shared/real beside the checkout; None without one."""
    for root in (os.environ.get("INDUS_REAL"), experiments.ROOT.parent / "shared" / "real"):
        if root and Path(root).is_dir():
            return Path(root)
    return None


def sources(profile: Profile, limit: int = 40) -> dict[str, list[Sample]]:
    """Named groups of samples to look at: the test sets, then the real photographs at hand."""
    limit = min(limit, profile.data.ablation_limit or limit)
    found = {name: balanced_limit(s, limit) for name, s in experiments.test_sets(profile).items()}
    real = real_folder()
    for name, (layout, path) in REAL.items() if real else ():
        if (real / path).is_dir():
            found[f"real {name}"] = balanced_limit(readers.read(layout, real / path), limit)
    return found


def mark_logits(tower: probes.Tower, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Per picture the logit of `any mark` in each merged patch of the agent's view (h, w), mean of it and a finer one.

    What the tower takes for a mark at one size only is mostly texture: AUROC of plain marks on the pool's products
    0.957 in the view alone, 0.976 in both (docs/log.md).
    """
    coarse, fine = ([z[..., -1] for _, z in tower.patches(pictures, view)] for view in (0, FINE))
    return [(a + cv2.resize(b, a.shape[::-1], interpolation=cv2.INTER_LINEAR)) / 2
            for a, b in zip(coarse, fine, strict=True)]  # fmt: skip


def attention(tower: probes.Tower, photo: np.ndarray) -> np.ndarray:
    """Map (h, w) of the logit of `any mark`, from overlapping windows at about native resolution."""
    height, width = photo.shape[:2]
    side = min(WINDOW, height, width)
    ys, xs = (np.linspace(0, n - side, 1 + -(-4 * (n - side) // (3 * side))).astype(int) for n in (height, width))
    corners = [(y, x) for y in ys for x in xs]
    logits = mark_logits(tower, [photo[y : y + side, x : x + side] for y, x in corners])
    out = np.full((height // 8, width // 8), -20.0, np.float32)
    for (y, x), z in zip(corners, logits, strict=True):
        part = out[y // 8 : (y + side) // 8, x // 8 : (x + side) // 8]
        np.maximum(part, cv2.resize(z, part.shape[::-1], interpolation=cv2.INTER_LINEAR), out=part)
    return out


def table(profile: Profile, limit: int = 40) -> Table:
    """Image-level AUROC (maximum of the map) per group, in percent, with interval; nothing was fitted on labels.
    Empty where the base has no grounding head."""
    path = experiments.model_path(profile, "base")
    if not probes.has_head(path):
        return Table("grounding", "Where the base model looks", profile.name, profile.hash, (), (NO_HEAD,))
    groups = sources(profile, limit)
    seen = probes.in_parts(_strongest, path, [(samples,) for samples in groups.values()], 2, "grounding")
    rows = []
    for (name, samples), parts in zip(groups.items(), seen, strict=True):
        y = np.array([bool(s.label) for s in samples], int)
        scores = np.array([value for part in parts for value in part])
        if 0 < y.sum() < len(y):
            value = round(100 * float(roc_auc_score(y, scores)), 1)
            counts = int((y == 0).sum()), int((y == 1).sum())
            rows.append(Row("grounding head, windows", name, value, probes.interval(y, scores), *counts, 0, 1))
    notes = ("AUROC in percent of the strongest patch; the head was trained on drawn marks only, normal or not.",)
    return Table("grounding", "Where the base model looks", profile.name, profile.hash, tuple(rows), notes)


def _strongest(path: Path | str, samples: Sequence[Sample]) -> list[float]:
    """Maximum of each image's map."""
    tower = probes.tower_of(path)
    return [float(attention(tower, images.load_image(s.image, s.tile)).max()) for s in samples]


def patch_table(profile: Profile, limit: int = 150) -> Table:
    """AUROC of "a mark lies in this patch" inside anomalous images of unseen categories, from their masks: mean over
    images with bootstrap interval. Marks too small for a patch of the view are judged in what the crop tool returns.
    Empty for real sets, which do not say how a mark is to be found, and without a grounding head.
    """
    path = experiments.model_path(profile, "base")
    if not profile.data.standins or not probes.has_head(path):
        title = "Which patch holds the mark"
        return Table("grounding_patches", title, profile.name, profile.hash, (), (probes.NOT_HERE,))
    known = experiments.mechanisms(profile)
    limit = min(limit, 2 * (profile.data.ablation_limit or limit))
    notes = ("Mean over images of the AUROC of their patches, percent; patches covered by 1-10 % do not count.",)
    every = [s for group in experiments.test_sets(profile).values() for s in group if s.label and s.mask]
    rows, kinds, groups = [], (("plain", False), ("plain", True), ("small", True)), []
    for mechanism, cropped in kinds:
        samples = [s for s in every if known.get(f"{s.dataset}:{s.id}") == mechanism]
        groups.append((samples[:: max(len(samples) // limit, 1)][:limit], cropped))
    for (mechanism, cropped), parts in zip(kinds, probes.in_parts(_patch_job, path, groups, 4, "patches"), strict=True):
        found = [value for part in parts for value in part]
        if len(found):
            draws = np.random.default_rng(0).choice(found, (500, len(found))).mean(1)
            low, high = (round(100 * float(np.percentile(draws, q)), 1) for q in (2.5, 97.5))
            value, where = round(100 * float(np.mean(found)), 1), "crop" if cropped else "view"
            rows.append(Row(f"{mechanism} marks", where, value, (low, high), 0, len(found), 0, 1))
    return Table("grounding_patches", "Which patch holds the mark", profile.name, profile.hash, tuple(rows), notes)


def _patch_job(path: Path | str, samples: Sequence[Sample], cropped: bool) -> list[float]:
    return _patch_aurocs(probes.tower_of(path), samples, cropped)


def _patch_aurocs(tower: probes.Tower, samples: Sequence[Sample], cropped: bool) -> list[float]:
    """Of each image in which some patches, and not all, hold the mark at this size."""
    pairs = [_view(sample, cropped) for sample in samples]
    found = []
    for logits, (_, mask) in zip(mark_logits(tower, [photo for photo, _ in pairs]), pairs, strict=True):
        share = cv2.resize(mask.astype(np.float32), logits.shape[1::-1], interpolation=cv2.INTER_AREA)
        clear = (share > 0.1) | (share < 0.01)
        held = share[clear] > 0.1
        if held.any() and not held.all():
            found.append(float(roc_auc_score(held, logits[clear])))
    return found


def _view(sample: Sample, cropped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Photograph and mask, or the part of both that the crop tool chooses."""
    photo = images.load_image(sample.image, sample.tile)
    mask = images.load_mask(sample.mask, photo.shape, sample.tile)
    if not cropped:
        return photo, mask
    result = loop.run_call(probes.CALLS["crop"], photo, sample)
    x1, y1, x2, y2 = boxes.to_pixels(result.regions[0], photo.shape[1], photo.shape[0])
    return result.images[0], mask[y1:y2, x1:x2]


def figure(profile: Profile) -> Figure | None:
    """One anomalous sample per group: photograph with its truth, and the map; None without a grounding head."""
    path = experiments.model_path(profile, "base")
    if not probes.has_head(path):
        return None
    tower = probes.Tower(path)
    chosen = [(n, next(s for s in g if s.label)) for n, g in sources(profile, 40).items() if any(s.label for s in g)]
    picture = figures.new(1.7 * len(chosen), 3.8)
    axes = picture.subplots(2, len(chosen), squeeze=False)
    for (name, sample), (above, below) in zip(chosen, axes.T, strict=True):
        photo = images.load_image(sample.image, sample.tile)
        above.imshow(photo)
        _outline(above, photo, sample.boxes)
        above.set_title(name, fontsize=8)
        below.imshow(attention(tower, photo), cmap="viridis")
        for axis in (above, below):
            axis.set_axis_off()
    return picture


def _outline(axis, photo: np.ndarray, found: Sequence[tuple[int, int, int, int]]) -> None:
    h, w = photo.shape[:2]
    for x1, y1, x2, y2 in np.array(found, float).reshape(-1, 4) * (w, h, w, h) / 1000:
        axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=figures.COLOURS[1], lw=1.2)
