"""Every layout, on miniatures written here and on the real files; errors say what to do."""

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from indus_lib.images import load_image, load_mask, save_png
from indus_lib.readers import DataSetError, read, with_boxes
from indus_lib.readers_files import natural, safe_join

GREY = np.full((20, 40), 90, np.uint8)
MARK = np.zeros((20, 40), bool)
MARK[5:10, 10:30] = True
BOX = (250, 250, 750, 500)


def counts(samples):
    labels = Counter(sample.label for sample in samples)
    return labels[False], labels[True]


def make_mvtec(root: Path, category="grid", mask_name="{}_mask.png", n=2) -> Path:
    for k in range(n):
        save_png(root / category / "train/good" / f"{k:03d}.png", GREY)
        save_png(root / category / "test/good" / f"{k:03d}.png", GREY)
        save_png(root / category / "test/bent" / f"{k:03d}.png", GREY)
        save_png(root / category / "ground_truth/bent" / mask_name.format(f"{k:03d}"), MARK)
    return root


def make_kolektor(root: Path, items=("kos01", "kos02"), parts=2) -> Path:
    """Normal labels mode L, the defective one mode P with index 1, as in the real set."""
    for item in items:
        for part in range(parts):
            save_png(root / item / f"Part{part}.png", np.full((91, 50), 90, np.uint8))
            (root / item / f"Part{part}.png").rename(root / item / f"Part{part}.jpg")
            label = np.zeros((91, 50), np.uint8)
            Image.fromarray(label).save(root / item / f"Part{part}_label.bmp")
    label[58:64, 10:20] = 1  # crosses from the second third (30..61) into the last (61..91)
    image = Image.fromarray(label, mode="P")
    image.putpalette([0, 0, 0, 255, 255, 255] + [0] * 762)
    image.save(root / items[-1] / f"Part{parts - 1}_label.bmp")
    return root


