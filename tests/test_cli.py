"""`python -m indus_lib inspect` and `evaluate`, as a person calls them, with a random-weight miniature."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from indus_lib import cli, loop, profiles, tiny_model
from indus_lib.episodes import Episode, ToolCall, Turn, Verdict, read_episodes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = tiny_model.TinyConfig(vision_depth=3, depth=2, vocab=1024)
    folder = tmp_path_factory.mktemp("model") / "mini"
    return str(tiny_model.save(*tiny_model.build(config, ["is this part all right ? Yes No"], seed=1), folder))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MVTec-like set: nuts with 3 good and 5 scratched test images, bolts with 2 and 1."""
    root = tmp_path_factory.mktemp("data") / "set"
    for category, good, scratched in (("nut", 3, 5), ("bolt", 2, 1)):
        for number in range(max(good, scratched)):
            image = np.random.default_rng(number).integers(90, 110, (64, 64, 3), dtype=np.uint8)
            mask = np.zeros((64, 64), np.uint8)
            write(root / category / "train" / "good" / f"{number:03}.png", image)
            if number < good:
                write(root / category / "test" / "good" / f"{number:03}.png", image)
            if number < scratched:
                mask[20:30, 10:50] = 255
                write(root / category / "ground_truth" / "scratch" / f"{number:03}_mask.png", mask)
                write(root / category / "test" / "scratch" / f"{number:03}.png", np.where(mask[..., None], 250, image))
    return root


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image.astype(np.uint8))


def evaluate(dataset: Path, out: Path, model: str, *more: str) -> int:
    return cli.main(
        ["evaluate", "--layout", "mvtec", "--root", str(dataset), "--out", str(out), "--model", model, *more]
    )


