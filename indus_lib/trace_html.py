"""Static twins of the trace player: HTML without scripts to be read, a picture, and one self-contained page.

Everything a model, a data set or a user wrote is escaped. `static_html` survives GitHub's sanitiser, which drops
styles, SVG and scripts: its pictures are plain `<img>` with the boxes drawn in.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from itertools import pairwise

import cv2
import numpy as np

from . import trace_steps, trace_theme
from .episodes import Episode
from .samples import Sample
from .trace_figure import static_figure
from .trace_steps import Mark, Step, Trace

__all__ = ["fragment", "page", "static_figure", "static_html", "static_page"]

MARGIN_SPAN = 6.0  # not in paper: the bar is full at p = 0.9975; larger margins are written, not drawn


def jpeg(image: np.ndarray, max_side: int | None = None, quality: int = 88) -> bytes:
    """`image` (uint8 HxWx3 RGB) as JPEG, shrunk to `max_side` when larger."""
    scale = 1.0 if max_side is None else min(1.0, max_side / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"cannot encode an image of shape {image.shape} and type {image.dtype} as JPEG")
    return data.tobytes()


def data_uri(image: np.ndarray, max_side: int | None = None) -> str:
    """`image` as a `data:` address to put into a page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(image, max_side)).decode()


def svg_marks(marks: Sequence[Mark], width: int, height: int) -> str:
    """SVG elements of `marks` in pixel units of a `width` x `height` image: dark halo, coloured line, label.

    Solid lines come first and dashed ones over them, so that two boxes that coincide are both seen.
    """
    ordered = sorted(marks, key=lambda mark: trace_theme.MARK_DASH[mark.kind] != "")
    return "".join(_svg_box(m, width, height) if m.box else _svg_points(m, width, height) for m in ordered)


def _line(shape: str, kind: str) -> str:
    """An SVG shape twice: a dark halo for any background, then the line of its kind."""
    dash = f' stroke-dasharray="{trace_theme.MARK_DASH[kind]}"' if trace_theme.MARK_DASH[kind] else ""
    common = f'{shape} fill="none" vector-effect="non-scaling-stroke"{dash}'
    halo = f'{common} stroke="#000" stroke-opacity=".6" stroke-width="5.5"/>'
    return f'{halo}{common} stroke="{trace_theme.MARK_COLOUR[kind]}" stroke-width="2.5"/>'


def _svg_label(text: str, x: float, y: float, width: int, side: str) -> str:
    x = min(x, width * 0.85)
    return f'<text class="label {side}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>' if text else ""


def _svg_box(mark: Mark, width: int, height: int) -> str:
    x1, y1, x2, y2 = (v * side / 1000 for v, side in zip(mark.box, (width, height) * 2, strict=True))
    rect = f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    low = mark.kind in ("truth", "asked")  # labels of two nested boxes must not cover each other
    below = (low and y2 < height * 0.95) or y1 < height * 0.04
    label = _svg_label(mark.label, x1, y2 if below and low else y1, width, "below" if below else "above")
    return f'<g class="mark {mark.kind}">{_line(rect, mark.kind)}{label}</g>'


def _svg_points(mark: Mark, width: int, height: int) -> str:
    points = [(x * width / 1000, y * height / 1000) for x, y in mark.points]
    if not points:
        return ""
    path = '<polyline points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"'
    radius = max(width, height) / 130
    dots = "".join(_line(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"', mark.kind) for x, y in points)
    label = _svg_label(mark.label, *points[-1], width, "above")
    return f'<g class="mark {mark.kind}">{_line(path, mark.kind)}{dots}{label}</g>'


def burn(image: np.ndarray, marks: Sequence[Mark], max_side: int = 640) -> np.ndarray:
    """A small copy of `image` with `marks` drawn in, uint8; for readers that show neither SVG nor styles."""
    scale = min(1.0, max_side / max(image.shape[:2]))
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image.copy()
    height, width = canvas.shape[:2]
    size = np.array([width - 1, height - 1]) / 1000
    for mark in marks:
        hexa = trace_theme.MARK_COLOUR[mark.kind]
        colour = tuple(int(hexa[i : i + 2], 16) for i in (1, 3, 5))
        corners = _corners(mark.box) if mark.box else np.array(mark.points, float).reshape(-1, 2)
        _dashed(canvas, corners * size, colour, trace_theme.MARK_DASH[mark.kind])
        if not mark.box:
            for x, y in corners * size:
                cv2.circle(canvas, (round(x), round(y)), 4, colour, 2, cv2.LINE_AA)
    return canvas


def _corners(box: Sequence[float]) -> np.ndarray:
    x1, y1, x2, y2 = box
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)], float)