def make_visa(root: Path, rows) -> Path:
    (root / "split_csv").mkdir(parents=True)
    with (root / "split_csv/1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("object", "split", "label", "image", "mask"), *rows])
    for _, _, label, image, mask in rows:
        save_png(root / image, GREY)
        if label == "anomaly":
            save_png(root / mask, MARK)
    return root


VISA_ROWS = [
    ("candle", "train", "normal", "candle/Data/Images/Normal/0001.png", ""),
    ("candle", "test", "normal", "candle/Data/Images/Normal/0002.png", ""),
    ("candle", "test", "anomaly", "candle/Data/Images/Anomaly/000.png", "candle/Data/Masks/Anomaly/000.png"),
    ("pcb1", "test", "anomaly", "pcb1/Data/Images/Anomaly/000.png", "pcb1/Data/Masks/Anomaly/000.png"),
]


def make_real_iad(root: Path, jsons="realiad_jsons/realiad_jsons", images="realiad_1024", category="switch") -> Path:
    base = root / images / category
    ok = f"OK/S0001/{category}_0001_OK_C1_20230101.png"
    bad = f"NG/HS/S0002/{category}_0002_NG_HS_C4_20230101.png"
    mask = bad.replace(".png", "_mask.png")
    for name, array in ((ok, GREY), (bad, GREY), (mask, MARK)):
        save_png(base / name, array)
    entry = {"category": category, "anomaly_class": "OK", "image_path": ok, "mask_path": None}
    wrong = {"category": category, "anomaly_class": "HS", "image_path": bad, "mask_path": mask}
    data = {"meta": {"prefix": f"{category}/", "normal_class": "OK"}, "train": [entry], "test": [wrong]}
    (root / jsons).mkdir(parents=True, exist_ok=True)
    (root / jsons / f"{category}.json").write_text(json.dumps(data))
    return root


@pytest.mark.parametrize("layout", ["mvtec", "mpdd", "dtd"])
def test_mvtec_layout(tmp_path, layout):
    make_mvtec(tmp_path, "b"), make_mvtec(tmp_path, "a")
    samples = read(layout, tmp_path)
    assert [s.id for s in samples] == [f"{c}/test/{d}/00{k}" for c in "ab" for d in ("bent", "good") for k in range(2)]
    bad = samples[0]
    assert (bad.dataset, bad.category, bad.label, bad.defect, bad.node) == (layout, "a", True, "bent", "bend")
    assert bad.boxes == (BOX,) and bad.mask.name == "000_mask.png"
    good = samples[2]
    assert (good.label, good.defect, good.node, good.boxes, good.mask) == (False, "", "", (), None)
    assert counts(read(layout, tmp_path, "train")) == (4, 0)
    assert counts(read(layout, tmp_path, "all", categories="a")) == (4, 2)


def test_root_may_be_the_set_its_parent_or_a_category(tmp_path):
    make_mvtec(tmp_path / "unpacked/mvtec")
    ids = {
        tuple(s.id for s in read("mvtec", tmp_path / p)) for p in ("unpacked", "unpacked/mvtec", "unpacked/mvtec/grid")
    }
    assert len(ids) == 1


@pytest.mark.parametrize("name", ["{}.png", "{}_mask.png", "{}_gt.png", "other_{}.png"])
def test_masks_under_other_names_are_paired(tmp_path, name):
    assert all(s.boxes == (BOX,) for s in read("mvtec", make_mvtec(tmp_path, mask_name=name)) if s.label)


def test_missing_and_spare_masks_are_refused_unless_not_strict(tmp_path):
    make_mvtec(tmp_path)
    mask = tmp_path / "grid/ground_truth/bent/001_mask.png"
    save_png(mask.with_name("777_mask.png"), MARK)
    with pytest.raises(DataSetError, match="777_mask"):
        read("mvtec", tmp_path)
    mask.unlink()
    with pytest.raises(DataSetError, match="1 of 2 anomalous images have no mask"):
        read("mvtec", tmp_path)
    assert [len(s.boxes) for s in read("mvtec", tmp_path, strict=False) if s.label] == [1, 0]


def test_a_mask_of_another_shape_is_refused(tmp_path):
    make_mvtec(tmp_path)
    save_png(tmp_path / "grid/ground_truth/bent/000_mask.png", np.ones((40, 40), bool))
    with pytest.raises(ValueError, match="000_mask"):
        read("mvtec", tmp_path)
    assert counts(read("mvtec", tmp_path, strict=False)) == (2, 2)


def test_errors_say_what_and_where(tmp_path):
    make_mvtec(tmp_path / "set", "hazelnut")
    with pytest.raises(FileNotFoundError, match=r"data/README\.md"):
        read("mvtec", tmp_path / "nowhere")
    with pytest.raises(DataSetError, match="did you mean 'hazelnut'"):
        read("mvtec", tmp_path / "set", categories=["hazelnuts"])
    with pytest.raises(DataSetError, match="unknown layout"):
        read("mvtek", tmp_path / "set")
    with pytest.raises(DataSetError, match="unknown split"):
        read("mvtec", tmp_path / "set", split="val")
    (tmp_path / "set/empty/test/good").mkdir(parents=True)
    with pytest.raises(DataSetError, match="'empty' has no test images"):
        read("mvtec", tmp_path / "set")
    with pytest.raises(DataSetError, match="no category folders"):
        read("mvtec", tmp_path / "set/empty/test/good")
    with pytest.raises(DataSetError, match="kos01"):
        read("kolektorsdd", tmp_path / "set")
    with pytest.raises(DataSetError, match="Real-IAD JSON"):
        read("real-iad", tmp_path / "set")
    with pytest.raises(DataSetError, match="no images"):
        read("folder", tmp_path / "set/empty")
    save_png(tmp_path / "set/hazelnut/test/loose.png", GREY)
    with pytest.raises(DataSetError, match="beside the folders"):
        read("mvtec", tmp_path / "set", categories="hazelnut")


def test_a_category_of_the_other_split_only_is_left_out_unless_asked_for(tmp_path):
    make_mvtec(tmp_path)
    save_png(tmp_path / "trained/train/good/000.png", GREY)
    assert {s.category for s in read("mvtec", tmp_path)} == {"grid"}
    with pytest.raises(DataSetError, match="'trained' has no test images"):
        read("mvtec", tmp_path, categories="trained")


def test_order_and_ids_do_not_depend_on_the_file_system(tmp_path):
    for name in ("b.png", "a.png", "a.bmp", ".hidden.png", "notes.txt", "C.PNG"):
        (tmp_path / "x").mkdir(exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / "x" / name).write_text("no image")
        else:
            Image.fromarray(GREY).save(tmp_path / "x" / name)
    assert [s.id for s in read("folder", tmp_path)] == [
        "images/test/x/C",
        "images/test/x/a.bmp",
        "images/test/x/a.png",
        "images/test/x/b",
    ]
    assert all(s.label is None for s in read("folder", tmp_path, category="nut"))


def test_kolektor_surfaces_by_their_label_images(tmp_path):
    samples = read("kolektorsdd", make_kolektor(tmp_path / "up" / "KolektorSDD").parent)
    assert counts(samples) == (3, 1)
    bad = next(s for s in samples if s.label)
    assert bad.id == "electrical_commutators/test/kos02_Part1" and bad.node == "crack"
    assert bad.boxes == ((200, 637, 400, 703),)
    assert {s.category for s in read("kolektorsdd", tmp_path / "up", category="rail")} == {"rail"}
    with pytest.raises(DataSetError, match="no train split"):
        read("kolektorsdd", tmp_path / "up", "train")


def test_kolektor_tiles_share_out_a_crack_that_crosses_them(tmp_path):
    samples = read("kolektorsdd-tiles", make_kolektor(tmp_path))
    assert counts(samples) == (10, 2) and [s.id[-2:] for s in samples[:3]] == ["_0", "_1", "_2"]
    middle, lower = (s for s in samples if s.label)
    assert (middle.tile, lower.tile) == ((0, 30, 50, 61), (0, 61, 50, 91))
    assert load_image(middle.image, middle.tile).shape == (31, 50, 3)
    assert load_mask(lower.mask, (30, 50), lower.tile).sum() == 3 * 10
    heights = {s.id[:-2]: 0 for s in samples}
    for s in samples:
        heights[s.id[:-2]] += s.tile[3] - s.tile[1]
    assert set(heights.values()) == {91}  # nothing lost, nothing twice


def test_kolektor_tiles_already_cut_are_read_as_they_are(tmp_path):
    base = tmp_path / "electrical_commutators"
    save_png(base / "test/good/kos01_Part0_0.png", GREY)
    save_png(base / "test/defect/kos01_Part5_0.png", GREY)
    save_png(base / "ground_truth/defect/kos01_Part5_0.png", MARK)
    samples = read("kolektorsdd-tiles", tmp_path)
    assert counts(samples) == (1, 1) and {s.dataset for s in samples} == {"kolektorsdd"} and samples[0].node == "crack"


def test_kolektor_without_a_label_is_refused(tmp_path):
    make_kolektor(tmp_path)
    (tmp_path / "kos01/Part1_label.bmp").unlink()
    with pytest.raises(DataSetError, match="Part1"):
        read("kolektorsdd", tmp_path)
    assert len(read("kolektorsdd", tmp_path, strict=False)) == 3


def test_visa_by_its_csv(tmp_path):
    make_visa(tmp_path / "VisA", VISA_ROWS)
    (tmp_path / "VisA/candle/image_anno.csv").write_text(
        'image,label,mask\ncandle/Data/Images/Anomaly/000.png,"chunk of wax missing,other",\n'
    )
    samples = read("visa", tmp_path)
    assert counts(samples) == (1, 2) and counts(read("visa", tmp_path, "all")) == (2, 2)
    assert [(s.defect, s.node) for s in samples if s.label] == [
        ("chunk of wax missing,other", "chip"),
        ("anomaly", "anomaly"),
    ]
    assert samples[0].boxes == (BOX,)
    (tmp_path / "VisA/pcb1/Data/Masks/Anomaly/000.png").unlink()
    with pytest.raises(DataSetError, match="1 masks not found"):
        read("visa", tmp_path)


def test_visa_without_csv_warns_and_takes_all(tmp_path):
    make_visa(tmp_path, VISA_ROWS)
    (tmp_path / "split_csv/1cls.csv").unlink()
    with pytest.warns(UserWarning, match="not VisA's protocol"):
        assert counts(read("visa", tmp_path)) == (2, 2)
    with pytest.raises(DataSetError, match="train split"):
        read("visa", tmp_path, "train")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "object,split,label,image,mask\nx,test,odd,x.png,\n", "\xff\xfe"])
