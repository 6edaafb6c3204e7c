"""GRPO with a miniature: rollouts are inspections, the update sees the tools' images, known invariants hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import training_world as world

from indus_lib import grpo, grpo_metrics, rewards, sft, tiny_model, train_data, training_runs
from indus_lib.grpo_trainer import GatedTrainer
from indus_lib.images import ImageError
from indus_lib.local_policy import LocalPolicy
from indus_lib.rewards import RewardParts, RewardWeights
from indus_lib.vision_memory import SHARED, VisionMemory

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """(SFT model that answers by coin toss, samples): format learnt, half the trajectories call a tool."""
    folder = tmp_path_factory.mktemp("grpo")
    samples = world.make_samples(folder)
    talks = world.conversations(samples)
    model, processor = tiny_model.build(world.MINI, world.texts(talks))
    corpus = train_data.encode_all(talks, processor, max_length=512, progress="")
    base = tiny_model.save(model, processor, folder / "base")
    return sft.train(base, corpus, folder / "sft", world.PROFILE.sft, save_steps=1000, progress=False), samples


def run(start, out, samples=None, **options):
    """Train; returns (folder, rows of the log that are steps)."""
    config = replace(world.PROFILE.grpo, **options.pop("config", {}))
    given = {"similarity": world.same, "progress": False, "save_steps": 1000, **options}
    out = grpo.train(start[0], samples or start[1], out, world.PROFILE, config=config, **given)
    history = json.loads((out / "training.json").read_text())["history"]
    return out, [row for row in history if "reward" in row]


def weights_of(path):
    return dict(tiny_model.load(path)[0].named_parameters())


@pytest.fixture(scope="module")
def trainer(start, tmp_path_factory):
    """A trainer that is not run: its hooks are called one by one."""
    model, processor = training_runs.prepare(start[0], lora=False, dtype="float32", freeze_vision=True)
    arguments = grpo.arguments(tmp_path_factory.mktemp("work"), world.PROFILE.grpo, model, 0, 1000)
    inspection = replace(world.PROFILE.inspection, max_new_tokens=60)
    made = GatedTrainer(
        start[1], inspection, RewardWeights(), allowed_tools=("enhance",), similarity=world.same, model=model,
        args=arguments, processing_class=processor,
    )  # fmt: skip
    made.model.train()
    made.drop_idle = False
    return made


@pytest.fixture(scope="module")
def scored(trainer):
    """(traces, encoded, TRL's batch) of one scored step of 8 prompts x 4."""
    kept = {}
    rollout = trainer._rollout

    def keep():
        kept["traces"] = rollout()
        return kept["traces"]

    trainer._rollout = keep
    inputs = [{"prompt": [{"role": "user", "content": "x"}], "index": i} for i in range(8) for _ in range(4)]
    before = SHARED.asked, SHARED.computed  # of this process, so of other tests as well
    batch = trainer._generate_and_score_completions(inputs)
    trainer.looked = SHARED.asked - before[0], SHARED.computed - before[1]
    trainer._rollout = rollout
    encoded = [
        train_data.encode(train_data.with_ids(t.conversation, t.replies), trainer.processing_class)
        for t in kept["traces"]
    ]
    return kept["traces"], encoded, batch


def test_update_gets_the_inspected_tokens_masks_and_images(trainer, scored):
    """Row by row, TRL's padded batch is what `encode` gives for the same trajectory, tool images included."""
    traces, encoded, batch = scored
    assert {len(t.replies) for t in traces} == {1, 2}, "the test needs rows with and without tools"
    for i, one in enumerate(encoded):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
        assert torch.cat([prompt, completion]).tolist() == one.input_ids.tolist()
        learnt = batch["tool_mask"][i][: len(completion)].bool().tolist()
        assert learnt == one.mask[len(prompt) :].tolist()
        said = [r.token_ids for r in traces[i].replies]
        assert completion[torch.tensor(learnt)].tolist() == [t for ids in said for t in ids]
    assert batch["num_images"] == [len(t.replies) for t in traces]  # photograph, and one map per call
    assert torch.equal(batch["pixel_values"], torch.cat([e.pixel_values for e in encoded]))


def test_log_probabilities_of_the_update_are_those_of_inspection(trainer, scored):
    """TRL's batched, padded forward gives each token the probability that a plain single forward gives it, at the
    temperature of the rollouts."""
    _, encoded, batch = scored
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].shape[1]
    vision = {k: batch[k] for k in ("pixel_values", "image_grid_thw", "num_images")}
    with torch.no_grad():
        got, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width, **vision)
    longest = int(np.argmax([len(e) for e in encoded]))
    for i in {0, longest}:
        one = train_data.collate([encoded[i]], 0, trainer._image_id)
        del one["labels"], one["decision"], one["second"], one["place"]
        with torch.no_grad():
            log_p = (trainer.model(**one).logits[0, :-1] / trainer.temperature).log_softmax(-1)
        expected = log_p.gather(-1, one["input_ids"][0, 1:, None]).squeeze(-1)[encoded[i].prompt_length - 1 :]
        assert torch.allclose(got[i, : len(expected)], expected, atol=1e-3)


