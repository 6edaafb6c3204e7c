"""What a corpus is made of: counts, tool mix, lengths, diversity, and what the tools' choice gives away."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import parsing, quality
from .protocol import TOOL_NAMES

Record = dict[str, Any]


def thoughts(record: Record) -> list[str]:
    """The thinking of each assistant turn."""
    return [parsing.parse_turn(m["text"]).think for m in record["messages"] if m["role"] == "assistant"]


def tools_of(record: Record) -> tuple[str, ...]:
    """Names of the tools called, in order, without repeats."""
    return tuple(dict.fromkeys(c["name"] for m in record["messages"] for c in m["calls"]))


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Different n-grams of words over all n-grams; 1 = nothing is ever said twice."""
    grams = [g for text in texts for g in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.casefold())
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def identical_share(texts: Sequence[str]) -> float:
    """Share of texts that occur more than once, letter for letter."""
    counts = Counter(texts)
    return sum(n for n in counts.values() if n > 1) / len(texts) if texts else 0.0


def statistics(records: Sequence[Record]) -> dict[str, Any]:
    """Everything the data card and the figures show, as plain JSON."""
    if not records:
        return {"n": 0}
    first = [thoughts(r)[0] for r in records]
    last = [t[1] for t in map(thoughts, records) if len(t) > 1]
    used = [tools_of(r) for r in records]
    n = len(records)
    return {
        "n": n,
        "images": len({r["sample_id"] for r in records}),
        "normal_share": round(sum(not r["label"] for r in records) / n, 4),
        "split": dict(sorted(Counter(r["split"] for r in records).items())),
        "tool_share": {t: round(sum(t in u for u in used) / n, 4) for t in TOOL_NAMES}
        | {"none": round(sum(not u for u in used) / n, 4)},
        "calls_per_image": round(sum(len(m["calls"]) for r in records for m in r["messages"]) / n, 4),
        "categories": _by_label(records, "category"),
        "types": dict(Counter(r["node"] for r in records if r["label"]).most_common()),
        "tokens": {"first": _spread(first), "last": _spread(last)},
        "diversity": diversity(first, last),
        "corrected": _corrected(records),
        "tool_information_bits": _information(records),
        "score": round(float(np.mean([r["score"] for r in records])), 4),
    }


def diversity(first: Sequence[str], last: Sequence[str]) -> dict[str, Any]:
    """Distinct-1/2/3 and share of identical sentences, for the first and the last thinking."""
    evidence = [parsing.parse_routing(t).get("evidence", t) for t in first]
    return {
        name: {
            **{f"distinct_{n}": round(distinct_n(texts, n), 4) for n in (1, 2, 3)},
            "different": len(set(texts)),
            "identical_share": round(identical_share(texts), 4),
        }
        for name, texts in (("evidence", evidence), ("first", first), ("last", last))
    }


def _spread(texts: Sequence[str]) -> dict[str, int]:
    counts = [quality.rough_tokens(t) for t in texts] or [0]
    return {f"p{p}": int(np.percentile(counts, p)) for p in (5, 50, 95)} | {"max": max(counts)}


def _by_label(records: Sequence[Record], field: str) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for r in records:
        row = table.setdefault(r[field], {"normal": 0, "anomalous": 0})
        row["anomalous" if r["label"] else "normal"] += 1
    return dict(sorted(table.items()))


def _corrected(records: Sequence[Record]) -> dict[str, float]:
    """Shares of trajectories whose preliminary answer and verdict differ, by direction."""
    changes: Counter[str] = Counter()
    for r in records:
        said = parsing.parse_routing(thoughts(r)[0]).get("preliminary")
        if said and (said == "Yes") != r["label"]:
            changes[f"{said} to {'Yes' if r['label'] else 'No'}"] += 1
    return {k: round(v / len(records), 4) for k, v in sorted(changes.items())}


def _information(records: Sequence[Record]) -> dict[str, float]:
    rows = [(r["category"], r["label"], "+".join(sorted(tools_of(r))) or "none") for r in records]
    actual, chance = quality.tool_information(rows)
    return {"actual": round(actual, 4), "by_chance": round(chance, 4)}


_CARD = """# Data card: Indus-CoT, {n} trajectories

Made by this suite's corpus builder (schema version {version}; see `docs/corpus.md`). Reproduces section 4 of
arXiv 2605.20682; the authors published no corpus.

- **What**: tool-using inspections of single product images: think, call tools or not, observe, think, answer.
- **Asked for**: {requested} trajectories, seed {seed}. **Made**: {n}, over {images} images, {normal:.1%} normal.
- **Tools** (share of trajectories): {tools}.
- **Teacher**: {teachers}. Observations are real tool outputs on the original images.
- **Disjoint from the tests**: dropped categories: {dropped}.
- **Rejected by the gate**: {rejected}.
- **What the choice of tool gives away about the label, within a category**: {bits} bits ({chance} by chance alone).
- **Diversity of the last thinking**: distinct-2 {distinct}, {identical:.1%} occur more than once word for word.

## Use and limits
For supervised fine-tuning of an agent that keeps the protocol. The text of the offline teacher comes from a grammar
filled with measurements: it teaches form, tool use and reading of observations, not rich language. The verdict comes
from the annotation, the words from what the view and the tools show; an anomalous image in which neither shows the
mark is left out, so the corpus is easier than the pool. Images keep the licence of the pool they come from.
"""


def data_card(report: Mapping[str, Any]) -> str:
    """The data card of a build as Markdown."""
    s = report["statistics"]
    if not s["n"]:
        return f"# Data card: Indus-CoT, no trajectories\n\nRejected: {report['rejected']}\n"
    rejected = ", ".join(f"{a} ({b})" for a, b in report["rejected"].items()) or "none"
    return _CARD.format(
        version=report["version"], n=s["n"], requested=report["requested"], seed=report["seed"], images=s["images"],
        normal=s["normal_share"], tools=", ".join(f"{k} {v:.0%}" for k, v in s["tool_share"].items()),
        teachers=report["teacher"],
        dropped=", ".join(f"{k} ({v})" for k, v in report["dropped_categories"].items()) or "none",
        rejected=rejected, bits=s["tool_information_bits"]["actual"],
        chance=s["tool_information_bits"]["by_chance"], distinct=s["diversity"]["last"]["distinct_2"],
        identical=s["diversity"]["last"]["identical_share"],
    )  # fmt: skip
