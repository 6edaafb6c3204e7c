"""Claims of the paper against our own tables: supported, not supported, or not testable here.

A claim "A beats B" is supported when the 95 % interval of our paired difference, averaged over the five data sets, lies
above 0 (on every measured set of the claim when not all five were run). An interval that holds 0 does not support it;
where RL spoilt B, A must beat what B was before it, too.
The smoke profile tests nothing: its model is random. Where RL itself does not show, no claim about its rewards and
group sizes is supported; where half of a side's answers do not parse, its format was compared, and nothing is either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from . import paper, profiles
from .comparisons import difference_name
from .tables import Row, Table
from .variants import VARIANTS

SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE = "supported", "not supported", "not testable here"
VERDICT = "verdict"
Tables = Mapping[str, Table]
Judged = tuple[str, str, list[Row]]
"""(verdict, why, cells with our numbers)."""


def audit(tables: Tables, profile: str, config_hash: str) -> Table:
    """All claims judged from `tables` (ids as the notebooks write them; `differences` holds the paired ones)."""
    rows: list[Row] = []
    for claim in paper.load()["claims"]:
        rows += claim_rows(claim, tables, profile)
    verdicts = [row.note.split(":")[0] for row in rows if row.column == VERDICT]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in (SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE))
    notes = (
        f"{len(verdicts)} claims: {counts}.",
        "Differences in points of percent; reported: the paper's.",
        dose(profile),
    )
    return Table("claims", "The paper's claims, tested", profile, config_hash, tuple(rows), notes)


def dose(profile: str) -> str:
    """How much RL the claims about it rest on: what so little of it does not show, more of it may."""
    rl = profiles.get(profile).grpo
    length = f"{rl.steps} steps" if rl.steps > 0 else "one epoch"
    return (
        f"RL here: {length} of {rl.prompts * rl.accumulation} images, {rl.group} trajectories each, learning rate "
        f"{rl.learning_rate:g}, KL weight {rl.beta:g}."
    )


def claim_rows(claim: Mapping[str, Any], tables: Tables, profile: str) -> list[Row]:
    """The cells of one claim: our numbers per column, and a cell `verdict` whose note gives verdict and reason."""
    if profile == "smoke" and claim["kind"] not in ("sota", "sota_later", "untestable"):
        verdict, why, cells = NOT_TESTABLE, "the smoke profile's numbers mean nothing", []
    else:
        verdict, why, cells = JUDGES[claim["kind"]](claim, tables)
    if verdict == SUPPORTED and (doubt := _idle(claim, tables) or _unread(cells)):
        verdict, why = NOT_TESTABLE, f"{why}, but {doubt}"
    if verdict == SUPPORTED and "worse" in claim:
        verdict, why = _against_its_start(claim, tables, why)
    origin = f" ({claim['source']})" if "source" in claim else ""
    name = f"{claim['text']}{origin}"
    named = [replace(cell, row=name, note="") for cell in cells]
    return [*named, Row(name, VERDICT, note=f"{verdict}: {why}")]


def _idle(claim: Mapping[str, Any], tables: Tables) -> str:
    """Why a comparison of two ways to run RL supports nothing: RL itself moves nothing here; "" where it does, was not
    measured, or the claim is about something else. Such runs differ by chance alone, and intervals over images do not
    hold that chance."""
    pair = [VARIANTS[claim[side]] for side in ("better", "worse") if side in claim]
    if (
        len(pair) < 2
        or not all(v.trained for v in pair)
        or pair[0].start != pair[1].start
        or pair[0].tools != pair[1].tools
    ):
        return ""
    rl = {"better": "full", "worse": "sft", "table": claim["table"]}
    average = _difference_cells(rl, tables).get(paper.AVERAGE)
    if average is None or average.ci is None or average.ci[0] > 0 or average.ci[1] < 0:
        return ""
    return f"RL itself changes nothing that shows here: full - sft {average.value:+.1f} {_bounds(average)}"


def _against_its_start(claim: Mapping[str, Any], tables: Tables, why: str) -> tuple[str, str]:
    """Where RL took points from the weaker run, the better one must beat what that run started from as well."""
    start = VARIANTS[claim["worse"]].start
    pairs = ((claim["worse"], start), (claim["better"], start))
    lost, left = (
        _difference_cells({"better": a, "worse": b, "table": claim["table"]}, tables).get(paper.AVERAGE)
        for a, b in pairs
    )
    if lost is None or left is None or lost.ci is None or left.ci is None or lost.ci[1] >= 0:
        return SUPPORTED, why
    shown = f"`{claim['worse']}` lost {-lost.value:.1f} in RL, against its start {left.value:+.1f} {_bounds(left)}"
    return (SUPPORTED if left.ci[0] > 0 else NOT_SUPPORTED), f"{why}; {shown}"


def _unread(cells: list[Row]) -> str:
    """Why numbers that mostly count answers without a verdict support nothing; "" where they do not."""
    average = next((c for c in cells if c.column == paper.AVERAGE), None)
    used = [average] if average else cells
    images, unparsed = sum(c.n_normal + c.n_anomalous for c in used), sum(c.n_unparsed for c in used)
    seeds = min((c.seeds for c in used), default=1)  # unparsed answers are summed over them, images are not
    many = 2 * unparsed > images * seeds
    return f"{unparsed} answers for {images} images do not parse: a format is compared" if many else ""


def _cells(tables: Tables, table_id: str, row: str) -> dict[str, Row]:
    table = tables.get(table_id)
    return {r.column: r for r in table.rows if r.row == row and r.value is not None} if table else {}


def _difference_cells(claim: Mapping[str, Any], tables: Tables) -> dict[str, Row]:
    name = difference_name(claim["better"], claim["worse"], paper.table(claim["table"])["metric"])
    return _cells(tables, "differences", name)


def judge_difference(claim: Mapping[str, Any], tables: Tables) -> Judged:
    """A beats B, on average over the five sets, else on every measured set of the claim."""
    cells = _difference_cells(claim, tables)
    measured = {c: r for c, r in cells.items() if c in paper.COLUMNS and r.ci is not None}
    if not measured:
        return NOT_TESTABLE, f"runs {claim['better']} and {claim['worse']} are not both there", []
    alone = sum(r.ci[0] > 0 for r in measured.values())
    sets = f"above 0 on {alone} of {len(measured)} sets taken alone"
    average = cells.get(paper.AVERAGE)
    holds = average.ci[0] > 0 if average and average.ci else all(_wanted_above(claim, measured))
    shown = f"average {average.value:+.1f} {_bounds(average)}, " if average else ""
    return (SUPPORTED if holds else NOT_SUPPORTED), shown + sets, list(cells.values())


def _wanted_above(claim: Mapping[str, Any], measured: Mapping[str, Row]) -> list[bool]:
    wanted = [c for c in claim["columns"] if c in measured] or list(measured)
    return [measured[c].ci[0] > 0 for c in wanted]


def _bounds(row: Row) -> str:
    return f"[{row.ci[0]:.1f}, {row.ci[1]:.1f}]" if row.ci else ""


def judge_equivalent(claim: Mapping[str, Any], tables: Tables) -> Judged:
    """The gain of A over B stays below `limit`: the upper end of its interval must."""
    cells = _difference_cells(claim, tables)
    average = cells.get(paper.AVERAGE)
    if average is None or average.ci is None:
        return NOT_TESTABLE, f"runs {claim['better']} and {claim['worse']} are not both there on five sets", []
    holds = average.ci[1] <= claim["limit"]
    why = f"average {average.value:+.1f} {_bounds(average)} against a limit of {claim['limit']:g}"
    return (SUPPORTED if holds else NOT_SUPPORTED), why, list(cells.values())


def judge_sota(claim: Mapping[str, Any], tables: Tables) -> Judged:
    """Best of the paper's own table: other models' numbers are only reported, so ours cannot test it."""
    return NOT_TESTABLE, f"the other models were not run here; {_leader(claim, later=False)}", []


def judge_sota_later(claim: Mapping[str, Any], tables: Tables) -> Judged:
    """With rows published later: decided by reported numbers alone."""
    rows = [r for r in paper.rows(claim["table"]) if claim["column"] in r["values"]]
    top = max(rows, key=lambda r: r["values"][claim["column"]])
    verdict = SUPPORTED if top["row"] == claim["row"] else NOT_SUPPORTED
    return verdict, f"reported numbers only: {_leader(claim, later=True)}", []


def _leader(claim: Mapping[str, Any], later: bool) -> str:
    column = claim["column"]
    rows = [r for r in paper.rows(claim["table"], later=later) if column in r["values"]]
    top = max(rows, key=lambda r: r["values"][column])
    own = paper.reported(claim["table"], claim["row"], column)
    return f"highest reported {column} is {top['values'][column]:.1f} ({top['row']}), the agent's {own:.1f}"


def judge_below(claim: Mapping[str, Any], tables: Tables) -> Judged:
    """A run's value in a table is at most `limit`, interval included."""
    entry = paper.row_of_run(claim["table"], claim["run"])
    cell = _cells(tables, claim["table"], entry["row"] if entry else claim["run"]).get(claim["column"])
    if cell is None:
        return NOT_TESTABLE, f"run {claim['run']} has no {claim['column']} here", []
    holds = (cell.ci[1] if cell.ci else cell.value) <= claim["limit"]
    return (
        (SUPPORTED if holds else NOT_SUPPORTED),
        f"{cell.value:.1f} {_bounds(cell)}, limit {claim['limit']:g}",
        [cell],
    )


