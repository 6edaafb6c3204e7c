"""What the notebooks say about their worked examples holds for what the library shows there."""

from __future__ import annotations

import math
import types
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from indus_lib import (
    demo,
    demo_tables,
    experiments,
    figures,
    grounding,
    loop,
    probes,
    profiles,
    protocol,
    rewards,
    tiny_model,
    tool_crop,
    train_data,
)
from indus_lib.images import save_png
from indus_lib.samples import Sample
from indus_lib.tables import Row, Table


@pytest.fixture
def coins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    return demo.photograph()


def test_the_crop_of_the_coins_is_a_small_window_enlarged_three_times(coins: Sample) -> None:
    photo = demo.pixels(coins)
    result = loop.run_call(demo.four_calls(coins, photo)[0], photo, coins)
    left, top, right, bottom = result.details["window_px"]
    assert result.details["method"] == "foreground extraction"
    assert max(right - left, bottom - top) < tool_crop.MIN_SIDE == 96
    assert result.images[0].shape[:2] == (3 * (bottom - top), 3 * (right - left))


def test_a_row_of_six_coins_is_found_from_rough_points(coins: Sample) -> None:
    photo = demo.pixels(coins)
    call = demo.four_calls(coins, photo)[3]
    result = loop.run_call(call, photo, coins)
    assert result.text.startswith("row: 6 features") and result.details["at_points"]
    assert (np.abs(np.array(result.details["centres"])[:, 1] / len(photo) - 0.64) < 0.02).all(), "the third row"
    for shift in product((-10, 10), repeat=4):
        points = np.array(call["arguments"]["points"]) + np.reshape(shift, (2, 2))
        moved = {"name": "measure", "arguments": {"kind": "row", "points": points.tolist()}}
        assert loop.run_call(moved, photo, coins).text.startswith("row: 6 features"), shift


def test_the_prior_has_only_something_similar_to_the_coins(coins: Sample) -> None:
    photo = demo.pixels(coins)
    result = loop.run_call(demo.four_calls(coins, photo)[2], photo, coins)
    assert result.text.startswith("prior: Closest known product") and result.details["score"] < 1


@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90)])
def test_another_photograph_has_calls_of_its_own(tmp_path: Path, height: int, width: int) -> None:
    save_png(tmp_path / "mine.png", np.full((height, width, 3), 90, np.uint8))
    sample = demo.photograph(str(tmp_path / "mine.png"), "bottle")
    photo = demo.pixels(sample)
    calls = demo.four_calls(sample, photo)
    results = [loop.run_call(call, photo, sample) for call in calls]
    assert [c["name"] for c in calls] == ["crop", "enhance", "prior", "measure"] and all(r.ok for r in results)
    assert results[2].text.startswith("prior: Normal bottle"), "its own category, not the coins"
    (x1, y1), (x2, y2) = calls[3]["arguments"]["points"]
    assert (y1 == y2 == 500) if width > height else (x1 == x2 == 500)
    assert demo.tool_sheet(photo, calls, sample).axes[4].get_title().startswith("measure: row:")


def test_the_miniature_has_the_size_that_notebook_3_tells(repo: Path) -> None:
    with safe_open(repo / "data/models/indus-tiny/model.safetensors", "pt") as file:
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    language = sum(n for name, n in sizes.items() if ".visual." not in name)
    assert (round(language / 1e6, 1), round(sum(sizes.values()) / 1e6, 1)) == (1.4, 5.7)


def test_the_token_view_shows_what_the_model_takes_for_likely(repo: Path) -> None:
    """Their mean is the loss that transformers computes; the view has those of the tokens that carry loss, no other."""
    model, processor = tiny_model.load(repo / "data" / "models" / "indus-tiny")
    asked = protocol.start(np.full((64, 64, 3), 120, np.uint8), "Is it anomalous?")
    talk = protocol.add_assistant(asked, "<think>plain</think><answer>No</answer>")
    one = train_data.encode(talk, processor)
    found = demo.log_p(one, model)
    ids = torch.from_numpy(one.input_ids)[None]
    given = {"pixel_values": one.pixel_values, "image_grid_thw": one.image_grid_thw}
    with torch.no_grad():
        loss = model(
            input_ids=ids, mm_token_type_ids=(ids == processor.image_token_id).long(), labels=ids, **given
        ).loss
    assert found[0] is None and np.mean(found[1:]) == pytest.approx(-float(loss), abs=1e-4)
    view = demo.token_view(one, processor, types.SimpleNamespace(model=model))
    assert sum(t.log_p is not None for t in view.tokens) == one.mask.sum()


