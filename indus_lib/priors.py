"""T_prior: what a defect-free product looks like, in words (paper section 2).

The default is TF-IDF retrieval over `data/priors/*.yaml`. A stronger model behind an API can take its place (the
paper's router calls one): pass a `backend`, any callable from a question to an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from sklearn.feature_extraction.text import TfidfVectorizer

from .tool_result import ToolResult

if TYPE_CHECKING:
    from .policies import Policy

DIRECTORY = Path(__file__).resolve().parents[1] / "data" / "priors"
THRESHOLD = 0.35  # cosine similarity below which a name match is not trusted; not in paper
GENERAL = "materials"  # the `set` of entries that hold general material knowledge, not a product

Backend = Callable[[str], str]


class PriorError(ValueError):
    """A priors file that does not read; names the file and the entry."""


class PriorUnavailable(RuntimeError):
    """The backend gave no answer (down, timed out, empty); the local descriptions are used and the answer says so."""


@dataclass(frozen=True)
class Entry:
    """One description. `set` is the data set it belongs to, `materials` for general knowledge."""

    product: str
    aliases: tuple[str, ...]
    set: str
    text: str


@dataclass(frozen=True)
class PriorAnswer:
    """Answer of a lookup.

    Attributes:
        text: What to show to the agent, complete sentences.
        source: `set/product` of the entry, `api`, or "" when nothing is known.
        score: 1 for a name or alias, cosine similarity for a retrieved entry, 0 for nothing.
        known: Whether the product itself is described (general material knowledge does not count).
    """

    text: str
    source: str
    score: float
    known: bool


def normalise(name: str) -> str:
    """Lower-case words: `PCB_1`, `pcb-1` and `pcb1` are one name, as are `bottleCap` and `bottle cap`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return "".join(re.findall(r"[a-z0-9]+", words.lower()))


def read_entries(directory: Path) -> list[Entry]:
    """Entries of every `*.yaml` file of a directory. Raises FileNotFoundError or PriorError."""
    files = sorted(directory.glob("*.yaml"))
    if not files:
        raise FileNotFoundError(f"no prior descriptions (*.yaml) in {directory}")
    return [_entry(path, number, item) for path in files for number, item in enumerate(_items(path), 1)]


def _items(path: Path) -> list[Any]:
    try:
        items = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise PriorError(f"{path}: not YAML ({error})") from error
    if not isinstance(items, list):
        raise PriorError(f"{path}: expected a list of entries with product, set and text")
    return items


def _entry(path: Path, number: int, item: Any) -> Entry:
    names = item.get("aliases", []) if isinstance(item, dict) else []
    fields = [item.get(k) for k in ("product", "set", "text")] if isinstance(item, dict) else [None]
    if not all(isinstance(f, str) and f.strip() for f in fields) or not isinstance(names, list):
        raise PriorError(f"{path}, entry {number}: needs product, set and text as strings, aliases as a list")
    product, group, text = (" ".join(f.split()) for f in fields)
    return Entry(product, tuple(str(n) for n in names), group, text)


