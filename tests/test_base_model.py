"""Pre-training data and trainer of the miniature: targets where the marks are, true answers, exact resume."""

from __future__ import annotations

import json
import re
from dataclasses import astuple, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indus_lib import (
    base_data,
    base_reports,
    base_scores,
    base_store,
    base_tower,
    base_training,
    base_views,
    boxes,
    tool_crop,
)
from indus_lib.base_data import CLASSES, GRIDS, IGNORED, VIEWS, free_points, scene_views
from indus_lib.base_language import FIRST, Talks, Turn
from indus_lib.base_talk import ADJECTIVES, GLYPHS, NAMES, NOTHING, YES_OR_NO, Facts, Report, Seen, talk
from indus_lib.factory_marks import Mark
from indus_lib.processing import StandardisedImageProcessor
from indus_lib.tool_result import ToolResult
from indus_lib.train_data import IGNORED as UNLEARNT

FEW = base_training.BaseConfig(
    scenes=10, first_scenes=6, held_out=2, dense_steps=2, talk_steps=3, batch=4, turns=6, save_every=99
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views of ten scenes."""
    return base_store.generate(tmp_path_factory.mktemp("base"), FEW.scenes, workers=1)


def trainer_of(data: Path, out: Path, *texts: str, **changed: object) -> base_training.BaseTrainer:
    """A trainer of few steps; `listening` once it has no step of the tower."""
    trainer = base_training.BaseTrainer(replace(FEW, **changed), data, out, list(texts) or ["a text"])
    if trainer.talks:
        trainer.listen()
    return trainer


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
TOLD = st.one_of(
    st.none(),
    st.sampled_from([NOTHING, "crack", "dark ring", "bent row"]).map(
        lambda told: Report("crop [0,0,1000,1000], it lies at [10,20,30,40], tiny", told, (10, 20, 30, 40), "it")
    ),
)


@given(
    seen=st.lists(MARKS, max_size=4), row=st.sampled_from([(), (100, 500, 900, 520)]), report=TOLD,
    seed=st.integers(0, 999),
)  # fmt: skip
def test_answers_are_true(seen: list[Seen], row: tuple[int, ...], report: Report | None, seed: int) -> None:
    facts = Facts(tuple(seen), row, "", "flat steel", report)
    rng = np.random.default_rng(seed)
    for k in range(12):
        question, answer = talk(rng, facts, [(50.0, 50.0)], bool(k % 2), ["flat steel", "plate"])
        _check_sight(question.removesuffix(YES_OR_NO), answer, facts)
        _check_reading(question.removesuffix(YES_OR_NO), answer, facts)


def _check_sight(question: str, answer: str, facts: Facts) -> None:
    """What is asked of the picture."""
    if question.startswith("Is there a "):
        asked = question.removeprefix("Is there a ").removesuffix("?")
        assert answer == ("Yes" if asked in {m.name for m in facts.seen} | {m.kind for m in facts.seen} else "No")
    elif question == "How many marks?":
        assert answer == f"{len(facts.seen)}."
    elif question.startswith("What is at [50,50]"):
        assert answer == "nothing."
    elif question == "Where is the row?":
        assert answer == ("[100,500] to [900,520]." if facts.row else "no row.")
    elif question in ("What do you see?", "What is on it?", "What stands out?"):
        assert answer == f"{facts.seen[0].name if facts.seen else 'nothing'}."
    elif question.startswith("Is this "):
        assert answer == ("Yes" if question == "Is this flat steel?" else "No")
    elif question == "What surface is this?":
        assert answer == "flat steel."


def _check_reading(question: str, answer: str, facts: Facts) -> None:
    """What is asked of words."""
    if found := re.fullmatch(r"Is (\d+) % more than (\d+) %\?", question):
        assert answer == ("Yes" if int(found[1]) > int(found[2]) else "No")
    elif found := re.fullmatch(r"Listed: (.+)\. Is (\S+) listed\?", question):
        assert answer == ("Yes" if found[2] in found[1].split(", ") else "No")
    elif found := re.fullmatch(r"Said: (.+)\. Where is the (\S+)\?", question):
        assert f"{found[2]} at {answer[:-1]}" in found[1]
    elif found := re.fullmatch(r"Said: (.+)\. What is said at (\S+)\?", question):
        assert f"{answer[:-1]} at {found[2]}" in found[1]
    elif facts.report and question == f"{facts.report.text}. What is it?":
        assert answer == f"{facts.report.told}."
    elif facts.report and question == f"{facts.report.text}. Where is it?":
        assert answer == "[10,20,30,40]."
    elif question.endswith("Does it belong?"):
        _check_belongs(question, answer, facts)


def _check_belongs(question: str, answer: str, facts: Facts) -> None:
    """By sentence: what it names, and whether it says that this belongs."""
    named = re.search(r"There is a (\w+ \S+)\. ", question)
    told = facts.report is not None and facts.report.told.split()[-1] in GLYPHS
    sign = facts.report.told if told and facts.report else named[1] if named else facts.signs[0]
    rules = question.partition(" crop [")[0].partition(" There is a ")[0].removesuffix(" Does it belong?")
    for sentence in re.findall(r"[^.]+\.", rules):
        words = [w for w in re.findall(r"[\w-]+", sentence) if w not in ADJECTIVES]
        if sign in " ".join(words):
            denied = any(word in words for word in ("not", "No", "foreign", "Not"))
            assert answer == ("No" if denied else "Yes")
            return
    assert answer == "No"  # the text names what belongs, and this is not it


def test_what_a_tool_found_is_what_was_drawn_there() -> None:
    image = np.full((200, 200, 3), 120, np.uint8)
    image[80:90, 100:112] = 30
    mask = image[..., 0] < 100
    marks = [Mark("crack", (100, 80, 112, 90), mask, -90.0)]
    result = tool_crop.crop(image, (0, 0, 1000, 1000))
    found = base_reports.of_crop(result, marks, image.shape)
    assert found is not None and found.told == "crack" and boxes.iou(found.box, (500, 400, 560, 450)) > 0.5
    elsewhere = [Mark("crack", (20, 20, 30, 30), np.roll(mask, (-60, -80), (0, 1)), -90.0)]
    assert base_reports.of_crop(result, elsewhere, image.shape).told == NOTHING  # type: ignore[union-attr]
    assert base_reports.of_crop(tool_crop.crop(image * 0, (0, 0, 1000, 1000)), marks, image.shape) is None
    said = "strongest at [500,400,560,450], strength 20, high"
    besides = ToolResult(True, f"{said}; besides small dark dot at [0,0,50,50], clarity low", [image])
    told = base_reports.of_map(besides, marks, image.shape)
    assert told is not None and told.text == said and told.told == "crack"  # not what lies at the other box


def test_a_row_is_told_as_it_was_drawn() -> None:
    told = {v.facts.report.told for s in range(60) for v in [next(scene_views(s))] if v.facts.report}
    assert "even row" in told and len(told) > 2 and all(name.endswith(" row") for name in told)


def test_a_batch_is_what_the_model_itself_makes_of_the_pictures(data: Path, tmp_path: Path) -> None:
    """Remembered features, our positions and no mask against transformers' own forward pass."""
    trainer = trainer_of(data, tmp_path / "m", dense_steps=0)
    rng = np.random.default_rng(3)
    conversations = [trainer.conversations.conversation(n, rng, False) for n in (1, 3, 2)]
    batch = trainer.conversations.batch(conversations)
    shown = np.array([view for turns in conversations for turn in turns for view in turn.shown])
    pixels, _, grid = trainer.views.take(shown, np.zeros((len(shown), 2), bool))
    pad, image = trainer.processor.tokenizer.pad_token_id, trainer.processor.image_token_id
    trainer.model.eval()
    with torch.no_grad():
        ours = trainer.forward(batch)
        theirs = trainer.model.model(
            input_ids=batch.ids, attention_mask=(batch.ids != pad).long(), image_grid_thw=grid, pixel_values=pixels,
            mm_token_type_ids=(batch.ids == image).long(),
        ).last_hidden_state  # fmt: skip
    learnt = batch.labels != UNLEARNT
    torch.testing.assert_close(ours[learnt], theirs[learnt], rtol=1e-3, atol=1e-3)


def test_answers_alone_are_learnt_and_count_by_the_root_of_their_length(data: Path, tmp_path: Path) -> None:
    talks = trainer_of(data, tmp_path / "m", dense_steps=0).conversations
    batch = talks.batch([[Turn((10,), ("Where?", "[10,20,30,40].")), Turn((), (FIRST + "What?", "nothing."))]])
    spoken = batch.ids[batch.labels != UNLEARNT]
    assert talks.processor.tokenizer.decode(spoken) == "[10,20,30,40].<|im_end|>nothing.<|im_end|>"
    assert (batch.labels[batch.labels != UNLEARNT] == spoken).all()
    assert (batch.weights > 0).equal(batch.labels != UNLEARNT)
    ends = (spoken == talks.processor.tokenizer.eos_token_id).nonzero()[:, 0].tolist()
    weights = batch.weights[batch.weights > 0]
    assert float(weights[: ends[0] + 1].sum()) == pytest.approx((ends[0] + 1) ** 0.5)
    assert float(weights[ends[0] + 1 :].sum()) == pytest.approx((ends[1] - ends[0]) ** 0.5)


def test_batches_are_drawn_from_seed_and_step_alone(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path / "m", dense_steps=0)
    options = {"size": 6, "steps": 9, "short": 2, "held_out": 2, "seed": 4}
    once, again = (Talks(data, tmp_path / "m", **options) for _ in range(2))  # type: ignore[arg-type]
    for step in (8, 0, 5):
        for field in fields(once[step]):
            assert torch.equal(getattr(once[step], field.name), getattr(again[step], field.name))
    assert not torch.equal(once[0].ids, once[3].ids)
    assert int(once[4].patches[:, 0].min()) >= 2 * VIEWS and trainer.conversations.seed == 0


def test_the_tower_sees_more_scenes_as_they_are_drawn() -> None:
    config = replace(FEW, scenes=100, first_scenes=20, dense_steps=50, all_by=0.8)
    seen = [config.scenes_at(step) for step in range(51)]
    assert seen[0] == 20 and seen[40] == seen[50] == 100 and seen == sorted(seen)


def test_drawing_that_fails_or_was_broken_off_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base_store.generate(tmp_path, 2, workers=1)
    base_store.prepare(tmp_path, 2)
    assert base_store.written(tmp_path) == 2 * VIEWS  # whole: kept
    (tmp_path / base_store.PROGRESS).write_text("6")
    base_store.prepare(tmp_path, 2)
    assert base_store.written(tmp_path) == 0
    monkeypatch.setattr(base_views, "PATIENCE", 0.3)
    with pytest.raises(TimeoutError, match="0 of 12 views"):
        base_views.Views(tmp_path, torch.device("cpu")).wait(12)


def test_views_that_are_not_written_yet_are_waited_for(tmp_path: Path) -> None:
    base_store.prepare(tmp_path, 3)
    views = base_views.Views(tmp_path, torch.device("cpu"))
    assert base_store.written(tmp_path) == views.ready == 0
    base_store.generate(tmp_path, 3, workers=1)
    views.wait(3 * VIEWS)
    assert views.ready == 3 * VIEWS and views.images.any(1).all()
    assert len(base_store.read_facts(tmp_path)) == 3 * VIEWS and len(base_store.read_facts(tmp_path, 4)) == 4
    stamp = (tmp_path / base_store.FACTS).stat().st_mtime_ns
    base_store.generate(tmp_path, 3, workers=1)  # done once
    assert (tmp_path / base_store.FACTS).stat().st_mtime_ns == stamp


def test_free_points_lie_outside_the_marks() -> None:
    view = next(v for s in range(40) for v in [next(scene_views(s))] if v.facts.seen)
    rows, columns = GRIDS[view.grid]
    for x, y in free_points(view.targets, view.grid):
        assert view.targets[int(y * rows / 1000) * columns + int(x * columns / 1000), -1] == 0


def test_the_tower_is_frozen_while_the_language_model_learns(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path / "m")
    before = [p.detach().clone() for p in trainer.model.model.visual.parameters()]
    words = trainer.model.lm_head.weight.detach().clone()
    for _ in range(FEW.dense_steps):
        assert trainer.train_step()[0] == "dense"
        trainer.step += 1
    middle = [p.detach().clone() for p in trainer.model.model.visual.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(before, middle, strict=True))
    assert torch.equal(words, trainer.model.lm_head.weight)
    trainer._enter_part()  # settles the tower's output, then freezes it
    trainer.listen()
    middle = [p.detach().clone() for p in trainer.model.model.visual.parameters()]
    assert trainer.train_step()[0] == "language"
    after = list(trainer.model.model.visual.parameters())
    assert all(torch.equal(a, b) for a, b in zip(middle, after, strict=True))
    assert not torch.equal(words, trainer.model.lm_head.weight)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_killed_run_goes_on_to_the_same_weights(data: Path, tmp_path: Path, stop: int) -> None:
    whole = trainer_of(data, tmp_path / "whole")
    whole.run()
    killed = trainer_of(data, tmp_path / "killed", save_every=stop)
    killed.checkpoint = lambda save=killed.checkpoint: (save(), (_ for _ in ()).throw(KeyboardInterrupt))  # type: ignore
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    again = trainer_of(data, tmp_path / "killed")
    again.run()
    assert again.step == FEW.steps and again.log[-1]["step"] == FEW.steps
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_tower_can_be_trained_further(data: Path, tmp_path: Path) -> None:
    first = trainer_of(data, tmp_path / "first", dense_steps=1)
    first.train_step()
    first.save()
    again = base_training.BaseTrainer(FEW, data, tmp_path / "again", ["a text"], tower=tmp_path / "first")
    for a, b in zip(first.model.model.visual.parameters(), again.model.model.visual.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.01, atol=0.01)  # kept in bfloat16
    assert torch.equal(first.head.weight, again.head.weight)


def test_settling_changes_no_patch_label(data: Path, tmp_path: Path) -> None:
    """The tower's output gets another size and mean, the grounding head's answers stay what they were."""
    trainer = trainer_of(data, tmp_path / "m")
    trainer.model.eval()
    pixels, _, grid = trainer.views.take(np.arange(4), np.zeros((4, 2), bool))
    before = trainer.labels(pixels, grid)
    trainer._settle()
    merged = trainer.look(pixels, grid)
    real = torch.arange(base_data.CELLS) < grid.prod(-1, keepdim=True) // 4
    torch.testing.assert_close(trainer.labels(pixels, grid)[real], before[real], rtol=1e-4, atol=1e-4)
    assert 0 < float(merged.detach().std()) < 3 * base_tower.FEATURE_SIZE
    assert not trainer.model.model.visual(pixels, grid_thw=grid).deepstack_features[0].any()


def test_the_word_for_a_kind_begins_where_the_tower_puts_it(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path / "m", *["a crack, a hole, a print"] * 50)
    trainer._settle()
    (token,) = trainer.processor.tokenizer.encode(" crack", add_special_tokens=False)
    word = trainer.model.get_input_embeddings().weight[token].detach()
    similarity = torch.cosine_similarity(trainer.head.weight[: len(NAMES)], word, dim=1)
    assert int(similarity.argmax()) == NAMES.index("crack") and float(word.norm()) == pytest.approx(1, abs=1e-4)


def test_naming_looks_at_all_patches_of_a_mark_together() -> None:
    naming, targets = base_tower.naming_loss, torch.zeros(2, base_data.CELLS, len(CLASSES))
    targets[0, 3:6, NAMES.index("crack")] = targets[1, 4, NAMES.index("hole")] = 1
    right, nothing = torch.zeros_like(targets), torch.zeros_like(targets)
    right[0, 3, NAMES.index("crack")], right[1, 4, NAMES.index("hole")] = 60, 20  # one patch gives the crack away
    assert float(naming(right, targets)) < 0.01 < float(naming(nothing, targets))
    assert float(naming(right.flip(1), targets)) >= float(naming(nothing, targets))
    assert float(naming(right, targets * 0)) == 0


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
    trainer = trainer_of(data, tmp_path / "m")
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
    trainer = trainer_of(data, tmp_path / "m", dense_steps=0, held_out=9)
    found = base_scores.scores(trainer)
    questions = {name for name in found if f"{name}, other picture" in found}
    assert len(questions) > 2
    assert {"auroc_global", "auroc_window", "auroc_map", "named"} <= set(found)
    assert all(0 <= value <= 1 for value in found.values()) and trainer.model.training
