"""SFT with a miniature: it learns, resumes to the same weights, and leaves a model that any policy opens."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import training_world as world
from safetensors import safe_open

from indus_lib import practice, protocol, sft, tiny_model, train_data, training_runs
from indus_lib.local_policy import LocalPolicy
from indus_lib.processing import END_OF_TURN
from indus_lib.tools import ToolResult

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    talks = world.conversations(world.make_samples(folder))
    model, processor = tiny_model.build(world.MINI, world.texts(talks))
    corpus = train_data.encode_all(talks, processor, max_length=512, progress="")
    return tiny_model.save(model, processor, folder / "base"), corpus


def weights(path):
    return dict(tiny_model.load(path)[0].named_parameters())


def losses(path):
    return [row["loss"] for row in json.loads((path / "training.json").read_text())["history"] if "loss" in row]


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "model"
    return sft.train(base[0], base[1], out, world.PROFILE.sft, validation=base[1][:8], save_steps=4, progress=False)


def test_loss_falls_and_the_curve_is_kept(trained):
    """Pinned loosely: a quiet start first names the token just read, dearer than log(vocabulary) by what depends on the
    first batch; under 3 after fifteen steps, a learnt format at the end."""
    curve = losses(trained)
    assert curve[0] == pytest.approx(math.log(640) + 0.6, abs=0.3) and curve[15] < 3 and curve[-1] < 0.5
    history = json.loads((trained / "training.json").read_text())["history"]
    assert sum("eval_loss" in row for row in history) == 20  # once per epoch
    assert not list(trained.parent.glob(".*"))  # no checkpoints left behind


def test_result_loads_by_path_and_speaks_the_format(trained, tmp_path):
    """Any policy opens it; greedy text has the tags it was taught."""
    policy = LocalPolicy.from_path(trained)
    sample = world.make_samples(tmp_path, 2)[1]
    talk = world.conversation(sample, says=True, calls=False)
    reply = policy.reply([talk[:1]], max_new_tokens=60)[0]
    assert reply.text.startswith("<think>evidence: seen; preliminary:")


@pytest.mark.parametrize("practised", [0, 4])
def test_killed_run_resumes_to_the_same_weights(base, tmp_path, monkeypatch, practised):
    """Interrupt in the second epoch, call again: bit for bit the uninterrupted run, its practice too."""
    out, config = tmp_path / "model", replace(world.PROFILE.sft, epochs=4, practice=practised)
    step_end = training_runs.Bar.on_step_end

    def killed(self, args, state, control, **kwargs):
        step_end(self, args, state, control, **kwargs)
        if state.global_step == 6:
            raise KeyboardInterrupt

    options = {"validation": base[1][:8], "save_steps": 4, "progress": False}
    whole = sft.train(base[0], base[1], tmp_path / "whole", config, **options)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_runs.Bar, "on_step_end", killed)
        sft.train(base[0], base[1], out, config, **options)
    assert not out.exists()  # nothing half-written
    sft.train(base[0], base[1], out, config, **options)
    ours, theirs = weights(out), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(out) == losses(whole)


def test_finished_run_is_not_repeated_and_a_changed_one_is(base, tmp_path, monkeypatch):
    """The run's identity covers config, seed, corpus and the library that trains."""
    short = replace(world.PROFILE.sft, epochs=1)
    out = sft.train(base[0], base[1], tmp_path / "model", short, progress=False)
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    sft.train(base[0], base[1], out, short, progress=False)
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp
    sft.train(base[0], base[1], out, short, seed=1, progress=False)
    other = (out / "model.safetensors").stat().st_mtime_ns
    assert other != stamp
    monkeypatch.setattr(training_runs.fingerprint, "code_digest", lambda *modules: f"newer {modules}")
    sft.train(base[0], base[1], out, short, seed=1, progress=False)
    assert (out / "model.safetensors").stat().st_mtime_ns != other


