"""The benchmark notebooks' own summaries: references, audits on a share of the images, usage, pages of traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from IPython.display import display
from matplotlib.figure import Figure

from . import (
    audit_counterfactual,
    audit_robustness,
    baselines,
    experiments,
    figures,
    figures_cases,
    metrics,
    report,
    self_similarity,
    trace_html,
    trace_steps,
)
from .demo import trained
from .episodes import Episode
from .local_policy import LocalPolicy
from .profiles import Profile
from .samples import Sample
from .selection import balanced_limit, spread
from .tables import Row, Table
from .workers import gpus, run_jobs

MAIN_TABLES = ("table1_balanced_accuracy", "table2_recall", "table6_f1", "table7_tool_usage")
RADAR = ("Qwen3-VL-Instruct 8B", "IndusAgent 8B")
FEW_SAMPLES = 100  # are not worth starting processes for
ROBUSTNESS_LIMIT = 60  # images a set; a curve needs many conditions
SEED_0 = ("Of the agent of seed 0.",)
Runs = Mapping[str, Mapping[str, Sequence[Episode]]]


def references(profile: Profile, sets: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, list[Episode]]]:
    """Always yes, always no, a coin, and self-similarity on the base model's tower (threshold from the pool)."""
    found: dict[str, dict[str, list[Episode]]] = {}
    for name, samples in sets.items():
        for run, episodes in baselines.references(samples, profile=profile.name).items():
            found.setdefault(run, {})[name] = episodes
    base = trained(profile, "base")
    features = self_similarity.tower_features(base.model, base.processor)
    validation = balanced_limit(experiments.pool(profile, "test"), min(200, 10 * (profile.data.limit or 200)))
    detector = self_similarity.fit(features, validation)
    found["self_similarity"] = {
        name: detector.inspect(balanced_limit(samples, profile.data.ablation_limit), profile=profile.name)
        for name, samples in sets.items()
    }
    return found


def usage_by_run(runs: Runs, profile: Profile) -> Table:
    """Calls per image, share of images per tool and success of every run, all sets together."""
    rows = []
    for run, sets in runs.items():
        every = [e for episodes in sets.values() for e in episodes]
        used, data = report.usage(every), metrics.outcomes(every)
        facts = {"calls per image": used.calls_per_image, **{f"{t} %": 100 * s for t, s in used.share.items()}}
        facts["success %"] = None if used.success is None else 100 * used.success
        counts = (data.n_normal, data.n_anomalous, data.n_unparsed, len(data.seeds))
        rows += [Row(run, k, None if v is None else round(v, 2), None, *counts) for k, v in facts.items()]
    return Table("usage_by_run", "Tool usage by run", profile.name, profile.hash, tuple(rows))


def counterfactual(profile: Profile, runs: Mapping[str, Sequence[Episode]], sets: Mapping[str, Sequence[Sample]]):
    """The counterfactual audit of the full agent, seed 0, on the ablation's share of the images."""
    wanted = {(n, s.id) for n, group in sets.items() for s in balanced_limit(group, profile.data.ablation_limit)}
    episodes = [e for group in runs.values() for e in group if e.seed == 0 and (e.dataset, e.sample_id) in wanted]
    samples = [s for group in sets.values() for s in group]
    flips = audit_counterfactual.audit(trained(profile, "full"), episodes, samples, profile=profile)
    found = audit_counterfactual.table(flips, profile.name, profile.hash, experiments.mechanisms(profile))
    return found.noted(SEED_0)


def robustness(profile: Profile, sets: Mapping[str, Sequence[Sample]]) -> Table:
    """Balanced accuracy of the full agent under disturbed photographs and corrupted tools."""
    limit = min(ROBUSTNESS_LIMIT, profile.data.ablation_limit or ROBUSTNESS_LIMIT)
    samples = [s for group in sets.values() for s in balanced_limit(group, limit)]
    model = experiments.train(profile, "full")
    workers = experiments.side_by_side() if len(samples) > FEW_SAMPLES else 1
    jobs = [(model, profile, samples, *c) for c in audit_robustness.conditions(points=2)]
    points = list(run_jobs(_robustness_job, jobs, workers, few=2, gpus=gpus()))
    return audit_robustness.table(points, profile.name, profile.hash).noted(SEED_0)


def _robustness_job(model: Path | str, profile: Profile, samples: Sequence[Sample], name: str, strength: float):
    policy = LocalPolicy.from_path(model, name="full", batch=profile.inspection.batch)
    return audit_robustness.point(policy, samples, name, strength, profile=profile, margins=False)  # verdicts only


def pooled(runs: Runs) -> dict[str, list[Episode]]:
    """Episodes of all sets of each run in one list."""
    return {run: [e for episodes in sets.values() for e in episodes] for run, sets in runs.items()}


def write_and_show(tables: Sequence[Table], profile: Profile) -> None:
    """Write each table and display it; of an empty one print a line that says why."""
    for table in tables:
        table.write(experiments.folder(profile) / "tables")
        if table.rows:
            display(table)
        else:
            why = [note for note in table.notes if note.startswith("Not measured")]
            print(f"{table.id}: {(why or ['Not measured here: too few images.'])[0]}")


def show_and_save(pictures: Mapping[str, Figure | None], profile: Profile) -> None:
    """Display each figure and save it under its name; None, where nothing was measured, leaves no file."""
    for name, figure in pictures.items():
        if figure is None:
            continue
        display(figure)
        figures.save(figure, experiments.folder(profile) / "figures" / f"{name}.png")


def cases(runs: Runs, sets: Mapping[str, Sequence[Sample]]) -> Figure:
    """Rescued and broken cases side by side."""
    both = pooled({name: runs[name] for name in ("base", "full")})
    both = {name: [e for e in episodes if e.seed == 0] for name, episodes in both.items()}
    pairs = figures_cases.choose(both["base"], both["full"])
    pairs = pairs or figures_cases.choose(both["base"], both["full"], only=("both right", "both wrong"))
    return figures_cases.case_studies(pairs, {(n, s.id): s for n, group in sets.items() for s in group})


def telling(episodes: Sequence[Episode], samples: Sequence[Sample]) -> tuple[Episode, Sample]:
    """A right Yes after a tool call if there is one, else the first episode."""
    known = {(s.dataset, s.id): s for s in samples}
    good = [e for e in episodes if e.calls and e.correct and e.label]
    chosen = (good or list(episodes))[0]
    return chosen, known[(chosen.dataset, chosen.sample_id)]


def trace_pages(episodes: Sequence[Episode], samples: Sequence[Sample], path: Path, n: int = 12) -> Path:
    """A self-contained page of `n` traces, spread over the run."""
    known = {(s.dataset, s.id): s for s in samples}
    traces = [trace_steps.build(e, known.get((e.dataset, e.sample_id))) for e in spread(episodes, n)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(trace_html.page(traces), encoding="utf-8")
    return path