def test_the_loss_by_hand_is_that_of_grpo_at_ratio_one() -> None:
    advantage, kept = 1.3, ("text", "tokens", "generated", "loss of each", "loss of all")
    rows = demo.loss_by_hand(profiles.get("tiny"), advantage)
    assert [r["generated"] for r in rows] == [False, True, False, True] and tuple(rows[0]) == kept
    assert "<observation>crop" in rows[2]["text"] and rows[2]["tokens"] > 0 and rows[2]["loss of each"] == 0
    assert "<call_tool>" in rows[1]["text"] and "<answer>Yes" in rows[3]["text"]
    mask = torch.tensor([[r["generated"] for r in rows for _ in range(r["tokens"])]], dtype=torch.float)
    log_p = torch.zeros_like(mask, requires_grad=True)
    each = -advantage * torch.exp(log_p - log_p.detach())
    loss = (each * mask).sum(-1) / mask.sum(-1)  # as TRL's loss_type "grpo"
    loss.sum().backward()
    assert sum(r["loss of all"] for r in rows) == pytest.approx(loss.item(), abs=1e-3)
    given = torch.tensor([[r["loss of each"] for r in rows for _ in range(r["tokens"])]])
    assert torch.allclose(given, log_p.grad, atol=1e-4)


def test_the_rewards_by_hand_are_those_that_notebook_4_checks_on_paper() -> None:
    group = demo.rollouts()
    rows = demo.reward_rows(group, [rewards.combined(e, s) for e, s in group])
    assert rows[0]["total"] == pytest.approx(1 + 0.8 * 1 + 0.6 * 1 + 0.5 * (0.3 - 0.1))
    assert rows[2]["loc"] == 1 and rows[2]["total"] == 0, "the gate is shut"


def test_a_contact_sheet_shows_images_from_the_whole_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "test_sets", lambda *_: pytest.fail("the sets are read already"))
    samples = []
    for level in range(0, 250, 10):
        path = save_png(tmp_path / f"{level}.png", np.full((40, 20, 3), level, np.uint8))
        samples.append(Sample(path.stem, path))
    (axis,) = demo.sheet("mvtec", samples, False, columns=3, rows=2).axes
    shown = axis.images[0].get_array()
    assert shown.shape == (2 * 160, 3 * 160, 3) and "real" in axis.get_title(loc="left")
    found = [int(shown[y, x, 0]) for y in (80, 240) for x in (40, 200, 360)]
    assert found == [0, 40, 90, 140, 190, 240], "evenly chosen, from the first to the last"


def test_what_cannot_be_measured_is_one_line_and_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real data sets and a model of the hub: no mechanisms, no grounding head."""
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    qwen = profiles.get("qwen3-vl-8b")
    tables = [probes.table(qwen), grounding.table(qwen), grounding.patch_table(qwen)]
    demo_tables.write_and_show([table.noted(["Data: none."]) for table in tables], qwen)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["probes", "grounding", "grounding_patches"]
    assert all("Not measured here" in line for line in lines)
    demo_tables.show_and_save({"probes": probes.figure(tables[0]), "grounding": grounding.figure(qwen)}, qwen)
    assert not (experiments.folder(qwen) / "figures").exists()
    assert len(list((experiments.folder(qwen) / "tables").glob("*.json"))) == 3


def test_what_was_measured_is_shown_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    shown: list[object] = []
    monkeypatch.setattr(demo_tables, "display", shown.append)
    rows = tuple(Row(r, "small", 80.0, (70.0, 90.0), 9, 9) for r in ("global view", "+ right tool", "+ wrong tool"))
    tiny = profiles.get("tiny")
    table = Table("probes", "Probes", tiny.name, tiny.hash, rows)
    demo_tables.write_and_show([table], tiny)
    demo_tables.show_and_save({"probes": probes.figure(table)}, tiny)
    assert shown[0] is table and isinstance(shown[1], type(figures.new()))
    assert (experiments.folder(tiny) / "figures/probes.png").is_file()
