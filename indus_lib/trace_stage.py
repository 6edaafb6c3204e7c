"""The one part of the player that plain ipywidgets cannot do: an image one can zoom, pan and draw a box on.

It earns its own front-end code (anywidget): `widgets.Image` has no pointer events and no overlay, and redrawing boxes
on the server would send the full-resolution picture again at every step. All steps are in the browser once the player
is open, so that a step waits for no kernel, which may be busy with an inspection. Overlay and text are those of the
static page (`trace_html.svg_marks`, `trace_html.panel`), so there is one drawing routine.
"""

from __future__ import annotations

import anywidget
import traitlets

_JS = """
const NS = "http://www.w3.org/2000/svg";
function render({ model, el }) {
  el.classList.add("indus", "indus-stage");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("role", "img");
  svg.setAttribute("preserveAspectRatio", "xMidYMid meet");
  const picture = document.createElementNS(NS, "image");
  const overlay = document.createElementNS(NS, "g");
  const rubber = document.createElementNS(NS, "rect");
  rubber.setAttribute("class", "rubber");
  svg.append(picture, overlay, rubber);
  const bar = document.createElement("div"), main = document.createElement("div");
  bar.className = "stage-bar"; main.className = "stage-main";
  const panel = document.createElement("div");
  panel.className = "indus stage-panel"; panel.setAttribute("aria-live", "polite");
  const button = (text, title, act) => {
    const b = document.createElement("button");
    b.textContent = text; b.title = title; b.setAttribute("aria-label", title); b.onclick = act; bar.append(b);
  };
  const said = document.createElement("span");
  let url = null, view = [0, 0, 1, 1], start = null;
  const size = () => model.get("size");
  const scale = () => Math.max(view[2] / (svg.clientWidth || 600), view[3] / (svg.clientHeight || 600));
  function apply() {
    svg.setAttribute("viewBox", view.join(" "));
    svg.style.setProperty("--in-k", scale());
    said.textContent = Math.round(100 * size()[0] / view[2]) + " %";
  }
  function reset() { view = [0, 0, ...size()]; apply(); }
  function zoom(factor, cx, cy) {
    const [w, h] = size(), nw = Math.min(w, Math.max(16, view[2] * factor)), nh = nw * h / w;
    view = [cx - (cx - view[0]) * nw / view[2], cy - (cy - view[1]) * nh / view[3], nw, nh];
    clamp(); apply();
  }
  function clamp() {
    const [w, h] = size();
    view[0] = Math.min(Math.max(view[0], 0), w - view[2]); view[1] = Math.min(Math.max(view[1], 0), h - view[3]);
  }
  const middle = () => [view[0] + view[2] / 2, view[1] + view[3] / 2];
  function focus_on() {
    const b = frame().target; if (b.length !== 4) return reset();
    const [w, h] = size(), side = Math.min(1, 2.2 * Math.max(b[2] - b[0], b[3] - b[1]) / 1000);
    view = [(b[0] + b[2]) / 2000 * w - side * w / 2, (b[1] + b[3]) / 2000 * h - side * h / 2, side * w, side * h];
    clamp(); apply();
  }
  function load() {
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(new Blob([model.get("image")], { type: "image/jpeg" }));
    picture.setAttribute("href", url);
    picture.setAttribute("width", size()[0]); picture.setAttribute("height", size()[1]);
    reset();
  }
  const frame = () => model.get("frames")[model.get("step")] ?? { overlay: "", label: "", target: [] };
  function draw() {
    overlay.innerHTML = frame().overlay; svg.setAttribute("aria-label", frame().label);
    panel.innerHTML = model.get("panels")[model.get("step")] ?? ""; panel.hidden = !panel.innerHTML;
  }
  function go(step) {
    model.set("step", Math.max(0, Math.min(step, model.get("frames").length - 1))); model.save_changes();
  }
  function rubber_box() {
    const b = model.get("box"), [w, h] = size(), on = b.length === 4 && model.get("drawing");
    rubber.style.display = on ? "" : "none";
    if (!on) return;
    const set = (k, v) => rubber.setAttribute(k, v);
    set("x", b[0] * w / 1000); set("y", b[1] * h / 1000);
    set("width", (b[2] - b[0]) * w / 1000); set("height", (b[3] - b[1]) * h / 1000);
  }
  function at(e) {
    const p = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [p.x, p.y];
  }
  const rel = (v, side) => Math.round(Math.min(Math.max(v / side, 0), 1) * 1000);
  svg.addEventListener("pointerdown", (e) => {
    start = { at: at(e), view: [...view], cx: e.clientX, cy: e.clientY }; svg.setPointerCapture(e.pointerId);
    svg.focus();
  });
  svg.addEventListener("pointermove", (e) => {
    if (!start) return;
    const [w, h] = size();
    if (model.get("drawing")) {
      const a = start.at, b = at(e);
      const box = [rel(Math.min(a[0], b[0]), w), rel(Math.min(a[1], b[1]), h),
                   rel(Math.max(a[0], b[0]), w), rel(Math.max(a[1], b[1]), h)];
      if (box[2] > box[0] && box[3] > box[1]) { model.set("box", box); rubber_box(); }
    } else {
      view[0] = start.view[0] - (e.clientX - start.cx) * scale();
      view[1] = start.view[1] - (e.clientY - start.cy) * scale(); clamp(); apply();
    }
  });
  svg.addEventListener("pointerup", () => { if (start && model.get("drawing")) model.save_changes(); start = null; });
  svg.addEventListener("dblclick", reset);
  svg.addEventListener("wheel", (e) => {  // a page must still scroll past: zoom only once the image was clicked
    if (!e.ctrlKey && document.activeElement !== svg) return;
    e.preventDefault(); zoom(e.deltaY > 0 ? 1.2 : 1 / 1.2, ...at(e));
  }, { passive: false });
  svg.addEventListener("keydown", (e) => {
    const k = e.key, pan = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[k];
    if (pan && e.shiftKey) {
      view[0] += pan[0] * view[2] / 8; view[1] += pan[1] * view[3] / 8; clamp(); apply();
    } else if (k === "ArrowRight") go(model.get("step") + 1);
    else if (k === "ArrowLeft") go(model.get("step") - 1);
    else if (k === "Home") go(0);
    else if (k === "End") go(model.get("frames").length - 1);
    else if (k === "+" || k === "=") zoom(1 / 1.4, ...middle());
    else if (k === "-") zoom(1.4, ...middle());
    else if (k === "0") reset();
    else if (k === "f") focus_on();
    else return;
    e.preventDefault(); e.stopPropagation();
  });
  button("+", "zoom in", () => zoom(1 / 1.4, ...middle()));
  button("\\u2212", "zoom out", () => zoom(1.4, ...middle()));
  button("fit", "whole image", reset);
  button("zoom to mark", "zoom to the marked region (f)", focus_on);
  bar.append(said);
  main.append(svg, bar);
  el.append(main, panel);
  const handlers = { "change:image": load, "change:frames": draw, "change:panels": draw, "change:step": draw,
                     "change:box": rubber_box,
                     "change:drawing": () => { svg.classList.toggle("drawing", model.get("drawing")); rubber_box(); } };
  for (const [name, act] of Object.entries(handlers)) model.on(name, act);
  load(); draw(); handlers["change:drawing"]();
  const watch = new ResizeObserver(apply); watch.observe(svg);
  return () => { watch.disconnect(); URL.revokeObjectURL(url);
                 for (const [name, act] of Object.entries(handlers)) model.off(name, act); };
}
export default { render };
"""

