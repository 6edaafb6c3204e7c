"""The first lesson of a miniature's tower: what a photograph asks for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import training_world as world

from indus_lib import figures_training, looking, protocol, sft, tiny_model, train_data
from indus_lib.tools import ToolResult

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
MINI = replace(world.MINI, vision_depth=3)


def talk(dark: bool, k: int):
    """A dark photograph is cropped, a bright one enhanced, as every photograph of a corpus is by what it shows."""
    photo = np.random.default_rng(k).integers(20, 90, (64, 64, 3)).astype(np.uint8) + (0 if dark else 140)
    call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}} if dark else world.CALL
    ask = protocol.add_assistant(protocol.start(photo, "?"), f"<think>unsure</think>{protocol.tool_tail(call)}")
    seen = protocol.add_observation(ask, [(call, ToolResult(True, "nothing", [photo]))])
    return protocol.add_assistant(seen, f"<think>see nothing</think>{protocol.final_text(False)}")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looking")
    talks = [talk(k % 2 == 0, k) for k in range(64)]
    model, processor = tiny_model.build(MINI, world.texts(talks))
    path = tiny_model.save(model, processor, folder / "base")
    return path, train_data.encode_all(talks, processor, max_length=512, progress="")


def tower(path):
    return tiny_model.load(path)[0].train().model.visual


def test_what_a_photograph_asks_for_is_learnt(base):
    shares = looking.lesson(tower(base[0]), base[1], epochs=50, seed=0, progress=False)
    assert len(shares) == 100 and np.mean(shares[:5]) < 0.8 and np.mean(shares[-10:]) > 0.95


def test_only_the_last_blocks_move_and_a_seed_repeats(base):
    moved = []
    for _ in range(2):
        torch.manual_seed(5)
        visual = tower(base[0])
        before = {name: weight.detach().clone() for name, weight in visual.named_parameters()}
        looking.lesson(visual, base[1], epochs=1, seed=0, progress=False)
        after = dict(visual.named_parameters())
        moved.append({name: after[name] for name in before if not torch.equal(before[name], after[name])})
        assert not any(weight.requires_grad for weight in after.values())
    assert moved[0] and all(name.startswith(("blocks.1.", "blocks.2.", "merger.")) for name in moved[0])
    assert all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])


def test_a_decision_is_asking_and_the_tools_of_the_first_turn(base):
    """What the second turn decides, and what is only worded, is left out."""
    _, processor = tiny_model.load(base[0])
    texts = [processor.tokenizer.decode(list(looking.decisions(one))) for one in base[1][:2]]
    assert ["".join(t.split()) for t in texts] == ["unsurecrop", "unsureenhance"]


def test_sft_begins_with_it_once(base, tmp_path, monkeypatch):
    """A run that is killed and resumed keeps the tower that has learnt."""
    asked, lesson = [], looking.lesson
    monkeypatch.setattr(looking, "lesson", lambda *a, **k: asked.append(k["epochs"]) or lesson(*a, **k))
    config = replace(world.PROFILE.sft, epochs=1, batch=8, restart=True, looking=2)
    stop = RuntimeError("killed")
    with monkeypatch.context() as patch:
        patch.setattr(sft.training_runs, "finish", lambda *a, **k: (_ for _ in ()).throw(stop))
        with pytest.raises(RuntimeError, match="killed"):
            sft.train(base[0], base[1], tmp_path / "killed", config, save_steps=4, progress=False)
    sft.train(base[0], base[1], tmp_path / "killed", config, save_steps=4, progress=False)
    assert asked == [2]
    sft.train(base[0], base[1], tmp_path / "whole", config, save_steps=4, progress=False)
    assert len(figures_training.series(figures_training.history(tmp_path / "killed"), "looked")[1]) == 4
    resumed, whole = (dict(tower(tmp_path / name).named_parameters()) for name in ("killed", "whole"))
    untouched = dict(tower(base[0]).named_parameters())
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not torch.equal(whole["blocks.2.mlp.linear_fc1.weight"], untouched["blocks.2.mlp.linear_fc1.weight"])


def test_a_lora_run_is_refused(base, tmp_path):
    """Of such a run only the adapter is kept: the tower's lesson would be lost in silence."""
    with pytest.raises(ValueError, match="looking"):
        sft.train(base[0], base[1], tmp_path / "model", replace(world.PROFILE.sft, looking=1), lora=True)
