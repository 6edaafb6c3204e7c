"""The audits find what is there, and nothing once it is mended."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation import episode, run, sets

from indus_lib import (
    audit_claims,
    audit_consistency,
    audit_counterfactual,
    audit_robustness,
    audit_sampling,
    benchmarks,
    calibration,
    comparisons,
    images,
    loop,
    paper,
    profiles,
)
from indus_lib.policies import Reply
from indus_lib.samples import Sample
from indus_lib.tools import ToolResult

TINY = profiles.get("tiny")

# --- consistency -------------------------------------------------------------------------------------------------


def _found(check: str, *words: str) -> list[audit_consistency.Finding]:
    return [
        f
        for f in audit_consistency.contradictions()
        if f.check == check and all(w in f"{f.where} {f.text}" for w in words)
    ]


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("average", ("IndusAgent 8B", "83.52", "83.4")),
        ("equal configuration", ("0.8, 0.6, 0", "w/o tool", "MVTec", "82.1", "81.9")),
        ("equal configuration", ("0.8, 0.6, 0", "w/o tool", "VisA", "75.0", "71.5")),
        ("equal configuration", ("0.8, 0.6, 0", "w/o tool", "DTD", "93.8", "92.8")),
        ("equal configuration", ("0, 0, 0", "base RL reward", "MVTec", "76.5", "76.0")),
        ("equal configuration", ("0, 0, 0", "base RL reward", "DTD", "88.1", "79.1")),
        ("F1", ("IndusAgent 8B", "MPDD", "specificity 50.0", "84.2", "78.2")),
        ("claimed gain", ("+9.3", "GPT-4.1", "+1.7", "Anomaly-OV 7B")),
        ("reward", ("outside the gate",)),
        ("tools named", ("measure",)),
    ],
)
def test_every_contradiction_of_section_8_is_computed(check: str, words: tuple[str, ...]) -> None:
    assert _found(check, *words)


def test_section_8_without_a_contradiction_is_observed() -> None:
    found = {(f.check, f.where): f.text for f in audit_consistency.findings() if f.verdict == "observation"}
    assert ("no intervals", "all tables") in found
    assert "84.9" in found["state of the art", "Table 1 with IAD-R1's numbers, avg"]  # later, so no contradiction
    assert "0.93 points" in found["sampling noise", "Table 1, IndusAgent 8B, SDD"]


def _mended(monkeypatch: pytest.MonkeyPatch, table: str, row: str, column: str, value: float) -> None:
    data = copy.deepcopy(paper.load())
    next(r for r in data["tables"][table]["rows"] if r["row"] == row)["values"][column] = value
    monkeypatch.setattr(paper, "load", lambda: data)


def test_a_mended_average_is_no_longer_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    _mended(monkeypatch, "table1_balanced_accuracy", "IndusAgent 8B", "avg", 83.5)
    assert not _found("average", "Table 1")
    assert _found("average", "Table 5")


def test_a_new_error_is_found_though_nobody_listed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _found("average", "GPT-4o-mini")
    _mended(monkeypatch, "table1_balanced_accuracy", "GPT-4o-mini", "VisA", 56.1)
    assert _found("average", "GPT-4o-mini")


def test_mended_f1_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    _mended(monkeypatch, "table6_f1", "IndusAgent", "MPDD", 84.2)
    assert not _found("F1", "IndusAgent 8B", "MPDD")
    _mended(monkeypatch, "table5_weights", "0, 0, 0", "VisA", 64.9)
    assert not _found("equal configuration", "base RL reward", "VisA")


def test_f1_identity_by_hand() -> None:
    # 100 anomalous, 100 normal, recall 90, specificity 70: TP 90, FP 30, FN 10
    assert audit_consistency.f1_from(80.0, 90.0, 100, 100) == pytest.approx(100 * 180 / (180 + 30 + 10))


def test_granularity_by_hand() -> None:
    assert audit_sampling.attainable(83.3, 54)  # 45 of 54
    assert not audit_sampling.attainable(64.2, 54) and not audit_sampling.attainable(64.2, 52)
    assert audit_sampling.attainable(71.1, 52, "cut off") and not audit_sampling.attainable(71.1, 52)


def test_the_table_of_the_audit_is_valid_and_the_same_twice() -> None:
    first = audit_consistency.table("tiny", "x").to_json()
    assert first == audit_consistency.table("tiny", "x").to_json()
    assert "contradiction" in first


# --- claims ------------------------------------------------------------------------------------------------------


def _claims(runs: dict, profile: str = "tiny") -> dict[str, str]:
    found = benchmarks.build(runs, profile, "x")
    found["differences"] = comparisons.difference_table(runs, profile, "x")
    table = audit_claims.audit(found, profile, "x")
    table.to_json()
    return audit_claims.verdicts(table)


def test_claims_follow_the_data() -> None:
    good, same = sets(0.95, 0.9, n=40, tools=("crop",)), sets(0.5, 0.5, n=40)
    up = _claims({"full": good, "base": same, "no_crop": good})
    assert up["The agent beats its own base model"] == "supported"
    assert up["The crop tool contributes"] == "not supported"  # equal runs: the interval holds 0
    assert up["The prior tool contributes"] == "not testable here"
    assert up["Crop is the most used tool on MVTec"] == "supported"
    assert up["Enhance is the most used tool on textures (DTD)"] == "not supported"
    down = _claims({"full": same, "base": good})
    assert down["The agent beats its own base model"] == "not supported"


def test_where_rl_moves_nothing_no_way_to_run_it_is_supported() -> None:
    good, worse = sets(0.95, 0.9, n=40), sets(0.6, 0.6, n=40)
    runs = {"full": good, "weights_0_0_0": worse, "group_2": worse, "no_crop": worse}
    reward = "All three auxiliary rewards together contribute"
    moved = _claims({**runs, "sft": worse})
    assert moved["Reinforcement learning contributes"] == moved[reward] == "supported"
    idle = _claims({**runs, "sft": good, "no_format": good})
    assert idle["The format reward contributes"] == "not supported"  # what the data does not support stays so
    assert idle["Reinforcement learning contributes"] == "not supported"
    assert idle[reward] == idle["A group of 4 beats a group of 2"] == "not testable here"
    assert idle["The crop tool contributes"] == "supported"  # other tools, not another way to run RL


def test_answers_that_do_not_parse_support_nothing() -> None:
    """Against an agent without a format its format wins, which is not what the claims are about."""
    good = sets(0.95, 0.9, n=40)
    mute = {name: [replace(e, verdict=None) for e in episodes] for name, episodes in good.items()}
    rest = {"full": good, "sft": mute}
    assert _claims({**rest, "base": sets(0.5, 0.5, n=40)})["The agent beats its own base model"] == "supported"
    found = _claims({**rest, "base": mute, "rl_only": mute})
    for claim in ("The agent beats its own base model", "The SFT cold start contributes"):
        assert found[claim] == "not testable here"
    assert found["The untrained base is weak (at most 60 on average) (project target)"] == "not testable here"


def test_a_fifth_unparsed_is_a_fifth_under_three_seeds_too() -> None:
    def seeds(found: dict, n: int) -> dict:
        return {k: [replace(e, seed=s) for s in range(n) for e in episodes] for k, episodes in found.items()}

    good, some = sets(0.95, 0.9, n=40), sets(0.5, 0.5, n=40)
    some = {k: [replace(e, verdict=None) if i % 5 == 0 else e for i, e in enumerate(v)] for k, v in some.items()}
    mute = {k: [replace(e, verdict=None) for e in v] for k, v in good.items()}
    claim = "The agent beats its own base model"
    for n in (1, 3):
        full = seeds(good, n)
        assert _claims({"full": full, "base": seeds(some, n)})[claim] == "supported"
        assert _claims({"full": full, "base": seeds(mute, n)})[claim] == "not testable here"
    assert _claims({"full": seeds(good, 3), "base": mute})[claim] == "not testable here"


def test_an_opponent_that_rl_spoilt_is_beaten_where_its_start_is_too() -> None:
    good, fair, spoilt = (sets(rate, rate, n=40) for rate in (0.95, 0.7, 0.5))
    runs, claim = {"full": good, "no_tools": spoilt}, "The tool box contributes"
    assert _claims(runs)[claim] == "supported"
    assert _claims({**runs, "sft_no_tools": fair})[claim] == "supported"
    assert _claims({**runs, "sft_no_tools": good})[claim] == "not supported"


def test_a_set_of_one_class_has_no_difference_and_stops_nothing() -> None:
    good, base = sets(0.95, 0.9, n=20), sets(0.5, 0.5, n=20)
    for side in (good, base):
        side["visa"] = [e for e in side["visa"] if e.label]
    table = comparisons.difference_table({"full": good, "base": base}, "tiny", "x")
    name = comparisons.difference_name("full", "base", "balanced_accuracy")
    assert table.get(name, "MVTec") and table.get(name, "VisA") is None and table.get(name, paper.AVERAGE) is None


def test_claims_say_how_much_rl_they_rest_on() -> None:
    assert audit_claims.dose("tiny").startswith("RL here: 8 steps of 16 images, 4 trajectories each")
    assert "learning rate 1e-05" in audit_claims.dose("qwen3-vl-8b")


def test_brackets_of_the_consistency_table_are_rounding_alone() -> None:
    rows = audit_consistency.table("tiny", "x").rows
    noise = [r for r in rows if r.row.startswith("sampling noise")]
    assert noise and all(r.ci is None and r.reported is None for r in noise)
    assert all(r.ci and r.reported is not None for r in rows if r.row.startswith("F1"))
    assert all(r.reported is None or r.reported == round(r.reported, 2) for r in rows)
    assert "F1 12" in audit_consistency.table("tiny", "x").notes[1]


def test_state_of_the_art_is_judged_by_reported_numbers_only() -> None:
    found = _claims({"full": sets(1, 1, n=10)})
    assert found["Still the highest average beside the numbers that IAD-R1 published later"] == "not supported"
    assert found["Highest balanced accuracy, averaged over the five data sets, of all models compared"] == (
        "not testable here"
    )


def test_smoke_supports_nothing() -> None:
    found = _claims({"full": sets(0.95, 0.9, n=10), "base": sets(0.5, 0.5, n=10)}, "smoke")
    assert "supported" not in found.values()


# --- calibration -------------------------------------------------------------------------------------------------


def test_ece_by_hand() -> None:
    logit = float(np.log(0.8 / 0.2))
    episodes = [episode(i, i < 6, True, margin=logit) for i in range(10)]  # says 0.8, is 0.6
    found = calibration.reliability(episodes)
    assert found.ece == pytest.approx(0.2) and found.count.sum() == 10 and found.brier == pytest.approx(0.24 + 0.04)
    assert calibration.reliability([episode(0, True, True)]) is None


def test_seeds_of_opposite_errors_are_not_calibrated_together() -> None:
    """One says 0.8 where 0.6 is true, one 0.4: each is off by 0.2, both pooled by nothing."""
    high, low = float(np.log(0.8 / 0.2)), float(np.log(0.4 / 0.6))
    episodes = [episode(i, i < 6, True, margin=m, seed=s) for s, m in enumerate((high, low)) for i in range(10)]
    cell = calibration.table({"full": {"mvtec": episodes}}, "tiny", "x").get("full, MVTec", "ECE")
    assert cell.value == 20.0 and cell.ci[0] <= 20.0 <= cell.ci[1]


def test_operating_curve_and_missing_margins() -> None:
    episodes = [episode(i, i < 5, True, margin=float(10 - i)) for i in range(10)]
    curve = calibration.operating_curve(episodes)
    assert curve.alarm_at(1.0) == 0
    lost = [replace(episodes[0], margin=None), *episodes[1:]]
    assert calibration.operating_curve(lost).alarm_at(1.0) == 1  # silence is not free
    assert calibration.operating_curve(lost).alarm_at(0.8) == 0


def test_calibration_table() -> None:
    table = calibration.table({"full": {"mvtec": run(0.9, 0.8, n=30)}}, "tiny", "x")
    cell = table.get("full, MVTec", "ECE")
    assert cell.ci[0] <= cell.value <= cell.ci[1]
    table.to_json()


# --- a policy that really looks, to audit ------------------------------------------------------------------------


class Looker:
    """Calls crop on the whole image, then says Yes when the observation is dark somewhere. `blind`: ignores it."""

    def __init__(self, blind: bool = False):
        self.name, self.blind = "looker", blind

    def reply(self, conversations: list, **_: object) -> list[Reply]:
        return [Reply(self._turn(c)) for c in conversations]

    def margins(self, conversations: list) -> list[float | None]:
        return [self._margin(c) for c in conversations]

    def _margin(self, conversation: list) -> float:
        seen = [p["image"] for m in conversation if m["role"] == "tool" for p in m["content"] if p["type"] == "image"]
        if self.blind or not seen:
            seen = [conversation[0]["content"][0]["image"]]
        return (60.0 - float(seen[0].min())) / 20

    def _turn(self, conversation: list) -> str:
        if not any(m["role"] == "tool" for m in conversation):
            routing = "evidence: unsure; suspicion: low; preliminary: No"
            call = '{"name":"crop","arguments":{"region":[0,0,1000,1000],"refine":false}}'
            return f"<think>{routing}</think><call_tool>{call}</call_tool>"
        if self._margin(conversation) > 0:
            return "<think>dark</think><location>[0,0,500,500]</location><type>hole</type><answer>Yes</answer>"
        return "<think>even</think><answer>No</answer>"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Eight grey plates, every other one with a dark spot."""
    folder = tmp_path_factory.mktemp("plates")
    rng = np.random.default_rng(0)
    samples = []
    for i in range(8):
        picture = rng.integers(150, 200, (160, 160, 3), dtype=np.uint8)
        if i % 2 == 0:
            picture[20:30, 20:30] = 10
        path = images.save_png(folder / f"{i}.png", picture)
        samples.append(Sample(f"plate/test/{i}", path, "mvtec", "plate", i % 2 == 0))
    return samples


