"""`Table`: numbers with counts, intervals and the paper's reported value beside them; JSON, CSV, HTML, Markdown.

JSON and CSV are byte-identical for equal inputs: fixed key order, half-up rounding to the printed digit, no dates, no
timings (those have the table `timings` of their own).
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

NAMED = 3  # rows of another size than most, in a line of counts
WARNINGS = {
    "smoke": "Smoke profile: a few training steps and a handful of images. These numbers mean nothing.",
    "tiny": "Tiny profile: a miniature model on procedural stand-ins. These are not the paper's numbers.",
}


def rounded(value: float | None, digits: int = 1) -> float | None:
    """Half-up rounding that does not depend on the last bit of a float: 0.25 -> 0.3, None stays None."""
    if value is None:
        return None
    step = Decimal(1).scaleb(-digits)
    result = float(Decimal(repr(round(float(value), 9))).quantize(step, ROUND_HALF_UP))
    return result + 0.0  # no minus zero


def percent(fraction: float | None) -> float | None:
    """Fraction -> percent with one decimal."""
    return None if fraction is None else rounded(fraction * 100)


@dataclass(frozen=True)
class Row:
    """One cell of a table in long form.

    Attributes:
        row, column: Headings, the paper's own where it has them.
        value: Ours, None where only a reported number exists.
        ci: 95 % interval of `value`, or None.
        n_normal, n_anomalous: Images behind `value`; n_unparsed: answers among them (over all seeds) without a verdict.
        seeds: Number of seeds averaged.
        reported: The paper's number, None where it prints none.
        note: A word on this cell (a verdict, a p-value), "" for most.
    """

    row: str
    column: str
    value: float | None = None
    ci: tuple[float, float] | None = None
    n_normal: int = 0
    n_anomalous: int = 0
    n_unparsed: int = 0
    seeds: int = 0
    reported: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Long-form table; `profile` says which model and data it is about, `config_hash` which configuration."""

    id: str
    title: str
    profile: str
    config_hash: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Deterministic JSON text, schema as in `check`."""
        data = asdict(self)
        check(data)
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """The rows as CSV; the interval in two columns."""
        out = io.StringIO()
        names = [f.name for f in fields(Row)]
        at = names.index("ci")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["id", "profile", *names[:at], "ci_low", "ci_high", *names[at + 1 :]])
        for row in self.rows:
            cells = [getattr(row, name) for name in names]
            writer.writerow([self.id, self.profile, *cells[:at], *(row.ci or (None, None)), *cells[at + 1 :]])
        return out.getvalue()

    def noted(self, lines: Sequence[str]) -> Table:
        """With more notes below it."""
        return replace(self, notes=(*self.notes, *lines))

    def write(self, folder: Path | str) -> Path:
        """`<folder>/<id>.json` and `.csv`, each written under a temporary name and renamed. Returns the JSON path."""
        texts = {".json": self.to_json(), ".csv": self.to_csv()}  # both made before either is written
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            part = folder / f"{self.id}{suffix}.part"
            part.write_text(text, encoding="utf-8")
            os.replace(part, folder / f"{self.id}{suffix}")
        return folder / f"{self.id}.json"

    def get(self, row: str, column: str) -> Row | None:
        """The cell, None where the table has none."""
        return next((r for r in self.rows if r.row == row and r.column == column), None)

    def caveats(self) -> list[str]:
        """What a reader must know first: the profile's warning, then the notes."""
        warning = WARNINGS.get(self.profile)
        return [*([warning] if warning else []), *self.notes]

    def _grid(self) -> tuple[list[str], list[tuple[str, bool]], dict[tuple[str, str], Row]]:
        """Row headings, (column, is_reported) headings, and cells by (row, column)."""
        names = list(dict.fromkeys(r.row for r in self.rows))
        columns = list(dict.fromkeys(r.column for r in self.rows))
        with_reported = {r.column for r in self.rows if r.reported is not None}
        heads = [(c, flag) for c in columns for flag in (False, True) if not flag or c in with_reported]
        return names, heads, {(r.row, r.column): r for r in self.rows}

    def to_markdown(self) -> str:
        """GitHub table: value [interval] (N), the reported number in its own column; caveats in front."""
        names, heads, cells = self._grid()
        lines = [f"**{self.title}** (profile `{self.profile}`, configuration `{self.config_hash}`)", ""]
        lines += [line for note in self.caveats() for line in (f"> {note}", ">")][:-1]
        lines.append("")
        lines.append("| | " + " | ".join(_head(*head) for head in heads) + " |")
        lines.append("|---" * (len(heads) + 1) + "|")
        for name in names:
            line = [_cell(cells.get((name, column)), flag) for column, flag in heads]
            lines.append(f"| {name} | " + " | ".join(line) + " |")
        return "\n".join([*lines, "", counts_line(self)])

    def to_html(self) -> str:
        """Self-contained HTML that inherits the page's colours (light or dark)."""
        names, heads, cells = self._grid()
        head = "".join(f"<th>{html.escape(_head(*h))}</th>" for h in heads)
        body = ""
        for name in names:
            line = "".join(
                f"<td style='text-align:right{';font-style:italic;opacity:.75' if flag else ''}'>"
                f"{html.escape(_cell(cells.get((name, column)), flag))}</td>"
                for column, flag in heads
            )
            body += f"<tr><th style='text-align:left'>{html.escape(name)}</th>{line}</tr>"
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in [*self.caveats(), counts_line(self)])
        caption = html.escape(f"{self.title} (profile {self.profile}, configuration {self.config_hash})")
        return (
            f"<figure><figcaption><b>{caption}</b></figcaption>"
            f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>{notes}</figure>"
        )

    def _repr_html_(self) -> str:
        return self.to_html()