def test_rows_without_advantage_are_left_out(trainer, scored):
    """Rows, images and masks shrink together; with no advantage at all the batch stays whole."""
    _, encoded, batch = scored
    rows = {k: v for k, v in batch.items() if k not in ("pixel_values", "image_grid_thw", "num_images")}
    rows["advantages"] = torch.tensor([0.0] * 4 + [1.0, -1.0, 0.5, -0.5] + [0.0] * 24)
    trainer._encoded = list(encoded)
    left = trainer._without_idle(rows)
    assert left["completion_ids"].equal(batch["completion_ids"][4:8]) and trainer._encoded == encoded[4:8]
    assert trainer._vision()[2] == batch["num_images"][4:8]
    assert trainer._kept == 4 / 32
    rows["advantages"] = torch.zeros(32)
    assert trainer._without_idle(rows) is rows and trainer._kept == 1
    trainer._encoded = []


@pytest.mark.parametrize("group", [2, 4, 6, 8])
def test_rounding_gives_no_advantage(trainer, monkeypatch, group):
    """As TRL computes it, in float32: the mean of six equal rewards is often an ulp off."""
    totals = torch.tensor([2.4, 1.25, 0.7, 1.85, 2.255, 0.95])
    rewards = totals.repeat_interleave(group).view(-1, group)
    idle = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    monkeypatch.setattr(trainer, "_encoded", list(range(len(idle) + 1)))
    left = trainer._without_idle({"advantages": torch.cat([idle, torch.tensor([0.4])])})
    assert left["advantages"].tolist() == pytest.approx([0.4]) and trainer._encoded == [len(idle)]


def test_micro_batches_give_the_same_step(start, tmp_path):
    """The 8B's way (accumulation 2): TRL shuffles and splits rows and images, the gradient is that of one batch."""
    steps = [run(start, tmp_path / f"{n}", config={"steps": 1, "accumulation": n})[1][0] for n in (1, 2)]
    assert steps[0]["reward"] == pytest.approx(steps[1]["reward"]) and steps[0]["grad_norm"] > 0
    assert steps[1]["grad_norm"] == pytest.approx(steps[0]["grad_norm"], rel=1e-3)


def test_a_row_counts_alike_whether_idle_ones_are_left_out(trainer, monkeypatch):
    """The mean over the rows that are left, weighed by their share, is the mean over all."""
    monkeypatch.setattr(GatedTrainer.__mro__[1], "_compute_loss", lambda self, model, inputs: inputs["loss"].mean())
    every, left = torch.tensor([0.0, 0.0, 3.0, 5.0]), torch.tensor([3.0, 5.0])
    monkeypatch.setattr(trainer, "_kept", 1.0)
    whole = trainer._compute_loss(None, {"loss": every})
    monkeypatch.setattr(trainer, "_kept", 0.5)
    assert trainer._compute_loss(None, {"loss": left}) == whole


