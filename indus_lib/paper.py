"""The paper's printed numbers (`data/paper.json`): Tables 1-9, class counts, claims, and IAD-R1's later rows.

Everything here is *reported*: it stands beside our own measurements in a column of its own, never mixed with them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from . import profiles

PATH = Path(__file__).resolve().parents[1] / "data" / "paper.json"
DATASETS = ("mvtec", "mpdd", "visa", "dtd", "kolektorsdd")  # the order of the paper's Table 1
COLUMNS = ("MVTec", "MPDD", "VisA", "DTD", "SDD")
AVERAGE = "avg"


@cache
def load(path: Path = PATH) -> dict[str, Any]:
    """The whole file, read once. Treat it as read-only.

    Raises:
        FileNotFoundError: the file is not in the checkout.
        ValueError: it is not valid JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the paper's numbers are missing; restore data/paper.json from git")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def tables() -> dict[str, dict[str, Any]]:
    """All tables by id (`table1_balanced_accuracy` ... `table9_group_size`)."""
    return load()["tables"]


def table(table_id: str) -> dict[str, Any]:
    """One table. Raises KeyError naming the known ids."""
    if table_id not in tables():
        raise KeyError(f"no table {table_id!r} in the paper; known: {', '.join(tables())}")
    return tables()[table_id]


def rows(table_id: str, *, later: bool = True) -> list[dict[str, Any]]:
    """Rows of a table in print order; `later` also gives rows published afterwards (with `source`)."""
    return [row for row in table(table_id)["rows"] if later or "source" not in row]


def reported(table_id: str, row: str, column: str) -> float | None:
    """The printed number, None where the paper prints none for that cell."""
    for entry in table(table_id)["rows"]:
        if entry["row"] == row:
            return entry["values"].get(column)
    return None


def row_of_run(table_id: str, run: str) -> dict[str, Any] | None:
    """The row that our run `run` answers, None when the table has no such row."""
    return next((entry for entry in table(table_id)["rows"] if entry.get("run") == run), None)


def runs(table_id: str) -> list[str]:
    """Names of the runs of ours that the table needs, in print order."""
    return list(dict.fromkeys(entry["run"] for entry in table(table_id)["rows"] if "run" in entry))


def column_of(dataset: str) -> str:
    """Column heading of a data set key (`kolektorsdd` -> `SDD`); an unknown key stays as it is."""
    return load()["columns"].get(dataset, dataset)


def ours(row: str, profile: str) -> str:
    """Name of our measurement in a row of the paper: what plays its model in another profile does not bear its name."""
    return row if profile == profiles.QWEN.name else f"ours, in place of {row}"


def ours_of(table_id: str, row: str, profile: str) -> str:
    """`ours` where a row of an ablation is named after the base model, the row's own name elsewhere."""
    base = row_of_run(table_id, "base") if table_id in tables() else None
    return ours(row, profile) if base and base["row"] == row else row
