"""The paper's numbers as data: complete, and equal to the page they were read from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from indus_lib import paper

IDS = [
    "table1_balanced_accuracy",
    "table2_recall",
    "table3_modules",
    "table4_rewards",
    "table5_weights",
    "table6_f1",
    "table7_tool_usage",
    "table8_tools",
    "table9_group_size",
]


def test_table_ids_and_spot_values() -> None:
    assert list(paper.tables()) == IDS
    assert paper.reported("table1_balanced_accuracy", "IndusAgent 8B", "SDD") == 88.9
    assert paper.reported("table2_recall", "IndusAgent", "MPDD") == 95.4
    assert paper.reported("table7_tool_usage", "calls per image", "DTD") == 0.72
    assert paper.reported("table3_modules", "full", "SDD") is None
    assert paper.reported("table3_modules", "no such row", "DTD") is None
    with pytest.raises(KeyError, match="known:"):
        paper.table("table10")


def test_every_row_has_every_column_of_its_table() -> None:
    for name, table in paper.tables().items():
        for row in table["rows"]:
            missing = set(table["columns"]) - set(row["values"])
            assert missing <= ({paper.AVERAGE} if "source" in row else set()), (name, row["row"])
            assert all(0 <= value <= 100 for value in row["values"].values())


def test_rows_have_unique_names_and_claims_name_known_runs() -> None:
    for table in paper.tables().values():
        names = [row["row"] for row in table["rows"]]
        assert len(names) == len(set(names))
    known = {run for name in IDS for run in paper.runs(name)}
    for claim in paper.load()["claims"]:
        assert {claim.get("better", "full"), claim.get("worse", "full"), claim.get("run", "full")} <= known
        assert "table" not in claim or claim["table"] in IDS


def test_one_run_serves_equal_configurations() -> None:
    assert paper.row_of_run("table4_rewards", "weights_0.8_0.6_0")["row"] == "w/o tool"
    assert paper.row_of_run("table5_weights", "weights_0.8_0.6_0")["row"] == "0.8, 0.6, 0"
    assert paper.row_of_run("table9_group_size", "full")["row"] == "G = 4"


def test_table_1_equals_the_page(real_root: Path) -> None:
    page = real_root.parent / "paper.md"
    if not page.is_file():
        pytest.skip("no paper.md beside the real photographs")
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\| \**([\w.\- ]+?)\** \| (\S+) \|((?: [\d.]+ \|){6})$", text, re.M)
    assert len(rows) == 19
    for name, size, cells in rows:
        row = name if size == "-" else f"{name} {size}"
        printed = [float(v) for v in cells.replace("|", " ").split()]
        columns = [*paper.COLUMNS, paper.AVERAGE]
        assert [paper.reported("table1_balanced_accuracy", row, c) for c in columns] == printed, row
    for number in re.findall(r"\d+\.\d+", text.split("### Table 2")[1].split("Figures that can")[0]):
        assert float(number) in _all_numbers(), number


def _all_numbers() -> set[float]:
    values = {v for t in paper.tables().values() for row in t["rows"] for v in row["values"].values()}
    return values | {0.8, 0.6, 0.5, 2.5}  # weights; "Qwen2.5-VL"
