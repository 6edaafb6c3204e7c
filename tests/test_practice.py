"""Answers in words: boxes are copied, names compared, verdicts follow findings, and nothing can be known by heart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import training_world as world
from hypothesis import given, settings
from hypothesis import strategies as st

from indus_lib import figures_training, practice, protocol, sft, tiny_model, train_data
from indus_lib.tools import ToolResult

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
PHOTO = np.full((64, 64, 3), 90, np.uint8)


def exchange(box, said=None, bad=True):
    """A crop that reports `box`, and an answer with the box `said` (the same one if not given) or No."""
    call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}}
    ask = protocol.add_assistant(protocol.start(PHOTO, "?"), f"<think>unsure</think>{protocol.tool_tail(call)}")
    seen = protocol.add_observation(ask, [(call, ToolResult(True, f"it lies at {protocol.box_text(box)}", [PHOTO]))])
    final = protocol.final_text(True, said or box, "crack") if bad else protocol.final_text(False)
    return protocol.add_assistant(seen, f"<think>see {'something' if bad else 'nothing'}</think>{final}")


def told(norm, found, bad):
    """A prior, what a crop found, and an answer that follows from whether it is what the prior names."""
    call = {"name": "prior", "arguments": {}}
    ask = protocol.add_assistant(protocol.start(PHOTO, "?"), f"<think>unsure</think>{protocol.tool_tail(call)}")
    seen = protocol.add_observation(ask, [(call, ToolResult(True, f"it carries a {norm}. there is a {found}."))])
    finding, kind = ("see something", "crack") if bad else ("see nothing", None)
    return protocol.add_assistant(
        seen, f"<think>prior {norm}, crop {found}, {finding}</think>{protocol.final_text(bad, None, kind)}"
    )


def comparisons():
    """As many of one kind as of the other."""
    pairs = [(a, b) for a in protocol.FORMS for b in protocol.FORMS]
    same = [(a, a) for a in protocol.FORMS for _ in range(2)]
    return [told(a, b, a != b) for a, b in pairs + same]


def opened(folder, talks):
    """(model, processor, encoded conversations) of a miniature that knows the words of `talks`."""
    model, processor = tiny_model.build(world.MINI, world.texts(talks))
    return model.train(), processor, train_data.encode_all(talks, processor, max_length=512, progress="")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    talks = [exchange((100, 200, 150, 290)), exchange((30, 40, 220, 90)), exchange((500, 600, 700, 800), bad=False)]
    return opened(tmp_path_factory.mktemp("boxes"), talks)


def numbers_of(ids, processor):
    return (ids[:, None] == torch.from_numpy(train_data.number_ids(processor))).int().argmax(1) * 10


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_boxes_lie_elsewhere_and_keep_their_size(boxes, seed):
    """In an observation alone (No) and where an answer repeats it; inside the picture."""
    _, processor, rows = boxes
    redraw = practice.Redraw(processor)
    torch.manual_seed(seed)
    for one, size in zip(rows, ((50, 90), (190, 50), (200, 200)), strict=True):
        ids, place = torch.from_numpy(one.input_ids), torch.from_numpy(one.place)
        moved = redraw(ids, place)
        found = numbers_of(moved[place > 0], processor).view(-1, 4)
        assert len(found) == (1 if size == (200, 200) else 2) and (found == found[0]).all()
        assert (found[0, 2:] - found[0, :2]).tolist() == list(size)
        assert torch.equal(moved[place <= 0], ids[place <= 0])


def test_where_a_box_lies_tells_nothing_of_the_answer(boxes):
    """A box that an answer of No leaves unsaid moves as one does that is repeated."""
    _, processor, rows = boxes
    redraw, left = practice.Redraw(processor), []
    torch.manual_seed(0)
    for one in (rows[2], rows[0]):
        place = torch.from_numpy(one.place)
        at = [numbers_of(redraw(torch.from_numpy(one.input_ids), place)[place == 1], processor)[0] for _ in range(400)]
        left.append(np.array(at))
    assert all(len(np.unique(x)) > 60 for x in left) and abs(left[0].mean() - left[1].mean()) < 120


def test_two_boxes_move_apart(boxes):
    """Each box of an observation has its own place; what no observation names stays and is marked."""
    _, processor, _ = boxes
    call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}}
    ask = protocol.add_assistant(protocol.start(PHOTO, "?"), f"<think>unsure</think>{protocol.tool_tail(call)}")
    text = "crop [100,200,300,400] it lies at [10,20,40,80]"
    seen = protocol.add_observation(ask, [(call, ToolResult(True, text, [PHOTO]))])
    places = []
    for box in ((10, 20, 40, 80), (10, 20, 40, 90)):
        answer = f"<think>see something</think>{protocol.final_text(True, box, 'crack')}"
        places.append(train_data.encode(protocol.add_assistant(seen, answer), processor).place)
    assert [sorted(p[p != 0]) for p in places] == [
        [1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8],
        [-1, -1, -1, -1, 1, 2, 3, 4, 5, 6, 7, 8],
    ]


def test_names_are_exchanged_alike(tmp_path):
    """Two alike stay alike, two different ones different, and all other words stay."""
    _, processor, rows = opened(tmp_path, comparisons())
    redraw, seen = practice.Redraw(processor), set()
    assert len(redraw.names) == 4
    torch.manual_seed(0)
    for one in rows * 5:
        ids, place = torch.from_numpy(one.input_ids), torch.from_numpy(one.place)
        other = redraw(ids, place)
        named = torch.isin(ids, redraw.names)
        assert torch.equal(named, torch.isin(other, redraw.names)) and torch.equal(ids[~named], other[~named])
        first, second = ids[named].tolist(), other[named].tolist()
        assert (first[0] == first[1]) == (second[0] == second[1]) and second[:2] == second[2:]
        seen.add(tuple(second[:2]))
    assert len(seen) == 16


def test_a_word_that_begins_like_a_name_is_none():
    """`dotted` is two tokens, the first of which is that of `dot`: a product's name would tell what was exchanged."""
    processor = tiny_model.load(world.PROFILE.model.base)[1]
    redraw = practice.Redraw(processor)
    ids = torch.tensor(processor.tokenizer("a dotted part with a dark dot.")["input_ids"])
    assert int(torch.isin(ids, redraw.names).sum()) == 2
    torch.manual_seed(0)
    said = {processor.tokenizer.decode(redraw(ids, torch.zeros_like(ids))) for _ in range(60)}
    assert said == {f"a dotted part with a dark {form}." for form in protocol.FORMS}