def test_a_wrong_csv_is_named(tmp_path, text):
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataSetError, match=r"1cls\.csv"):
        read("visa", tmp_path)


@pytest.mark.parametrize("jsons", ["realiad_jsons/realiad_jsons", "realiad_jsons", ""])
@pytest.mark.parametrize("images", ["realiad_1024", "realiad_256", ""])
def test_real_iad(tmp_path, jsons, images):
    samples = read("real-iad", make_real_iad(tmp_path, jsons, images), "all")
    assert [(s.split, s.label, s.view, s.defect, s.node) for s in samples] == [
        ("test", True, "C4", "HS", "scratch"),
        ("train", False, "C1", "", ""),
    ]
    assert samples[0].boxes == (BOX,) and samples[0].dataset == "real-iad"


def test_real_iad_one_level_above(tmp_path):
    make_real_iad(tmp_path / "Real-IAD" / "unpacked")
    assert len(read("real-iad", tmp_path / "Real-IAD", "all")) == 2
    with pytest.raises(DataSetError, match="no Real-IAD JSON files"):
        read("real-iad", tmp_path)


def test_real_iad_broken_json_is_named(tmp_path):
    make_real_iad(tmp_path)
    path = tmp_path / "realiad_jsons/realiad_jsons/switch.json"
    broken = [json.dumps({"train": [], "test": [], "meta": meta}) for meta in (["x"], "x", 5)]
    broken += ["{", '{"train": [], "test": 3}', '{"train": [], "test": [{"x": 1}]}', '{"train": [], "test": [5]}']
    for text in broken:
        path.write_text(text)
        with pytest.raises(DataSetError, match=r"switch\.json"):
            read("real-iad", tmp_path)


