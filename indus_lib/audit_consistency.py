"""Does the paper agree with itself? Every finding is computed from `data/paper.json`, none is written down.

What a finding is and how rounding is allowed for: `audit_finding`. Images and noise: `audit_sampling`.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from . import paper
from .audit_finding import CONVENTIONS, HALF, ORDER, SLACK, Finding, compare
from .audit_sampling import granularity, noise
from .tables import Row, Table, rounded

ROUNDED = ("average", "F1", "specificity", "claimed gain")
"""Checks whose range is what rounding allows."""
PRINTED = ("granularity", "equal configuration", "state of the art", "chosen setting", "tool usage")
"""Further checks of a number that the paper prints."""


def findings() -> list[Finding]:
    """All checks, contradictions first, then in the paper's order."""
    checks = (averages, configurations, recall_and_f1, granularity, gains, best, noise, words, usage)
    return sorted(itertools.chain.from_iterable(check() for check in checks), key=lambda f: ORDER.index(f.verdict))


def contradictions() -> list[Finding]:
    """Only what rounding cannot explain."""
    return [f for f in findings() if f.verdict == "contradiction"]


def averages() -> Iterator[Finding]:
    """Printed averages against the mean of their row."""
    for table_id, table in paper.tables().items():
        for row in table["rows"]:
            values = {c: v for c, v in row["values"].items() if c != paper.AVERAGE}
            if paper.AVERAGE in row["values"]:
                printed, mean = row["values"][paper.AVERAGE], float(np.mean(list(values.values())))
                text = f"{len(values)} printed values average {mean:.2f}; the table prints {printed:.1f}."
                where = f"{table['section']}, {row['row']}, {paper.AVERAGE} ({table_id})"
                ranges = {name: (mean + a, mean + b) for name, (a, b) in CONVENTIONS.items()}
                yield compare("average", where, printed, mean, ranges, text)


def configurations() -> Iterator[Finding]:
    """One configuration, one metric, one data set: printed in several tables, it must be one number."""
    cells: dict[tuple[str, str, str], list[tuple[str, float]]] = defaultdict(list)
    for table in paper.tables().values():
        for row in table["rows"]:
            if "config" in row and "measure" not in row:
                key = json.dumps(row["config"], sort_keys=True)
                for column, value in row["values"].items():
                    cells[key, table["metric"], column].append((f"{table['section']} {row['row']!r}", value))
    for (_, metric, column), printed in cells.items():
        if len(printed) > 1:
            yield _same(metric, column, printed)


def _same(metric: str, column: str, printed: list[tuple[str, float]]) -> Finding:
    low, high = min(v for _, v in printed), max(v for _, v in printed)
    verdict = "contradiction" if high - low > SLACK else "consistent"
    listing = "; ".join(f"{where}: {value:.1f}" for where, value in printed)
    where = f"{' = '.join(dict.fromkeys(w for w, _ in printed))}, {column}"
    text = f"One configuration, {metric.replace('_', ' ')} on {column}: {listing}."
    return Finding("equal configuration", where, printed[-1][1], printed[0][1], low, high, verdict, text)


def _of_model(table_id: str) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in paper.table(table_id)["rows"] if "model" in row}


def f1_from(balanced: float, recall: float, normal: int, anomalous: int) -> float:
    """F1 in percent from balanced accuracy and recall in percent and the class counts (specificity = 2 BA - recall)."""
    hits = recall / 100 * anomalous
    alarms = (1 - (2 * balanced - recall) / 100) * normal
    return 200 * hits / (hits + alarms + anomalous)


def recall_and_f1() -> Iterator[Finding]:
    """Balanced accuracy and recall fix specificity (0..100), and with the class counts F1."""
    recalls, f1s = _of_model("table2_recall"), _of_model("table6_f1")
    for model, row in _of_model("table1_balanced_accuracy").items():
        for column in paper.COLUMNS:
            balanced = row["values"].get(column)
            recall = recalls.get(model, {"values": {}})["values"].get(column)
            f1 = f1s.get(model, {"values": {}})["values"].get(column)
            if balanced is not None and recall is not None:
                yield _specificity(row["row"], column, balanced, recall)
                if f1 is not None:
                    found = _f1(row["row"], column, balanced, recall, f1)
                    yield _across_sources(found, row["source"]) if "source" in row else found