def test_a_box_never_seen_is_repeated(boxes):
    """Three texts; the boxes are others at every step, so that none can be known by heart."""
    model, processor, rows = boxes
    torch.manual_seed(0)
    words = practice.Practice(model, processor, rows[:2], weight=12.0)
    course = words.lesson(model, steps=200, size=32, rate=3e-3, progress=False)["copied"]
    assert np.mean(course[:5]) < 0.1 and np.mean(course[-10:]) > 0.8
    right = []
    for answer, exercise in ((words.answers[k], words._exercise(k)) for k in [0, 1] * 10):
        ids, targets, weight = (x[answer.kept] for x in exercise)
        positions = answer.positions[answer.kept].T[:, None]
        logits = model(input_ids=ids[None], position_ids=positions, use_cache=False).logits[0, :-1]
        copied = (weight[1:] > 0) & torch.isin(targets[1:], words.redraw.numbers)
        right.append((logits.argmax(-1) == targets[1:])[copied])
    assert torch.cat(right).float().mean() > 0.8


def test_names_are_compared(tmp_path):
    """Whether a norm and a find are the same word decides; without reading both, half of the answers are right."""
    torch.manual_seed(0)
    model, processor, rows = opened(tmp_path, comparisons())
    words = practice.Practice(model, processor, rows, weight=12.0)
    assert len(words.compared) == len(rows)
    courses = words.lesson(model, steps=250, size=32, rate=3e-3, progress=False)
    shares = courses["compared"]
    assert (
        len(shares) == 250 and not any(courses["copied"]) and np.mean(shares[:5]) < 0.7 and np.mean(shares[-10:]) > 0.95
    )


@pytest.fixture(scope="module")
def shipped():
    """The shipped base, whose tags and findings are single tokens."""
    return tiny_model.load(world.PROFILE.model.base)


def test_a_turned_finding_is_followed(shipped, monkeypatch):
    """The other finding is given, and how the answer to it begins is all that is learnt."""
    model, processor = shipped
    monkeypatch.setattr(practice, "TURNED", 2.0)
    talks = [exchange((100, 200, 150, 290)), exchange((500, 600, 700, 800), bad=False)]
    rows = train_data.encode_all(talks, processor, max_length=640, progress="")
    words, decode = practice.Practice(model, processor, rows, weight=12.0), processor.tokenizer.decode
    for k, (found, begins) in enumerate(((" nothing", "<answer>"), (" something", "<location>"))):
        given, targets, weight = words._exercise(k)
        finding = words.answers[k].finding
        assert decode(given[finding]) == found and int(finding.sum()) == 1
        assert decode(targets[weight > 0], skip_special_tokens=False) == begins


