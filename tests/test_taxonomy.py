"""The tree, its words, and how near types are."""

import csv
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indus_lib import taxonomy

TAXONOMY = taxonomy.load()
NODES = TAXONOMY.nodes()

# Written down from the data sets' own folder and annotation names, independently of data/taxonomy.yaml.


def _names(text: str, separator: str | None = None) -> list[str]:
    return [name.strip() for name in " ".join(text.split()).split(separator)]


BENCHMARKS = {
    "mvtec": _names("""
        broken_large broken_small contamination bent_wire cable_swap combined cut_inner_insulation
        cut_outer_insulation missing_cable missing_wire poke_insulation crack faulty_imprint poke scratch
        squeeze color cut hole metal_contamination thread bent broken glue print fold flip pill_type
        manipulated_front scratch_head scratch_neck thread_side thread_top glue_strip gray_stroke oil rough
        defective bent_lead cut_lead damaged_case misplaced liquid broken_teeth fabric_border
        fabric_interior split_teeth squeezed_teeth
    """),
    "visa": _names("""
        chunk of wax missing,foreign particals on candle,different colour spot,damaged corner of
        packaging,weird candle wick, other,extra wax in candle,wax melded out of the
        candle,bubble,discolor,scratch,leak,misshape,burnt,corner or edge breakage, middle breakage,small
        holes,same colour spot,small scratches,stuck together,chunk of gum missing,scratches,small cracks,
        corner missing,similar colour spot,fryum stuck together,chip around edge and corner,breakage down
        the middle, color spot similar to the object,different color spot,small chip around
        edge,bent,melt,missing,dirt,damage,extra, wrong place,corner and edge breakage,anomaly
    """, ","),
    "mpdd": _names("""
        hole scratches bend_and_parts_mismatch parts_mismatch defective_painting major_rust total_rust
        anomalous
    """),
    "dtd": ["bad"],
    "kolektorsdd": ["defect"],
    "real-iad": _names("""
        AK BX CH HS PS QS YW ZW NG
    """),
    "factory": _names("""
        scratch crack dent chip stain pit foreign_particle burr corrosion broken_thread hole_in_surface
        faint_stain faint_scratch faint_crack rubbed water_mark bent_feature missing_feature shifted_feature
        uneven_spacing wrong_mark misplaced_mark extra_mark missing_mark
    """),
}  # fmt: skip


@pytest.mark.parametrize("dataset", BENCHMARKS)
def test_no_benchmark_name_is_unmapped(dataset):
    table = TAXONOMY.raw_names[dataset]
    for raw in BENCHMARKS[dataset]:
        assert " ".join(raw.lower().replace("_", " ").split()) in table, raw
        assert TAXONOMY.node_of(dataset, raw.strip()) in NODES


def test_factory_names_are_mapped():
    catalog = pytest.importorskip("indus_lib.factory_catalog")
    names = {d for c in catalog.CATEGORIES.values() for d in getattr(c, "defects", ())}
    assert names and all(TAXONOMY.node_of("factory", name) for name in names)


def test_some_mappings_by_hand():
    assert TAXONOMY.node_of("real-iad", "QS") == "missing part"
    assert TAXONOMY.node_of("mpdd", "major_rust") == "corrosion"
    assert TAXONOMY.node_of("visa", "chunk of wax missing,foreign particals on candle") == "chip"
    assert TAXONOMY.node_of("custom", "Bent-Lead") == "bend"  # another set's name, other separators
    assert TAXONOMY.node_of("custom", "AK") == ""  # a code means something only in its own set
    assert TAXONOMY.node_of("mvtec", "") == ""


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("a thin scratch", "scratch"), ("Scratches on the rim", "scratch"), ("three bent pins", "bend"),
        ("uneven_spacing", "uneven spacing"), ("the right side is bright", None), ("", None), ("none", None),
        ("no scratch, but a dent", "dent"), ("without any visible crack or dent", None),
        ("contamination", "contamination"),
        ("missing print", "missing mark"), ("a missing pin", "missing part"), ("foreign object", "foreign particle"),
        ("some defect", "anomaly"), ("unscratched", None), ("crack, no dent", "crack"),
    ],
)  # fmt: skip
def test_free_text(text, node):
    assert TAXONOMY.of_text(text) == node


def test_every_word_names_its_own_node():
    assert {word: TAXONOMY.of_text(word) for word in TAXONOMY.words} == dict(TAXONOMY.words)


def test_tree_is_a_tree_of_moderate_size():
    assert TAXONOMY.parent(TAXONOMY.root) is None
    assert all(TAXONOMY.path(node)[-1] == TAXONOMY.root for node in NODES)
    assert all(len(TAXONOMY.path(leaf)) == 4 for leaf in TAXONOMY.leaves())
    assert 25 <= len(TAXONOMY.leaves()) <= 45
    with pytest.raises(KeyError):
        TAXONOMY.parent("no such node")


def test_similarity_by_hand():
    assert TAXONOMY.similarity("scratch", "abrasion") == pytest.approx(2 * 2 / 6)  # one group
    assert TAXONOMY.similarity("scratch", "dent") == pytest.approx(2 * 1 / 6)  # one family
    assert TAXONOMY.similarity("contamination", "dirt") == pytest.approx(2 * 1 / 4)
    assert TAXONOMY.similarity("scratch", "missing part") == 0
    assert TAXONOMY.similarity("scratch", "purple monkey") == 0
    assert TAXONOMY.similarity("", "") == 0
    assert TAXONOMY.similarity("anomaly", "some defect") == 1
    assert TAXONOMY.similarity("a long scrape", "scratch") == 1


def test_similarity_is_symmetrical_bounded_and_highest_for_itself():
    for a, b in product(NODES, NODES):
        value = TAXONOMY.similarity(a, b)
        assert value == TAXONOMY.similarity(b, a) and 0 <= value <= 1
        assert (value == 1) == (a == b)


@given(st.text(max_size=80))
def test_text_is_total(text):
    assert TAXONOMY.of_text(text) in (None, *NODES)
    assert 0 <= TAXONOMY.similarity(text, "scratch") <= 1


def test_a_contradictory_file_is_refused(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("root: r\ntree: {a: {b: [x], c: [x]}}\ninner: {}\ndatasets: {}\n")
    with pytest.raises(ValueError, match="'x' names both"):
        taxonomy.load(path)
    path = tmp_path / "u.yaml"
    path.write_text("root: r\ntree: {a: {b: [x]}}\ninner: {}\ndatasets: {d: {q: zzz}}\n")
    with pytest.raises(ValueError, match="zzz"):
        taxonomy.load(path)


def test_real_folder_names_are_known(real_root):
    folders = [p.name for p in real_root.glob("*/*/ground_truth/*")] + [
        p.name for p in real_root.glob("*/ground_truth/*")
    ]
    assert folders and all(TAXONOMY.node_of("mvtec", name) for name in folders)
    with (real_root / "visa_split_csv/split_csv/1cls.csv").open() as file:
        labels = {row["label"] for row in csv.DictReader(file)} - {"normal"}
    assert all(TAXONOMY.node_of("visa", name) for name in labels)
