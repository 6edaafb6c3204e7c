"""A run as rows to filter, thumbnails to look at and a page to send away. Pure state behind `gallery.Gallery`."""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from . import files, images, trace_html, trace_steps, trace_theme
from .episodes import Episode
from .jsonl import encodable
from .samples import Sample
from .trace_steps import Mark

THUMB_SIDE = 160
THUMB_CACHE = 2000  # about 12 MB of JPEG
WORKERS = 4
MAX_EXPORT = 200  # episodes in one file; at some 200 kB each a mail still takes it

Known = Mapping[tuple[str, str], Sample]
"""(data set, sample id) -> sample."""
ANY = "any"
VERDICTS = (ANY, "Yes", "No", "unparsed")
OUTCOMES = (ANY, "right", "wrong", "unknown")


@dataclass(frozen=True)
class Row:
    """What the filters look at, one per episode."""

    index: int
    sample_id: str
    dataset: str
    category: str
    verdict: str
    outcome: str
    tools: frozenset[str]
    margin: float | None
    refused: bool
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Filter:
    """Which rows to keep; defaults keep all.

    Attributes:
        dataset, category, verdict, outcome, tag: Exact value or `any`.
        tools: Tools that must all have been called.
        without: Tools that must not have been called.
        margin: Range of log p(Yes) - log p(No); a row without margin passes only when this is None.
        text: Part of the sample's id, case ignored.
    """

    dataset: str = ANY
    category: str = ANY
    verdict: str = ANY
    outcome: str = ANY
    tag: str = ANY
    tools: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    margin: tuple[float, float] | None = None
    text: str = ""


def rows_of(episodes: Sequence[Episode]) -> list[Row]:
    """One row per episode, in order."""
    return [_row(index, episode) for index, episode in enumerate(episodes)]


def _row(index: int, episode: Episode) -> Row:
    verdict = "unparsed" if episode.verdict is None else "Yes" if episode.verdict.anomalous else "No"
    outcome = "unknown" if episode.label is None else "right" if episode.correct else "wrong"
    return Row(
        index,
        episode.sample_id,
        episode.dataset,
        episode.category,
        verdict,
        outcome,
        frozenset(call.name for call in episode.calls),
        episode.margin,
        any(not call.ok for call in episode.calls),
        episode.violations,
    )


def select(rows: Iterable[Row], wanted: Filter, tags: Mapping[int, set[str]] | None = None) -> list[int]:
    """Indices of the rows that pass every part of the filter, in order."""
    tags = tags or {}
    return [row.index for row in rows if _passes(row, wanted, tags.get(row.index, set()))]


def _passes(row: Row, wanted: Filter, tags: set[str]) -> bool:
    pairs = (
        (wanted.dataset, row.dataset),
        (wanted.category, row.category),
        (wanted.verdict, row.verdict),
        (wanted.outcome, row.outcome),
    )
    if any(choice not in (ANY, value) for choice, value in pairs):
        return False
    if wanted.tag != ANY and wanted.tag not in tags:
        return False
    if not wanted.tools <= row.tools or wanted.without & row.tools:
        return False
    if wanted.margin and (row.margin is None or not wanted.margin[0] <= row.margin <= wanted.margin[1]):
        return False
    return wanted.text.casefold() in row.sample_id.casefold()


class Thumbnails:
    """Small pictures with boxes, made when first asked for and kept (least recently used go first).

    Args:
        episodes: The run.
        samples: What is known about each, by data set and sample id (`known`); may be empty.
    """

    def __init__(self, episodes: Sequence[Episode], samples: Known):
        self._episodes, self._samples = episodes, samples
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def page(self, indices: Sequence[int]) -> list[bytes]:
        """JPEG bytes for `indices`; an image that cannot be read gives a crossed-out tile."""
        missing = [i for i in indices if i not in self._kept]
        with ThreadPoolExecutor(WORKERS) as pool:  # decoding releases the GIL
            self._kept.update(zip(missing, pool.map(self._make, missing), strict=True))
        found = []
        for index in indices:
            self._kept.move_to_end(index)
            found.append(self._kept[index])
        while len(self._kept) > max(THUMB_CACHE, len(indices)):
            self._kept.popitem(last=False)
        return found

    def _make(self, index: int) -> bytes:
        episode = self._episodes[index]
        sample = sample_for(episode, self._samples)
        try:
            image = images.load_image(sample.image, sample.tile)
        except images.ImageError:  # one lost file must not hide the other 4,999; the player names it when clicked
            cross = (Mark("asked", points=((0, 0), (1000, 1000))), Mark("asked", points=((1000, 0), (0, 1000))))
            return trace_html.jpeg(trace_html.burn(np.full((THUMB_SIDE, THUMB_SIDE, 3), 90, np.uint8), cross))
        marks = [Mark("truth", box) for box in sample.boxes]
        if episode.verdict and episode.verdict.box:
            marks.insert(0, Mark("prediction", episode.verdict.box))
        return trace_html.jpeg(trace_html.burn(image, marks, THUMB_SIDE), quality=80)


def known(samples: Iterable[Sample]) -> Known:
    """By data set and id: two sets may have an image of one name."""
    return {(sample.dataset, sample.id): sample for sample in samples}


def sample_for(episode: Episode, samples: Known) -> Sample:
    """The known sample of an episode, or as much of one as the episode itself tells."""
    return samples.get((episode.dataset, episode.sample_id)) or trace_steps.sample_of(episode)


def caption(row: Row, tags: Iterable[str] = ()) -> str:
    """One line under a thumbnail: verdict, outcome, margin, tools, tags."""
    sign = {"right": "✓", "wrong": "✗", "unknown": "?"}[row.outcome]
    margin = "" if row.margin is None else f" {row.margin:+.1f}"
    used = "+".join(sorted(row.tools)) or "no tool"
    return f"{sign} {row.verdict}{margin} · {used}" + "".join(f" #{tag}" for tag in sorted(tags))


def static_grid(rows: Sequence[Row], pictures: Sequence[bytes], tags: Mapping[int, set[str]] | None = None) -> str:
    """A page of the gallery as plain HTML (no scripts); all text escaped."""
    tiles = []
    for row, picture in zip(rows, pictures, strict=True):
        words = escape(caption(row, (tags or {}).get(row.index, ())))
        uri = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        name = escape(row.sample_id)
        shown = f'<img src="{uri}" alt="{name}" title="{name}" width="{THUMB_SIDE}">'
        tiles.append(f"<figure>{shown}<figcaption>{words}</figcaption></figure>")
    return f'<div class="indus"><style>{trace_theme.CSS}</style>{" ".join(tiles) or "nothing passes the filter"}</div>'


def export_html(
    path: Path | str,
    episodes: Sequence[Episode],
    samples: Known,
    title: str = "IndusAgent traces",
) -> Path:
    """Write the traces of `episodes` as one self-contained file, atomically.

    Raises:
        ValueError: None or more than `MAX_EXPORT` episodes.
        images.ImageError: An image does not read; nothing is written.
    """
    if not 0 < len(episodes) <= MAX_EXPORT:
        raise ValueError(
            f"{len(episodes)} episodes chosen; one file holds 1 to {MAX_EXPORT}: narrow the filter or tick"
        )
    traces = [trace_steps.build(episode, sample_for(episode, samples)) for episode in episodes]
    return write_text(path, trace_html.page(traces, title))


def write_text(path: Path | str, text: str) -> Path:
    """`files.write_text` where a person names the file: `~` is the home folder. An image's name that is no UTF-8, which
    Linux allows, stands in the text with U+FFFD."""
    return files.write_text(Path(path).expanduser(), encodable(text))