def _limits(claim: Mapping[str, Any], tables: Tables, sign: int) -> Judged:
    cells = _cells(tables, claim["table"], claim["row"])
    found = [cells[c] for c in claim["columns"] if c in cells]
    if not found:
        return NOT_TESTABLE, "the full agent's tool usage was not measured", []
    holds = all(sign * cell.value >= sign * claim["limit"] for cell in found)
    worst = min(found, key=lambda cell: sign * cell.value)
    why = f"worst {worst.value:g} on {worst.column}, limit {claim['limit']:g}"
    return (SUPPORTED if holds else NOT_SUPPORTED), why, list(cells.values())


def judge_above(claim: Mapping[str, Any], tables: Tables) -> Judged:
    """Every column is at least `limit`."""
    return _limits(claim, tables, 1)


def judge_row_below(claim: Mapping[str, Any], tables: Tables) -> Judged:
    """Every column is at most `limit`."""
    return _limits(claim, tables, -1)


def judge_most_used(claim: Mapping[str, Any], tables: Tables) -> Judged:
    """A tool's share is the largest on a data set; its Wilson interval must clear the runner-up's value."""
    column, table = claim["column"], tables.get(claim["table"])
    rows = {
        e["measure"]: e["row"] for e in paper.rows(claim["table"]) if e["measure"] in paper.load()["tools"]["method"]
    }
    shares = {tool: table.get(row, column) for tool, row in rows.items()} if table else {}
    shares = {tool: row for tool, row in shares.items() if row is not None and row.value is not None}
    if claim["tool"] not in shares:
        return NOT_TESTABLE, "the full agent's tool usage was not measured", []
    own = shares.pop(claim["tool"])
    second = max(shares, key=lambda tool: shares[tool].value)
    holds = (own.ci[0] if own.ci else own.value) > shares[second].value
    why = f"{claim['tool']} {own.value:.1f} % {_bounds(own)}, next {second} {shares[second].value:.1f} %"
    return (SUPPORTED if holds else NOT_SUPPORTED), why, [own]


def judge_untestable(claim: Mapping[str, Any], tables: Tables) -> Judged:
    """Needs what this suite does not have; the reason stands with the claim."""
    return NOT_TESTABLE, claim["reason"], []


JUDGES: dict[str, Callable[[Mapping[str, Any], Tables], Judged]] = {
    "difference": judge_difference,
    "equivalent": judge_equivalent,
    "sota": judge_sota,
    "sota_later": judge_sota_later,
    "below": judge_below,
    "above": judge_above,
    "row_below": judge_row_below,
    "most_used": judge_most_used,
    "untestable": judge_untestable,
}


def verdicts(table: Table) -> dict[str, str]:
    """Claim text -> verdict of an audit table."""
    return {row.row: row.note.split(":")[0] for row in table.rows if row.column == VERDICT}
