"""Trace player: step through an episode and see why the agent decided what it did.

Buttons, slider, play and arrow keys all move one integer, `TracePlayer.step`; everything shown follows from it, in the
browser. Shown in a notebook that is not running (GitHub, nbviewer), the player is its static twin instead.
"""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np

from . import trace_html, trace_steps, trace_theme
from .episodes import Episode
from .samples import Sample
from .trace_stage import Stage

PLAY_MS = 1500  # time to read a step
PREVIEW = 900  # longest side of a tool's picture in the text, px
LAYERS = {"agent": ("prediction",), "truth": ("truth",), "tools": ("tool", "asked", "measure")}


class TracePlayer(widgets.VBox):
    """Widget of one episode at a time; `load` shows another one.

    Args:
        episode: What happened.
        sample: What is known about the image; None: only what the episode says.
        image: The original (uint8 HxWx3) when it is at hand, else it is read from the sample.
        show_truth: Begin with the ground truth drawn; False lets the reader guess first.

    Raises:
        images.ImageError: The image file does not read.
    """

    def __init__(
        self, episode: Episode, sample: Sample | None = None, image: np.ndarray | None = None, show_truth: bool = True
    ):
        self.trace = trace_steps.build(episode, sample, image)
        self.stage = Stage()
        self.slider = widgets.IntSlider(0, 0, 1, description="step", continuous_update=True)
        self.play = widgets.Play(interval=PLAY_MS, min=0, max=1, show_repeat=False)
        self.back, self.ahead = _button("arrow-left", "previous step"), _button("arrow-right", "next step")
        self.layers = {name: widgets.Checkbox(True, description=name, indent=False) for name in LAYERS}
        self.layers["truth"].value = show_truth
        self.head = widgets.HTML()
        super().__init__(self._arrange())
        self.add_class("indus")
        self._connect()
        self._show_trace()

    @property
    def step(self) -> int:
        """Number of the step shown; 0 is the image before anything was said."""
        return self.slider.value

    @step.setter
    def step(self, value: int) -> None:
        self.slider.value = min(max(int(value), 0), self.slider.max)

    def load(self, episode: Episode, sample: Sample | None = None, image: np.ndarray | None = None) -> None:
        """Show another episode from its first step. Raises ImageError and keeps the old one if it does not read."""
        self.trace = trace_steps.build(episode, sample, image)
        self._show_trace()

    def static_html(self) -> str:
        """The twin for readers without a kernel."""
        return trace_html.fragment(self.trace)

    def _arrange(self) -> list[widgets.Widget]:
        row = widgets.Layout(flex_flow="row wrap", align_items="center")
        for box in self.layers.values():
            box.layout.width = "auto"
        controls = [self.back, self.play, self.ahead, self.slider, *self.layers.values()]
        style = widgets.HTML(f"<style>{trace_theme.CSS}</style>{trace_theme.legend()}")
        return [style, self.head, widgets.Box(controls, layout=row), self.stage]

    def _connect(self) -> None:
        widgets.jslink((self.play, "value"), (self.slider, "value"))
        widgets.jslink((self.stage, "step"), (self.slider, "value"))  # in the browser: a step waits for no kernel
        self.slider.observe(lambda _: self._bound_buttons(), "value")
        for box in self.layers.values():
            box.observe(lambda _: self._draw_marks(), "value")
        self.back.on_click(lambda _: self._move(-1))
        self.ahead.on_click(lambda _: self._move(1))

    def _move(self, by: int) -> None:
        self.step += by

    def _show_trace(self) -> None:
        height, width = self.trace.image.shape[:2]
        with self.stage.hold_sync():
            self.stage.size = [width, height]
            self.stage.image = trace_html.jpeg(self.trace.image, quality=92)
            self.stage.panels = [self._panel(step) for step in self.trace.steps]
            self.stage.step = 0
            self._draw_marks()
        self.head.value = f'<div class="indus">{trace_html.heading(self.trace)}</div>'
        self.play.max = self.slider.max = len(self.trace.steps) - 1
        self.slider.value = self.play.value = 0
        self._bound_buttons()

    def _panel(self, step: trace_steps.Step) -> str:
        return trace_html.panel(step, self.trace, [trace_html.data_uri(image, PREVIEW) for image in step.images])

    def _bound_buttons(self) -> None:
        self.back.disabled, self.ahead.disabled = self.step == 0, self.step == self.slider.max

    def _draw_marks(self) -> None:
        kinds = [kind for name, box in self.layers.items() if box.value for kind in LAYERS[name]]
        height, width = self.trace.image.shape[:2]
        frames = []
        for number, step in enumerate(self.trace.steps):
            marks = trace_steps.visible(step.marks, kinds)
            boxes = [mark.box for mark in marks if mark.box and (mark.kind != "truth" or "prediction" not in kinds)]
            overlay = trace_html.svg_marks(marks, width, height)
            target = list(boxes[-1]) if boxes else []
            frames.append({"overlay": overlay, "label": f"step {number}: {step.title}", "target": target})
        self.stage.frames = frames

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget, and the static twin as HTML for every reader that does not know widgets."""
        bundle = super()._repr_mimebundle_(**kwargs)
        return with_twin(bundle, self.static_html(), f"trace of {self.trace.episode.sample_id}")


def with_twin(bundle: Any, html: str, words: str) -> Any:
    """A widget's MIME bundle with its static twin beside it; readers take the richest entry that they know."""
    return {**(bundle or {}), "text/html": html, "text/plain": words}


def _button(icon: str, title: str) -> widgets.Button:
    return widgets.Button(icon=icon, tooltip=title, layout=widgets.Layout(width="42px"))


def message(text: str, bad: bool = False) -> str:
    """A line of HTML for a status field; `text` is escaped."""
    return f'<div class="indus"><div class="text {"bad" if bad else ""}" role="status">{escape(text)}</div></div>'
