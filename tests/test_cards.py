"""Expected counts: right, complete, and honest about what is missing."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from indus_lib import cards
from indus_lib.cards import card_from, check_counts, load_card, names, notes
from indus_lib.readers import LAYOUTS, read
from indus_lib.samples import Sample

PAPER = {  # paper.md section 9
    "mvtec": (467, 1258), "visa": (962, 1200), "mpdd": (176, 282), "dtd": (357, 947),
    "kolektorsdd": (347, 52), "kolektorsdd-tiles": (286, 54),
}  # fmt: skip


def samples_of(counts: dict[str, tuple[int, int]]) -> list[Sample]:
    return [
        Sample(id=f"{name}/{label}/{k}", image=Path("x.png"), category=name, label=label)
        for name, pair in counts.items()
        for label, n in zip((False, True), pair, strict=True)
        for k in range(n)
    ]


def test_there_is_a_card_for_every_layout_but_a_plain_folder():
    assert set(names()) == set(LAYOUTS) - {"folder"}


@pytest.mark.parametrize("name", PAPER)
def test_totals_are_the_paper_s_and_categories_sum_to_them(name):
    card = load_card(name)
    assert card.total == PAPER[name] and card.name == name == card.layout
    known = [value for value in card.categories.values() if value]
    if len(known) == len(card.categories):
        assert (sum(n for n, _ in known), sum(a for _, a in known)) == PAPER[name]
    else:
        assert "total only" in card.certainty
    assert all(getattr(card, part) for part in ("source", "licence", "structure", "split"))


def test_number_of_categories():
    assert {n: len(load_card(n).categories) for n in names()} == {
        "mvtec": 15, "visa": 12, "mpdd": 6, "dtd": 12, "kolektorsdd": 1, "kolektorsdd-tiles": 1, "real-iad": 30,
    }  # fmt: skip


def test_visa_s_counts_are_those_of_its_csv(real_root):
    with (real_root / "visa_split_csv/split_csv/1cls.csv").open() as file:
        rows = Counter((r["object"], r["label"]) for r in csv.DictReader(file) if r["split"] == "test")
    counted = {name: (rows[name, "normal"], rows[name, "anomaly"]) for name, _ in rows}
    assert counted == load_card("visa").categories


def test_hash_follows_content_not_layout(tmp_path):
    data = yaml.safe_load((cards.DATA / "cards/mpdd.yaml").read_text())
    card = card_from(dict(reversed(list(data.items()))), "x")
    assert card.hash() == load_card("mpdd").hash() and len(card.hash()) == 12
    assert card_from({**data, "split": "another"}, "x").hash() != card.hash()


def test_a_card_that_does_not_add_up_is_refused():
    data = yaml.safe_load((cards.DATA / "cards/mpdd.yaml").read_text())
    with pytest.raises(ValueError, match="sum to"):
        card_from({**data, "total": [1, 2]}, "x.yaml")
    with pytest.raises(ValueError, match=r"x\.yaml: not a protocol card"):
        card_from({"name": "x"}, "x.yaml")
    with pytest.raises(ValueError, match="there are: dtd"):
        load_card("nope")


def test_complete_set():
    card = load_card("mpdd")
    report = check_counts(card, samples_of(card.categories))
    assert report.complete and report.label == "complete (176/282)" and report.lines == ()


def test_one_image_short_is_partial_and_named():
    card = load_card("mpdd")
    report = check_counts(card, samples_of({**card.categories, "tubes": (32, 68)}))
    assert not report.complete and report.label == "partial (457/458)" and report.counts == (176, 281)
    assert report.lines[0] == "tubes: 32/68 normal/anomalous, expected 32/69"


def test_moved_labels_are_not_complete_even_when_totals_agree():
    card = load_card("mpdd")
    swapped = {**card.categories, "tubes": (33, 69), "connector": (29, 14)}
    report = check_counts(card, samples_of(swapped))
    assert report.counts == card.total and not report.complete and len(report.lines) == 2


def test_too_many_missing_categories_other_sets_variants():
    card = load_card("mpdd")
    assert check_counts(card, samples_of({**card.categories, "tubes": (40, 69)})).label == "unexpected (466/458)"
    assert (
        "categories without images: bracket_brown" in check_counts(card, samples_of({"bracket_black": (1, 1)})).lines[1]
    )
    assert check_counts(card, samples_of({"hazelnut": (6, 17)})).label == "another set (6/17), not MPDD"
    tiles = samples_of({"electrical commutators": (1143, 54)})
    assert check_counts(load_card("kolektorsdd-tiles"), tiles).label == "variant all tiles (1143/54)"
    assert check_counts(load_card("real-iad"), samples_of({"switch": (2, 1)})).label == "no counts expected (2/1)"
    assert check_counts(card, []).label == "another set (0/0), not MPDD"


def test_standins_get_their_own_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "DATA", tmp_path)
    (tmp_path / "cards").symlink_to(Path(__file__).parents[1] / "data/cards")
    with pytest.raises(ValueError, match="write the stand-ins first"):
        load_card("mvtec", standins=True)
    (tmp_path / "standins.json").write_text(
        json.dumps({"mvtec": {"version": 1, "hash": "abc", "n_normal": 3, "n_anomalous": 2}})
    )
    card = load_card("mvtec", standins=True)
    assert card.total == (3, 2) and "stand-in" in card.title and card.hash() != load_card("mvtec").hash()
    assert check_counts(card, samples_of({"gear": (3, 2)})).complete
    assert check_counts(card, samples_of({"gear": (3, 1)})).label == "partial (4/5)"


def test_real_parts_are_labelled_partial(real_root):
    grid = read("mvtec", real_root / "mvtec_ad_grid_subset", boxes=False)
    assert check_counts(load_card("mvtec"), grid).label == "partial (14/1725)"
    surfaces = read("kolektorsdd", real_root / "kolektorsdd_official")
    assert check_counts(load_card("kolektorsdd"), surfaces).label == "partial (47/399)"


def test_a_table_says_under_which_cards_its_numbers_were_made() -> None:
    sets = {"mpdd": samples_of(load_card("mpdd").categories), "visa": samples_of({"pcb1": (1, 2)})}
    (line,) = notes(sets, standins=False)
    mpdd, visa = load_card("mpdd"), load_card("visa")
    assert f"number): MPDD: card {mpdd.hash()}, complete" in line and f"VisA: card {visa.hash()}, partial" in line
    assert notes({}, standins=False) == ()