def _across_sources(found: Finding, source: str) -> Finding:
    """Two papers' runs need not be one run: at most an observation."""
    verdict = "observation" if found.verdict == "contradiction" else found.verdict
    return replace(found, verdict=verdict, text=f"{found.text} (Balanced accuracy from {source}.)")


def _specificity(name: str, column: str, balanced: float, recall: float) -> Finding:
    value, slack = 2 * balanced - recall, 3 * HALF
    possible = -slack <= value <= 100 + slack
    text = f"Balanced accuracy {balanced:.1f} and recall {recall:.1f} imply specificity {value:.1f}."
    verdict = "consistent" if possible else "contradiction"
    return Finding(
        "specificity", f"Tables 1, 2, {name}, {column}", None, value, value - slack, value + slack, verdict, text
    )


def _f1(name: str, column: str, balanced: float, recall: float, printed: float) -> Finding:
    """The nearest range over the class counts in use; only if none fits is it a contradiction."""
    candidates = []
    for variant, (normal, anomalous) in paper.load()["counts"][column].items():
        middle = f1_from(balanced, recall, normal, anomalous)
        ranges = {name: _f1_range(balanced, recall, normal, anomalous, ends) for name, ends in CONVENTIONS.items()}
        candidates.append((abs(middle - printed), variant, middle, ranges))
    _, variant, middle, ranges = min(candidates)
    text = (
        f"Balanced accuracy {balanced:.1f} and recall {recall:.1f} (specificity {2 * balanced - recall:.1f}) with the "
        f"{variant} counts give F1 {middle:.1f}; printed {printed:.1f}. It needs other counts or averaging."
    )
    return compare("F1", f"Tables 1, 2, 6, {name}, {column}", printed, middle, ranges, text)


def _f1_range(balanced: float, recall: float, normal: int, anomalous: int, ends: tuple[float, float]) -> tuple:
    """F1 over the corners of what the two printed numbers may stand for (monotone over so small a box)."""
    corners = [f1_from(balanced + a, recall + b, normal, anomalous) for a in ends for b in ends]
    return min(corners), max(corners)


def gains() -> Iterator[Finding]:
    """Claimed gains over the state of the art against the best other row of the paper's own table."""
    for claim in paper.load()["statements"]:
        column, rows = claim["column"], paper.rows(claim["table"], later=False)
        own = paper.reported(claim["table"], claim["row"], column)
        others = {r["row"]: r["values"][column] for r in rows if r["row"] != claim["row"]}
        top = max(others, key=lambda name: others[name])
        gain = own - others[top]
        meant = [name for name, v in others.items() if abs(own - v - claim["value"]) < HALF]
        text = (
            f"{claim['text']}: the best other row is {top} with {others[top]:.1f}, so the gain is {gain:+.1f}; "
            f"{claim['value']:+.1f} is against {', '.join(meant) or 'no row'}."
        )
        where = f"{claim['row']}, {column}"
        ranges = {name: (gain - 2 * HALF, gain + 2 * HALF) for name in CONVENTIONS}
        yield compare("claimed gain", where, claim["value"], gain, ranges, text)


def best() -> Iterator[Finding]:
    """State of the art with later rows beside it, and ablations whose best row is not the chosen one."""
    table_id = "table1_balanced_accuracy"
    own = paper.row_of_run(table_id, "full")
    for column in (*paper.COLUMNS, paper.AVERAGE):
        rows = [r for r in paper.rows(table_id) if column in r["values"]]
        top = max(rows, key=lambda r: r["values"][column])
        ahead = top["values"][column] - own["values"][column]
        later = " (published later)" if "source" in top else ""
        text = (
            f"Best on {column}: {top['row']}{later} with {top['values'][column]:.1f}, {ahead:.1f} above {own['row']}."
        )
        verdict = "consistent" if ahead <= 2 * HALF + SLACK else "observation" if later else "contradiction"
        where = f"Table 1 with IAD-R1's numbers, {column}"
        yield Finding(
            "state of the art", where, own["values"][column], top["values"][column], None, None, verdict, text
        )
    yield from _chosen()