def test_a_checkpoint_that_was_cut_off_is_not_gone_on_from(tmp_path):
    """The trainer writes its state last: without it, or with half of it, the one before is taken."""
    work, _ = training_runs.open_work(tmp_path / "m", "run")
    for step, state in ((50, '{"global_step": 50}'), (100, '{"global'), (150, None)):
        (work / f"checkpoint-{step}").mkdir()
        if state:
            (work / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert training_runs.open_work(tmp_path / "m", "run") == (work, str(work / "checkpoint-50"))


def test_equally_large_weights_are_known_by_the_run_that_made_them(tmp_path, monkeypatch):
    monkeypatch.setattr(training_runs, "HASHED", 0)
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    seen = set()
    for run in ("a", "b"):
        (tmp_path / training_runs.CURVE).write_text(json.dumps({"run": run}))
        seen.add(training_runs.identity(tmp_path, ["boxes"]))
    assert len(seen) == 2


def test_trained_weights_are_not_rounded(trained):
    """In bfloat16 most of what a few small steps change would be lost."""
    with safe_open(trained / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118


def test_frozen_vision_stays(base, tmp_path):
    """`vision_rate` 0 leaves the tower as it was and trains the rest."""
    config = replace(world.PROFILE.sft, epochs=1, vision_rate=0.0)
    before, after = weights(base[0]), weights(sft.train(*base, tmp_path / "model", config, progress=False))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("visual" in name for name in changed)


def test_the_format_is_learnt_first(base, tmp_path):
    """Before `format_first` of the steps a finding counts like any token, afterwards by its weight."""
    _, processor = tiny_model.load(base[0])
    picture = protocol.start(np.full((64, 64, 3), 90, np.uint8), "?")
    texts = [f"<think>see {t}</think><answer>No</answer>" for t in ("something", "nothing")]
    rows = [train_data.encode(protocol.add_assistant(picture, t), processor) for t in texts * 4]
    config = replace(world.PROFILE.sft, epochs=2, batch=8, accumulation=1, learning_rate=0.0, decision_weight=50.0)
    runs = {share: replace(config, format_first=share) for share in (0.0, 0.5, 1.0)}
    found = {s: losses(sft.train(base[0], rows, tmp_path / str(s), c, progress=False)) for s, c in runs.items()}
    assert abs(found[1.0][0] - found[0.0][0]) > 0.01
    assert found[0.5] == pytest.approx([found[1.0][0], found[0.0][1]], rel=1e-4)


def test_a_language_model_can_start_anew(base, tmp_path):
    """Other words than the base's, the same for a seed, under the same tower."""
    config = replace(world.PROFILE.sft, epochs=1, learning_rate=0.0, restart=True)
    first, again = (weights(sft.train(*base, tmp_path / name, config, progress=False)) for name in "ab")
    before = weights(base[0])
    moved = {name for name in before if not torch.equal(before[name], first[name])}
    assert moved and all("language_model" in name for name in moved)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_lora_is_merged(base, tmp_path):
    """Only the language model's linear layers move, and the result needs no adapter."""
    config = replace(world.PROFILE.sft, epochs=1)
    out = sft.train(*base, tmp_path / "model", config, lora=True, progress=False)
    before, after = weights(base[0]), weights(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and [p.name for p in out.glob("*.safetensors")] == ["model.safetensors"]
    assert changed and all("language_model" in name and "proj" in name for name in changed)


def test_a_local_policy_takes_the_adapter_as_it_was_trained(base, tmp_path):
    """Merged weights are rounded to bfloat16. They serve where the base is gone."""
    start = shutil.copytree(base[0], tmp_path / "base")
    config = replace(world.PROFILE.sft, epochs=1)
    out = sft.train(start, *base[1:], tmp_path / "model", config, lora=True, progress=False)
    exact = dict(LocalPolicy.from_path(out).model.merge_and_unload().named_parameters())
    rounded, old = weights(out), weights(start)
    name = next(n for n in rounded if not torch.equal(rounded[n], old[n]) and n in exact)
    assert torch.equal(exact[name].to(torch.bfloat16), rounded[name]) and exact[name].dtype == torch.float32
    assert not torch.equal(exact[name], rounded[name].float())
    config = out / tiny_model.ADAPTER / "adapter_config.json"
    there = json.loads(config.read_text())
    config.write_text(
        json.dumps({**there, "base_model_name_or_path": "results/gone/work/model"})
    )  # a path, not a hub's
    assert tiny_model.unmerged(out) == {"path": out}
    config.write_text(json.dumps(there))
    shutil.rmtree(start)
    assert torch.equal(dict(LocalPolicy.from_path(out).model.named_parameters())[name], rounded[name].float())


def test_similar_lengths_share_a_batch():
    """Under half the padding of a random order, every row once, another order each epoch, the same for a seed."""
    lengths = np.random.default_rng(0).integers(50, 300, 512).tolist()

    def padding(order):
        batches = [[lengths[i] for i in order[k : k + 8]] for k in range(0, 512, 8)]
        return sum(max(b) * len(b) - sum(b) for b in batches)

    sampler = sft.Buckets(8, lengths, seed=0)
    first = list(sampler)
    assert sorted(first) == list(range(512)) and padding(first) < 0.5 * padding(list(range(512)))
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_long_and_short_batches_are_mixed():
    """No stretch of an epoch holds long conversations alone, and the short batch at its end stays there."""
    lengths = [300] * 480 + [60] * 484  # second rounds and first ones: 60 batches of each, and four rows more
    order = list(sft.Buckets(8, lengths, seed=0))
    means = np.array([np.mean([lengths[i] for i in order[k : k + 8]]) for k in range(0, 960, 8)])
    assert sorted(order) == list(range(964))
    runs = np.diff(np.flatnonzero(np.diff(means > 180, prepend=True, append=True)))
    assert runs.max() < 12  # the stock order has runs of 15 here, of 25 in a longer epoch


def test_bad_input_is_named(base, tmp_path):
    """An empty corpus and a missing base model."""
    with pytest.raises(ValueError, match="corpus is empty"):
        sft.train(base[0], [], tmp_path / "model", world.PROFILE.sft)
    with pytest.raises(FileNotFoundError, match="no model in"):
        sft.train(tmp_path / "nowhere", base[1], tmp_path / "model", world.PROFILE.sft)


def test_a_batch_holds_both_verdicts(base):
    """A Yes is longer than a No: batches by whole length would hold one verdict each, and nothing would be learnt."""
    _, processor = tiny_model.load(base[0])
    picture = np.full((64, 64, 3), 90, np.uint8)
    answers = (protocol.final_text(True, (10, 20, 30, 40), "crack"), protocol.final_text(False))
    texts = [f"<think>see it</think>{answers[i % 2]}" for i in range(64)]
    rows = [train_data.encode(protocol.add_assistant(protocol.start(picture, "?"), t), processor) for t in texts]
    assert len({len(r) for r in rows}) == 2
    asks = SimpleNamespace(train_batch_size=8, gradient_accumulation_steps=1, seed=0)
    order = list(sft.BucketTrainer._get_train_sampler(SimpleNamespace(train_dataset=rows, args=asks)))
    shares = [np.mean([i % 2 for i in order[k : k + 8]]) for k in range(0, 64, 8)]
    assert all(0 < s < 1 for s in shares)


def test_rounds_are_learnt_apart_and_some_without_the_photograph(base):
    """First round: photograph and request alone. Second: all of it, only the answer learnt; blank where withheld."""
    _, processor = tiny_model.load(base[0])
    photo, found = (np.random.default_rng(k).integers(0, 255, (64, 64, 3), np.uint8) for k in (1, 2))
    call = {"name": "enhance", "arguments": {"method": "texture"}}
    request = f"<think>unsure</think>{protocol.tool_tail(call)}"
    ask = protocol.add_assistant(protocol.start(photo, "?"), request)
    seen = protocol.add_observation(ask, [(call, ToolResult(True, "map", [found]))])
    answer = f"<think>see nothing</think>{protocol.final_text(False)}"
    talks = (protocol.add_assistant(seen, answer), protocol.add_assistant(protocol.start(photo, "?"), answer))
    whole = [train_data.encode(talk, processor) for talk in talks]
    rows = train_data.rounds_apart(whole, processor)
    told = [processor.tokenizer(t + END_OF_TURN, add_special_tokens=False)["input_ids"] for t in (request, answer)]
    assert [r.input_ids[r.mask].tolist() for r in rows] == [told[0], told[1], told[1]]
    assert [r.second for r in rows] == [False, True, False] and [len(r.image_grid_thw) for r in rows] == [1, 2, 1]
    assert torch.equal(rows[0].pixel_values, rows[2].pixel_values) and rows[1].input_ids is whole[0].input_ids
    assert sum(r.decision.sum() for r in rows) == sum(r.decision.sum() for r in whole)
    batch = train_data.collate(rows, processor.tokenizer.pad_token_id, processor.image_token_id)
    sizes = batch["image_grid_thw"].prod(-1).tolist()
    redraw = practice.Redraw(processor)
    before, after = (b["pixel_values"].split(sizes) for b in (batch, practice.withhold(batch, 1.0, redraw)))
    assert not after[1].any() and all(torch.equal(after[k], before[k]) for k in (0, 2, 3))  # 1: the second's photograph
    assert torch.equal(practice.withhold(batch, 0.0, redraw)["pixel_values"], batch["pixel_values"])


def test_a_repeated_box_lies_elsewhere_each_time(base):
    """In the observation and in the answer alike, of the same size, inside the picture; the loss is on the new one."""
    _, processor = tiny_model.load(base[0])
    photo = np.full((64, 64, 3), 90, np.uint8)
    call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}}
    ask = protocol.add_assistant(protocol.start(photo, "?"), f"<think>unsure</think>{protocol.tool_tail(call)}")
    seen = protocol.add_observation(ask, [(call, ToolResult(True, "it lies at [100,200,150,290], dark", [photo]))])
    texts = [protocol.final_text(True, box, "crack") for box in ((100, 200, 150, 290), (100, 200, 160, 290))]
    talks = [protocol.add_assistant(seen, f"<think>see something</think>{text}") for text in texts]
    numbers = train_data.number_ids(processor)
    same, other = (train_data.encode(talk, processor) for talk in talks)
    assert len(numbers) == 101 and np.array_equal(other.input_ids[other.place > 0], numbers[[10, 20, 15, 29]])
    assert np.array_equal(other.input_ids[other.place < 0], numbers[[10, 20, 16, 29]])
    assert np.array_equal(same.input_ids[same.place > 0], numbers[[10, 20, 15, 29] * 2])
    rows = train_data.rounds_apart([same], processor)
    batch = train_data.collate([rows[1]] * 50, processor.tokenizer.pad_token_id, processor.image_token_id)
    torch.manual_seed(0)
    redraw = practice.Redraw(processor)
    moved = practice.withhold(batch, 1.0, redraw)
    at = batch["place"][0] > 0
    boxes = (moved["input_ids"][:, at].numpy()[..., None] == numbers).argmax(-1).reshape(50, 2, 4)
    assert (boxes[:, 0] == boxes[:, 1]).all() and len(np.unique(boxes[:, 0], axis=0)) > 40
    assert (boxes[:, 0, 2:] - boxes[:, 0, :2] == (5, 9)).all()
    learnt = moved["labels"] != train_data.IGNORED
    assert torch.equal(moved["labels"][learnt], moved["input_ids"][learnt])
    assert torch.equal(moved["input_ids"][:, ~at], batch["input_ids"][:, ~at])
    seen = practice.withhold(batch, 0.0, redraw)
    assert torch.equal(seen["pixel_values"], batch["pixel_values"])  # with its photograph, too
    assert len(np.unique(seen["input_ids"][:, at].numpy(), axis=0)) > 40
    first = batch | {"second": torch.zeros(50, dtype=torch.bool)}
    assert torch.equal(practice.withhold(first, 1.0, redraw)["input_ids"], batch["input_ids"])
