"""Do the tools carry information? Linear probes on the frozen vision tower.

For each mechanism a logistic regression is fitted on images of pool categories and scored (AUROC) on the stand-ins'
categories, none of which the tower or the probe has seen: from the global view alone, with the right tool's output
beside it, and with a wrong tool's. No oracle: tools are called the way an agent without any knowledge would call them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from . import comparisons, experiments, figures, images, loop, row_search
from .local_policy import LocalPolicy
from .profiles import Profile
from .samples import Sample
from .selection import balanced_limit
from .tables import Row, Table
from .workers import gpus, run_jobs

RIGHT = {name: tool for name, tool in comparisons.MECHANISM_TOOL.items() if name != "prior"}  # which shows no picture
WRONG = {"small": "enhance", "faint": "crop", "geometric": "crop"}
CALLS = {
    "crop": {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}},
    "enhance": {"name": "enhance", "arguments": {"method": "texture"}},
}
PER_MECHANISM = (400, 240)  # images for fitting, for scoring
AT_ONCE = 16  # images a job
HEAD = "grounding.safetensors"  # in the folder of a base model
NOT_HERE = "Not measured here: it takes stand-ins, which name their mechanisms, and a base with a grounding head."
Features = Callable[[Sequence[np.ndarray]], np.ndarray]


class Tower:
    """The frozen vision tower of the base model and its grounding head (linear, per merged patch)."""

    def __init__(self, path: Path | str):
        self.policy = LocalPolicy.from_path(path)
        with safe_open(Path(path) / HEAD, "pt") as file:
            self.weight, self.bias = (file.get_tensor(name).float() for name in ("weight", "bias"))

    @torch.no_grad()
    def patches(self, pictures: Sequence[np.ndarray], view: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per picture: merged patch features (h, w, D) and grounding logits (h, w, classes); `view`: pixels a side of a
        square picture as the tower sees it, if not the agent's."""
        found, size = [], {"size": {"shortest_edge": view**2 // 2, "longest_edge": view**2}} if view else {}
        for i in range(0, len(pictures), 64):
            inputs = self.policy.processor.image_processor(list(pictures[i : i + 64]), return_tensors="pt", **size)
            grid = inputs["image_grid_thw"]
            visual = self.policy.model.model.visual
            pixels = inputs["pixel_values"].to(visual.device, visual.dtype)
            tokens = visual(pixels, grid_thw=grid.to(visual.device)).pooler_output.float().cpu()
            for part, (_, h, w) in zip(tokens.split((grid.prod(1) // 4).tolist()), grid.tolist(), strict=True):
                logits = part @ self.weight.T + self.bias
                found.append((part.view(h // 2, w // 2, -1).numpy(), logits.view(h // 2, w // 2, -1).numpy()))
        return found

    def pooled(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(N, 2 * classes): mean and maximum over the patches of the tower's linear read-outs."""
        logits = [z.reshape(-1, z.shape[-1]) for _, z in self.patches(pictures)]
        return np.stack([np.concatenate([z.mean(0), z.max(0)]) for z in logits])


def has_head(path: Path | str) -> bool:
    """Whether the model at `path` came with the grounding head of its pre-training; no model of the hub has one."""
    return (Path(path) / HEAD).is_file()


@lru_cache(maxsize=1)
def tower_of(path: Path | str) -> Tower:
    """The tower at `path`, loaded once a process."""
    return Tower(path)


def in_parts(
    job: Callable[..., Any], path: Path | str, groups: Sequence[tuple[Any, ...]], size: int, text: str
) -> list[list[Any]]:
    """Results of `job(path, part of the samples, *more)` by group of (samples, *more), in order; side by side where
    that is worth starting processes, which takes seconds: once for all groups."""
    parts = [
        (k, (path, samples[i : i + size], *more))
        for k, (samples, *more) in enumerate(groups)
        for i in range(0, len(samples), size)
    ]
    done = run_jobs(job, [arguments for _, arguments in parts], experiments.side_by_side(), gpus=gpus())
    found: list[list[Any]] = [[] for _ in groups]
    for (k, _), result in zip(parts, tqdm(done, desc=text, total=len(parts)), strict=True):
        found[k].append(result)
    return found


def tool_features(tower: Tower, tool: str, samples: Sequence[Sample], photos: Sequence[np.ndarray]) -> np.ndarray:
    """(N, F) of what a tool returns: the numbers that it says, and pooled read-outs of its image if it has one."""
    if tool == "measure":
        return np.array([row_numbers(s, photo) for s, photo in zip(samples, photos, strict=True)])
    results = [loop.run_call(CALLS[tool], photo, s) for s, photo in zip(samples, photos, strict=True)]
    said = np.array([spoken_numbers(r.details) for r in results])
    return np.hstack([said, tower.pooled([r.images[0] for r in results])])


def spoken_numbers(details: dict[str, Any]) -> tuple[float, ...]:
    """What a crop says of the shape of its find, on logarithmic scales, or how strong the peak of a map is."""
    if "peak" in details:
        return (float(np.log1p(details["peak"])),)
    shape = details.get("shape") or {"across": 0, "longer": 0, "solid": 0}
    return (*(float(np.log1p(shape[name])) for name in ("across", "longer")), shape["solid"] / 100)


def row_numbers(sample: Sample, photo: np.ndarray) -> tuple[float, float]:
    """(deviation, offset) of the best row found in the image, log(1 + percent); zeros where there is none."""
    found = row_search.read_best(photo)
    if found is None:
        return 0.0, 0.0
    guess, _ = found
    call = {"name": "measure", "arguments": {"kind": "row", "points": [list(p) for p in guess.points]}}
    d = loop.run_call(call, photo, sample).details
    return float(np.log1p(d.get("deviation", 0))), float(np.log1p(d.get("offset", 0)))


def auroc(fit: np.ndarray, fit_y: np.ndarray, test: np.ndarray, test_y: np.ndarray) -> tuple[float, np.ndarray]:
    """AUROC of a linear probe and its scores."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    scores = probe.fit(fit, fit_y).decision_function(test)
    return float(roc_auc_score(test_y, scores)), scores


def interval(labels: np.ndarray, scores: np.ndarray, draws: int = 500) -> tuple[float, float]:
    """95 % bootstrap interval of an AUROC (the share of pairs in order, so pairs are compared once), in percent."""
    rng, (normal, marked) = np.random.default_rng(0), (scores[labels == v] for v in (0, 1))
    ordered = (np.sign(marked[:, None] - normal) + 1) / 2
    normal_counts, marked_counts = (rng.multinomial(n, np.full(n, 1 / n), draws) for n in map(len, (normal, marked)))
    found = ((marked_counts @ ordered) * normal_counts).sum(1) / ordered.size
    return round(100 * float(np.percentile(found, 2.5)), 1), round(100 * float(np.percentile(found, 97.5)), 1)


def by_mechanism(samples: Sequence[Sample], known: dict[str, str], name: str, limit: int) -> list[Sample]:
    """Samples of one mechanism, both labels alike."""
    return balanced_limit([s for s in samples if known.get(f"{s.dataset}:{s.id}") == name], limit)


def table(profile: Profile) -> Table:
    """AUROC per mechanism and view, with interval; empty where there is no sidecar (real sets) or no grounding head."""
    path = experiments.model_path(profile, "base")
    notes = ("AUROC in percent of a linear probe; fitted on pool categories, scored on unseen stand-in categories.",)
    if not profile.data.standins or not has_head(path):
        return Table("probes", "Do the tools carry information?", profile.name, profile.hash, (), (NOT_HERE,))
    root = experiments.data_root(profile)
    pool = experiments.pool(profile)
    test = [s for group in experiments.test_sets(profile).values() for s in group]
    test_known = experiments.mechanisms(profile)
    fit_known = comparisons.read_mechanisms(root, {profile.data.pool: pool})
    fit_known = {f"{s.dataset}:{s.id}": fit_known.get(f"{profile.data.pool}:{s.id}", "") for s in pool}
    fitted, scored = (min(n, 6 * (profile.data.ablation_limit or n)) for n in PER_MECHANISM)
    chosen = {}
    for name in RIGHT:
        sides = by_mechanism(pool, fit_known, name, fitted), by_mechanism(test, test_known, name, scored)
        if all(len({bool(s.label) for s in side}) == 2 for side in sides):
            chosen[name] = sides
    groups = [([*fit, *score], (RIGHT[name], WRONG[name])) for name, (fit, score) in chosen.items()]
    seen = in_parts(_looked, path, groups, AT_ONCE, "probes")
    rows = [
        row for (name, sides), parts in zip(chosen.items(), seen, strict=True) for row in _rows(name, *sides, parts)
    ]
    return Table("probes", "Do the tools carry information?", profile.name, profile.hash, tuple(rows), notes)


def _rows(name: str, fitted: Sequence[Sample], scored: Sequence[Sample], parts: Sequence[Any]) -> list[Row]:
    """Of one mechanism; `parts`: what `_looked` gave for both sides."""
    fit_y, test_y = (np.array([bool(s.label) for s in side], int) for side in (fitted, scored))
    whole, *extra = (np.concatenate(column) for column in zip(*parts, strict=True))
    rows = []
    for row, told in (("global view", []), ("+ right tool", extra[:1]), ("+ wrong tool", extra[1:])):
        fit, test = np.split(np.hstack([whole, *told]), [len(fitted)])
        value, scores = auroc(fit, fit_y, test, test_y)
        n = int((test_y == 0).sum()), int((test_y == 1).sum())
        rows.append(Row(row, name, round(100 * value, 1), interval(test_y, scores), *n, 0, 1))
    return rows


def _looked(path: Path, samples: Sequence[Sample], tools: Sequence[str]) -> tuple[np.ndarray, ...]:
    """(N, F) features of the global view, then of each tool."""
    tower, photos = tower_of(path), [images.load_image(s.image, s.tile) for s in samples]
    return tower.pooled(photos), *(tool_features(tower, tool, samples, photos) for tool in tools)


def figure(table: Table) -> Figure | None:
    """Bars per mechanism: global view, right tool, wrong tool; None of an empty table."""
    if not table.rows:
        return None
    picture = figures.new(6.5, 3.6)
    axis = picture.subplots()
    names = list(dict.fromkeys(r.column for r in table.rows))
    for k, row in enumerate(dict.fromkeys(r.row for r in table.rows)):
        cells = [r for r in table.rows if r.row == row]
        x = [names.index(r.column) + 0.27 * (k - 1) for r in cells]
        error = np.array([(r.value - r.ci[0], r.ci[1] - r.value) for r in cells]).T.clip(0)
        axis.bar(x, [r.value for r in cells], 0.25, yerr=error, capsize=3, label=row, color=figures.COLOURS[k],
                 hatch=figures.HATCHES[k], edgecolor="white")  # fmt: skip
    axis.set_xticks(range(len(names)), [f"{n}\n({RIGHT[n]})" for n in names])
    axis.axhline(50, color="grey", lw=0.8)
    axis.set(ylim=(40, 101), ylabel="AUROC (%), unseen categories")
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figures.caveat(picture, table.profile)
    return picture
