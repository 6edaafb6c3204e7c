"""Tables: schema, determinism, what a reader sees, and the rows that the paper asks for."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation import episode, run, sets
from hypothesis import given
from hypothesis import strategies as st

from indus_lib import (
    benchmarks,
    calibration,
    comparisons,
    demo_tables,
    localisation,
    metrics,
    paper,
    profiles,
    tables,
    tool_choice,
)
from indus_lib.samples import Sample
from indus_lib.tables import Row, Table

RUNS = {
    "base": sets(0.5, 0.55, n=30),
    "full": sets(0.92, 0.88, n=30, tools=("crop",)),
    "no_crop": sets(0.8, 0.75, n=20),
    "always_yes": sets(1, 0, n=30),
}


@pytest.fixture(scope="module")
def built() -> dict[str, Table]:
    return benchmarks.build(RUNS, "tiny", "abc123")


def test_rounding_is_half_up_and_free_of_float_dust() -> None:
    assert tables.rounded(0.25) == 0.3 and tables.rounded(2.675, 2) == 2.68 and tables.rounded(-0.04) == 0
    assert tables.percent(0.1 + 0.2) == 30.0 and tables.percent(None) is None


@given(st.floats(-1000, 1000))
def test_rounding_stays_within_half_a_step(value: float) -> None:
    assert abs(tables.rounded(value) - value) <= 0.05 + 1e-9


def test_all_nine_tables_with_the_schema(built: dict[str, Table]) -> None:
    assert list(built) == list(paper.tables())
    for name, table in built.items():
        data = json.loads(table.to_json())
        assert data["id"] == name and data["profile"] == "tiny" and data["config_hash"] == "abc123"
        keys = {"row", "column", "value", "ci", "n_normal", "n_anomalous", "n_unparsed", "seeds", "reported"}
        assert all(keys <= set(row) for row in data["rows"])


def test_reported_stands_beside_measured(built: dict[str, Table]) -> None:
    cell = built["table1_balanced_accuracy"].get("IndusAgent 8B", "MVTec")
    assert cell.reported == 83.6 and cell.value is not None and cell.ci[0] <= cell.value <= cell.ci[1]
    later = built["table1_balanced_accuracy"].get("IAD-R1-UPDATE LLaVA-OV-SI 7B", "MVTec")
    assert later.value is None and later.reported == 87.4
    text = built["table1_balanced_accuracy"].to_markdown()
    assert "MVTec reported" in text and "not the paper's" in text and "IAD-R1" in text


def test_every_paper_cell_is_in_ours(built: dict[str, Table]) -> None:
    for name, table in paper.tables().items():
        for row in table["rows"]:
            for column, value in row["values"].items():
                assert built[name].get(row["row"], column).reported == value


def test_average_is_the_mean_of_five_and_needs_five(built: dict[str, Table]) -> None:
    cells = [built["table1_balanced_accuracy"].get("always_yes", c) for c in (*paper.COLUMNS, paper.AVERAGE)]
    assert [c.value for c in cells] == [50.0] * 6
    four = {name: {d: e for d, e in s.items() if d != "dtd"} for name, s in RUNS.items()}
    table = benchmarks.build(four, "tiny", "x", only=["table1_balanced_accuracy"])["table1_balanced_accuracy"]
    assert table.get("always_yes", paper.AVERAGE) is None
    assert table.get("IndusAgent 8B", paper.AVERAGE).value is None


def test_an_ablation_compares_rows_on_the_same_images(built: dict[str, Table]) -> None:
    full, cut = (built["table8_tools"].get(row, "MVTec") for row in ("full", "w/o crop"))
    assert (full.n_normal, full.n_anomalous) == (cut.n_normal, cut.n_anomalous) == (20, 20)
    assert built["table1_balanced_accuracy"].get("IndusAgent 8B", "MVTec").n_normal == 30


def test_bytes_do_not_depend_on_order_or_repetition() -> None:
    first = benchmarks.build(RUNS, "tiny", "x", only=["table3_modules", "table7_tool_usage"])
    mixed = {name: {d: random.Random(1).sample(e, len(e)) for d, e in s.items()} for name, s in RUNS.items()}
    slower = {n: {d: [replace(x, seconds=9.0) for x in e] for d, e in s.items()} for n, s in mixed.items()}
    second = benchmarks.build(slower, "tiny", "x", only=["table3_modules", "table7_tool_usage"])
    for name in first:
        assert first[name].to_json() == second[name].to_json() and first[name].to_csv() == second[name].to_csv()
    timings = [comparisons.timings_table(runs, "tiny", "x").to_json() for runs in (RUNS, slower)]
    assert timings[0] != timings[1]


def test_write_and_read_back(tmp_path: Path, built: dict[str, Table]) -> None:
    path = built["table3_modules"].write(tmp_path)
    assert tables.read(path) == built["table3_modules"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table3_modules.csv", "table3_modules.json"]
    assert path.with_suffix(".csv").read_text().splitlines()[0].startswith("id,profile,row,column,value,ci_low,ci_high")


def test_a_bad_table_writes_nothing(tmp_path: Path) -> None:
    bad = Table("t", "T", "tiny", "x", (Row("a", "b", float("nan")),))
    with pytest.raises(ValueError, match=r"'a'.*'value'"):
        bad.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (Row("a", "b", 1.0, (3.0, 2.0)), "'ci'"),
        (Row("a", "b", 1.0, n_normal=-1), "n_normal"),
        (Row("a", "b", 1.0, reported="83.6"), "reported"),
        (Row("a", 3, 1.0), "headings"),
    ],
)
def test_schema_errors_name_the_field(row: Row, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Table("t", "T", "tiny", "x", (row,)).to_json()


def test_duplicates_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        Table("t", "T", "tiny", "x", (Row("a", "b"), Row("a", "b"))).to_json()
    with pytest.raises(FileNotFoundError, match="no such table"):
        tables.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"id": "bad"}')
    with pytest.raises(ValueError, match=r"bad\.json"):
        tables.read(tmp_path / "bad.json")


def test_html_escapes_and_smoke_warns() -> None:
    table = Table("t", "<b>", "smoke", "x", (Row("<i>", "c", 1.0, None, 3, 4, 2, 1),))
    page = table.to_html()
    assert "<i>" not in page and "&lt;i&gt;" in page and "mean nothing" in page
    assert "c 3/4, unparsed at most 2" in page and table._repr_html_() == page


def test_unparsed_is_printed(built: dict[str, Table]) -> None:
    silent = {"base": {"mvtec": [replace(e, verdict=None) for e in RUNS["base"]["mvtec"]]}}
    table = benchmarks.build(silent, "tiny", "x", only=["table1_balanced_accuracy"])["table1_balanced_accuracy"]
    cell = table.get("Qwen3-VL-Instruct 8B", "MVTec")
    assert cell.n_unparsed == 60 and cell.value == 0 and "unparsed at most 60" in table.to_markdown()


def test_differences_are_paired_on_common_images() -> None:
    table = comparisons.difference_table(RUNS, "tiny", "x")
    name = comparisons.difference_name("full", "no_crop", "balanced_accuracy")
    cell = table.get(name, "MVTec")
    assert cell.n_normal == 20 and cell.reported == pytest.approx(4.2) and cell.note.startswith("p=")
    average = table.get(name, paper.AVERAGE)
    own = [table.get(name, c).value for c in paper.COLUMNS]
    assert average.value == pytest.approx(sum(own) / 5, abs=0.11)
    table.to_json()


def test_mechanisms_show_where_a_tool_matters() -> None:
    episodes = [episode(i, i % 2 == 0, i % 2 == 0 and i % 4 == 0) for i in range(40)]  # half of the anomalous missed
    mechanisms = {f"mvtec:{e.sample_id}": "small" if i % 4 == 2 else "plain" for i, e in enumerate(episodes) if e.label}
    table = comparisons.mechanism_table({"full": {"mvtec": episodes}}, mechanisms, "tiny", "x")
    assert table.get("full", "small").value == 50.0 and table.get("full", "plain").value == 100.0
    assert table.get("full", "small").n_anomalous == 10 and table.get("full", "small").n_normal == 20
    over = table.get("full", "small, products")  # three products
    assert over.value == 50.0 and over.ci[0] < over.value < over.ci[1] and over.n_normal == 20


def test_metrics_and_localisation_tables_pass_the_schema() -> None:
    data = run(0.9, 0.8, n=12)
    comparisons.metrics_table({"full": {"mvtec": data}}, "tiny", "x").to_json()
    normal = [e for e in data if not e.label]
    samples = {"mvtec": [Sample(e.sample_id, Path("x.png"), "mvtec", label=e.label) for e in data]}
    assert normal and comparisons.localisation_table({"full": {"visa": data}}, samples, "tiny", "x").rows == ()


def test_own_ablations_stay_out_of_table_1() -> None:
    runs = {**RUNS, "additive": sets(0.9, 0.9, n=20, tools=("crop", "prior"))}
    table = benchmarks.own_ablation_table(runs, "tiny", "x")
    name = benchmarks.OWN_ABLATIONS["additive"]
    assert table.get(name, "calls per image").value == 2.0
    assert table.get(benchmarks.OWN_ABLATIONS["full"], "MVTec").n_normal == 20  # the images both saw
    built = benchmarks.build(runs, "tiny", "x", only=["table1_balanced_accuracy"])["table1_balanced_accuracy"]
    assert built.get("additive", "MVTec") is None and built.get("always_yes", "MVTec") is not None


def test_what_a_missing_tool_costs_by_mechanism(tmp_path: Path) -> None:
    full = [episode(i, i % 2 == 0, i % 2 == 0) for i in range(40)]  # all right
    blind = [episode(i, i % 2 == 0, i % 4 == 0) for i in range(40)]  # misses every second anomaly
    mechanisms = {f"mvtec:{e.sample_id}": "small" if i % 4 == 2 else "plain" for i, e in enumerate(full) if e.label}
    runs = {
        "full": {"mvtec": full},
        "no_crop": {"mvtec": blind},
        "no_delta": {"mvtec": blind},
        "base": {"mvtec": blind},
    }
    table = comparisons.mechanism_difference_table(runs, mechanisms, "tiny", "x")
    assert table.get("full - no_crop", "small").value == 50.0
    assert table.get("full - no_crop", "plain").value == 0.0
    assert {row.row for row in table.rows} == {"full - no_crop"}  # the others lack no tool that an agent may use
    sidecar = tmp_path / "mvtec" / "mechanisms.json"
    sidecar.parent.mkdir()
    sidecar.write_text('{"a/test/good/1.png": "", "a/test/cut/2.png": "small"}')
    samples = [
        Sample(f"s{i}", sidecar.parent / p, "mvtec") for i, p in enumerate(("a/test/good/1.png", "a/test/cut/2.png"))
    ]
    assert comparisons.read_mechanisms(tmp_path, {"mvtec": samples, "visa": []}) == {"mvtec:s1": "small"}


def test_how_often_the_fitting_tool_is_asked_for() -> None:
    """Six of eight small marks get their crop, and all of those are right; of the others, one of two."""
    every = [episode(i, i % 2 == 0, i % 2 == 0 or i == 7, tools=("crop",) if i < 6 else ("measure",)) for i in range(8)]
    mechanisms = {f"mvtec:{e.sample_id}": "small" for e in every}
    table = tool_choice.table({"full": {"mvtec": every}}, mechanisms, "tiny", "x")
    row = "small: crop"
    assert (table.get(row, "asked for").value, table.get(row, "right with it").value) == (75.0, 100.0)
    assert table.get(row, "right without it").value == 50.0 and len(table.rows) == 3


def test_seeds_that_ask_on_different_images_share_a_table() -> None:
    """Each seed's agent is right where it asks and wrong elsewhere; images count once, and so do the intervals."""
    every = [
        episode(i, i % 2 == 0, (i % 2 == 0) is ((i < 20) is (seed == 0)), tools=("crop",) * ((i < 20) is (seed == 0)),
                seed=seed)
        for i in range(40) for seed in (0, 1)
    ]  # fmt: skip
    mechanisms = {f"mvtec:{e.sample_id}": "small" for e in every}
    table = tool_choice.table({"full": {"mvtec": every}}, mechanisms, "tiny", "x")
    asked, right = (table.get("small: crop", c) for c in ("asked for", "right with it"))
    assert (asked.value, asked.n_normal, asked.n_anomalous, asked.seeds) == (50.0, 20, 20, 2)
    assert asked.ci == tuple(tables.percent(v) for v in metrics.wilson(20, 40))
    assert (right.value, right.n_normal) == (100.0, 20)
    assert table.get("small: crop", "right without it").value == 0.0


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_every_table_takes_several_seeds(n_seeds: int) -> None:
    """The same answers under three seeds: the same values, counts of images as under one."""
    one = {name: sets(0.9, 0.8, n=12) for name in ("base", "sft", "full")}
    runs = {
        name: {d: [replace(e, seed=k) for e in es for k in range(n_seeds)] for d, es in s.items()}
        for name, s in one.items()
    }
    kinds = {f"{d}:{e.sample_id}": "small" for d, es in one["full"].items() for e in es}
    profile = profiles.get("tiny")
    made = [*benchmarks.build(runs, "tiny", "x").values(), comparisons.metrics_table(runs, "tiny", "x")]
    made += [f(runs, "tiny", "x") for f in (comparisons.difference_table, calibration.table, comparisons.timings_table)]
    made += [comparisons.mechanism_table(runs, kinds, "tiny", "x"), tool_choice.table(runs, kinds, "tiny", "x")]
    made += [comparisons.mechanism_difference_table(runs, kinds, "tiny", "x"), demo_tables.usage_by_run(runs, profile)]
    for table in made:
        for row in (row for row in table.rows if row.seeds):  # others are reported only
            assert row.seeds == n_seeds and row.n_anomalous in (12, 60), (table.id, row)
            assert row.ci is None or row.ci[0] <= row.value <= row.ci[1], (table.id, row)


def test_an_interval_of_boxes_is_over_images_not_inspections() -> None:
    found = [
        localisation.Localisation(4 * k, 0, (0.2, 0.4, 0.6, 0.8) * k, tuple("abcd") * k, 0, 0, 0, 0) for k in (1, 3)
    ]
    assert found[0].iou_interval == pytest.approx(found[1].iou_interval)


def test_tables_made_twice_are_the_same_to_the_byte() -> None:
    def made() -> list[str]:
        found = [*benchmarks.build(RUNS, "tiny", "x").values(), comparisons.difference_table(RUNS, "tiny", "x")]
        found += [comparisons.metrics_table(RUNS, "tiny", "x"), benchmarks.own_ablation_table(RUNS, "tiny", "x")]
        return [table.to_json() + table.to_csv() for table in found]

    assert made() == made()


def test_a_note_comes_below_those_that_are_there(built: dict[str, Table]) -> None:
    table = built["table3_modules"]
    noted = table.noted(("Data: by hand.",))
    assert noted.notes == (*table.notes, "Data: by hand.") and noted.rows == table.rows
    assert "Data: by hand." in noted.to_markdown() and json.loads(noted.to_json())["notes"][-1] == "Data: by hand."
