"""Figures of training: the loss of SFT, and the dashboard of an RL run with its guards.

Both read what training left (`training.json` of a finished model, or `log.jsonl` of a running one) and return a
matplotlib figure, so a notebook shows it and a script saves it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .protocol import TOOL_NAMES
from .trace_picture import Picture

Row = Mapping[str, Any]
SMOOTH = 5  # steps of the running mean drawn over the raw line
LESSONS = {
    "looked": ("First, to look", "share of choices told"),
    "copied": ("Then, in words: to copy boxes", "share of numbers repeated"),
    "compared": ("and to compare names", "share of findings told"),
}
"""What SFT of a miniature begins with (`looking`, `practice`): title and axis of each."""

PANELS: tuple[tuple[str, tuple[tuple[str, str], ...], tuple[float, float] | None], ...] = (
    ("Reward", (("reward", "total"), ("reward/acc", "gate"), ("reward/format", "format")), None),
    ("Terms inside the gate", (("reward/loc", "location"), ("reward/type", "type"), ("reward/tool", "tool")), None),
    (
        "Accuracy of sampled answers",
        (("accuracy", "all"), ("recall", "recall"), ("specificity", "specificity")),
        (0, 1),
    ),
    ("Calls per image", (("calls_per_image", "all"), *((f"calls/{n}", n) for n in TOOL_NAMES)), None),
    ("Calls", (("useful_call_rate", "useful (delta_conf > 0)"), ("call_success", "ran")), (0, 1)),
    ("Groups without variance", (("zero_variance", "share"),), (0, 1)),
    ("KL to the start (k3)", (("kl", "KL"),), None),
    ("Tokens per trajectory", (("completions/mean_length", "generated"), ("sequence_length", "whole")), None),
    (
        "Answers and format",
        (("answers_yes", "says Yes"), ("violations", "violation"), ("truncated", "cut off")),
        (0, 1),
    ),
)


def history(path: Path | str) -> list[dict[str, Any]]:
    """Logged rows of a run: the folder of a finished model, its `training.json`, or a running `log.jsonl`.

    Raises:
        FileNotFoundError: Nothing of the kind there.
    """
    path = Path(path)
    if path.is_dir():
        path = next((p for p in (path / "training.json", path / "log.jsonl") if p.is_file()), path / "training.json")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no training log; train first (training.json), or give a run's log.jsonl")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    data = json.loads(path.read_text())
    lessons = [{"step": k, name: share} for name in LESSONS for k, share in enumerate(data.get(name, ()), 1)]
    return data["history"] + lessons


def series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of one metric, where it was logged and is a number."""
    found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def running_mean(values: np.ndarray, width: int = SMOOTH) -> np.ndarray:
    """Mean of the last `width` values (fewer at the start). Shape (N,) -> (N,)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(1, len(values) + 1) - width, 0)
    return (total[1:] - total[first]) / (np.arange(1, len(values) + 1) - first)


def dashboard(rows: Sequence[Row], title: str = "") -> Figure:
    """Nine panels of an RL run: thin lines as logged, thick lines their running mean.

    Args:
        rows: From `history`.
        title: Above the panels, e.g. profile and seed.
    """
    figure = Picture(figsize=(13, 9), layout="constrained")
    for axes, (name, lines, limits) in zip(figure.subplots(3, 3).flat, PANELS, strict=True):
        _panel(axes, rows, name, lines, limits)
    figure.suptitle(title or "Gated GRPO, step by step")
    return figure


def _panel(
    axes: Axes, rows: Sequence[Row], name: str, lines: Sequence[tuple[str, str]], limits: tuple[float, float] | None
) -> None:
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    drawn = 0
    for number, (metric, label) in enumerate(lines):
        steps, values = series(rows, metric)
        if len(values):
            axes.plot(steps, values, color=f"C{number}", alpha=0.3, linewidth=0.8)
            axes.plot(steps, running_mean(values), color=f"C{number}", linewidth=1.8, label=label)
            drawn += 1
    if drawn:
        axes.legend(fontsize=7, loc="best")
    else:
        axes.text(0.5, 0.5, "not measured in this run", ha="center", va="center", transform=axes.transAxes, fontsize=8)
    if limits:
        axes.set_ylim(limits[0] - 0.03, limits[1] + 0.03)


def loss_curve(runs: Mapping[str, Sequence[Row]]) -> Figure:
    """SFT loss of one or several runs (name -> rows), training as lines (with what is practised beside, where
    `SFT.practice` is set), validation as dots; beside it the lessons (`LESSONS`) of runs that had any."""
    lessons = [name for name in LESSONS if any(len(series(rows, name)[1]) for rows in runs.values())]
    figure = Picture(figsize=(7 + 3 * len(lessons), 4), layout="constrained")
    ratios = [1] * len(lessons) + [2]
    *first, axes = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
    for beside, lesson in zip(first, lessons, strict=True):
        for name, rows in runs.items():
            steps, shares = series(rows, lesson)
            beside.plot(steps, running_mean(shares) if len(shares) else shares, label=name)
        title, label = LESSONS[lesson]
        beside.set(xlabel="step", ylabel=label, ylim=(0, 1.02), title=title)
        beside.grid(alpha=0.25)
    for number, (name, rows) in enumerate(runs.items()):
        steps, values = series(rows, "loss")
        axes.plot(steps, values, color=f"C{number}", alpha=0.3, linewidth=0.8)
        axes.plot(steps, running_mean(values), color=f"C{number}", linewidth=1.8, label=f"{name}, training")
        steps, values = series(rows, "eval_loss")
        if len(values):
            axes.plot(steps, values, "o--", color=f"C{number}", label=f"{name}, validation")
    axes.set(
        xlabel="step",
        ylabel="nats per generated token, weighted",
        title="SFT loss (generated tokens only)",
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return figure