def _dashed(canvas: np.ndarray, path: np.ndarray, colour: tuple[int, ...], dash: str) -> None:
    on, off = (float(v) * 1.6 for v in dash.split()[:2]) if dash else (1e9, 0.0)
    for start, end in pairwise(path):
        length = float(np.hypot(*(end - start))) or 1.0
        for at in np.arange(0, length, on + off):
            a, b = (tuple(np.rint(start + (end - start) * min(v, length) / length).astype(int)) for v in (at, at + on))
            cv2.line(canvas, tuple(map(int, a)), tuple(map(int, b)), (0, 0, 0), 4, cv2.LINE_AA)
            cv2.line(canvas, tuple(map(int, a)), tuple(map(int, b)), colour, 2, cv2.LINE_AA)


def margin_bar(before: float | None, after: float | None, final: bool = False) -> str:
    """Two bars on a No | Yes axis: the margin before and after, with numbers. Empty when nothing is known."""
    if before is None and after is None:
        return '<p class="muted">This policy gives no log-probabilities: no margin.</p>'
    rows = [("before", before, 22), ("after" if not final else "final", after, 46)]
    body = "".join(_bar_row(name, value, y) for name, value, y in rows if value is not None)
    change = "" if before is None or after is None else f", change {after - before:+.2f}"
    said = "; ".join(f"{name} {value:+.2f}" for name, value, _ in rows if value is not None)
    axis = (
        '<line x1="250" y1="14" x2="250" y2="70" stroke="currentColor"/>'
        '<text x="70" y="11">No (normal)</text><text x="430" y="11" text-anchor="end">Yes (anomalous)</text>'
    )
    return (
        f'<svg class="bar" viewBox="0 0 560 74" width="100%" style="max-width:560px" role="img" '
        f'aria-label="margin {said}{change}">{axis}{body}</svg>'
        f'<div class="muted">log p(Yes) - log p(No): {said}{change}</div>'
    )


def _bar_row(name: str, value: float, y: int) -> str:
    length = min(abs(value), MARGIN_SPAN) / MARGIN_SPAN * 180
    colour, x = ("var(--in-yes,#D55E00)", 250.0) if value > 0 else ("var(--in-no,#0072B2)", 250 - length)
    opacity = ' fill-opacity=".45"' if name == "before" else ""
    return (
        f'<text x="0" y="{y + 13}">{name}</text>'
        f'<rect x="{x:.1f}" y="{y}" width="{max(length, 1):.1f}" height="17" style="fill:{colour}"{opacity}/>'
        f'<text x="440" y="{y + 13}">{value:+.2f}  p(Yes) {trace_steps.probability(value):.2f}</text>'
    )


def panel(step: Step, trace: Trace, previews: Sequence[str] | None = None) -> str:
    """HTML of everything beside the image at one step.

    Args:
        step: Which step of `trace`.
        trace: The episode.
        previews: `data:` addresses of the step's images when they are already encoded.
    """
    previews = [data_uri(image, 900) for image in step.images] if previews is None else previews
    parts = [title(escape(step.title), 3)]
    parts += [f'<p class="muted">{escape(note)}</p>' for note in step.notes]
    if step.given:
        parts.append(title("Given to the tool") + f"<pre>{escape(step.given)}</pre>")
    if step.returned:
        tone = "new" if step.ok else "bad"
        parts.append(title("Returned by the tool") + f'<div class="text {tone}">{escape(step.returned)}</div>')
    for uri, words, image in zip(previews, step.captions, step.images, strict=True):
        shown = f'<img src="{uri}" alt="{escape(words)}" width="{_shown_width(image)}">'
        parts.append(f"<figure>{shown}<figcaption>{escape(words)}</figcaption></figure>")
    if step.kind != "look":
        parts.append(title("Yes / No margin") + margin_bar(step.before, step.after, step.kind == "decide"))
    if step.thinking or step.thought_before:
        parts.append(title("Thinking so far"))
        parts += [f'<div class="text old">{escape(step.thought_before)}</div>'] if step.thought_before else []
        parts += [f'<div class="text new">{escape(step.thinking)}</div>'] if step.thinking else []
    if step.message:
        parts.append(f"<details><summary>Message as written</summary><pre>{escape(step.message)}</pre></details>")
    if step.kind == "decide" or step is trace.steps[-1]:
        parts.append(verdict_html(trace))
    parts.append(f'<p class="muted">Cost so far: tool calls {step.calls}, time {step.ms:.0f} ms</p>')
    return "".join(parts)


def title(words: str, level: int = 4) -> str:
    """A heading that JupyterLab's table of contents does not list (it would list every `<h4>` of an output)."""
    return f'<p class="h{level}" role="heading" aria-level="{level}"><b>{words}</b></p>'


def _shown_width(image: np.ndarray) -> int:
    """Width in screen pixels: a small crop is magnified so that its longer side is 300, a large one shrinks to 420."""
    height, width = image.shape[:2]
    return max(1, round(width * min(max(300 / max(height, width), 1.0), 420 / width)))


