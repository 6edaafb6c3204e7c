"""The factory: deterministic, exact masks, fair between normal and faulty, every mechanism as designed."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from indus_lib import factory, taxonomy
from indus_lib.factory_bench import Bench, RowPlan
from indus_lib.factory_draw import cover, rect
from indus_lib.factory_marks import KINDS, bounds, pattern, stamp
from indus_lib.factory_render import planned_defect

NAMES = sorted(factory.CATEGORIES)
DRAWN = [n for n in NAMES if factory.CATEGORIES[n].model < (49 if "assembly" in n else 3)]
PAIRS = [(n, m) for n in DRAWN for m in factory.CATEGORIES[n].mechanisms]  # the first of a kind stand for all


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from([64, 96, 160]))
def test_base_scene_is_well_formed(seed: int, size: int) -> None:
    scene = factory.base_scene(seed, size)
    assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
    assert len(scene.marks) <= 6
    for mark in scene.marks:
        assert mark.kind in factory.BASE_KINDS
        assert mark.mask.shape == (size, size) and mark.mask.any()
        assert mark.box == bounds(mark.mask)
    if scene.row is None:
        assert scene.n_features == 0 and scene.row_state == ""
    else:
        assert 3 <= scene.n_features <= 12
        assert scene.n_features == len(scene.row_centres) - (scene.row_state == "missing")


def test_base_scene_spreads_size_and_contrast_log_uniformly() -> None:
    scenes = [factory.base_scene(s, 128).marks for s in range(240)]
    bright = [marks for marks in scenes if any(abs(m.contrast) > 9 for m in marks)]  # the others may be dim throughout
    dim = [marks for marks in scenes if marks and all(abs(m.contrast) <= 9 for m in marks)]
    assert 0.15 < len(dim) / len(scenes) < 0.45
    marks = [m for marks in bright for m in marks]
    contrast = np.log([abs(m.contrast) for m in marks])
    middle = np.log(np.sqrt(2 * 120))
    assert 0.42 < (contrast < middle).mean() < 0.58
    assert {m.kind for m in marks} == set(factory.BASE_KINDS)
    every = [m for marks in scenes for m in marks]
    sides = np.array([max(m.box[2] - m.box[0], m.box[3] - m.box[1]) for m in every])
    assert (sides <= 4).mean() > 0.15 and (sides >= 18).mean() > 0.15


def test_scenes_are_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from indus_lib import factory as f;"
        "h=hashlib.sha256(f.base_scene(5,128).image.tobytes());"
        "h.update(f.render('gear_wheel',5,anomalous=True,view=2,size=192).image.tobytes());print(h.hexdigest())"
    )
    command = [sys.executable, "-c", code]
    runs = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in "ab"}
    assert len(runs) == 1 and len(runs.pop().strip()) == 64


def test_seed_category_and_view_change_the_image() -> None:
    images = [
        factory.render(c, s, anomalous=False, size=96, view=v, mechanism="plain").image.tobytes()
        for c, s, v in (("gear_wheel", 1, 0), ("gear_wheel", 2, 0), ("gear_wheel", 1, 3), ("steel_washer", 1, 0))
    ]
    assert len(set(images)) == 4


@pytest.mark.parametrize(("name", "mechanism"), PAIRS)
def test_every_category_draws_its_mechanisms(name: str, mechanism: str) -> None:
    faulty = factory.render(name, 7, anomalous=True, mechanism=mechanism, size=192)
    normal = factory.render(name, 7, anomalous=False, mechanism=mechanism, size=192)
    assert faulty.mask.any() and set(np.unique(faulty.mask)) == {0, 255}
    assert not normal.mask.any() and normal.defect == "" and faulty.defect
    assert faulty.image.std() > 5
    # the part, its light and its harmless marks are the same: away from the defect the two look alike
    away = cv2.dilate(faulty.mask, np.ones((41, 41), np.uint8)) == 0
    if mechanism not in ("small", "prior") and away.mean() > 0.3:
        gap = np.abs(faulty.image.astype(int) - normal.image.astype(int))[away]
        assert gap.mean() < 6


def test_mechanism_and_nuisance_do_not_tell_the_label() -> None:
    """Mean level and spread of normal and faulty images agree closely, for all mechanisms together."""
    rows = []
    for name, mechanism in PAIRS[::3]:
        for label in (False, True):
            image = factory.render(name, 11 + label, anomalous=label, mechanism=mechanism, size=96).image
            rows.append((label, image.mean(), image.std()))
    table = np.array(rows, float)
    normal, faulty = table[table[:, 0] == 0], table[table[:, 0] == 1]
    spread = table[:, 1:].std(0) / np.sqrt(len(normal))
    assert (np.abs(normal[:, 1:].mean(0) - faulty[:, 1:].mean(0)) < 4 * spread).all()


def test_all_defect_names_are_in_the_taxonomy_and_there_are_enough() -> None:
    names = {n for c in factory.CATEGORIES.values() for n in c.defects}
    for name, mechanism in PAIRS:
        for seed in range(12):
            names.add(planned_defect(name, seed, mechanism))
    assert len(names) >= 20
    known = taxonomy.load()
    assert all(known.node_of("factory", n) or known.of_text(n) for n in names)


@pytest.mark.parametrize("name", ["comb_header", "oil_pan", "relay_case", "coin_blank", "cloth_patch"])
def test_planned_defect_is_what_is_drawn(name: str) -> None:
    for mechanism in factory.CATEGORIES[name].mechanisms:
        drawn = factory.render(name, 3, anomalous=True, mechanism=mechanism, size=128)
        assert drawn.defect == planned_defect(name, 3, mechanism)


def test_small_marks_are_lost_in_the_global_view_and_large_ones_are_not() -> None:
    for seed in range(6):
        small = factory.render("coin_blank", seed, anomalous=True, mechanism="small")
        x1, y1, x2, y2 = bounds(small.mask > 0)
        assert max(x2 - x1, y2 - y1) <= 16  # of 384 px: at most 4 px long and a fraction of one wide at 96
        assert (small.mask > 0).sum() <= 60
        plain = factory.render("coin_blank", seed, anomalous=True, mechanism="plain")
        x1, y1, x2, y2 = bounds(plain.mask > 0)
        assert max(x2 - x1, y2 - y1) >= 0.05 * 384


def test_faint_marks_stay_under_the_noise() -> None:
    scene = factory.render("painted_panel", 4, anomalous=True, mechanism="faint", severity=1.0)
    twin = factory.render("painted_panel", 4, anomalous=False, mechanism="faint", severity=1.0)
    change = (scene.image.astype(float) - twin.image.astype(float)).mean(2)[scene.mask > 0]
    assert 1.0 < np.abs(change).mean() < 9


def test_severity_is_a_dial() -> None:
    def change(level: float) -> float:
        a = factory.render("wood_block", 9, anomalous=True, mechanism="plain", severity=level, size=192)
        b = factory.render("wood_block", 9, anomalous=False, mechanism="plain", size=192)
        return float(np.abs(a.image.astype(float) - b.image.astype(float)).sum())

    assert change(0.0) < change(0.5) < change(1.0)


@pytest.mark.parametrize("state", ["even", "shifted", "missing", "uneven", "bent"])
def test_rows_deviate_as_planned(state: str) -> None:
    bench = Bench(np.random.default_rng(3), 384, 384, RowPlan(state, 0.4 if state != "even" else 0.0))
    bench.image[:] = 120
    bench.row((-0.4, 0), (0.4, 0), 9, "pin", 0.03, 0.2, np.full(3, 230, np.float32))
    row = bench.truth
    assert row is not None and row.pitch == pytest.approx(0.8 * 384 / 8)
    gaps = np.diff(row.centres[:, 0]) / row.pitch
    sideways = np.abs(row.centres[:, 1] - row.centres[:, 1].mean()).max() / row.pitch
    worst = max(np.abs(gaps - 1).max(), sideways)
    assert (worst < 0.08) == (state in ("even", "missing", "bent"))
    assert row.mask.any() == (state != "even")


def test_healthy_rows_lie_where_the_scene_says() -> None:
    scene = factory.render("hole_strip", 2, anomalous=False, mechanism="geometric", size=384)
    grey = cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY)
    x1, y1, x2, y2 = (round(v) for v in scene.row)
    assert grey[y1, x1] < 90 and grey[y2, x2] < 90  # both end points are on a hole


def test_the_sign_alone_does_not_tell_the_label() -> None:
    """Over the pool every sign is legitimate on about as many products as any other."""
    signs = [c.sign for c in factory.members("pool") if "prior" in c.mechanisms and c.set == "pool"]
    assert {signs.count(s) for s in factory.SIGNS} == {len(signs) // len(factory.SIGNS)}


def test_stand_ins_share_no_drawing_with_the_pool() -> None:
    groups = {c.name: c.draw for g in ("mvtec", "visa", "mpdd", "dtd", "sdd") for c in factory.members(g)}
    own = [c.draw for c in factory.members("pool") if c.name not in factory.OVERLAPPING]
    assert not set(groups.values()) & set(own)
    assert len(set(groups.values())) == len(groups) and len(factory.CATEGORIES) >= 44


def test_every_category_has_a_prior_description(repo) -> None:
    entries = yaml.safe_load((repo / "data/priors/factory.yaml").read_text())
    texts = {e["product"]: e["text"] for e in entries}
    names = {name: name.rstrip("0123456789") if c.model else name for name, c in factory.CATEGORIES.items()}
    assert set(texts) == set(names.values())
    for category in factory.CATEGORIES.values():
        if category.sign:
            assert all(s.split()[-1] in texts[names[category.name]] for s in factory.SIGNS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2.0, 7.5, 60.0])
def test_patterns_are_normalised(kind: str, size: float) -> None:
    drawn = pattern(np.random.default_rng(1), kind, size)
    assert drawn.shape[0] == drawn.shape[1] and abs(drawn.shape[0] - size) <= 3
    assert np.abs(drawn).max() == pytest.approx(1.0, abs=1e-5)


def test_stamp_outside_the_image_changes_nothing() -> None:
    image = np.zeros((20, 20, 3), np.float32)
    assert not stamp(image, np.ones((4, 4), np.float32), (100.0, 100.0), 50).any()
    assert not image.any()
    mask = stamp(image, np.ones((4, 4), np.float32), (0.0, 0.0), 50)
    assert mask.sum() == 4 and image[0, 0, 0] == 50 and image[2, 2, 0] == 0


def test_cover_of_a_square_is_its_area() -> None:
    patch = cover((128, 128), rect(60.0, 60.0, 80, 40))
    assert patch is not None and patch.alpha.sum() == pytest.approx(3200, rel=0.06)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "no_such", "seed": 0}, "unknown category"),
        ({"category": "coin_blank", "seed": 0, "mechanism": "prior"}, "does not show"),
        ({"category": "coin_blank", "seed": 0, "view": 5}, "view"),
        ({"category": "coin_blank", "seed": 0, "severity": 2.0}, "severity"),
        ({"category": "coin_blank", "seed": 0, "size": 8}, "size"),
    ],
)
def test_bad_requests_say_what_is_wrong(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factory.render(anomalous=True, **arguments)


def test_base_scene_refuses_sizes_it_was_not_made_for() -> None:
    with pytest.raises(ValueError, match="size"):
        factory.base_scene(0, 16)


def test_models_of_a_product_look_different_and_are_the_same_thing() -> None:
    """Another palette, finish and orientation; what is drawn, and where marks may lie, stays in kind."""
    models = [c for c in factory.members("pool") if c.draw.__name__ == "comb_header"]
    assert len(models) >= 3 and sorted(c.model for c in models) == list(range(len(models)))
    assert len({c.name for c in models}) == len(models)
    shown = [factory.render(c.name, 5, anomalous=False, mechanism="geometric", size=256) for c in models]
    assert all(s.row is not None and not s.mask.any() for s in shown)
    tones = np.array([s.image.reshape(-1, 3).mean(0) for s in shown])
    apart = np.abs(tones[:, None] - tones[None]).max(-1)[np.triu_indices(len(models), 1)]
    assert np.median(apart) > 20
    again = factory.render(models[1].name, 5, anomalous=False, mechanism="geometric", size=256)
    assert np.array_equal(again.image, shown[1].image)
