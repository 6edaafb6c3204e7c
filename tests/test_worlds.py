"""The generated world: official layouts, exact shares, resumable, the same whatever the number of workers."""

from __future__ import annotations

import collections
import csv
import json

import cv2
import pytest

from indus_lib import factory, readers, worlds, worlds_plan


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All six sets, a fiftieth of their size."""
    root = tmp_path_factory.mktemp("world")
    worlds.write_world(root, scale=0.02, n_workers=1, progress=False)
    return root


LAYOUT = {"kolektorsdd": "kolektorsdd", "pool": "real-iad"}


@pytest.mark.parametrize("name", worlds.SETS)
def test_the_official_readers_read_it(world, name: str) -> None:
    samples = readers.read(LAYOUT.get(name, name), world / name, split="all")
    plan = worlds_plan.jobs(name, 0, 0.02)
    assert len(samples) == len(plan)
    assert sum(s.label for s in samples) == sum(j.anomalous for j in plan)
    assert all(s.boxes for s in samples if s.label) and not any(s.boxes for s in samples if not s.label)
    if name != "kolektorsdd":
        assert {s.category for s in samples} == {j.category for j in plan}
        assert all(s.node for s in samples if s.label)


@pytest.mark.parametrize("name", worlds.SETS)
def test_full_plan_has_the_promised_counts_and_shares(name: str) -> None:
    parts = worlds_plan.part_plan(name, 0, 1.0)
    normal, anomalous = (sum(p[2] is flag for p in parts) for flag in (False, True))
    assert (normal, anomalous) == worlds_plan.COUNTS[name]
    for flag, total in ((False, normal), (True, anomalous)):
        count = collections.Counter(p[1] for p in parts if p[2] is flag)
        for mechanism, share in worlds_plan.MIX[name].items():
            assert count[mechanism] == pytest.approx(share * total, abs=1)
    assert sum(worlds_plan.MIX[name].values()) == pytest.approx(1)
    assert len({p[3] for p in parts}) == len(parts)  # no part twice


def test_no_image_of_the_pool_is_an_image_of_a_stand_in() -> None:
    seeds = [{(j.category, j.seed) for j in worlds_plan.jobs(n, 0, 1.0)} for n in worlds.SETS]
    for k, one in enumerate(seeds):
        assert not any(one & other for other in seeds[k + 1 :])


def test_the_pool_overlaps_on_purpose_and_validates_on_products_of_its_own() -> None:
    plan = worlds_plan.jobs("pool", 0, 1.0)
    assert len(plan) == 8000
    assert set(factory.OVERLAPPING) <= {j.category for j in plan}
    split = collections.defaultdict(set)
    for job in plan:
        split[job.category].add(job.split)
    assert all(len(s) == 1 for s in split.values())  # validation is on products that training never shows
    drawn = collections.defaultdict(set)  # nor another finish of them; a composed product is one by its number
    for name, which in split.items():
        category = factory.CATEGORIES[name]
        drawn[name if "assembly" in name else category.draw.__name__] |= which
    assert all(len(which) == 1 for which in drawn.values())
    share = sum(j.split == "test" for j in plan) / len(plan)
    assert 0.14 < share < 0.18
    for which in ("train", "test"):
        labels = [j.anomalous for j in plan if j.split == which]
        assert 0.45 < sum(labels) / len(labels) < 0.55


def test_sidecar_names_every_image(world) -> None:
    for name in worlds.SETS:
        sidecar = json.loads((world / name / worlds.SIDECAR).read_text())
        assert set(sidecar.values()) <= set(factory.MECHANISMS)
        assert all((world / name / path).is_file() for path in sidecar)


def test_visa_tables_have_the_official_columns(world) -> None:
    with (world / "visa/split_csv/1cls.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["object", "split", "label", "image", "mask"]
    assert all(bool(r["mask"]) == (r["label"] == "anomaly") for r in rows)


def test_real_iad_listing_has_the_official_fields(world) -> None:
    file = sorted((world / "pool/realiad_jsons").glob("*.json"))[0]
    listing = json.loads(file.read_text())
    assert listing["meta"] == {"prefix": f"{file.stem}/", "normal_class": "OK", "pre_transform": None}
    for entry in listing["train"] + listing["test"]:
        assert set(entry) == {"category", "anomaly_class", "image_path", "mask_path"}
        assert (entry["mask_path"] is None) == (entry["anomaly_class"] == "OK")


def test_kolektor_surfaces_are_tall_and_grey(world) -> None:
    image = cv2.imread(str(world / "kolektorsdd/kos01/Part0.jpg"), cv2.IMREAD_UNCHANGED)
    assert image.ndim == 2 and image.shape[0] == 2.5 * image.shape[1]


def test_workers_and_interruptions_do_not_change_a_byte(world, tmp_path) -> None:
    record = worlds.write_world(tmp_path, scale=0.02, n_workers=2, sets=["kolektorsdd"], progress=False)
    assert record["kolektorsdd"]["hash"] == worlds.world_hash(world / "kolektorsdd")
    # a killed run: some images are there, the set has not been renamed yet
    (tmp_path / "kolektorsdd").rename(tmp_path / ".kolektorsdd.part")
    key = {"set": "kolektorsdd", "version": worlds.VERSIONS["kolektorsdd"], "seed": 0, "scale": 0.02}
    (tmp_path / ".kolektorsdd.part" / worlds.RECORD).write_text(json.dumps(key))
    (tmp_path / ".kolektorsdd.part" / "kos01" / "Part1.jpg").unlink()
    again = worlds.write_world(tmp_path, scale=0.02, n_workers=1, sets=["kolektorsdd"], progress=False)
    assert again == record and not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))


def test_a_finished_set_is_left_alone_and_another_scale_replaces_it(tmp_path) -> None:
    first = worlds.write_world(tmp_path, scale=0.02, n_workers=1, sets=["kolektorsdd"], progress=False)
    before = (tmp_path / "kolektorsdd/kos01/Part0.jpg").stat().st_mtime_ns
    worlds.write_world(tmp_path, scale=0.02, n_workers=1, sets=["kolektorsdd"], progress=False)
    assert (tmp_path / "kolektorsdd/kos01/Part0.jpg").stat().st_mtime_ns == before
    other = worlds.write_world(tmp_path, scale=0.04, n_workers=1, sets=["kolektorsdd"], progress=False)
    assert other["kolektorsdd"]["hash"] != first["kolektorsdd"]["hash"]


def test_frozen_hashes_are_complete_and_notice_a_changed_world(world, tmp_path) -> None:
    if not worlds.FROZEN.is_file():
        pytest.skip("data/standins.json is not there yet: run `make world`, then indus_lib.worlds.freeze(ROOT)")
    frozen = json.loads(worlds.FROZEN.read_text())
    assert set(frozen) == set(worlds.SETS)
    for name, record in frozen.items():
        assert record["version"] == worlds.VERSIONS[name], "the factory changed: freeze the stand-ins again"
        if name != "pool":
            assert (record["n_normal"], record["n_anomalous"]) == worlds_plan.COUNTS[name]
    assert len(worlds.check_frozen(world)) == len(worlds.SETS)  # a smoke world is not the frozen one
    assert len(worlds.check_frozen(tmp_path, ["visa"])) == 1


@pytest.mark.parametrize("wrong", [{"sets": ["nope"]}, {"scale": 0.0}, {"n_workers": 0}, {"seed": -1}])
def test_bad_requests_write_nothing(tmp_path, wrong: dict) -> None:
    with pytest.raises(ValueError, match="write_world"):
        worlds.write_world(tmp_path / "w", **wrong)
    assert not (tmp_path / "w").exists()