def verdict_html(trace: Trace) -> str:
    """Final verdict against the truth."""
    says, truth, outcome = trace_steps.verdict_words(trace.episode, trace.sample)
    sign = {"right": "✓ right", "wrong": "✗ wrong", "unknown": ""}[outcome]
    return title("Verdict") + (
        f'<p>Agent: <b>{escape(says)}</b> · Truth: <b>{escape(truth)}</b> <span class="{outcome}">{sign}</span></p>'
    )


def heading(trace: Trace) -> str:
    """One line that names the sample and the run."""
    episode = trace.episode
    words = [episode.dataset, episode.category, episode.sample_id, episode.policy, episode.profile]
    chips = "".join(f'<span class="chip">{escape(word)}</span>' for word in words if word)
    return f'<div class="chips">{chips}</div>'


def fragment(trace: Trace) -> str:
    """Twin for notebooks: plain `<img>` and text, readable even where styles, SVG and scripts are dropped."""
    parts = [f'<div class="indus"><style>{trace_theme.CSS}</style>', heading(trace)]
    for number, step in enumerate(trace.steps):
        picture = data_uri(burn(trace.image, step.marks, 420))
        shown = f'<p><img src="{picture}" alt="step {number}: image with boxes" width="380"></p>'
        plain = step.marks == trace.steps[0].marks and number > 0
        body = ("" if plain else shown) + panel(step, trace, [data_uri(image, 380) for image in step.images])
        parts.append(f"<details><summary>Step {number}: {escape(step.title)}</summary>{body}</details>")
    return "".join(parts) + verdict_html(trace) + "</div>"


def static_html(episode: Episode, sample: Sample | None = None) -> str:
    """HTML fragment of an episode, without scripts; see `fragment`. Raises ImageError for an unreadable image."""
    return fragment(trace_steps.build(episode, sample))


def static_page(episode: Episode, sample: Sample | None = None) -> str:
    """One self-contained HTML file of an episode: images inlined, readable without scripts, stepped with arrow keys.

    Raises:
        images.ImageError: The image file does not read.
    """
    return page([trace_steps.build(episode, sample)])


def page(traces: Sequence[Trace], title: str = "IndusAgent trace") -> str:
    """A page of its own with the `traces` one after the other."""
    body = "".join(_trace_section(trace, number) for number, trace in enumerate(traces))
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{trace_theme.CSS}{trace_theme.PAGE_CSS}</style></head>"
        f'<body><main class="indus page"><h2>{escape(title)}</h2>{trace_theme.legend()}'
        '<p class="muted" id="hint">All steps, one below the other.</p>'
        f"{body}</main><script>{_PAGE_JS}</script></body></html>"
    )


def _trace_section(trace: Trace, number: int) -> str:
    height, width = trace.image.shape[:2]
    picture = f'<image id="base{number}" width="{width}" height="{height}" href="{data_uri(trace.image)}"/>'
    defs = f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{picture}</defs></svg>'
    steps = "".join(
        f'<section class="step"><svg class="stage" viewBox="0 0 {width} {height}" style="--in-k:{width / 620:.3f}" '
        f'role="img" aria-label="image with boxes, step {index}"><use href="#base{number}"/>'
        f"{svg_marks(step.marks, width, height)}</svg><div>{panel(step, trace)}</div></section>"
        for index, step in enumerate(trace.steps)
    )
    return f'<article class="trace" tabindex="0">{defs}{heading(trace)}{steps}</article>'


# Without scripts every step is on the page; with them one trace is stepped with buttons or arrow keys, `a` shows all.
_PAGE_JS = """
document.querySelectorAll('article.trace').forEach((art)=>{
const steps=[...art.querySelectorAll('section.step')];let at=0,all=false;
const nav=document.createElement('nav');const mk=(t,f)=>{const b=document.createElement('button');b.textContent=t;
b.onclick=f;nav.append(b);return b};
const show=()=>{steps.forEach((s,i)=>s.classList.toggle('off',!all&&i!==at));
where.textContent=all?' all steps':' step '+at+' of '+(steps.length-1)};
const go=(d)=>{all=false;at=Math.min(Math.max(at+d,0),steps.length-1);show()};
mk('\u2190 back',()=>go(-1));mk('next \u2192',()=>go(1));mk('all',()=>{all=!all;show()});
const where=document.createElement('span');where.setAttribute('aria-live','polite');nav.append(where);
art.insertBefore(nav,steps[0]);art.go=go;art.all=()=>{all=!all;show()};show()});
document.getElementById('hint').textContent='Arrow keys or the buttons step through; "a" shows all steps.';
document.addEventListener('keydown',(e)=>{const arts=document.querySelectorAll('article.trace');
const art=document.activeElement.closest('article.trace')||arts[0];if(!art)return;
if(e.key==='ArrowRight')art.go(1);else if(e.key==='ArrowLeft')art.go(-1);else if(e.key==='a')art.all()});
"""
