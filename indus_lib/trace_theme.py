"""Colours and CSS of every widget and of its static twin.

Colours are Okabe and Ito's, which survive the common colour blindnesses; each kind also has its own line style and a
text label, so colour is never the only sign. Widgets take JupyterLab's `--jp-*` variables and so follow its light and
dark theme; a file opened on its own follows the reader's system setting.
"""

from __future__ import annotations

OKABE_ITO = {
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#888888",
}

MARK_COLOUR = {
    "prediction": OKABE_ITO["vermillion"],
    "truth": OKABE_ITO["green"],
    "tool": OKABE_ITO["sky"],
    "asked": OKABE_ITO["yellow"],
    "measure": OKABE_ITO["orange"],
}
MARK_DASH = {"prediction": "", "truth": "9 5", "tool": "2 4", "asked": "7 3 2 3", "measure": ""}
MARK_WORDS = {
    "prediction": "agent's box (solid)",
    "truth": "ground truth (dashed)",
    "tool": "where a tool looked (dotted)",
    "asked": "region the agent asked for (dash-dot)",
    "measure": "measured points (circles)",
}

YES, NO = OKABE_ITO["vermillion"], OKABE_ITO["blue"]

# `.indus` is the root class of everything; --in-* are the only colours the rules below use.
CSS = """
.indus{--in-bg:var(--jp-layout-color1,#fff);--in-bg2:var(--jp-layout-color2,#f3f4f6);
--in-fg:var(--jp-ui-font-color1,#1b1f24);--in-fg2:var(--jp-ui-font-color2,#57606a);
--in-line:var(--jp-border-color2,#c9ced6);--in-yes:#D55E00;--in-no:#0072B2;--in-ok:#009E73;
color:var(--in-fg);background:var(--in-bg);font:14px/1.45 var(--jp-ui-font-family,system-ui,sans-serif)}
[data-jp-theme-light="false"] .indus,.indus.dark{--in-yes:#E69F00;--in-no:#56B4E9;--in-ok:#2fc79a}
.indus *{box-sizing:border-box}
.indus .h3{margin:.2em 0 .35em;font-size:1.15em}
.indus .h4{font-size:.82em;margin:.9em 0 .35em;text-transform:uppercase;letter-spacing:.05em;color:var(--in-fg2)}
.indus pre,.indus .text{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;padding:.5em .7em;
background:var(--in-bg2);color:var(--in-fg);border-left:3px solid var(--in-line);border-radius:3px;font-size:13px}
.indus pre{font-family:var(--jp-code-font-family,ui-monospace,monospace);font-size:12px}
.indus .new{border-left-color:var(--in-no)}
.indus .old{opacity:.72}
.indus .bad{border-left-color:var(--in-yes);font-weight:600}
.indus .chips{display:flex;flex-wrap:wrap;gap:.35em;margin:.3em 0}
.indus .chip{border:1px solid var(--in-line);border-radius:1em;padding:0 .65em;font-size:12px;white-space:nowrap}
.indus .right{color:var(--in-ok);font-weight:700}
.indus .wrong{color:var(--in-yes);font-weight:700}
.indus .muted{color:var(--in-fg2)}
.indus figure{margin:.4em 0;display:inline-block;max-width:100%;vertical-align:top}
.indus figure img{max-width:100%;display:block;border:1px solid var(--in-line)}
.indus figcaption{font-size:12px;color:var(--in-fg2)}
.indus table{border-collapse:collapse;font-size:13px;color:var(--in-fg)}
.indus td,.indus th{padding:.15em .6em;border-bottom:1px solid var(--in-line);text-align:left}
.indus td.num,.indus th.num{text-align:right;font-variant-numeric:tabular-nums}
.indus :focus-visible{outline:3px solid var(--in-no);outline-offset:1px}
.indus svg text{fill:currentColor;font-family:inherit}
.indus svg .label{fill:#fff;stroke:#000;stroke-width:3px;paint-order:stroke;font-weight:600;
vector-effect:non-scaling-stroke;font-size:calc(var(--in-k,1.4)*13px)}
.indus svg .above{transform:translateY(calc(var(--in-k,1.4)*-7px))}
.indus svg .below{transform:translateY(calc(var(--in-k,1.4)*16px))}
.indus .bar text{font-size:12px}
.indus .key{display:inline-block;width:2.2em;height:0;border-top-width:3px;vertical-align:middle;margin-right:.4em}
"""

# Only for a file of its own: no JupyterLab there, so the system's light or dark setting decides.
PAGE_CSS = """
body{margin:0;background:#fff}
.indus.page{max-width:1280px;margin:0 auto;padding:1em}
.indus .step{display:grid;grid-template-columns:minmax(0,1.15fr) minmax(0,1fr);gap:1.2em;padding:1em 0;
border-top:1px solid var(--in-line)}
.indus .step svg.stage{width:100%;height:auto;max-height:86vh;background:#000}
.indus .step.off{display:none}
.indus nav button{font:inherit;padding:.3em .9em;margin-right:.4em;color:var(--in-fg);background:var(--in-bg2);
border:1px solid var(--in-line);border-radius:4px;cursor:pointer}
@media (max-width:800px){.indus .step{grid-template-columns:minmax(0,1fr)}}
@media print{.indus .step.off{display:grid}.indus nav{display:none}}
@media (prefers-color-scheme:dark){body{background:#15181c}
.indus{--in-bg:#15181c;--in-bg2:#21262c;--in-fg:#e6e8eb;--in-fg2:#a4acb6;--in-line:#434a53;
--in-yes:#E69F00;--in-no:#56B4E9;--in-ok:#2fc79a}}
"""


def css_line(kind: str) -> str:
    """`border-top` style and colour that stand for mark `kind` in a legend."""
    style = {"prediction": "solid", "truth": "dashed", "tool": "dotted", "asked": "dashed", "measure": "double"}[kind]
    return f"border-top-style:{style};border-top-color:{MARK_COLOUR[kind]}"


def legend(kinds: tuple[str, ...] = tuple(MARK_WORDS)) -> str:
    """HTML legend of the mark kinds: line sample and words."""
    parts = [f'<span class="chip"><span class="key" style="{css_line(k)}"></span>{MARK_WORDS[k]}</span>' for k in kinds]
    return f'<div class="chips" role="note">{"".join(parts)}</div>'
