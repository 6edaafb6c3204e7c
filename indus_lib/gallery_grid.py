"""The thumbnail grid of the gallery.

Plain ipywidgets have no button with a picture, and one widget per thumbnail is too slow at this number; so the page of
tiles is one anywidget that is told what to show and says what was clicked or ticked.
"""

from __future__ import annotations

import anywidget
import traitlets

_JS = """
function render({ model, el }) {
  el.classList.add("indus", "indus-grid");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  el.setAttribute("role", "listbox");
  const urls = [];
  function draw() {
    urls.splice(0).forEach((u) => URL.revokeObjectURL(u));
    el.replaceChildren();
    const pictures = model.get("pictures");
    model.get("tiles").forEach((tile, i) => {
      const box = document.createElement("div"), open = document.createElement("button");
      const img = document.createElement("img"), words = document.createElement("span");
      const tick = document.createElement("input");
      const url = URL.createObjectURL(new Blob([pictures[i]], { type: "image/jpeg" }));
      urls.push(url);
      img.src = url; img.alt = "";
      words.textContent = tile.caption;
      open.append(img, words);
      open.title = tile.name + " (Enter opens, x ticks)";
      open.setAttribute("aria-label", tile.name + ": " + tile.caption);
      open.onclick = () => { model.set("opened", { index: tile.index, count: (model.get("opened").count || 0) + 1 });
                             model.save_changes(); };
      tick.type = "checkbox"; tick.checked = model.get("ticked").includes(tile.index);
      tick.setAttribute("aria-label", "choose " + tile.name);
      tick.onchange = () => {
        const rest = model.get("ticked").filter((n) => n !== tile.index);
        model.set("ticked", tick.checked ? [...rest, tile.index] : rest); model.save_changes();
      };
      box.className = "tile " + tile.outcome; box.append(open, tick); el.append(box);
    });
  }
  el.addEventListener("keydown", (e) => {
    const all = [...el.querySelectorAll(".tile > button")], at = all.indexOf(document.activeElement);
    if (at < 0) return;
    const columns = Math.max(1, Math.floor(el.clientWidth / all[0].parentElement.offsetWidth));
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[e.key];
    if (move) all[Math.min(Math.max(at + move, 0), all.length - 1)].focus();
    else if (e.key === "x") all[at].parentElement.querySelector("input").click();
    else return;
    e.preventDefault(); e.stopPropagation();
  });
  const ticks = () => el.querySelectorAll("input").forEach((box, i) => {
    const tile = model.get("tiles")[i]; if (tile) box.checked = model.get("ticked").includes(tile.index); });
  model.on("change:tiles", draw); model.on("change:ticked", ticks);
  draw();
  return () => { urls.forEach((u) => URL.revokeObjectURL(u)); model.off("change:tiles", draw);
                 model.off("change:ticked", ticks); };
}
export default { render };
"""

_CSS = """
.indus-grid{display:flex;flex-wrap:wrap;gap:6px;max-height:560px;overflow:auto;padding:3px}
.indus-grid .tile{position:relative;width:172px;border:2px solid var(--in-line);border-radius:4px}
.indus-grid .tile.wrong{border:2px dashed var(--in-yes)}
.indus-grid .tile.right{border-color:var(--in-ok)}
.indus-grid .tile button{display:block;width:100%;padding:2px;border:0;background:none;color:inherit;cursor:pointer;
font:12px/1.3 inherit;text-align:left}
.indus-grid .tile img{width:100%;height:150px;object-fit:contain;background:#111;display:block}
.indus-grid .tile input{position:absolute;top:6px;right:6px;width:18px;height:18px}
"""


class Grid(anywidget.AnyWidget):
    """One page of thumbnails.

    Traits:
        pictures: JPEG bytes, one per tile; set together with `tiles` (hold_sync).
        tiles: {index, name, caption, outcome} each.
        opened: {index, count} of the tile clicked last; count makes a second click on the same tile an event.
        ticked: Indices chosen with the checkboxes, on any page.
    """

    _esm = _JS
    _css = _CSS
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)
    tiles = traitlets.List(traitlets.Dict()).tag(sync=True)
    opened = traitlets.Dict().tag(sync=True)
    ticked = traitlets.List(traitlets.Int()).tag(sync=True)