def test_pictures_are_looked_at_once(trainer, scored):
    """Far fewer images computed than asked for, the same features, and a trained tower is refused."""
    asked, computed = trainer.looked
    assert computed < 0.5 * asked and asked > 100
    _, encoded, _ = scored
    pixels = torch.cat([encoded[0].pixel_values, encoded[1].pixel_values, encoded[0].pixel_values])
    grid = torch.cat([encoded[0].image_grid_thw, encoded[1].image_grid_thw, encoded[0].image_grid_thw])
    visual = trainer.model.model.visual
    with torch.no_grad():
        got, plain = visual(pixels, grid_thw=grid), type(visual).forward(visual, pixels, grid_thw=grid)
    assert torch.allclose(got.pooler_output, plain.pooler_output, atol=1e-5)
    for ours, theirs in zip(got.deepstack_features, plain.deepstack_features, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="not frozen"):
        VisionMemory().attach(torch.nn.Linear(2, 2))


def test_pictures_look_the_same_in_any_company(trainer, scored):
    """To the last bit, whatever was looked at before and beside; another tower's features are its own."""
    _, encoded, _ = scored
    one, two = encoded[0], next(e for e in encoded if not torch.equal(e.pixel_values, encoded[0].pixel_values))
    kind, config = type(trainer.model.model.visual), trainer.model.model.visual.config
    towers = [kind(config).requires_grad_(False).eval() for _ in range(3)]
    towers[1].load_state_dict(towers[0].state_dict())
    first, second = VisionMemory(), VisionMemory()
    for memory, tower in zip((first, second, second), towers, strict=True):
        memory.attach(tower)
    with torch.no_grad():
        both = towers[0](
            torch.cat([one.pixel_values, two.pixel_values]),
            grid_thw=torch.cat([one.image_grid_thw, two.image_grid_thw]),
        )
        apart = [towers[1](e.pixel_values, grid_thw=e.image_grid_thw).pooler_output for e in (two, one)]
        other = towers[2](one.pixel_values, grid_thw=one.image_grid_thw).pooler_output
    assert torch.equal(both.pooler_output, torch.cat(apart[::-1]))
    assert not torch.allclose(other, apart[1], atol=1e-3)


def test_a_memory_stays_near_its_limit_and_gives_the_same(trainer, scored):
    """Bytes are counted, it starts anew above the limit, and what it gives does not change."""
    _, encoded, _ = scored
    visual, memory = trainer.model.model.visual, VisionMemory(limit=1)
    tower = type(visual)(visual.config).requires_grad_(False).eval()
    memory.attach(tower)
    with torch.no_grad():
        for one in encoded[:4] * 2:
            got = tower(one.pixel_values, grid_thw=one.image_grid_thw)
            plain = type(tower).forward(tower, one.pixel_values, grid_thw=one.image_grid_thw)
            assert torch.allclose(got.pooler_output, plain.pooler_output, atol=1e-5)
            assert len(memory.known) <= len(one.image_grid_thw)
            assert memory.size == sum(t.nbytes for part in memory.known.values() for t in part) > 0


def test_tool_images_change_the_update(trainer, scored):
    """Blank the pixels that a tool returned: the log-probabilities after the observation change."""
    traces, encoded, _ = scored
    row = next(i for i, t in enumerate(traces) if len(t.replies) == 2)
    one = train_data.collate([encoded[row]], 0, trainer._image_id)
    del one["labels"], one["decision"], one["second"], one["place"]
    blank = one["pixel_values"].clone()
    blank[int(one["image_grid_thw"][0].prod()) :] = 0
    with torch.no_grad():
        seen = trainer.model(**one).logits
        unseen = trainer.model(**{**one, "pixel_values": blank}).logits
    second = int(np.flatnonzero(encoded[row].mask)[-1])
    assert (seen - unseen)[0, second - 1].abs().max() > 1e-4
    assert torch.allclose(seen[0, : encoded[row].prompt_length - 1], unseen[0, : encoded[row].prompt_length - 1])