def _flips(parts: list[Sample], blind: bool) -> list[audit_counterfactual.Flip]:
    policy = Looker(blind)
    episodes = loop.inspect(policy, parts, profile=TINY)
    assert all(e.calls for e in episodes)
    return audit_counterfactual.audit(policy, episodes, parts, profile=TINY)


def test_blanking_hurts_who_looks_and_not_who_does_not(parts: list[Sample]) -> None:
    mechanisms = {f"mvtec:{s.id}": "small" if s.label else "" for s in parts}
    table = audit_counterfactual.table(_flips(parts, blind=False), "tiny", "x", mechanisms)
    table.to_json()
    assert table.get("blanked, all", "as it was").value == 100.0
    assert table.get("blanked, all", "drop").value == 50.0  # every spot is missed on grey
    assert table.get("blanked, tool crop", "right to wrong").value == 50.0
    assert table.get("blanked, mechanism small with crop", "drop").value == 50.0
    assert table.get("blanked, all", "margin lost").value > 0
    blind = audit_counterfactual.table(_flips(parts, blind=True), "tiny", "x")
    assert all(blind.get(f"{kind}, all", "drop").value == 0 for kind in ("blanked", "words blanked", "shuffled"))
    assert blind.get("random crop, all", "drop") is None  # the only window of the whole is the whole: nothing altered
    assert table.get("words blanked, all", "drop").value == 0 < table.get("shuffled, all", "drop").value  # it looks


