"""The first lesson of a miniature's tower: what a picture tells."""

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
    """A dark photograph is cropped, a bright one enhanced, as every photograph of a corpus is by what it shows; of a
    faulty part (every second pair) the tool's picture is red."""
    photo = np.random.default_rng(k).integers(20, 90, (64, 64, 3)).astype(np.uint8) + (0 if dark else 140)
    faulty, shown = k % 4 > 1, photo.copy()
    if faulty:
        shown[..., 1:] = 0
    call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}} if dark else world.CALL
    ask = protocol.add_assistant(protocol.start(photo, "?"), f"<think>unsure</think>{protocol.tool_tail(call)}")
    seen = protocol.add_observation(ask, [(call, ToolResult(True, "nothing", [shown]))])
    final = protocol.final_text(faulty, (0, 0, 1000, 1000), "stain")
    return protocol.add_assistant(seen, f"<think>see {'something' if faulty else 'nothing'}</think>{final}")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looking")
    talks = [talk(k % 2 == 0, k) for k in range(64)]
    model, processor = tiny_model.build(MINI, world.texts(talks))
    path = tiny_model.save(model, processor, folder / "base")
    return path, train_data.encode_all(talks, processor, max_length=512, progress="")


def tower(path):
    return tiny_model.load(path)[0].train().model.visual


def judged(visual, head, corpus) -> float:
    """Share of the tools' pictures from which the head tells the verdict."""
    shown = [p for p in looking.pictures(corpus)[0] if p.targets[0] == looking.UNTOLD]
    with torch.no_grad():
        logits = head(looking._patches(visual, corpus, shown, np.random.default_rng(0)))[1]
    return float((logits.argmax(1) == torch.tensor([p.targets[1] for p in shown])).float().mean())


def test_what_a_picture_tells_is_learnt(base, monkeypatch):
    """The photograph's choice, and the verdict from another picture than the first."""
    heads, head = [], looking.Head
    monkeypatch.setattr(looking, "Head", lambda *sizes: heads.append(head(*sizes)) or heads[-1])
    visual = tower(base[0])
    shares = looking.lesson(visual, base[1], epochs=40, seed=0, progress=False)
    assert len(shares) == 160 and np.mean(shares[:5]) < 0.7 and np.mean(shares[-10:]) > 0.8
    assert judged(visual, heads[0], base[1]) > 0.95


def test_a_picture_has_its_rows_and_its_targets(base):
    shown, counts = looking.pictures(base[1][:4])
    assert counts == (2, 2) and [p.of for p in shown] == [0, 0, 1, 1, 2, 2, 3, 3]
    one = base[1][0]
    assert (shown[0].first, shown[1].end) == (0, len(one.pixel_values)) and shown[0].end == shown[1].first
    assert shown[0].shape == tuple(one.image_grid_thw[0].tolist())
    asked, verdicts = zip(*(p.targets for p in shown), strict=True)
    assert asked[1::2] == (looking.UNTOLD,) * 4 and asked[0] == asked[4] != asked[2] == asked[6]
    assert verdicts[0] == verdicts[1] == verdicts[2] != verdicts[4] == verdicts[6]


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
    texts = [processor.tokenizer.decode(list(looking.decisions(base[1][k], last=True))) for k in (0, 2)]
    assert [t.split()[-1] for t in texts] == ["nothing", "something"]


def test_sft_begins_with_it_once(base, tmp_path, monkeypatch):
    """A run that is killed and resumed keeps the tower that has learnt."""
    asked, lesson = [], looking.lesson
    monkeypatch.setattr(looking, "lesson", lambda *a, **k: asked.append(k["epochs"]) or lesson(*a, **k))
    config = replace(world.PROFILE.sft, epochs=1, batch=8, restart=True, copying=0, looking=2)
    stop = RuntimeError("killed")
    with monkeypatch.context() as patch:
        patch.setattr(sft.training_runs, "finish", lambda *a, **k: (_ for _ in ()).throw(stop))
        with pytest.raises(RuntimeError, match="killed"):
            sft.train(base[0], base[1], tmp_path / "killed", config, save_steps=4, progress=False)
    sft.train(base[0], base[1], tmp_path / "killed", config, save_steps=4, progress=False)
    assert asked == [2]
    sft.train(base[0], base[1], tmp_path / "whole", config, save_steps=4, progress=False)
    assert len(figures_training.series(figures_training.history(tmp_path / "killed"), "looked")[1]) == 8
    resumed, whole = (dict(tower(tmp_path / name).named_parameters()) for name in ("killed", "whole"))
    untouched = dict(tower(base[0]).named_parameters())
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not torch.equal(whole["blocks.2.mlp.linear_fc1.weight"], untouched["blocks.2.mlp.linear_fc1.weight"])


def test_a_lora_run_is_refused(base, tmp_path):
    """Of such a run only the adapter is kept: the tower's lesson would be lost in silence."""
    with pytest.raises(ValueError, match="looking"):
        sft.train(base[0], base[1], tmp_path / "model", replace(world.PROFILE.sft, looking=1), lora=True)
