"""The first lessons of a language model that starts anew: to repeat a box that an observation names, to read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import training_world as world

from indus_lib import copying, figures_training, protocol, sft, tiny_model, train_data
from indus_lib.tools import ToolResult

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
PHOTO = np.full((64, 64, 3), 90, np.uint8)


def exchange(box, said=None):
    """A crop that reports `box` and an answer with the box `said` (the same one if not given)."""
    call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}}
    ask = protocol.add_assistant(protocol.start(PHOTO, "?"), f"<think>unsure</think>{protocol.tool_tail(call)}")
    seen = protocol.add_observation(ask, [(call, ToolResult(True, f"it lies at {protocol.box_text(box)}", [PHOTO]))])
    return protocol.add_assistant(seen, f"<think>see it</think>{protocol.final_text(True, said or box, 'crack')}")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copying")
    talks = [exchange((100, 200, 150, 290)), exchange((30, 40, 220, 90)), exchange((500, 600, 700, 800))]
    model, processor = tiny_model.build(world.MINI, world.texts(talks))
    return tiny_model.save(model, processor, folder / "base"), talks


def encoded(path, talks):
    model, processor = tiny_model.load(path)
    return model.train(), processor, train_data.encode_all(talks, processor, max_length=512, progress="")


def test_a_box_never_seen_is_repeated(base):
    """Three texts and 200 steps; the boxes are others at every step, so that none can be known by heart."""
    model, processor, rows = encoded(*base)
    shares = copying.copy(model, processor, rows, steps=200, rate=3e-3, seed=0, progress=False)
    assert len(shares) == 200 and np.mean(shares[:5]) < 0.1 and np.mean(shares[-10:]) > 0.8


def test_the_tower_is_left_alone_and_a_seed_repeats(base):
    """Only language weights move, to the same values each time."""
    moved = []
    for _ in range(2):
        torch.manual_seed(3)
        model, processor, rows = encoded(*base)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        copying.copy(model, processor, rows, steps=2, rate=1e-3, seed=0, progress=False)
        after = dict(model.named_parameters())
        moved.append({name: after[name] for name in before if not torch.equal(before[name], after[name])})
    assert moved[0] and all("language_model" in name for name in moved[0])
    assert all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])


def test_conversations_that_share_no_box_teach_nothing(base):
    """Other boxes than the tool's are no copies: nothing is learnt, nothing fails."""
    model, processor, rows = encoded(base[0], [exchange((100, 200, 150, 290), said=(10, 20, 30, 40))])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    assert copying.copy(model, processor, rows, steps=3, rate=1e-3, seed=0, progress=False) == []
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_pictures_and_the_first_turn_are_left_out(base):
    """What remains is the observation and the answer to it, with the answer alone to be learnt."""
    _, processor, rows = encoded(*base)
    row = copying._exchange(rows[0], processor.image_token_id)
    text = processor.tokenizer.decode(row.input_ids, skip_special_tokens=False)
    assert processor.image_token_id not in row.input_ids and "unsure" not in text and "it lies at" in text
    learnt = processor.tokenizer.decode(row.input_ids[row.mask], skip_special_tokens=False)
    assert learnt.startswith("<think>see it") and (row.place > 0).sum() == 8


def told(norm, found, bad):
    """A prior and an answer that follows from whether what was found is what it names; no picture in the answer."""
    call = {"name": "lookup_prior", "arguments": {}}
    ask = protocol.add_assistant(protocol.start(PHOTO, "?"), f"<think>unsure</think>{protocol.tool_tail(call)}")
    seen = protocol.add_observation(ask, [(call, ToolResult(True, f"it carries a {norm}. there is a {found}"))])
    finding, kind = ("see crack", "crack") if bad else ("see nothing", None)
    return protocol.add_assistant(seen, f"<think>{finding}</think>{protocol.final_text(bad, None, kind)}")


def test_what_follows_from_words_is_learnt(tmp_path):
    """Whether a norm and a find are the same word decides; without reading both, half of the answers are right."""
    signs = ["ring", "dot", "bar", "cross"]
    talks = [told(a, b, a != b) for a in signs for b in signs]
    talks += [told(a, a, False) for a in signs for _ in range(2)]  # as many of one kind as of the other
    model, processor = tiny_model.build(world.MINI, world.texts(talks))
    base = tiny_model.save(model, processor, tmp_path / "base")
    torch.manual_seed(0)
    model, processor, rows = encoded(base, talks)
    shares = copying.read(model, processor, rows, steps=250, rate=3e-3, seed=0, progress=False, weight=12.0)
    assert len(shares) == 250 and np.mean(shares[:5]) < 0.7 and np.mean(shares[-10:]) > 0.95


def test_answers_to_pictures_are_not_read(base):
    """A crop's picture is part of what decides: such rounds are left to SFT."""
    model, processor, rows = encoded(*base)
    assert copying.read(model, processor, rows, steps=3, rate=1e-3, seed=0, progress=False, weight=12.0) == []
    _, _, words = encoded(base[0], [told("crack", "crack", False)])
    assert [copying._in_words(r, processor) for r in (*rows, *words)] == [False] * 3 + [True]


def test_sft_begins_with_it_once(base, tmp_path, monkeypatch):
    """A resumed run goes on from its checkpoint, which has learnt it."""
    _, _, rows = encoded(*base)
    asked, copy = [], copying.copy
    monkeypatch.setattr(copying, "copy", lambda *a, **k: asked.append(k["steps"]) or copy(*a, **k))
    config = replace(world.PROFILE.sft, epochs=2, batch=1, accumulation=1, restart=True, copying=3, reading=0)
    stop = RuntimeError("killed")
    with monkeypatch.context() as patch:
        patch.setattr(sft.training_runs, "finish", lambda *a, **k: (_ for _ in ()).throw(stop))
        with pytest.raises(RuntimeError, match="killed"):
            sft.train(base[0], rows, tmp_path / "model", config, save_steps=1, progress=False)
    sft.train(base[0], rows, tmp_path / "model", config, save_steps=1, progress=False)
    copied = figures_training.series(figures_training.history(tmp_path / "model"), "copied")[1]
    assert asked == [3] and len(copied) == 3
