"""Inspect my image: upload or name a file, choose category and profile, see the trace."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from . import gallery_rows, images, loop, profiles, trace_html, trace_theme
from .episodes import Episode
from .policies import Policy
from .profiles import Profile
from .samples import Sample
from .trace_player import TracePlayer, message, with_twin

LoadPolicy = Callable[[Profile], Policy]


def load_local(profile: Profile) -> Policy:
    """The profile's trained agent, or its base model where none is shipped, on this machine."""
    from .demo import agent  # torch and transformers: seconds, and only when something is inspected

    return agent(profile)


LONGEST = 200  # bytes of a file name; most file systems take 255


class InspectWidget(widgets.VBox):
    """One image at a time through the whole agent.

    Args:
        load_policy: Profile -> policy; loaded when first needed and kept per profile.
        categories: Suggestions; any other word may be typed.
        profile: Chosen at the beginning.
        folder: Where uploads are kept; None = a temporary folder that goes with the widget.
    """

    def __init__(
        self,
        load_policy: LoadPolicy = load_local,
        categories: Iterable[str] = (),
        profile: str = "tiny",
        folder: Path | str | None = None,
    ):
        self._load_policy, self._policies = load_policy, {}
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="indus-upload-")
        self.folder = Path(folder or self._temporary.name)
        self.episode: Episode | None = None
        self.sample: Sample | None = None
        self.player: TracePlayer | None = None
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="upload")
        self.path = widgets.Text(placeholder="or the path of an image file", description="path")
        self.category = widgets.Combobox(
            options=sorted(set(categories)), placeholder="unknown", description="category", ensure_option=False
        )
        self.profile = widgets.Dropdown(options=profiles.NAMES, value=profile, description="profile")
        self.go = widgets.Button(description="inspect", button_style="primary", icon="search")
        self.progress = widgets.IntProgress(0, 0, 4, description="", layout=widgets.Layout(visibility="hidden"))
        self.status, self.below = widgets.HTML(), widgets.VBox()
        self.save = widgets.Button(description="save HTML", disabled=True, tooltip="the trace as one file to send")
        self.save_as = widgets.Text("results/trace.html", description="file")
        row = widgets.Layout(flex_flow="row wrap", align_items="center")
        lines = (
            [self.upload, self.path, self.category, self.profile, self.go, self.progress],
            [self.save_as, self.save],
        )
        style = widgets.HTML(f"<style>{trace_theme.CSS}</style>")
        super().__init__([style, *(widgets.Box(line, layout=row) for line in lines), self.status, self.below])
        self.add_class("indus")
        self.go.on_click(lambda _: self.run())
        self.upload.observe(lambda change: self._uploaded(change["new"]), "value")
        self.save.on_click(lambda _: self._save())

    def run(self) -> None:
        """Inspect what is named; a bad file or a missing model is said in one line, and the widget stays usable."""
        self.go.disabled = True
        self.progress.layout.visibility = "visible"
        try:
            self._inspect()
        except (ValueError, OSError) as error:  # a bad file, an unknown profile, weights that are not there
            self._fail(" ".join(str(error).split()))
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")  # a bug: shown here too, else only the log would know
            raise
        finally:
            self.go.disabled = False
            self.progress.layout.visibility = "hidden"

    def _inspect(self) -> None:
        text = self.path.value.strip()
        if not text:
            raise ValueError("choose a file: upload one or type its path")
        self._step(1, "reading the image")
        path = Path(text).expanduser()
        image = images.load_image(path)
        profile = profiles.get(self.profile.value)
        self._step(2, f"loading the model of profile {profile.name}")
        if profile.name not in self._policies:
            self._policies[profile.name] = self._load_policy(profile)
        self._step(3, "inspecting")
        sample = Sample(path.stem, path, category=self.category.value.strip())
        (episode,) = loop.inspect(self._policies[profile.name], [sample], profile=profile)
        if episode.error:
            raise ValueError(episode.error)
        self._step(4, "done")
        self._show(episode, sample, image)

    def _show(self, episode: Episode, sample: Sample, image: Any) -> None:
        self.episode, self.sample = episode, sample
        if self.player is None:
            self.player = TracePlayer(episode, sample, image)
        else:
            self.player.load(episode, sample, image)
        self.below.children = [self.player]
        self.player.step = self.player.slider.max  # the verdict first; the reader steps back from it
        self.save.disabled = False
        says = (
            "no readable answer"
            if episode.verdict is None
            else ("anomalous" if episode.verdict.anomalous else "normal")
        )
        self.status.value = message(f"{sample.image.name}: {says}, {episode.seconds:.1f} s")

    def _step(self, number: int, words: str) -> None:
        self.progress.value = number
        self.status.value = message(words + " ...")

    def _fail(self, words: str) -> None:
        self.status.value = message(words, bad=True)

    def _uploaded(self, files: tuple[dict[str, Any], ...]) -> None:
        """Keep an upload as a file, since everything else works on files; its name is made harmless."""
        if not files:
            return
        name = re.sub(r"[^\w.-]+", "_", Path(files[0]["name"]).name).lstrip(".") or "upload"
        name = name.encode()[-LONGEST:].decode(errors="ignore")  # its end tells the format
        target = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            target.write_bytes(bytes(files[0]["content"]))
            self.path.value = str(target)
            height, width = images.load_image(target).shape[:2]
        except (images.ImageError, OSError) as error:
            self._fail(str(error))
            return
        self.status.value = message(f"{name}: {width} x {height} px, ready to inspect")

    def _save(self) -> None:
        try:
            path = gallery_rows.write_text(self.save_as.value.strip(), trace_html.page([self.player.trace]))
        except (ValueError, OSError) as error:
            self._fail(f"not saved: {error}")
            return
        self.status.value = message(f"written: {path}")

    def static_html(self) -> str:
        """Twin: the trace once there is one."""
        return self.player.static_html() if self.player else message("nothing inspected yet")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget with its static twin."""
        return with_twin(super()._repr_mimebundle_(**kwargs), self.static_html(), "inspect an image")