def _chosen() -> Iterator[Finding]:
    for table_id in ("table5_weights", "table8_tools", "table9_group_size"):
        rows, chosen = paper.rows(table_id), paper.row_of_run(table_id, "full")
        for column in chosen["values"]:
            top = max(rows, key=lambda r: r["values"][column])
            if top["values"][column] > chosen["values"][column]:
                ours, theirs = chosen["values"][column], top["values"][column]
                text = f"Chosen {chosen['row']} has {ours:.1f}, {top['row']} {theirs:.1f}."
                where = f"{paper.table(table_id)['section']}, {column}"
                yield Finding("chosen setting", where, ours, theirs, None, None, "observation", text)


def words() -> Iterator[Finding]:
    """Statements in words: number of tools, no credit for a wrong answer."""
    tools, reward = paper.load()["tools"], paper.load()["reward"]
    extra = sorted(set(tools["method"]) ^ set(tools["abstract"]))
    text = (
        f"The abstract names {len(tools['abstract'])} tools, the method {len(tools['method'])}; not in both: {extra}."
    )
    verdict = "contradiction" if extra else "consistent"
    printed, used = float(len(tools["abstract"])), float(len(tools["method"]))
    yield Finding("tools named", "abstract, method", printed, used, None, None, verdict, text)
    shaping = 1 + reward["alpha"] + reward["beta"] + reward["gamma"] * (reward["tool_bonus"] - reward["call_cost"])
    for size in (0.5, -0.5):  # any positive, any negative size shows it
        wrong = 0 * shaping + (size if reward["format_outside_gate"] else 0.0)
        credit = wrong > 0 and reward["no_credit_when_wrong"]
        text = (
            f"A wrong answer whose format term is {size:+.1f} earns {wrong:+.1f}, since the term stands outside the "
            "gate; 'no credit' asks for at most 0."
        )
        verdict = "contradiction" if credit else "consistent"
        yield Finding("reward", f"section 6, R_format {size:+.1f}", 0.0, wrong, None, None, verdict, text)


def usage() -> Iterator[Finding]:
    """Each image that used a tool made at least one call: calls per image >= sum of the tools' shares."""
    rows = {row["measure"]: row["values"] for row in paper.rows("table7_tool_usage")}
    for column, calls in rows["calls_per_image"].items():
        least = sum(rows[tool][column] for tool in paper.load()["tools"]["method"]) / 100
        text = f"The shares add up to {least:.3f} calls per image at least; printed {calls:.2f}."
        verdict = "contradiction" if calls + 0.005 < least - 4 * HALF / 100 else "consistent"
        yield Finding("tool usage", f"Table 7, {column}", calls, least, None, None, verdict, text)


def table(profile: str, config_hash: str) -> Table:
    """The audit as a table: every finding that is not `consistent`, and how many were."""
    every = findings()
    shown = [f for f in every if f.verdict != "consistent"]
    rows = [
        Row(
            f"{f.check}: {f.where}", "computed", rounded(f.computed, 2),
            (rounded(f.low, 2), rounded(f.high, 2)) if f.check in ROUNDED else None,
            reported=rounded(f.printed, 2) if f.check in (*ROUNDED, *PRINTED) else None, note=f"{f.verdict}: {f.text}",
        )
        for f in shown
    ]  # fmt: skip
    counts = ", ".join(f"{sum(f.verdict == v for f in every)} {v}" for v in dict.fromkeys(f.verdict for f in every))
    kinds = Counter(f.check for f in every if f.verdict == "contradiction")
    notes = (
        f"{len(every)} checks computed from data/paper.json: {counts}.",
        f"Contradictions by kind: {', '.join(f'{kind} {n}' for kind, n in kinds.items())}.",
        "Not a measurement of ours: 'computed' follows from the paper's own numbers. Brackets: what rounding allows, "
        "in the checks that compare a printed number; what the others compare is in their text.",
    )
    return Table("consistency", "Where the paper disagrees with itself", profile, config_hash, tuple(rows), notes)
