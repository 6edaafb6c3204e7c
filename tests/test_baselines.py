"""References: worth exactly what they should be, and the visual one finds what stands out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from indus_lib import baselines, images, loop, metrics, profiles, readers, report, self_similarity, tiny_model
from indus_lib.boxes import iou
from indus_lib.policies import ScriptedPolicy
from indus_lib.samples import Sample

PATCH = 16  # pixels a side


def filter_features(image: np.ndarray) -> np.ndarray:
    """Hand-made patch features (h, w, 12), quicker than a tower: colours, edges by direction, fine grain."""
    scale = 384 / max(image.shape[:2])
    size = [max(PATCH, round(n * scale / PATCH) * PATCH) for n in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    grey = cv2.GaussianBlur(lab[..., 0], (0, 0), 0.8)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    angle = np.arctan2(dy, dx)
    energy = np.hypot(dx, dy)
    oriented = [energy * np.maximum(0, np.cos(2 * (angle - t))) for t in np.arange(4) * np.pi / 4]
    fine = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
    channels = np.dstack([lab, *oriented, fine])
    means = patch_means(channels)
    spread = np.sqrt(np.maximum(patch_means(channels[..., [0, 1, 2, 7]] ** 2) - means[..., [0, 1, 2, 7]] ** 2, 0))
    return np.concatenate([means, spread], axis=2)


def patch_means(channels: np.ndarray) -> np.ndarray:
    """(H, W, C) -> means over PATCH x PATCH blocks (h, w, C)."""
    h, w, c = channels.shape[0] // PATCH, channels.shape[1] // PATCH, channels.shape[2]
    return channels[: h * PATCH, : w * PATCH].reshape(h, PATCH, w, PATCH, c).mean(axis=(1, 3))


def _plain(n: int) -> list[Sample]:
    return [Sample(f"p{i}", Path("none.png"), "mvtec", "part", i % 3 == 0) for i in range(n)]


def test_always_and_coin() -> None:
    samples = _plain(300)
    found = baselines.references(samples, profile="tiny")
    assert list(found) == ["always_yes", "always_no", "coin"]
    yes, no, coin = (metrics.outcomes(found[name]) for name in found)
    assert metrics.value(yes) == metrics.value(no) == 0.5
    assert metrics.value(yes, "recall") == 1 and metrics.value(no, "recall") == 0
    assert 0.4 < metrics.value(coin) < 0.6
    assert found["coin"] == baselines.coin(list(reversed(samples)), profile="tiny")[::-1]  # fixed by sample, not order
    assert found["coin"] != baselines.coin(samples, seed=1, profile="tiny")


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Twelve woven surfaces, half of them with a patch that breaks the weave."""
    folder = tmp_path_factory.mktemp("surfaces")
    y, x = np.mgrid[:256, :256]
    samples = []
    for i in range(12):
        rng = np.random.default_rng(i)
        weave = 128 + 40 * np.sin(x / 3 + i) * np.sin(y / 3) + rng.normal(0, 4, x.shape)
        if i % 2:
            weave[64:112, 160:208] = 60 + rng.normal(0, 4, (48, 48))
        picture = np.repeat(np.clip(weave, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        samples.append(Sample(f"s{i}", images.save_png(folder / f"{i}.png", picture), "dtd", "weave", bool(i % 2)))
    return samples


def test_self_similarity_finds_the_odd_patch(surfaces: list[Sample]) -> None:
    detector = self_similarity.fit(filter_features, surfaces[:4])
    episodes = detector.inspect(surfaces[4:], profile="tiny")
    assert metrics.value(metrics.outcomes(episodes)) == 1.0
    assert report.ranking(episodes).auroc == 1.0
    truth = (160 * 1000 / 256, 250, 208 * 1000 / 256, 437.5)
    assert all(iou(e.verdict.box, truth) > 0.4 for e in episodes if e.label)
    assert detector.inspect(surfaces[:1])[0].margin == detector.inspect(surfaces[:1])[0].margin


def test_threshold_needs_both_classes_and_is_the_best(surfaces: list[Sample]) -> None:
    with pytest.raises(ValueError, match="one class"):
        self_similarity.fit(filter_features, [s for s in surfaces if s.label])
    scores, labels = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True])
    assert self_similarity.best_threshold(scores, labels) == 2.5


@pytest.mark.parametrize("shape", [(96, 96), (200, 640), (33, 50)])
def test_features_take_any_shape(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    features = filter_features(picture)
    scores = self_similarity.anomaly_map(features)
    assert features.ndim == 3 and scores.shape == features.shape[:2] and np.isfinite(scores).all()
    x1, y1, x2, y2 = self_similarity.peak_box(scores)
    assert 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000


def test_vision_tower_patches_stay_where_they_were() -> None:
    model, processor = tiny_model.build(tiny_model.TinyConfig(vision_depth=3, depth=1), ["a dark line"])
    features = self_similarity.tower_features(model, processor, tiles=2)
    picture = np.full((288, 288, 3), 128, np.uint8)
    picture[::2] = 120
    marked = picture.copy()
    marked[30:54, 225:255] = 0  # upper right tile
    change = np.abs(features(marked) - features(picture)).mean(axis=2)
    assert change.shape == (36, 36)
    tile = change[:18, 18:]
    assert tile.min() > 0 and change[18:].max() < 1e-4 and change[:18, :18].max() < 1e-4  # other tiles untouched


def test_direct_prompt_runs_through_the_loop(surfaces: list[Sample]) -> None:
    policy = ScriptedPolicy(["At first it seems normal, but the weave is broken: anomalous."])
    episodes = loop.inspect(policy, surfaces[:2], profile=profiles.get("tiny"), mode="direct")
    assert [e.verdict.anomalous for e in episodes] == [True, True] and {e.mode for e in episodes} == {"direct"}
    assert not any(e.calls for e in episodes)
    mute = loop.inspect(ScriptedPolicy(["hm"]), surfaces[:2], profile=profiles.get("tiny"), mode="direct")
    assert metrics.outcomes(mute).n_unparsed == 2


def test_self_similarity_on_real_grids(real_root: Path) -> None:
    found = readers.read("mvtec", real_root / "mvtec_ad_grid_subset")
    detector = self_similarity.Detector(filter_features, 3.0, 1.0)
    assert report.ranking(detector.inspect(found)).auroc > 0.8


def _features(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: np.full((6, 6, 2), value)


def test_a_flat_image_has_no_peak_to_divide_by() -> None:
    scores = self_similarity.anomaly_map(_features(1.0)(np.zeros((8, 8, 3), np.uint8)))
    assert np.isfinite(scores).all() and self_similarity.image_score(scores) == 0