class Retriever:
    """Looks up normalcy descriptions; build it with `load`, which caches per directory."""

    def __init__(self, entries: list[Entry], backend: Backend | None = None) -> None:
        """Index `entries`; `backend`, when given, is asked first and may raise `PriorUnavailable`."""
        self.backend = backend
        self.products = [e for e in entries if e.set != GENERAL]
        self.materials = [e for e in entries if e.set == GENERAL]
        self._names = {normalise(n): e for e in reversed(self.products) for n in (*e.aliases, e.product)}
        self._names |= {normalise(e.product): e for e in reversed(self.products)}
        self._matrix = None
        if self.products:
            self._vectoriser = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
            self._matrix = self._vectoriser.fit_transform(
                " ".join(w.replace("_", " ") for w in (e.product, *e.aliases)) for e in self.products
            )

    def lookup(self, category: str, view: str = "", query: str = "") -> PriorAnswer:
        """What is known about a product: by name, by alias, by similarity, else an honest "nothing".

        Args:
            category: Product name, any spelling; may be empty (then `query` is searched).
            view: Camera view; only a backend makes use of it, the written descriptions hold for every view.
            query: What the agent wants to know; materials named here add general knowledge.
        """
        if self.backend is not None:
            try:
                text = " ".join(self.backend(question(category, view, query)).split())
            except PriorUnavailable as error:
                local = self._local(category, query)
                return replace(local, source=f"{local.source or 'none'} (api unavailable: {error})")
            return PriorAnswer(text, "api", 1.0, True)
        return self._local(category, query)

    def _local(self, category: str, query: str) -> PriorAnswer:
        wanted = category.strip() or query.strip()
        entry, score = self._find(wanted)
        if entry is not None:
            name = entry.product.replace("_", " ")
            start = f"Normal {name}" if score == 1 else f"Closest known product, normal {name}"
            return PriorAnswer(f"{start}: {entry.text}", _source(entry), score, True)
        return self._unknown(wanted, f"{category} {query}")

    def _find(self, wanted: str) -> tuple[Entry | None, float]:
        key = normalise(wanted)
        entry = self._names.get(key) or self._names.get(key.rstrip("0123456789"))
        if entry is not None:
            return entry, 1.0
        if self._matrix is None or not key:
            return None, 0.0
        scores = (self._matrix @ self._vectoriser.transform([wanted.replace("_", " ")]).T).toarray().ravel()
        best = int(scores.argmax())
        return (self.products[best], float(scores[best])) if scores[best] >= THRESHOLD else (None, float(scores[best]))

    def _unknown(self, wanted: str, words: str) -> PriorAnswer:
        text = f"Nothing is known about {_clip(wanted)!r}." if wanted else "Nothing is known: no product was named."
        named = {m: _named(m, words) for m in self.materials}
        phrases = {p for p in named.values() if p}
        found = [m for m, p in named.items() if p and not any(p in q and p != q for q in phrases)][:2]
        if not found:
            return PriorAnswer(f"{text} Judge by what is visible.", "", 0.0, False)
        general = " ".join(f"General, about {m.product.replace('_', ' ')}: {m.text}" for m in found)
        return PriorAnswer(f"{text} {general}", ", ".join(map(_source, found)), 0.0, False)


def _source(entry: Entry) -> str:
    return f"{entry.set}/{entry.product}"


def _clip(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _named(material: Entry, words: str) -> str:
    """The longest name of a material that `words` holds as whole words, "" when none: brushed steel before steel."""
    names = [_words(n) for n in (material.product, *material.aliases)]
    return max((n for n in names if f" {n} " in f" {_words(words)} "), key=len, default="")


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def policy_backend(policy: Policy, max_new_tokens: int = 200) -> Backend:
    """A backend that asks a (stronger) policy, an `EndpointPolicy` say, whose own time limits and retries apply."""

    def ask(text: str) -> str:
        conversation = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        reply = policy.reply([conversation], max_new_tokens=max_new_tokens)[0]
        if reply.error or not reply.text.strip():
            raise PriorUnavailable(reply.error or "empty answer")
        return reply.text

    return ask


def question(category: str, view: str, query: str) -> str:
    """The question put to an API backend."""
    seen = f" seen from view {view}" if view else ""
    asked = f" In particular: {query}" if query else ""
    return (
        f"Describe a defect-free {category or 'product'}{seen} for visual inspection in 2 to 4 sentences: its "
        f"geometry, texture and structure, and legitimate features that may look odd. Do not guess about any "
        f"single image.{asked}"
    )


def load(directory: Path | str = DIRECTORY) -> Retriever:
    """The retriever over a directory, read and indexed once. Raises FileNotFoundError or PriorError."""
    return _load(Path(directory).resolve())


@cache
def _load(directory: Path) -> Retriever:
    return Retriever(read_entries(directory))


def answer(arguments: dict[str, Any], category: str, view: str, retriever: Retriever | None = None) -> ToolResult:
    """The `prior` tool: text only. `product` from the agent replaces the harness's category."""
    product = arguments.get("product", "").strip() or category
    found = (retriever or load()).lookup(product, view, arguments.get("query", ""))
    details = {"source": found.source, "score": round(found.score, 3), "known": found.known}
    return ToolResult(True, f"prior: {found.text}", details=details)