def test_shuffled_results_come_from_another_image_by_the_same_tool(parts: list[Sample]) -> None:
    call, other = {"name": "crop", "arguments": {}}, {"name": "prior", "arguments": {}}
    every = [[(call, ToolResult(True, f"crop {i}")), (other, ToolResult(True, f"prior {i}"))] for i in range(6)]
    for i, results in enumerate(audit_counterfactual.shuffle(every, seed=1)):
        for (given, result), name in zip(results, ("crop", "prior"), strict=True):
            assert given["name"] == name and result.text.startswith(name) and result.text != f"{name} {i}"
    assert audit_counterfactual.shuffle(every[:1]) == every[:1]
    assert every[0][0][1].text == "crop 0"  # the caller's lists stay


def test_random_crop_keeps_the_shape_and_the_text(parts: list[Sample]) -> None:
    photograph = images.load_image(parts[0].image)
    results = [({"name": "crop", "arguments": {}}, ToolResult(True, "text", [np.zeros((300, 40, 3), np.uint8)]))]
    changed = audit_counterfactual.random_crops(results, photograph, seed=3)
    assert changed[0][1].images[0].shape == (300, 40, 3) and changed[0][1].text == "text"
    with pytest.raises(ValueError, match="unknown alteration"):
        audit_counterfactual.alter("upside down", [], [])


