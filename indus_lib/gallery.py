"""Gallery of a whole run: filter, look, open in the player, tag, export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from . import gallery_rows, images, tools, trace_theme
from .episodes import Episode
from .gallery_grid import Grid
from .gallery_rows import ANY, OUTCOMES, VERDICTS, Filter
from .samples import Sample
from .trace_player import TracePlayer, message, with_twin

PAGE = 48


class Gallery(widgets.VBox):
    """Thumbnail grid over `episodes` with filters; a click opens the player below.

    Only the page on show has thumbnails, made when first seen, so a run of thousands opens at once.

    Args:
        episodes: The run.
        samples: For ground-truth boxes; matched by data set and id, any order, may be incomplete.
        tags_file: JSON file that tags are read from and written to; what it holds of other runs stays. None = tags live
            as long as the kernel.
        export_to: Where "export" writes its page unless the field says otherwise.

    Raises:
        ValueError: There are no episodes, or `tags_file` is not one of ours.
    """

    def __init__(
        self,
        episodes: Iterable[Episode],
        samples: Iterable[Sample] = (),
        tags_file: Path | str | None = None,
        export_to: Path | str = "results/gallery.html",
    ):
        self.episodes = list(episodes)
        if not self.episodes:
            raise ValueError("a gallery needs at least one episode; run the inspection first")
        self.samples = gallery_rows.known(samples)
        self.rows = gallery_rows.rows_of(self.episodes)
        self.thumbnails = gallery_rows.Thumbnails(self.episodes, self.samples)
        self.tags_file = Path(tags_file) if tags_file else None
        self.tags = self._read_tags()
        self.shown: list[int] = []
        self.player: TracePlayer | None = None
        self._make_controls(export_to)
        self.grid, self.status, self.below = Grid(), widgets.HTML(), widgets.VBox()
        style = widgets.HTML(f"<style>{trace_theme.CSS}</style>")
        super().__init__([style, *self._bars(), self.status, self.grid, self.below])
        self.add_class("indus")
        self._connect()
        self.apply()

    def _make_controls(self, export_to: Path | str) -> None:
        choose = lambda name, options: widgets.Dropdown(options=options, description=name)  # noqa: E731
        self.dataset = choose("set", _with_any(row.dataset for row in self.rows))
        self.category = choose("category", _with_any(row.category for row in self.rows))
        self.verdict, self.outcome = choose("verdict", VERDICTS), choose("outcome", OUTCOMES)
        self.tag = choose("tag", self._tag_options())
        self.used = {name: choose(name, ("any", "used", "not used")) for name in tools.TOOLS}
        known = [row.margin for row in self.rows if row.margin is not None] or [0.0]
        low, high = min(known) - 0.05, max(known) + 0.05
        self.margin = widgets.FloatRangeSlider(value=(low, high), min=low, max=high, step=0.05, description="margin")
        self.text = widgets.Text(placeholder="part of the sample's name", description="name", continuous_update=False)
        self.page = widgets.BoundedIntText(0, 0, 0, description="page")
        self.back, self.ahead = widgets.Button(description="◀ page"), widgets.Button(description="page ▶")
        self.new_tag = widgets.Text(placeholder="tag", description="tag as")
        self.do_tag, self.do_untag = widgets.Button(description="tag ticked"), widgets.Button(description="untag")
        self.clear = widgets.Button(description="untick all")
        self.path = widgets.Text(str(export_to), description="file")
        self.export = widgets.Button(
            description="export HTML", tooltip="the ticked ones, or all that pass when none is ticked"
        )

    def _bars(self) -> list[widgets.Widget]:
        lines = (
            [self.dataset, self.category, self.verdict, self.outcome, *self.used.values(), self.margin, self.text],
            [self.tag, self.new_tag, self.do_tag, self.do_untag, self.clear, self.path, self.export],
            [self.back, self.page, self.ahead],
        )
        for control in [w for line in lines for w in line if not isinstance(w, widgets.Button)]:
            control.layout.width = "300px" if control in (self.margin, self.text, self.path) else "205px"
            control.style.description_width = "62px"
        row = {"flex_flow": "row wrap", "align_items": "center"}
        return [widgets.Box(line, layout=widgets.Layout(**row)) for line in lines]

    def _connect(self) -> None:
        for control in (self.dataset, self.category, self.verdict, self.outcome, self.tag, self.margin, self.text):
            control.observe(lambda _: self.apply(), "value")
        for control in self.used.values():
            control.observe(lambda _: self.apply(), "value")
        self.page.observe(lambda _: self._show_page(), "value")
        self.back.on_click(lambda _: self._turn(-1))
        self.ahead.on_click(lambda _: self._turn(1))
        self.do_tag.on_click(lambda _: self.tag_ticked(self.new_tag.value))
        self.do_untag.on_click(lambda _: self.tag_ticked(self.new_tag.value, remove=True))
        self.clear.on_click(lambda _: setattr(self.grid, "ticked", []))
        self.export.on_click(lambda _: self._export())
        self.grid.observe(lambda change: self.open_episode(change["new"]["index"]), "opened")

    @property
    def filter(self) -> Filter:
        """The filter as the controls stand."""
        whole = self.margin.value == (self.margin.min, self.margin.max)
        return Filter(
            self.dataset.value,
            self.category.value,
            self.verdict.value,
            self.outcome.value,
            self.tag.value,
            frozenset(name for name, box in self.used.items() if box.value == "used"),
            frozenset(name for name, box in self.used.items() if box.value == "not used"),
            None if whole else self.margin.value,
            self.text.value,
        )

    def apply(self) -> None:
        """Filter again and show the first page."""
        self.shown = gallery_rows.select(self.rows, self.filter, self.tags)
        self.page.max = max(0, (len(self.shown) - 1) // PAGE)
        if self.page.value:
            self.page.value = 0  # shows it
        else:
            self._show_page()

    def open_episode(self, index: int) -> None:
        """Show one episode in the player below the grid; an unreadable image is said, not raised."""
        episode = self.episodes[index]
        sample = gallery_rows.sample_for(episode, self.samples)
        try:
            if self.player is None:
                self.player = TracePlayer(episode, sample)
            else:
                self.player.load(episode, sample)
        except images.ImageError as error:
            self.below.children = [widgets.HTML(message(str(error), bad=True))]
            return
        self.below.children = [self.player]

    def tag_ticked(self, name: str, remove: bool = False) -> None:
        """Give the ticked episodes the tag `name`, or take it away; kept in `tags_file` when there is one."""
        name = name.strip()
        if not name or not self.grid.ticked:
            self.status.value = message("write a tag and tick at least one thumbnail", bad=True)
            return
        for index in self.grid.ticked:
            have = self.tags.setdefault(index, set())
            (have.discard if remove else have.add)(name)
        if self.tags_file:
            named = self._stored() | {row.sample_id: [] for row in self.rows}  # an older file's keys
            named |= {self._key(i): sorted(found) for i, found in self.tags.items()}
            kept = {key: names for key, names in named.items() if names}
            gallery_rows.write_text(self.tags_file, json.dumps(kept, ensure_ascii=False, indent=1, sort_keys=True))
        chosen, options = self.tag.value, self._tag_options()
        self.tag.options = options
        self.tag.value = chosen if chosen in options else ANY
        self._show_page()

    def export_html(self, path: Path | str) -> Path:
        """Write the ticked episodes, or all that pass the filter, as one page; see `gallery_rows.export_html`."""
        indices = sorted(self.grid.ticked) or self.shown
        return gallery_rows.export_html(path, [self.episodes[i] for i in indices], self.samples)

    def static_html(self) -> str:
        """The page on show as plain HTML."""
        indices = self._on_page()
        return gallery_rows.static_grid([self.rows[i] for i in indices], self.thumbnails.page(indices), self.tags)

    def _read_tags(self) -> dict[int, set[str]]:
        named = self._stored()
        found = {row.index: named.get(self._key(row.index)) or named.get(row.sample_id) for row in self.rows}
        return {index: set(names) for index, names in found.items() if names}  # by the id alone: an older file

    def _key(self, index: int) -> str:
        episode = self.episodes[index]
        return f"{episode.dataset}:{episode.sample_id}:{episode.policy}:{episode.seed}"

    def _stored(self) -> dict[str, list[str]]:
        if self.tags_file is None or not self.tags_file.exists():
            return {}
        try:
            named = json.loads(self.tags_file.read_text(encoding="utf-8"))
            return {str(key): sorted(map(str, names)) for key, names in named.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.tags_file}: not a file of tags ({error}); delete it or name another") from error

    def _tag_options(self) -> list[str]:
        return _with_any(name for found in self.tags.values() for name in found)

    def _turn(self, by: int) -> None:
        self.page.value = min(max(self.page.value + by, 0), self.page.max)

    def _on_page(self) -> list[int]:
        return self.shown[self.page.value * PAGE : (self.page.value + 1) * PAGE]

    def _show_page(self) -> None:
        rows = [self.rows[i] for i in self._on_page()]
        with self.grid.hold_sync():  # pictures and tiles must arrive together
            self.grid.pictures = self.thumbnails.page([row.index for row in rows])
            self.grid.tiles = [self._tile(row) for row in rows]
        right = sum(self.rows[i].outcome == "right" for i in self.shown)
        labelled = sum(self.rows[i].outcome != "unknown" for i in self.shown)
        self.status.value = message(
            f"{len(self.shown)} of {len(self.rows)} episodes, {right} of {labelled} labelled ones right; "
            f"page {self.page.value} of {self.page.max}"
        )
        self.back.disabled, self.ahead.disabled = self.page.value == 0, self.page.value == self.page.max

    def _tile(self, row: gallery_rows.Row) -> dict[str, Any]:
        words = gallery_rows.caption(row, self.tags.get(row.index, ()))
        return {"index": row.index, "name": row.sample_id, "caption": words, "outcome": row.outcome}

    def _export(self) -> None:
        try:
            path = self.export_html(self.path.value.strip())
        except (ValueError, OSError) as error:
            self.status.value = message(f"not exported: {error}", bad=True)
            return
        self.status.value = message(f"written: {path} ({path.stat().st_size // 1024} kB)")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget with its static twin."""
        return with_twin(super()._repr_mimebundle_(**kwargs), self.static_html(), f"{len(self.rows)} episodes")


def _with_any(values: Iterable[str]) -> Sequence[str]:
    return [ANY, *sorted(set(values) - {ANY, ""})]
