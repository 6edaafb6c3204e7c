"""Figures: drawn from tables and episodes, with holes where data is missing, the same bytes twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evaluation import episode, run, sets
from matplotlib.figure import Figure

from indus_lib import audit_robustness, benchmarks, figures, figures_cases, figures_pipeline, profiles, readers
from indus_lib.episodes import ToolCall, Turn, Verdict
from indus_lib.tables import Table


@pytest.fixture(scope="module")
def built() -> dict[str, Table]:
    runs = {"base": sets(0.5, 0.5, n=12), "full": sets(0.9, 0.9, n=12, tools=("crop",))}
    return benchmarks.build(runs, "tiny", "x")


def _texts(figure: Figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_radar_marks_what_is_reported(built: dict[str, Table]) -> None:
    table = built["table1_balanced_accuracy"]
    figure = figures.radar(table, ["IndusAgent 8B", "GPT-4.1"], reported=["GPT-4.1"])
    names = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert names == ["ours, in place of IndusAgent 8B", "GPT-4.1 (reported)"]  # GPT-4.1 has no measurement of ours
    assert "not the paper's" in _texts(figure)


def test_bars_have_an_interval_and_the_reported_number(built: dict[str, Table]) -> None:
    figure = figures.ablation_bars(built["table3_modules"])
    assert "reported" in _texts(figure) and "MVTec" in _texts(figure)
    assert "calls" in _texts(figures.usage_bars(built["table7_tool_usage"]))
    whiskers = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(whiskers) >= 12


def test_curves(built: dict[str, Table]) -> None:
    runs = {"full": run(0.9, 0.8, n=20), "silent": [episode(i, i % 2 == 0, True) for i in range(8)]}
    assert "ECE" in _texts(figures.reliability_diagram(runs, "tiny"))
    assert "recall" in _texts(figures.operating_curves(runs, "tiny"))
    points = [
        audit_robustness.Point(n, s, tuple(run(0.9, 0.9, n=9))) for n, s in (("none", 0), ("blur", 2), ("blur", 4))
    ]
    assert "blur" in _texts(figures.robustness_curves(audit_robustness.table(points, "tiny", "x")))


def test_an_agent_that_answers_nothing_is_on_the_axis() -> None:
    """A balanced accuracy of 0 lies above the lower end of every axis of accuracies."""
    runs = {name: {"mvtec": [episode(i, i % 2 == 0, None) for i in range(8)]} for name in ("base", "full", "sft")}
    built = benchmarks.build(runs, "tiny", "x")
    points = [audit_robustness.Point(n, s, tuple(runs["full"]["mvtec"])) for n, s in (("none", 0), ("blur", 2))]
    drawn = [
        figures.ablation_bars(built["table3_modules"]),
        figures.radar(built["table1_balanced_accuracy"], ["IndusAgent 8B"]),
        figures.robustness_curves(audit_robustness.table(points, "tiny", "x")),
    ]
    assert all(axis.get_ylim()[0] < 0 for figure in drawn for axis in figure.axes)


@pytest.mark.parametrize("name", profiles.NAMES)
def test_the_overview_shows_the_real_configuration(name: str) -> None:
    profile = profiles.get(name)
    text = _texts(figures_pipeline.overview(profile))
    assert profile.hash in text and f"G = {profile.grpo.group}" in text and f"{profile.corpus.n} trajectories" in text
    assert f"{profile.sft.learning_rate:g}" in text and f"{profile.inspection.max_new_tokens} tokens" in text


def test_saved_twice_is_the_same_file(tmp_path: Path, built: dict[str, Table]) -> None:
    paths = [figures.save(figures.usage_bars(built["table7_tool_usage"]), tmp_path / f"{i}.png", 60) for i in (0, 1)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.png", "1.png"]


def test_cases_show_losses_beside_gains(real_root: Path) -> None:
    samples = readers.with_boxes([s for s in readers.read("mvtec", real_root / "hazelnut_toy") if s.label][:2])
    call = ToolCall("crop", {"region": [200, 200, 700, 700]}, regions=((200, 200, 700, 700),))
    turns = (Turn("<think>look</think>", (call,)), Turn("<think>a stain</think><answer>Yes</answer>"))

    def made(i: int, said: bool, turns: tuple[Turn, ...] = turns):
        s = samples[i]
        verdict = Verdict(said, (300, 300, 600, 600) if said else None)
        return episode(
            i, True, said, sample_id=s.id, dataset=s.dataset, category=s.category, turns=turns, verdict=verdict
        )

    base, agent = [made(0, False), made(1, True)], [made(0, True), made(1, False)]
    pairs = figures_cases.choose(base, agent, 4)
    assert [name for *_, name in pairs] == ["rescued", "broken"]
    figure = figures_cases.case_studies(pairs, {(s.dataset, s.id): s for s in samples})
    text = _texts(figure)
    assert "rescued" in text and "broken" in text and "crop returned" in text and "<think>" not in text
    one = made(0, True)
    many = [replace(one, sample_id=f"{k}", dataset=f"set {k // 6}", category=f"part {k // 2}") for k in range(12)]
    chosen = figures_cases.choose([replace(e, verdict=Verdict(False)) for e in many], many, 3)
    assert [e.sample_id for _, e, _ in chosen] == ["0", "4", "8"]  # one of a product, over all of them
    assert figures_cases.choose(base, [made(0, True, ())], 4) == []  # nothing to show without a tool call
    assert "no case" in _texts(figures_cases.case_studies([], {}))