# --- robustness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(audit_robustness.IMAGES))
def test_disturbances_are_repeatable_and_rise(name: str, parts: list[Sample]) -> None:
    sample = parts[0]
    picture = images.load_image(sample.image)
    weak, strong = (audit_robustness.image_transform(name, audit_robustness.strengths(name)[i]) for i in (0, -1))
    first = weak(picture, sample)
    assert first.shape == picture.shape and first.dtype == np.uint8
    assert np.array_equal(first, weak(picture, sample))
    change = [np.abs(f(picture, sample).astype(int) - picture).mean() for f in (weak, strong)]
    assert 0 < change[0] < change[1]
    assert np.array_equal(audit_robustness.image_transform(name, 0)(picture, sample), picture)


def test_unknown_disturbance_is_named() -> None:
    with pytest.raises(ValueError, match="unknown disturbance"):
        audit_robustness.image_transform("fog", 1)


def test_corruption_rates_are_nested(parts: list[Sample]) -> None:
    many = [replace(parts[0], id=f"p{i}") for i in range(200)]
    clean, call = ToolResult(True, "length 123 px", [np.full((9, 9, 3), 100, np.uint8)]), {"name": "measure"}
    hit = {
        r: {s.id for s in many if audit_robustness.tool_corruption(r)(clean, call, s) != clean} for r in (0.0, 0.3, 0.6)
    }
    assert not hit[0.0] and hit[0.3] < hit[0.6] and 30 < len(hit[0.3]) < 90
    spoilt = audit_robustness.spoil(clean, np.random.default_rng(0))
    assert len(spoilt.text) == len(clean.text) and spoilt.images[0].std() > 0
    assert all((a == b) is (a == " ") for a, b in zip(spoilt.text, clean.text, strict=True))


def test_robustness_audit_end_to_end(parts: list[Sample]) -> None:
    conditions = audit_robustness.conditions(["exposure"], rates=(1.0,), points=1)
    points = [audit_robustness.point(Looker(), parts, *one, profile=TINY) for one in conditions]
    table = audit_robustness.table(points, "tiny", "x")
    table.to_json()
    assert table.get("undisturbed", "balanced accuracy").value == 100.0
    assert table.get("tool results 1", "loss").value > 0
    assert [p.disturbance for p in points] == ["none", "exposure", "tool results"]


def test_paper_json_is_found_from_the_package() -> None:
    assert Path(paper.PATH).is_file()