def _head(column: str, is_reported: bool) -> str:
    return f"{column} reported" if is_reported else column


def _cell(row: Row | None, is_reported: bool) -> str:
    if row is None:
        return ""
    if is_reported:
        return "" if row.reported is None else shown(row.reported)
    if row.value is None:
        return row.note or "–"
    bounds = f" [{shown(row.ci[0])}, {shown(row.ci[1])}]" if row.ci else ""
    return f"{shown(row.value)}{bounds} {row.note}".strip()


def shown(value: float) -> str:
    """At least one decimal, more only where the value has them: 50.0, 1.12."""
    return f"{value:.1f}" if rounded(value) == value else f"{value:g}"


def counts_line(table: Table) -> str:
    """Images per column, unparsed answers (worst row) and seeds, as one sentence."""
    parts = []
    for column in dict.fromkeys(r.column for r in table.rows):
        ours = [r for r in table.rows if r.column == column and r.value is not None and r.n_normal + r.n_anomalous]
        if ours:
            counts = _sizes(ours)
            seeds = sorted({r.seeds for r in ours})
            most = max(r.n_unparsed for r in ours)
            parts.append(f"{column} {counts}, unparsed at most {most}, seeds {'-'.join(map(str, seeds))}")
    if not parts:
        return "No measurement of ours in this table."
    end = ". Intervals: 95 %. Unparsed answers, summed over seeds, count as wrong."
    return "N (normal/anomalous): " + "; ".join(parts) + end


def _sizes(rows: Sequence[Row]) -> str:
    """The size of most rows and, of a few others, which they are; only the sizes where many rows have their own."""
    sizes: dict[str, list[str]] = {}
    for row in rows:
        sizes.setdefault(f"{row.n_normal}/{row.n_anomalous}", []).append(row.row)
    most = max(sizes, key=lambda size: len(sizes[size]))
    few = {size: names for size, names in sizes.items() if size != most}
    if any(len(names) > NAMED for names in few.values()) or len(few) > NAMED:
        return " or ".join(sorted(sizes, key=lambda size: [*map(int, size.split("/"))]))
    return most + "".join(f" ({', '.join(names)}: {size})" for size, names in few.items())


# --- schema ------------------------------------------------------------------------------------------------------

_TEXT = {"id", "title", "profile", "config_hash"}
_COUNTS = ("n_normal", "n_anomalous", "n_unparsed", "seeds")


def check(data: dict[str, Any]) -> None:
    """Validate a table's JSON object. Raises ValueError naming table, row and field."""
    name = data.get("id", "?")
    for key in sorted(_TEXT):
        if not isinstance(data.get(key), str) or not data[key]:
            raise ValueError(f"table {name!r}: {key!r} must be a non-empty string, found {data.get(key)!r}")
    if not isinstance(data.get("rows"), list | tuple):
        raise ValueError(f"table {name!r}: 'rows' must be a list")
    seen = set()
    for row in data["rows"]:
        _check_row(name, row)
        if (row["row"], row["column"]) in seen:
            raise ValueError(f"table {name!r}: {row['row']!r} / {row['column']!r} occurs twice")
        seen.add((row["row"], row["column"]))


def _check_row(table: str, row: dict[str, Any]) -> None:
    where = f"table {table!r}, row {row.get('row')!r}, column {row.get('column')!r}"
    missing = {f.name for f in fields(Row)} - set(row)
    if missing:
        raise ValueError(f"{where}: missing {sorted(missing)}")
    if not all(isinstance(row[key], str) for key in ("row", "column", "note")):
        raise ValueError(f"{where}: headings and note must be strings")
    for key in ("value", "reported"):
        if row[key] is not None and not _number(row[key]):
            raise ValueError(f"{where}: {key!r} must be a finite number or null, found {row[key]!r}")
    for key in _COUNTS:
        if isinstance(row[key], bool) or not isinstance(row[key], int) or row[key] < 0:
            raise ValueError(f"{where}: {key!r} must be a count, found {row[key]!r}")
    ci = row["ci"]
    if ci is not None and (len(ci) != 2 or not all(map(_number, ci)) or ci[0] > ci[1]):
        raise ValueError(f"{where}: 'ci' must be [low, high] or null, found {ci!r}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def read(path: Path | str) -> Table:
    """A table's JSON back. Raises FileNotFoundError / ValueError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table; run the notebook that writes it (`make help`)")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        check(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    rows = tuple(Row(**{**row, "ci": row["ci"] and tuple(row["ci"])}) for row in data["rows"])
    return Table(**{**data, "rows": rows, "notes": tuple(data.get("notes", ()))})


def read_all(folder: Path | str) -> dict[str, Table]:
    """All tables of a folder by id, empty for a missing folder."""
    return {path.stem: read(path) for path in sorted(Path(folder).glob("*.json"))}
