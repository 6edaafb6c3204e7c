"""Which images, models and runs the notebooks get."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation import episode

from indus_lib import experiments, grounding, probes, profiles, reply_cache, training_runs, workers
from indus_lib.episodes import keep_episodes
from indus_lib.samples import Sample

P = profiles.get("smoke")


def samples(n):
    return [Sample(f"s{k}", f"s{k}.png", label=bool(k % 2)) for k in range(n)]


@pytest.fixture
def corpus_of(monkeypatch, tmp_path):
    """Sets the pool and what the corpus shows of it."""

    def put(pool, shown):
        (tmp_path / "work/corpus").mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(experiments, "folder", lambda profile: tmp_path)
        monkeypatch.setattr(experiments, "pool", lambda profile: pool)
        monkeypatch.setattr(experiments.corpus, "read", lambda path: [{"sample_id": s.id} for s in shown])

    return put


def test_rl_sees_images_that_sft_has_not_seen(corpus_of):
    pool = samples(40)
    corpus_of(pool, pool[:20])
    found = experiments.prompts(P)
    assert {s.id for s in found} == {s.id for s in pool[20:]}
    assert sum(s.label for s in found) == len(found) / 2


def test_rl_takes_the_whole_pool_where_too_little_is_left(corpus_of):
    pool = samples(40)
    corpus_of(pool, pool[:38])
    few = replace(P, grpo=replace(P.grpo, prompts=2, steps=2))
    assert len(experiments.prompts(few)) == 40
    assert len(experiments.prompts(replace(P, grpo=replace(P.grpo, prompts=2, steps=1)))) == 2


def test_runs_of_an_ablation_go_side_by_side_and_come_back_in_order(monkeypatch):
    """Every model by one process, before anything is inspected with it; every (run, seed) once, in order."""
    jobs = []
    read = []
    monkeypatch.setattr(experiments, "test_sets", lambda p: read.append("sets") or {"mvtec": samples(4)})
    monkeypatch.setattr(experiments, "prompts", lambda p, seed: read.append(seed) or samples(2))
    monkeypatch.setattr(experiments, "train", lambda p, run, seed, images=None: f"{run}-s{seed}")
    known = set()

    def evaluate(p, run, seed, images):
        known.update(experiments._CURRENT)
        return {name: [f"{run}{seed}"] for name in images.sets}

    monkeypatch.setattr(experiments, "evaluate", evaluate)
    monkeypatch.setattr(
        experiments,
        "run_jobs",
        lambda job, a, workers, **_: jobs.append([x[1:3] for x in a]) or [job(*x) for x in a],
    )
    monkeypatch.setattr(experiments, "_CURRENT", set())
    found = experiments.ablate(P, ("base", "no_crop_at_inference", "full", "sft_25"), 2)
    assert jobs[0] == [("base", 0), ("sft_25", 0), ("sft_25", 1), ("full", 0), ("full", 1)]  # longest first
    assert jobs[1] == [("base", 0), *((run, k) for run in ("no_crop_at_inference", "full", "sft_25") for k in (0, 1))]
    assert found["full"] == {"mvtec": ["full0", "full1"]} and list(found)[:3] == [
        "base",
        "no_crop_at_inference",
        "full",
    ]
    assert {"sft-s0", "sft-s1", "full-s1"} <= known
    assert not experiments._CURRENT  # a later call looks again
    assert read == ["sets", 0, 1]  # once for all runs
    for run, start in (("no_tools", "sft_no_tools"), ("rl_only", ""), ("no_crop", "sft")):
        known.clear()
        experiments.ablate(P, (run,), 1)
        assert known == {f"{run}-s0", *[f"{start}-s0"] * bool(start)}  # its start is there before it
    read.clear()
    experiments.ablate(P, ("base", "sft"), 1)
    assert read == ["sets"]  # no RL, no pool: it need not be there


def test_an_sft_model_is_known_without_encoding_the_corpus(monkeypatch, tmp_path):
    """Until a record, a photograph or a setting is another one."""
    photo, work, encoded, trained, configs = tmp_path / "a.png", tmp_path / "work/corpus", [], [], []
    work.mkdir(parents=True)
    photo.write_bytes(b"1")
    (work / "corpus.jsonl").write_text("a record")

    def train(base, rows, out, config, **options):
        out.mkdir(parents=True, exist_ok=True)
        trained.append(out.name)
        configs.append(config)

    def encode(p, split="train", share=1.0, at_sight=False):
        encoded.append((split, share, *["at sight"] * at_sight))

    monkeypatch.setattr(experiments, "folder", lambda profile: tmp_path)
    monkeypatch.setattr(experiments, "_CURRENT", set())
    monkeypatch.setattr(experiments, "encoded", encode)
    monkeypatch.setattr(experiments.corpus, "read", lambda path: [{}])
    monkeypatch.setattr(experiments.corpus, "to_sample", lambda record, folder: SimpleNamespace(image=photo))
    monkeypatch.setattr(experiments.sft, "train", train)
    for _ in range(2):
        assert experiments.train(P, "sft") == tmp_path / "work/models/sft-s0"
    assert encoded == [("train", 1.0), ("val", 1.0)] and trained == ["sft-s0"]
    experiments.train(P, "sft_25")
    assert encoded[2:] == [("train", 0.25)]
    photo.write_bytes(b"22")
    experiments.train(P, "sft")
    (work / "corpus.jsonl").write_text("another")
    experiments.train(P, "sft")
    experiments.train(replace(P, sft=replace(P.sft, epochs=2)), "sft")
    assert trained == ["sft-s0", "sft_25-s0", *["sft-s0"] * 3] and configs[-1].practice == P.sft.practice > 0
    experiments.train(P, "sft_no_tools")
    assert encoded[-2:] == [("train", 1.0, "at sight"), ("val", 1.0, "at sight")]
    assert trained[-1] == "sft_no_tools-s0" and configs[-1].practice == configs[-1].looking == 0


def test_parts_of_groups_come_back_by_group_in_order():
    found = probes.in_parts(
        lambda path, part, more: (path, part, more), "p", [([1, 2, 3], "a"), ([], "b"), ([4], "c")], 2, ""
    )
    assert found == [[("p", [1, 2], "a"), ("p", [3], "a")], [], [("p", [4], "c")]]


def test_the_shipped_agent_is_a_run_like_others():
    path = experiments.train(profiles.get("tiny"), "shipped")
    assert (path / "model.safetensors").is_file()
    with pytest.raises(FileNotFoundError, match="ships no trained agent"):
        experiments.train(profiles.get("qwen3-vl-8b"), "shipped")


def test_a_patch_that_holds_the_mark_must_stand_out(monkeypatch):
    """A tower that answers with the mask scores 1, with its opposite 0; a mark that fills no patch is left out."""
    mask = np.zeros((96, 96), bool)
    mask[16:32, 32:64] = True
    speck = np.zeros((96, 96), bool)
    speck[3, 3] = True
    given = iter([mask, mask, speck])
    monkeypatch.setattr(grounding, "_view", lambda sample, cropped: (np.zeros((96, 96, 3), np.uint8), next(given)))
    logits = np.zeros((6, 6, 2), np.float32)
    logits[1, 2:4, -1] = 5
    tower = SimpleNamespace(patches=lambda photos, view: [(None, logits), (None, -logits), (None, logits)])
    assert grounding._patch_aurocs(tower, samples(3), False) == [1.0, 0.0]


def test_real_iads_validation_part_is_other_products(monkeypatch):
    """Its lists have the same products and no anomalies in `train`; every sixth product is kept back."""
    names = ["bolt", "cap", "dial", "eye", "fan", "gear", "hook", "iron", "jar", "knob", "lamp", "mug", "nut", "oven"]
    every = [
        replace(s, id=f"{name}/{s.id}", category=name) for name in names for s in samples(4)
    ]  # both labels of each product
    monkeypatch.setattr(experiments, "_both_lists", lambda path: every)
    monkeypatch.setattr(experiments, "test_categories", lambda p: ["cap"])
    real = profiles.get("qwen3-vl-8b")
    train, held = (experiments.pool(real, split) for split in ("train", "test"))
    assert {s.category for s in held} == {"gear", "mug"}
    assert {s.category for s in train} == set(names) - {"cap", "gear", "mug"}
    assert all({s.label for s in part} == {True, False} for part in (train, held))


def test_the_teacher_comes_from_the_environment(monkeypatch, tmp_path):
    for name in ("URL", "MODEL", "KEY"):
        monkeypatch.delenv(f"INDUS_TEACHER_{name}", raising=False)
    with pytest.raises(ValueError, match="set INDUS_TEACHER_URL"):
        reply_cache.teacher_of_environment(tmp_path / "replies.jsonl")
    monkeypatch.setenv("INDUS_TEACHER_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("INDUS_TEACHER_MODEL", "big")
    monkeypatch.setenv("INDUS_TEACHER_KEY", "secret")
    asked = reply_cache.teacher_of_environment(tmp_path / "replies.jsonl")
    assert asked.name == "big@127.0.0.1" and asked.policy._key == "secret"


@pytest.mark.parametrize(
    ("count", "named", "found"), [(0, "", []), (2, "", ["0", "1"]), (2, "3,5", ["3", "5"]), (1, "5,7", ["5"])]
)
def test_gpus_are_named_as_they_are_made_visible(monkeypatch, count, named, found):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert workers.gpus() == found
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert experiments.side_by_side() == (count or 4)  # CPU: no more than memory holds


def test_a_process_alone_trains_on_one_gpu():
    alone, ranked = SimpleNamespace(world_size=1, n_gpu=8), SimpleNamespace(world_size=8, n_gpu=1)
    assert training_runs.on_one_gpu(alone)._n_gpu == 1
    assert not hasattr(training_runs.on_one_gpu(ranked), "_n_gpu")


def test_runs_are_read_for_the_seeds_asked_for(monkeypatch, tmp_path):
    """A seed that an earlier call with more of them left behind is none of this one's."""
    monkeypatch.setattr(experiments, "folder", lambda profile: tmp_path)
    for seed in range(3):
        keep_episodes(tmp_path / f"work/episodes/full-s{seed}/mvtec.jsonl", "key", [episode(0, True, True, seed=seed)])
    for n in (1, 2):
        found = experiments.read_runs(P, ("full",), n)
        assert [e.seed for e in found["full"]["mvtec"]] == list(range(n))
