"""Pre-training data and trainer of the miniature: targets where the marks are, true answers, exact resume."""

from __future__ import annotations

import json
import re
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indus_lib import base_data, base_scores, base_training, base_views
from indus_lib.base_data import CLASSES, GRIDS, IGNORED, free_points, scene_views
from indus_lib.base_talk import NAMES, Facts, Seen, talk
from indus_lib.processing import StandardisedImageProcessor

FEW = base_training.BaseConfig(
    scenes=10, held_out=2, dense_steps=2, talk_steps=2, batch=4, questions=4, save_every=99
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views of ten scenes."""
    return base_data.generate(tmp_path_factory.mktemp("base"), FEW.scenes, workers=1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_views_are_whole_and_their_facts_survive_json(seed: int) -> None:
    views = list(scene_views(seed))
    assert len(views) == base_data.VIEWS
    for view in views:
        rows, columns = GRIDS[view.grid]
        assert view.image.shape == (rows * 16, columns * 16, 3) and view.image.dtype == np.uint8
        assert view.targets.shape == (rows * columns, len(CLASSES)) and set(np.unique(view.targets)) <= {IGNORED, 0, 1}
        kinds = {CLASSES[k] for k in np.flatnonzero((view.targets == 1).any(0))}
        assert {m.kind for m in view.facts.seen} <= kinds  # whatever is spoken of is also a target
        assert Facts.of_json(json.loads(json.dumps(astuple(view.facts)))) == view.facts


def test_a_mark_is_a_target_in_its_patch_only() -> None:
    view = next(v for s in range(40) for v in [next(scene_views(s))] if len(v.facts.seen) == 1)
    (mark,) = view.facts.seen
    rows, columns = GRIDS[view.grid]
    hit = np.flatnonzero(view.targets[:, CLASSES.index(mark.kind)] == 1)
    xs, ys = (hit % columns + 0.5) * 1000 / columns, (hit // columns + 0.5) * 1000 / rows
    reach = 1000 / min(rows, columns)
    assert len(hit) and (xs > mark.box[0] - reach).all() and (xs < mark.box[2] + reach).all()
    assert (ys > mark.box[1] - reach).all() and (ys < mark.box[3] + reach).all()


MARKS = st.builds(
    Seen, st.sampled_from(NAMES), st.just((100, 200, 300, 400)), st.booleans()
)  # one place: what matters here is the name


@given(seen=st.lists(MARKS, max_size=4), row=st.sampled_from([(), (100, 500, 900, 520)]), seed=st.integers(0, 999))
def test_answers_are_true(seen: list[Seen], row: tuple[int, ...], seed: int) -> None:
    facts = Facts(tuple(seen), row, "", "flat steel, steel")
    names, kinds = {m.name for m in seen}, {m.kind for m in seen}
    rng = np.random.default_rng(seed)
    for question, answer in [talk(rng, facts, [(50.0, 50.0)], bool(k % 2)) for k in range(8)]:
        if question.startswith("Is there a "):
            asked = question.removeprefix("Is there a ").partition("?")[0]
            assert answer == ("Yes" if asked in names | kinds else "No")
        elif found := re.match(r"Is (\d+) % more than (\d+) %\?", question):
            assert answer == ("Yes" if int(found[1]) > int(found[2]) else "No")
        elif question.startswith("It lies at ["):
            assert answer == question.removeprefix("It lies at ").partition(" ")[0]
        elif question == "How many marks?":
            assert answer == f"{len(seen)}."
        elif question.startswith("What is at [50,50]"):
            assert answer == "nothing."
        elif question == "Where is the row?":
            assert answer == ("[100,500] to [900,520]." if row else "no row.")
        elif question == "What do you see?":
            assert answer == f"{seen[0].name if seen else 'nothing'}."


def test_free_points_lie_outside_the_marks() -> None:
    view = next(v for s in range(40) for v in [next(scene_views(s))] if v.facts.seen)
    rows, columns = GRIDS[view.grid]
    for x, y in free_points(view.targets, view.grid):
        assert view.targets[int(y * rows / 1000) * columns + int(x * columns / 1000), -1] == 0


def test_the_tower_is_frozen_while_the_language_model_learns(data: Path, tmp_path: Path) -> None:
    trainer = base_training.BaseTrainer(FEW, data, tmp_path / "m", ["a text"])
    before = [p.detach().clone() for p in trainer.model.model.visual.parameters()]
    words = trainer.model.lm_head.weight.detach().clone()
    for step in range(FEW.dense_steps):
        assert "dense" in trainer.train_step(np.random.default_rng(step))
        trainer.step += 1
    middle = [p.detach().clone() for p in trainer.model.model.visual.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(before, middle, strict=True))
    assert torch.equal(words, trainer.model.lm_head.weight)
    trainer._enter_part()  # settles the tower's output, then freezes it
    middle = [p.detach().clone() for p in trainer.model.model.visual.parameters()]
    assert "language" in trainer.train_step(np.random.default_rng(9))
    after = list(trainer.model.model.visual.parameters())
    assert all(torch.equal(a, b) for a, b in zip(middle, after, strict=True))
    assert not torch.equal(words, trainer.model.lm_head.weight)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_killed_run_goes_on_to_the_same_weights(data: Path, tmp_path: Path, stop: int) -> None:
    whole = base_training.BaseTrainer(FEW, data, tmp_path / "whole", ["a text"])
    whole.run()
    config = replace(FEW, save_every=stop)
    killed = base_training.BaseTrainer(config, data, tmp_path / "killed", ["a text"])
    killed.checkpoint = lambda save=killed.checkpoint: (save(), (_ for _ in ()).throw(KeyboardInterrupt))  # type: ignore
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    again = base_training.BaseTrainer(FEW, data, tmp_path / "killed", ["a text"])
    again.run()
    assert len(again.log) == FEW.steps
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_settling_changes_no_patch_label(data: Path, tmp_path: Path) -> None:
    """The tower's output gets another size and mean, the grounding head's answers stay what they were."""
    trainer = base_training.BaseTrainer(FEW, data, tmp_path / "m", ["a text"])
    trainer.model.eval()
    pixels, _, grid = trainer.views.take(np.arange(4), np.zeros((4, 2), bool))
    before = trainer.labels(pixels, grid)
    trainer._settle()
    merged = trainer.look(pixels, grid)
    torch.testing.assert_close(trainer.labels(pixels, grid), before, rtol=1e-4, atol=1e-4)
    assert 0 < float(merged.detach().std()) < 3 * base_training.FEATURE_SIZE
    assert not trainer.model.model.visual(pixels, grid_thw=grid).deepstack_features[0].any()


def test_the_word_for_a_kind_begins_where_the_tower_puts_it(data: Path, tmp_path: Path) -> None:
    trainer = base_training.BaseTrainer(FEW, data, tmp_path / "m", ["a crack, a hole, a print"] * 50)
    trainer._settle()
    (token,) = trainer.processor.tokenizer.encode(" crack", add_special_tokens=False)
    word = trainer.model.get_input_embeddings().weight[token]
    similarity = torch.cosine_similarity(trainer.head.weight[: len(NAMES)], word, dim=1)
    assert int(similarity.argmax()) == NAMES.index("crack") and float(word.norm()) == pytest.approx(1, abs=1e-4)


def test_naming_looks_at_all_patches_of_a_mark_together(data: Path, tmp_path: Path) -> None:
    trainer = base_training.BaseTrainer(FEW, data, tmp_path / "m", ["a text"])
    targets = torch.zeros(2, base_data.CELLS, len(CLASSES))
    targets[0, 3:6, NAMES.index("crack")] = targets[1, 4, NAMES.index("hole")] = 1
    right, nothing = torch.zeros_like(targets), torch.zeros_like(targets)
    right[0, 3, NAMES.index("crack")], right[1, 4, NAMES.index("hole")] = 60, 20  # one patch gives the crack away
    assert float(trainer._naming(right, targets)) < 0.01 < float(trainer._naming(nothing, targets))
    assert float(trainer._naming(right.flip(1), targets)) >= float(trainer._naming(nothing, targets))
    assert float(trainer._naming(right, targets * 0)) == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), grid=st.integers(0, len(GRIDS) - 1), spread=st.sampled_from([0, 3, 80]))
def test_patches_of_many_views_are_those_of_the_processor(seed: int, grid: int, spread: int) -> None:
    rng, (high, wide) = np.random.default_rng(seed), (16 * n for n in GRIDS[grid])
    views = np.clip(128 + rng.normal(0, spread, (2, high, wide, 3)), 0, 255).astype(np.uint8)
    process = StandardisedImageProcessor(patch_size=8, merge_size=2, temporal_patch_size=2)
    expected = np.asarray(process(list(views), do_resize=False)["pixel_values"])
    found = base_views.patches(torch.from_numpy(views)).flatten(0, 1)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_a_view_is_turned_with_its_targets(data: Path, tmp_path: Path) -> None:
    trainer = base_training.BaseTrainer(FEW, data, tmp_path / "m", ["a text"])
    rows = np.arange(FEW.scenes * base_data.VIEWS)
    straight, turned = (trainer.views.take(rows, np.full((len(rows), 2), turn)) for turn in (False, True))
    sizes = straight[2].prod(-1).tolist()
    for row, a, b in zip(rows, straight[0].split(sizes), turned[0].split(sizes), strict=True):
        high, wide = (16 * n for n in GRIDS[int(trainer.views.grids[row])])
        image = trainer.views.images[row, : high * wide * 3].view(1, high, wide, 3)
        torch.testing.assert_close(a, base_views.patches(image)[0])
        torch.testing.assert_close(b, base_views.patches(image.flip(1, 2))[0])
        cells, n = trainer.views.targets[row].numpy(), high * wide // 256
        expected = cells[:n].reshape(high // 16, wide // 16, -1)[::-1, ::-1].reshape(n, -1)
        assert (turned[1][row, :n].numpy() == expected).all() and (straight[1][row].numpy() == cells).all()
        assert (cells[n:] == IGNORED).all()


def test_a_mark_that_the_map_holds_back_is_no_target_of_it() -> None:
    part = np.zeros((80, 80), bool)
    part[20:40, 20:40] = True
    flat, shown = np.full((160, 160, 3), 128, np.uint8), np.full((160, 160, 3), 128, np.uint8)
    shown[40:80, 40:80] = 60
    assert base_data._response(flat, part) == 0 and base_data._response(shown, part) == 68
    assert base_data._response(shown, np.zeros((80, 80), bool)) == 0


def test_a_nearly_flat_picture_stays_flat_for_the_tower() -> None:
    rng = np.random.default_rng(0)
    process = StandardisedImageProcessor(size={"shortest_edge": 4608, "longest_edge": 9216}, patch_size=8, merge_size=2)
    quiet, loud = (np.clip(128 + rng.normal(0, s, (96, 96, 3)), 0, 255).astype(np.uint8) for s in (2, 40))
    deviations = [float(np.std(np.asarray(process([image])["pixel_values"]))) for image in (quiet, loud)]
    assert deviations[0] < 0.15 and deviations[1] == pytest.approx(1, abs=0.05)


def test_every_question_is_scored_with_the_right_and_with_another_picture(data: Path, tmp_path: Path) -> None:
    trainer = base_training.BaseTrainer(replace(FEW, dense_steps=0, held_out=9), data, tmp_path / "m", ["a text"])
    found = base_scores.scores(trainer)
    questions = {name for name in found if f"{name}, other picture" in found}
    assert len(questions) > 2
    assert {"auroc_global", "auroc_window", "auroc_map", "named"} <= set(found)
    assert all(0 <= value <= 1 for value in found.values()) and trainer.model.training