def test_evaluate_writes_metrics_with_intervals_counts_tools_and_time(
    dataset: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, episodes = tmp_path / "deep" / "m.json", tmp_path / "e.jsonl"
    assert evaluate(dataset, out, model, "--category", "nut", "--episodes", str(episodes)) == 0
    result = json.loads(out.read_text())
    assert (result["n_normal"], result["n_anomalous"], result["n"]) == (3, 5, 8)
    for name in ("balanced_accuracy", "recall", "specificity", "f1"):
        low, high = result[f"{name}_ci"]
        assert 0 <= low <= result[name] <= high <= 1
    right = [e for e in read_episodes(episodes) if e.correct]
    hits = sum(e.label for e in right)
    assert result["recall"] == pytest.approx(hits / 5)
    assert result["balanced_accuracy"] == pytest.approx((hits / 5 + (len(right) - hits) / 3) / 2)
    assert result["n_unparsed"] == sum(e.verdict is None for e in read_episodes(episodes))
    assert set(result["share"]) >= {"crop", "prior", "enhance", "measure"} and result["seconds"] > 0
    assert result["config_hash"] and result["count_report"]["counts"] == [3, 5]
    assert not result["count_report"]["complete"], "three images of a set of 1725 are no complete set"
    told = capfd.readouterr()
    assert "3 normal, 5 anomalous" in told.out and len(told.out.splitlines()) == 1
    assert "8/8" in told.err, "progress goes to stderr"
    assert not list(tmp_path.rglob("*.part"))


def test_evaluate_limit_takes_both_classes_and_reports_the_whole_set(dataset: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    assert evaluate(dataset, out, model, "--limit", "4", "--mode", "direct") == 0
    result = json.loads(out.read_text())
    assert (result["n_normal"], result["n_anomalous"], result["mode"]) == (2, 2, "direct")
    assert result["count_report"]["counts"] == [5, 6], "what is on disk, not what was looked at"


def test_inspect_prints_the_trajectory_json_and_page(
    dataset: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image, page = dataset / "nut" / "test" / "scratch" / "000.png", tmp_path / "trace.html"
    arguments = ["inspect", str(image), "--category", "nut", "--model", model]
    assert cli.main([*arguments, "--html", str(page)]) == 0
    told = capfd.readouterr().out
    assert "--- turn 1" in told and str(image) in told
    assert page.read_text().startswith("<!DOCTYPE html>") and "data:image" in page.read_text()
    assert cli.main([*arguments, "--json"]) == 0
    episode = Episode.from_json(json.loads(capfd.readouterr().out))
    assert (episode.category, episode.label, episode.profile) == ("nut", None, "tiny")
    assert episode.margin is not None


def test_description_of_a_trajectory() -> None:
    call = ToolCall("crop", {"region": [0, 0, 9, 9]}, ok=False, text="region is too small", ms=1.4)
    turns = (Turn("<think>a</think>", (call,)), Turn("<answer>Yes</answer>"))
    verdict = Verdict(True, (1, 2, 30, 40), "scratch")
    episode = Episode("x", image="a.png", policy="p", profile="tiny", turns=turns, verdict=verdict, margin=1.234)
    text = cli.describe(episode)
    assert "[crop, refused, 1 ms] region is too small" in text
    assert text.splitlines()[-1] == "anomalous: scratch at [1, 2, 30, 40]; margin +1.23 (log p(Yes) - log p(No))"
    normal = Episode("x", image="a.png", verdict=Verdict(False))
    assert cli.describe(normal).splitlines()[-1] == "normal"
    lost = Episode("x", image="a.png", violations=("no_answer",))
    assert cli.describe(lost).splitlines()[-1] == "no readable verdict: no_answer"


BAD: dict[str, tuple[list[str], str]] = {
    "no command": ([], "required: COMMAND"),
    "unknown command": (["judge"], "invalid choice: 'judge'"),
    "no image": (["inspect"], "IMAGE"),
    "image not there": (["inspect", "{tmp}/none.png"], "none.png: no such file"),
    "not an image": (["inspect", "{tmp}/text.png"], "text.png: not an image"),
    "unknown profile": (["inspect", "{tmp}/text.png", "--profile", "huge"], "unknown profile 'huge': choose one of"),
    "model not there": (["inspect", "{set}/nut/test/good/000.png", "--model", "{tmp}/none"], "no model in"),
    "endpoint without a model": (["inspect", "{set}/nut/test/good/000.png", "--endpoint", "http://x/v1"], "--model"),
    "unknown layout": (["evaluate", "--layout", "coco", "--root", "x", "--out", "y"], "invalid choice: 'coco'"),
    "root not there": (["evaluate", "--layout", "mvtec", "--root", "{tmp}/none", "--out", "{tmp}/o"], "none"),
    "another layout": (["evaluate", "--layout", "visa", "--root", "{set}", "--out", "{tmp}/o"], "set"),
    "unknown category": (
        ["evaluate", "--layout", "mvtec", "--root", "{set}", "--out", "{tmp}/o", "--category", "gear"],
        "gear",
    ),
    "limit of nothing": (["evaluate", "--layout", "mvtec", "--root", "x", "--out", "y", "--limit", "0"], "'0'"),
    "out is a folder": (["evaluate", "--layout", "mvtec", "--root", "{set}", "--out", "{tmp}"], "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    case: str, dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, told = BAD[case]
    (tmp_path / "text.png").write_text("no picture")
    before = sorted(tmp_path.iterdir())
    code: Any = None
    try:
        code = cli.main([a.format(tmp=tmp_path, set=dataset) for a in arguments])
    except SystemExit as exit_:  # argparse leaves this way
        code = exit_.code
    output = capfd.readouterr()
    assert code == 2 and output.out == ""
    assert len(output.err.splitlines()) == 1 and output.err.startswith("indus: ") and told in output.err
    assert sorted(tmp_path.iterdir()) == before, "nothing half-written"


def test_as_a_module_from_another_directory(repo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "indus_lib", "inspect", "none.png"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repo)}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "indus: none.png: no such file; check the path\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "folder", "counts"),
    [
        ("kolektorsdd", "kolektorsdd_official", (39, 8)),
        ("mvtec", "mvtec_ad_grid_subset", (3, 11)),
        ("mvtec", "hazelnut_toy", (6, 17)),
    ],
)
def test_evaluate_on_real_photographs_counts_every_image(
    layout: str, folder: str, counts: tuple[int, int], real_root: Path, model: str, tmp_path: Path
) -> None:
    out, episodes = tmp_path / "m.json", tmp_path / "e.jsonl"
    arguments = ["evaluate", "--layout", layout, "--root", str(real_root / folder), "--out", str(out), "--model", model]
    assert cli.main([*arguments, "--episodes", str(episodes)]) == 0
    result = json.loads(out.read_text())
    assert (result["n_normal"], result["n_anomalous"]) == counts
    verdicts = sum(e.verdict is not None for e in read_episodes(episodes))
    assert verdicts + result["n_unparsed"] == sum(counts) and result["errors"] == 0


KILLED = """
import os, signal, sys
from test_cli import small
from indus_lib import cli, loop, profiles
profiles.get, rollout, calls = small(profiles.get), loop.rollout, []

def dying(*args, **options):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return rollout(*args, **options)

loop.rollout = dying
cli.main(sys.argv[1:])
"""


def small(get: Callable[[str], profiles.Profile]) -> Callable[[str], profiles.Profile]:
    """Profiles with batches of 4 and short replies."""

    def smaller(name: str) -> profiles.Profile:
        return replace(get(name), inspection=replace(get(name).inspection, batch=4, max_new_tokens=6))

    return smaller


def timeless(path: Path) -> list[dict[str, Any]]:
    """Episodes without what a clock decides; margins of another process to four digits."""
    plain = [e.to_json() for e in read_episodes(path)]
    for e in plain:
        e["margin"], e["margin_before"] = round(e["margin"], 4), round(e["margin_before"], 4)
        e.update(seconds=0, turns=[t["text"] for t in e["turns"]])
    return plain


def test_a_killed_evaluation_goes_on_where_it_was(
    dataset: Path, model: str, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, work = tmp_path / "cut.json", tmp_path / "cut.json.work.jsonl"
    common = ["evaluate", "--layout", "mvtec", "--root", str(dataset), "--model", model, "--category", "nut"]
    command = [*common, "--out", str(out), "--episodes", str(tmp_path / "cut.jsonl")]
    environment = {**os.environ, "PYTHONPATH": f"{repo}:{repo / 'tests'}"}
    assert subprocess.run([sys.executable, "-c", KILLED, *command], env=environment).returncode == -signal.SIGKILL
    assert not out.exists() and work.read_bytes().count(b"\n") == 1 + 4
    inspected: list[int] = []
    rollout = loop.rollout
    monkeypatch.setattr(profiles, "get", small(profiles.get))
    monkeypatch.setattr(loop, "rollout", lambda p, s, **o: inspected.append(len(s)) or rollout(p, s, **o))
    assert cli.main(command) == 0 and inspected == [4]
    assert "4 of 8 images were inspected before" in capfd.readouterr().err and not work.exists()
    assert cli.main([*common, "--out", str(tmp_path / "whole.json"), "--episodes", str(tmp_path / "whole.jsonl")]) == 0
    assert timeless(tmp_path / "cut.jsonl") == timeless(tmp_path / "whole.jsonl")
    cut, whole = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("cut", "whole"))
    assert {k: v for k, v in cut.items() if k not in ("seconds", "tool_ms") and "margin" not in k} == {
        k: v for k, v in whole.items() if k not in ("seconds", "tool_ms") and "margin" not in k
    }


def test_images_that_fail_are_told_and_asked_for_again(
    dataset: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, inspected, rollout = tmp_path / "m.json", [], loop.rollout

    def failing(policy: Any, samples: Any, **options: Any) -> list[loop.Trace]:
        inspected.append(len(samples))
        traces = rollout(policy, samples, **options)
        traces[0].error = "endpoint\ndown" if len(inspected) == 1 else ""
        return traces

    monkeypatch.setattr(profiles, "get", small(profiles.get))
    monkeypatch.setattr(loop, "rollout", failing)
    assert evaluate(dataset, out, model, "--category", "nut") == 1
    said = capfd.readouterr().err
    assert "1 of 8 images failed and count as wrong; the first, nut/" in said and ": endpoint down\n" in said
    assert json.loads(out.read_text())["errors"] == 1
    assert evaluate(dataset, out, model, "--category", "nut") == 0 and inspected == [4, 4, 1]
    assert json.loads(out.read_text())["errors"] == 0


def test_an_interrupted_evaluation_says_so_and_what_failed_or_changed_is_inspected_again(
    dataset: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, inspected = tmp_path / "m.json", []
    rollout = loop.rollout

    def interrupted(policy: Any, samples: Any, **options: Any) -> list[loop.Trace]:
        inspected.append(len(samples))
        if len(inspected) == 2:
            raise KeyboardInterrupt
        traces = rollout(policy, samples, **options)
        traces[0].error = "endpoint down" if len(inspected) == 1 else ""
        return traces

    monkeypatch.setattr(profiles, "get", small(profiles.get))
    monkeypatch.setattr(loop, "rollout", interrupted)
    command = (dataset, out, model, "--category", "nut")
    assert evaluate(*command) == 130
    assert capfd.readouterr().err.endswith("\nindus: interrupted, the same command goes on from there\n")
    assert evaluate(*command) == 0 and inspected == [4, 4, 1, 4]
    assert evaluate(*command) == 0 and inspected[4:] == [4, 4], "a finished one is done anew"
    (tmp_path / "m.json.work.jsonl").write_text('{"work": "another"}\n{"key": "nut/test/good/000", "result": {}}\n')
    assert evaluate(*command, "--seed", "1") == 0 and inspected[6:] == [4, 4]
    assert (tmp_path / "m.json.work.old").exists()