EVIL = ["../../etc/passwd", "/etc/passwd", "C:\\x.png", "a/../../x.png", "..\\x.png", "", "x\x00.png"]


@pytest.mark.parametrize("path", EVIL)
def test_listed_paths_cannot_leave_the_folder(tmp_path, path):
    with pytest.raises(DataSetError, match="leaves the data set"):
        safe_join(tmp_path, path, "list.csv")
    make_real_iad(tmp_path)
    table = tmp_path / "realiad_jsons/realiad_jsons/switch.json"
    data = json.loads(table.read_text())
    data["train"][0]["image_path"] = path
    table.write_text(json.dumps(data))
    with pytest.raises(DataSetError, match="leaves the data set"):
        read("real-iad", tmp_path, "all")


@given(st.text(max_size=40))
def test_safe_join_stays_below_whatever_the_text(text):
    base = Path("/base/set")
    try:
        joined = safe_join(base, text, "x")
    except DataSetError:
        return
    assert os.path.normpath(joined).startswith("/base/set")


@given(
    st.lists(
        st.text("abc019_- ", min_size=1, max_size=8).filter(lambda n: n.strip() == n),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
@settings(max_examples=20, deadline=None)
def test_any_file_names_give_unique_sorted_ids(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("names")
    for name in names:
        save_png(root / "cat/test/good" / f"{name}.png", GREY)
    samples = read("mvtec", root)
    ids = [s.id for s in samples]
    assert ids == sorted(ids) and {i.rsplit("/", 1)[1] for i in ids} == set(names)


@given(st.lists(st.text("part019", max_size=6)))
def test_natural_order_is_total_and_numeric(names):
    assert [*map(natural, sorted(names, key=natural))] == sorted(map(natural, names))
    assert sorted(["p10", "p2"], key=natural) == ["p2", "p10"]


def test_boxes_can_wait(tmp_path):
    lazy = read("mvtec", make_mvtec(tmp_path), boxes=False)
    assert not any(s.boxes for s in lazy) and with_boxes(lazy) == read("mvtec", tmp_path)


REAL = [
    ("kolektorsdd", "kolektorsdd_official", (39, 8)),
    ("kolektorsdd-tiles", "kolektorsdd_official", (132, 9)),
    ("mvtec", "mvtec_ad_grid_subset", (3, 11)),
    ("mvtec", "hazelnut_toy", (6, 17)),
    ("mvtec", "hazelnut_toy/hazelnut_toy", (6, 17)),
    ("mvtec", "magnetic_tile", (20, 60)),
]


@pytest.mark.parametrize(("layout", "folder", "expected"), REAL)
def test_real_sets(real_root, layout, folder, expected):
    samples = read(layout, real_root / folder)
    assert counts(samples) == expected
    assert all(bool(s.boxes) == bool(s.label) and bool(s.node) == bool(s.label) for s in samples)


def test_real_boxes_cover_the_masks(real_root):
    for sample in [s for s in read("mvtec", real_root / "mvtec_ad_grid_subset") if s.label]:
        mask = load_mask(sample.mask)
        height, width = mask.shape
        for x1, y1, x2, y2 in sample.boxes:
            window = (
                slice(y1 * height // 1000, -(-y2 * height // 1000)),
                slice(x1 * width // 1000, -(-x2 * width // 1000)),
            )
            mask[window] = False
        assert mask.sum() <= 2 * 20  # dropped specks and rounding only


def test_official_visa_csv_gives_the_official_counts(real_root, tmp_path):
    table = real_root / "visa_split_csv/split_csv/1cls.csv"
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_bytes(table.read_bytes())
    image, mask = save_png(tmp_path / "i.png", GREY), save_png(tmp_path / "m.png", MARK)
    with table.open() as file:
        for row in (r for r in csv.DictReader(file) if r["split"] == "test"):
            for name, source in ((row["image"], image), (row["mask"], mask)):
                if name:
                    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                    os.link(source, tmp_path / name)
    samples = read("visa", tmp_path, boxes=False)
    assert counts(samples) == (962, 1200) and len({s.category for s in samples}) == 12


def test_a_linked_category_keeps_its_own_name(tmp_path):
    for name in "ab":
        make_mvtec(tmp_path / name, category="data")
    (tmp_path / "mv").mkdir()
    for link, store in (("bottle", "a"), ("cable", "b")):
        (tmp_path / "mv" / link).symlink_to(tmp_path / store / "data")
    samples = read("mvtec", tmp_path / "mv", split="test")
    assert Counter(s.category for s in samples) == {"bottle": 4, "cable": 4}


def test_what_a_strict_reader_must_not_pass_over(tmp_path):
    root = make_mvtec(tmp_path / "link")
    (root / "grid/test/good/009.png").symlink_to(tmp_path / "annex/nothing.png")
    assert len(read("mvtec", root, split="test")) == 5  # the dangling one is named when it is opened
    bare = make_mvtec(tmp_path / "bare")
    save_png(bare / "grid/ground_truth/crack/000_mask.png", MARK)
    with pytest.raises(DataSetError, match="no images of crack, of which there are masks"):
        read("mvtec", bare, split="test")
    assert len(read("mvtec", bare, split="test", strict=False)) == 4
    shutil.rmtree(bare / "grid/test")
    with pytest.raises(DataSetError, match="has no test images"):
        read("mvtec", bare, split="test", categories="grid")


def test_a_broken_label_of_kolektor_is_left_out_on_request(tmp_path):
    root = make_kolektor(tmp_path)
    (root / "kos01/Part0_label.bmp").write_bytes(b"BM broken")
    with pytest.raises(ValueError, match="Part0_label"):
        read("kolektorsdd", root)
    assert len(read("kolektorsdd", root, strict=False)) == 3


def test_the_first_listed_image_of_real_iad_may_be_missing(tmp_path):
    root = make_real_iad(tmp_path)
    (gone,) = (root / "realiad_1024").rglob("*_OK_*.png")
    gone.unlink()
    (sample,) = read("real-iad", root, "all", strict=False)
    assert sample.label and sample.image.is_file()
    with pytest.raises(DataSetError, match=f"1 images not found, first: .*{gone.name}"):
        read("real-iad", root, "all")