def test_advantages_are_the_papers(trainer, scored):
    """TRL's advantages equal ours, computed from the rewards of the same episodes."""
    traces, _, batch = scored
    from indus_lib.grpo_trainer import freeze

    samples = [trainer.samples[i] for i in range(8) for _ in range(4)]
    totals = [rewards.combined(freeze(t), s, similarity=world.same).total for t, s in zip(traces, samples, strict=True)]
    assert batch["advantages"].tolist() == pytest.approx(rewards.advantages(totals, 4).tolist(), abs=1e-4)
    assert len(set(totals)) > 1


def test_reward_rises_on_a_learnable_task(start, tmp_path):
    """Every sample is anomalous: the policy learns to say Yes, and in the right place."""
    samples = [replace(s, label=True, node="stain", boxes=(world.BOX,)) for s in start[1]]
    config = {"steps": 10, "prompts": 6, "learning_rate": 2e-3}
    _, rows = run(start, tmp_path / "model", samples, config=config)
    for metric, gain in (("accuracy", 0.2), ("reward", 0.4)):
        values = [row[metric] for row in rows]
        assert np.mean(values[-3:]) > np.mean(values[:3]) + gain


@pytest.fixture(scope="module")
def plain(start, tmp_path_factory):
    """Three steps, KL on, without interruption."""
    return run(start, tmp_path_factory.mktemp("plain") / "model", config={"beta": 0.1})


def test_loss_of_fresh_rollouts_is_the_kl_term(plain):
    """Ratio 1 and advantages that sum to 0 leave beta * KL, and the KL starts at 0 and is never negative (k3)."""
    _, rows = plain
    kl = [row["kl"] for row in rows]
    assert kl[0] == pytest.approx(0, abs=1e-6) and min(kl) >= 0 and kl[-1] > 0
    assert rows[0]["loss"] == pytest.approx(0, abs=1e-4)  # the trainer logs the sum over micro-batches
    assert all(row["clip_ratio/region_mean"] == 0 for row in rows)


def test_every_step_logs_what_the_dashboard_shows(plain):
    """Parts, accuracy by side, calls by tool, useful calls, variance, KL, lengths, violations."""
    from indus_lib import figures_training

    out, rows = plain
    logged = set().union(*rows)
    shown = {name for _, lines, _ in figures_training.PANELS for name, _ in lines}
    assert shown <= logged
    for row in rows:
        assert row["reward/total"] == pytest.approx(row["reward"], abs=1e-5)
        assert row["retokenised"] == 0
    figure = figures_training.dashboard(figures_training.history(out))
    assert len(figure.axes) == 9