_CSS = """
.indus-stage{flex:1 1 420px;min-width:300px;display:flex;flex-flow:row wrap;gap:16px}
.indus-stage .stage-main{flex:1 1 420px;min-width:300px}
.indus-stage .stage-panel{flex:1 1 380px;min-width:300px;max-height:700px;overflow:auto}
.indus-stage .stage-panel[hidden]{display:none}
.indus-stage .stage-main>svg{width:100%;height:min(64vh,620px);background:#111;display:block;touch-action:none;
cursor:grab}
.indus-stage .stage-main>svg.drawing{cursor:crosshair}
.indus-stage .rubber{fill:#F0E44233;stroke:#F0E442;stroke-width:2;stroke-dasharray:7 3 2 3;
vector-effect:non-scaling-stroke}
.indus-stage .stage-bar{display:flex;gap:.3em;align-items:center;padding:.3em 0;font-size:13px}
.indus-stage .stage-bar button{min-width:2.1em;font:inherit;color:inherit;background:var(--jp-layout-color2,#eee);
border:1px solid var(--jp-border-color2,#bbb);border-radius:3px;cursor:pointer}
"""


class Stage(anywidget.AnyWidget):
    """Zoomable image with an SVG overlay, and beside it what is said of a step.

    Traits:
        image: JPEG bytes. size: (width, height) of the full-resolution picture in pixels.
        frames: By step, `overlay`: SVG elements in pixel units; `label`: what a screen reader says; `target`: relative
            box that the `f` key zooms to, [] = whole image.
        panels: By step, HTML to show beside the picture; [] = none. step: Which one is shown; arrow keys move it.
        drawing: True = dragging draws `box` instead of panning. box: The drawn box, relative units.
    """

    _esm = _JS
    _css = _CSS
    image = traitlets.Bytes(b"").tag(sync=True)
    size = traitlets.List(traitlets.Int(), default_value=[1, 1]).tag(sync=True)
    frames = traitlets.List(traitlets.Dict(), default_value=[]).tag(sync=True)
    panels = traitlets.List(traitlets.Unicode(), default_value=[]).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    drawing = traitlets.Bool(False).tag(sync=True)
    box = traitlets.List(traitlets.Int(), default_value=[]).tag(sync=True)
