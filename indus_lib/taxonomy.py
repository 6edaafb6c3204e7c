"""Hierarchical anomaly taxonomy: raw defect names and free text -> nodes, and how near two nodes are (R_type).

The paper gives R_type = 1 - semantic distance in a hierarchical taxonomy (section 6) but not the tree; ours is
`data/taxonomy.yaml`. Nearness is Wu & Palmer's 2 d(common) / (d(a) + d(b)) with depth counted in edges, root 0, so
types of different families score 0, not a free share for sharing the root.  # not in paper
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PATH = Path(__file__).resolve().parents[1] / "data" / "taxonomy.yaml"
_NEGATION = re.compile(
    r"\b(?:no|not|without|free of|neither|nor|never)(?:\s+(?:any|a|an|visible|obvious|sign|signs|of))*$"
)
_LISTING = frozenset({"or", "nor", ", or", ", nor", "or any", "or a"})


@dataclass(frozen=True)
class Taxonomy:
    """A tree of anomaly types. Build one with `load`; every method is total on strings."""

    root: str
    parents: Mapping[str, str]
    words: Mapping[str, str]
    raw_names: Mapping[str, Mapping[str, str]]

    def nodes(self) -> tuple[str, ...]:
        """Every node, root first."""
        return (self.root, *self.parents)

    def leaves(self) -> tuple[str, ...]:
        """The most precise types."""
        inner = set(self.parents.values())
        return tuple(node for node in self.parents if node not in inner)

    def parent(self, node: str) -> str | None:
        """The next broader node; None for the root. Raises KeyError for a name that is not a node."""
        return None if node == self.root else self.parents[node]

    def path(self, node: str) -> tuple[str, ...]:
        """`node` and everything above it, root last. Raises KeyError for a name that is not a node."""
        above = self.parent(node)
        return (node,) if above is None else (node, *self.path(above))

    def node_of(self, dataset: str, raw_name: str) -> str:
        """Node of a data set's own defect name; "" when it is unknown (a normal sample has no name).

        Looks in the data set's table, then in all others (a user's folder called `scratch`), then reads the name as
        text. A comma-joined name (VisA) counts as its first known part.
        """
        own = self.raw_names.get(dataset, {})
        everywhere = [table for name, table in self.raw_names.items() if name not in (dataset, "real-iad")]
        parts = [part for part in (raw_name, *raw_name.split(",")) if part.strip()]
        found = (table[_key(part)] for table in (own, *everywhere) for part in parts if _key(part) in table)
        return next(found, None) or self.of_text(raw_name) or ""

    def of_text(self, text: str) -> str | None:
        """Node that free text names: "a thin scratch" -> "scratch"; None when no known word occurs.

        Whole words only ("right" is not in "bright"); a negated word does not count. Of several, the deepest node
        wins, then the longest wording, then the first.
        """
        plain = _plain(text)
        hits = [(len(self.path(node)), len(word), -start, node) for node, word, start in self._mentions(plain)]
        return max(hits)[3] if hits else None

    def _mentions(self, plain: str) -> Iterator[tuple[str, str, int]]:
        """(node, wording, position) of each maximal known wording in normalised text."""
        end, negated = 0, False
        for match in _pattern(tuple(self.words)).finditer(plain):
            between = plain[end : match.start()].strip()
            listed = negated and between in _LISTING  # "no crack or dent" denies both
            negated = listed or bool(_NEGATION.search(between.rsplit(",", 1)[-1].rstrip()))
            if not negated:
                yield self.words[match.group(1)], match.group(1), match.start()
            end = match.end()

    def similarity(self, a: str, b: str) -> float:
        """Wu-Palmer nearness of two nodes or texts: 1 equal, 0 different families or unknown, symmetrical."""
        first, second = self._resolve(a), self._resolve(b)
        if first is None or second is None:
            return 0.0
        if first == second:
            return 1.0
        above = set(self.path(second))
        common = next(node for node in self.path(first) if node in above)
        depths = [len(self.path(node)) - 1 for node in (first, second, common)]
        return 2 * depths[2] / (depths[0] + depths[1])

    def _resolve(self, name: str) -> str | None:
        if name in self.parents or name == self.root:
            return name
        return self.of_text(name)


@cache
def load(path: Path = PATH) -> Taxonomy:
    """The taxonomy of a YAML file (cached). Raises ValueError where the file contradicts itself."""
    data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    parents: dict[str, str] = {}
    words: dict[str, str] = {_plain(data["root"]): data["root"]}
    for node, above, names in _walk(data["tree"], data["root"]):
        if node in parents:
            raise ValueError(f"{path}: node {node!r} stands in two places")
        parents[node] = above
        _add_words(words, node, [node, *names])
    for node, names in data["inner"].items():
        if node not in parents and node != data["root"]:
            raise ValueError(f"{path}: inner node {node!r} is not in the tree")
        _add_words(words, node, names)
    return Taxonomy(data["root"], parents, words, _raw_names(data["datasets"], {*parents, data["root"]}, path))


def _raw_names(tables: Mapping[str, Any], nodes: set[str], path: Path) -> dict[str, dict[str, str]]:
    wrong = sorted({node for table in tables.values() for node in table.values() if node not in nodes})
    if wrong:
        raise ValueError(f"{path}: data sets map to nodes that are not in the tree: {', '.join(wrong)}")
    return {name: {_key(raw): node for raw, node in table.items()} for name, table in tables.items()}


def _walk(tree: Mapping[str, Any], above: str) -> Iterator[tuple[str, str, list[str]]]:
    for node, below in tree.items():
        if isinstance(below, Mapping):
            yield node, above, []
            yield from _walk(below, node)
        else:
            yield node, above, list(below)


def _add_words(words: dict[str, str], node: str, names: list[str]) -> None:
    for name in map(_plain, names):
        if words.setdefault(name, node) != node:
            raise ValueError(f"taxonomy: {name!r} names both {words[name]!r} and {node!r}")


def _key(raw_name: str) -> str:
    return " ".join(re.sub(r"[\s_\-]+", " ", str(raw_name).lower()).split())


def _plain(text: str) -> str:
    """Lower case, separators to spaces, commas kept as clause ends."""
    text = re.sub(r"[_\-/]+", " ", text.lower())
    return " ".join(re.sub(r"[.;:()!?\n]+|\bbut\b", " , ", text).replace(",", " , ").split())


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """One alternation over all wordings, longest first, whole words, an ending "s" or "es" allowed."""
    alternatives = "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))
    return re.compile(rf"(?<!\w)({alternatives})(?:s|es)?(?!\w)")