def test_killed_run_resumes_to_the_same_weights(start, plain, tmp_path, monkeypatch):
    """Rollouts, prompts and optimiser go on where they were."""
    step_end = training_runs.Bar.on_step_end

    def killed(self, args, state, control, **kwargs):
        step_end(self, args, state, control, **kwargs)
        if state.global_step == 2:
            raise KeyboardInterrupt

    options = {"config": {"beta": 0.1}, "save_steps": 1}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_runs.Bar, "on_step_end", killed)
        run(start, tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()
    out, rows = run(start, tmp_path / "model", **options)
    assert [r["reward"] for r in rows] == [r["reward"] for r in plain[1]]
    ours, theirs = weights_of(out), weights_of(plain[0])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_groups_without_variance_teach_nothing(start, tmp_path):
    """When every trajectory earns the same, nothing moves (and the metric says so)."""
    nothing = RewardWeights(alpha=0, beta=0, gamma=0, format_penalty=0)
    samples = [replace(s, label=True, boxes=(), node="") for s in start[1]]
    config = {"steps": 1, "temperature": 1e-3}  # greedy: all four rollouts of a prompt agree
    out, rows = run(start, tmp_path / "model", samples, weights=nothing, config=config)
    assert rows[0]["zero_variance"] == rows[0]["frac_reward_zero_std"] == 1
    before, after = weights_of(start[0]), weights_of(out)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_lora_and_question_margins(start, tmp_path):
    """The 8B profile's road: adapter trained, merged, vision untouched; the margin without a thought is taken."""
    profile = replace(world.PROFILE, model=replace(world.PROFILE.model, lora=True))
    config = replace(profile.grpo, steps=1, beta=0.1)
    out = grpo.train(
        start[0], start[1], tmp_path / "model", profile, config=config, similarity=world.same, progress=False,
        weights=RewardWeights(delta_mode="question"),
    )  # fmt: skip
    row = next(r for r in json.loads((out / "training.json").read_text())["history"] if "reward" in r)
    assert row["kl"] == pytest.approx(0, abs=1e-6) and row["delta_conf"] is not None
    assert weights_of(out).keys() == weights_of(start[0]).keys()
    assert LocalPolicy.from_path(out).name == "model"


def test_bad_input_stops_before_training(start, tmp_path):
    """Unlabelled, too few, an image that is gone, batches that do not split."""
    samples = start[1]
    with pytest.raises(ValueError, match="without a label"):
        run(start, tmp_path / "a", [replace(samples[0], label=None), *samples])
    with pytest.raises(ValueError, match="do not fill one step"):
        run(start, tmp_path / "a", samples[:2])
    with pytest.raises(ValueError, match=r"do not split into 3"):
        run(start, tmp_path / "a", config={"accumulation": 3})
    gone = [replace(s, image=tmp_path / "gone.png") for s in samples]
    with pytest.raises((ImageError, OSError), match=r"gone\.png"):
        run(start, tmp_path / "a", gone)
    assert not (tmp_path / "a").exists()


def test_balanced_takes_half_of_each():
    """Half normal, half anomalous, reproducibly."""
    from pathlib import Path

    from indus_lib.samples import Sample

    samples = [Sample(str(i), Path("x"), label=i < 30) for i in range(100)]
    chosen = grpo.balanced(samples, 40, seed=1)
    assert sum(s.label for s in chosen) == 20 and len({s.id for s in chosen}) == 40
    assert chosen == grpo.balanced(samples, 40, seed=1) != grpo.balanced(samples, 40, seed=2)
    assert len(grpo.balanced(samples, 90)) == 60


def test_guards_trip_on_what_they_name():
    """Five bad steps in a row raise the alarm, four do not; healthy runs raise none."""
    healthy = {
        "calls_per_image": 0.8, "useful_call_rate": 0.6, "violations": 0.02, "answers_yes": 0.5, "zero_variance": 0.3,
        "kl": 0.05, "truncated": 0.0,
    }  # fmt: skip
    assert grpo_metrics.alarms([healthy] * 9) == []
    for metric, value, name in [
        ("calls_per_image", 0.0, "tool_collapse"), ("calls_per_image", 3.0, "tool_abuse"),
        ("useful_call_rate", 0.1, "useless_calls"), ("violations", 0.9, "format_collapse"),
        ("answers_yes", 1.0, "always_yes"), ("answers_yes", 0.0, "always_no"), ("zero_variance", 1.0, "zero_variance"),
        ("kl", 5.0, "kl_runaway"), ("truncated", 0.5, "truncated"),
    ]:  # fmt: skip
        bad = {**healthy, metric: value}
        assert [g.name for g in grpo_metrics.alarms([healthy] * 3 + [bad] * 5)] == [name]
        assert grpo_metrics.alarms([bad] * 4) == []
    assert all(guard.remedy for guard in grpo_metrics.GUARDS)


def test_a_tool_that_another_crowds_out_is_missed():
    """By its own share at the start: a tool that was hardly asked for, or is asked for still, raises nothing."""

    def run(before, after):
        rows = [{"calls_per_image": 1.0, "calls/crop": 1 - x, "calls/prior": x} for x in (before, after)]
        return [g.name for g in grpo_metrics.alarms(rows[:1] * 5 + rows[1:] * 5)]

    assert run(0.3, 0.01) == ["prior_lost"]
    assert run(0.3, 0.1) == run(0.01, 0.0) == run(0.3, float("nan")) == []


def test_undecided_prompts_by_hand():
    """All right and all wrong groups are left out."""
    parts = [RewardParts(acc, 0, 0, 0, 0, acc) for acc in (1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0)]
    assert grpo_metrics.undecided(parts, 4) == [1]