def test_what_was_found_is_something_else(shipped, monkeypatch):
    """As often what belongs there as not, whatever the text's own label; finding and beginning follow the names."""
    model, processor = shipped
    monkeypatch.setattr(practice, "RENAMED", 2.0)
    rows = train_data.encode_all(comparisons(), processor, max_length=640, progress="")
    words, decode = practice.Practice(model, processor, rows, weight=12.0), processor.tokenizer.decode
    assert len(words.compared) == len(rows)
    torch.manual_seed(0)
    seen = []
    for k in [0, 1, 2, 3] * 30:
        given, targets, weight = words._exercise(k)
        names = given[words.redraw.named(given)]
        same = bool(names[0] == names[1])
        learnt = decode(targets[weight > 0], skip_special_tokens=False)
        assert names[:2].tolist() == names[2:].tolist() and learnt == decode(
            given[weight > 0][:-1], skip_special_tokens=False
        ) + ("<answer>" if same else "<location>")
        thought = f"prior{decode(names[:1])}, crop{decode(names[1:2])}, see {'nothing' if same else 'something'}"
        assert learnt.startswith(f"<think>{thought}</think>")
        seen.append(same)
    assert 0.35 < np.mean(seen) < 0.65


def test_words_stand_where_they_stand_in_the_conversation(boxes):
    """Pictures and the first turn are left out, their places are not filled."""
    model, processor, rows = boxes
    words = practice.Practice(model, processor, rows, weight=12.0)
    kept = words.answers[0].kept
    (ids, _, weight), positions = (x[kept] for x in words._exercise(0)), words.answers[0].positions[kept]
    text = processor.tokenizer.decode(ids, skip_special_tokens=False)
    assert processor.image_token_id not in ids and "unsure" not in text and "it lies at" in text
    assert positions[0, 0] > 10 and (positions.diff(dim=0) > 1).any()  # a picture was between
    inputs = train_data.collate([rows[0]], processor.tokenizer.pad_token_id, processor.image_token_id)
    given = {n: inputs[n] for n in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
    whole, _ = model.model.get_rope_index(**given)
    assert torch.equal(whole[:, 0, words.answers[0].kept].T, positions) and weight[: rows[0].first_turn // 9].sum() == 0


def test_the_tower_is_left_alone_and_a_seed_repeats(boxes):
    """Only language weights move, to the same values each time."""
    moved = []
    for _ in range(2):
        torch.manual_seed(3)
        model, processor = tiny_model.build(world.MINI, world.texts([exchange((100, 200, 150, 290))]))
        rows = train_data.encode_all([exchange((100, 200, 150, 290))], processor, max_length=512, progress="")
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        words = practice.Practice(model, processor, rows, weight=12.0)
        words.lesson(model, steps=2, size=4, rate=1e-3, progress=False)
        after = dict(model.named_parameters())
        moved.append({name: after[name] for name in before if not torch.equal(before[name], after[name])})
    assert moved[0] and all("language_model" in name for name in moved[0])
    assert all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])


def test_one_round_alone_teaches_nothing(boxes):
    """Direct answers hold no observation: nothing is learnt, nothing fails."""
    model, processor, _ = boxes
    direct = protocol.add_assistant(
        protocol.start(PHOTO, "?"), f"<think>see nothing</think>{protocol.final_text(False)}"
    )
    words = practice.Practice(model, processor, [train_data.encode(direct, processor)], weight=12.0)
    assert words.lesson(model, steps=3, size=4, rate=1e-3, progress=False) == {} and words.loss(model, 4) == 0


def test_whole_conversations_are_practised_too(boxes):
    """Loss of words and of conversations with pictures, with a gradient, the same for a seed."""
    model, processor, rows = boxes
    words = practice.Practice(model, processor, rows, weight=12.0)
    values = []
    for _ in range(2):
        torch.manual_seed(5)
        loss = words.loss(model, 8)
        loss.backward()
        values.append(float(loss.detach()))
    assert values[0] == values[1] > 0 and model.model.language_model.embed_tokens.weight.grad.abs().sum() > 0
    model.zero_grad()


def test_sft_begins_with_it_once(tmp_path, monkeypatch):
    """A resumed run goes on from its checkpoint, which has learnt it."""
    talks = comparisons()
    model, processor = tiny_model.build(world.MINI, world.texts(talks))
    base = tiny_model.save(model, processor, tmp_path / "base")
    rows = train_data.encode_all(talks[:6], processor, max_length=512, progress="")
    asked, lesson = [], practice.Practice.lesson
    spy = lambda *a, **k: asked.append(k["steps"]) or lesson(*a, **k)  # noqa: E731
    monkeypatch.setattr(practice.Practice, "lesson", spy)
    config = replace(world.PROFILE.sft, epochs=2, batch=2, accumulation=1, restart=True, reading=3)
    stop = RuntimeError("killed")
    with monkeypatch.context() as patch:
        patch.setattr(sft.training_runs, "finish", lambda *a, **k: (_ for _ in ()).throw(stop))
        with pytest.raises(RuntimeError, match="killed"):
            sft.train(base, rows, tmp_path / "model", config, save_steps=1, progress=False)
    sft.train(base, rows, tmp_path / "model", config, save_steps=1, progress=False)
    kept = figures_training.history(tmp_path / "model")
    assert asked == [3] and len(figures_training.series(kept, "compared")[1]) == 3
