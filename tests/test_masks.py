"""The boundary between what is learnt and what is not, and that RL, SFT and inspection see the same tokens."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import training_world as world
from hypothesis import given, settings
from hypothesis import strategies as st

from indus_lib import loop, protocol, sft, tiny_model, train_data
from indus_lib.local_policy import LocalPolicy
from indus_lib.policies import ScriptedPolicy

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
END = "<|im_end|>"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return world.make_samples(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def mini(samples):
    return tiny_model.build(world.MINI, world.texts(world.conversations(samples)))


def test_trained_and_masked_spans(samples, mini):
    """Learnt: the agent's words and its end of turn. Masked: image, instruction, headers, observation, newline."""
    talk = world.conversation(samples[0], says=True, calls=True)
    question, seen = talk[0]["content"][1]["text"], talk[2]["content"][0]["text"]
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert train_data.spans(train_data.encode(talk, mini[1]), mini[1]) == [
        (False, f"<|im_start|>user\n{image}{question}{END}\n<|im_start|>assistant\n"),
        (True, talk[1]["content"][0]["text"] + END),
        (False, f"\n<|im_start|>user\n{seen}{image}</observation>{END}\n<|im_start|>assistant\n"),
        (True, talk[3]["content"][0]["text"] + END),
    ]


def test_image_tokens_match_the_pixels(samples, mini):
    """One placeholder per merged patch, for the photograph and for the tool's picture; none is learnt."""
    one = train_data.encode(world.conversation(samples[0], says=False, calls=True), mini[1])
    places = one.input_ids == mini[1].image_token_id
    assert places.sum() == one.image_grid_thw.prod(-1).sum() // 4
    assert not one.mask[places].any() and len(one.image_grid_thw) == 2
    assert one.pixel_values.shape[0] == one.image_grid_thw.prod(-1).sum()


WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40).filter(lambda t: "<|" not in t)


@given(first=WORDS, second=WORDS)
@settings(max_examples=40, deadline=None)
def test_any_words_of_the_agent_are_learnt_and_nothing_else(samples, mini, first, second):
    """Also newlines at the boundary and odd scripts: the learnt ids decode to exactly what was said."""
    talk = world.conversation(samples[0], says=False, calls=True)
    talk[1], talk[3] = (protocol.add_assistant([], t)[0] for t in (first, second))
    learnt = [text for kept, text in train_data.spans(train_data.encode(talk, mini[1]), mini[1]) if kept]
    assert learnt == [first + END, second + END]


def test_sampled_ids_are_kept_as_they_are(samples, mini):
    """Ids that decode to the same text but are split otherwise survive; a cut-off turn gets no learnt end."""
    processor = mini[1]
    talk = world.conversation(samples[0], says=False, calls=False)
    letters = [processor.tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in "seen"]
    assert letters != processor.tokenizer("seen", add_special_tokens=False)["input_ids"]
    talk[1] = {**talk[1], "token_ids": tuple(letters)}
    one = train_data.encode(talk, processor)
    assert one.input_ids[one.mask].tolist() == letters


class Recorder(LocalPolicy):
    """A policy that keeps every prompt it was fed."""

    def encode(self, conversations, *, prompt):
        inputs = super().encode(conversations, prompt=prompt)
        if prompt:
            rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
            self.fed = [*getattr(self, "fed", []), [ids[keep.bool()].tolist() for ids, keep in rows]]
        return inputs


def test_inspection_and_training_build_the_same_tokens(samples, mini):
    """A real loop: what the model was fed, plus what it said, is what training encodes, token by token, pixel by
    pixel."""
    talks = [world.conversation(s, says=bool(i % 2), calls=True) for i, s in enumerate(samples[:4])]
    lines = [[m["content"][0]["text"] for m in talk if m["role"] == "assistant"] for talk in talks]
    script = ScriptedPolicy(
        lambda talk, turn: next(x for x, t in zip(lines, talks, strict=True) if _same(talk, t))[turn]
    )
    traces = loop.rollout(script, samples[:4], config=world.PROFILE.inspection, margins=False)
    recorder = Recorder(*mini)
    for prefix in (1, 3):
        recorder.encode([t.conversation[:prefix] for t in traces], prompt=True)
    for i, trace in enumerate(traces):
        one = train_data.encode(trace.conversation, mini[1])
        first, second = recorder.fed[0][i], recorder.fed[1][i]
        assert len(trace.replies) == 2 and one.prompt_length == len(first)
        assert one.input_ids[: len(first)].tolist() == first
        assert one.input_ids[: len(second)].tolist() == second
        pixels = recorder.encode([trace.conversation], prompt=False)["pixel_values"]
        assert torch.equal(pixels, one.pixel_values)


def _same(a, b) -> bool:
    return np.array_equal(a[0]["content"][0]["image"], b[0]["content"][0]["image"])


def test_sampled_rollout_is_what_training_encodes(samples, mini):
    """With a sampling policy: prompt as fed + ids as sampled = the training sequence."""
    recorder = Recorder(*mini)
    traces = loop.rollout(
        recorder, samples[:4], config=world.PROFILE.inspection, temperature=1.0, seed=3, margins=False
    )
    for fed, trace in zip(recorder.fed[0], traces, strict=True):
        one = train_data.encode(train_data.with_ids(trace.conversation, trace.replies), mini[1])
        assert one.input_ids.tolist() == fed + list(trace.replies[0].token_ids)
        assert one.input_ids[one.mask].tolist() == list(trace.replies[0].token_ids)


def test_loss_counts_generated_tokens_only(samples, mini):
    """The trainer's loss on a padded batch equals the mean over learnt tokens of -log p, computed by hand."""
    model, processor = mini
    rows = [train_data.encode(t, processor) for t in world.conversations(samples[:6])]
    batch = train_data.collate(rows, processor.tokenizer.pad_token_id, processor.image_token_id)
    with torch.no_grad():
        loss = sft.BucketTrainer.compute_loss(weighing(1.0), model, batch)
        log_p = log_probabilities(model, batch)
    learnt = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    for i, row in enumerate(rows):
        learnt[i, : len(row)] = torch.from_numpy(row.mask)
    assert loss.item() == pytest.approx(-log_p[learnt[:, 1:]].mean().item(), rel=1e-5)
    assert (batch["labels"] != train_data.IGNORED).equal(learnt)


def log_probabilities(model, batch):
    """(B, T - 1) of each token after the first, all logits computed."""
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "decision", "place", "second")}
    return model(**inputs).logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)


def weighing(weight: float, named_only: bool = False) -> SimpleNamespace:
    """What `compute_loss` asks of its trainer."""
    return SimpleNamespace(_decision_weight=lambda: weight, withheld=0.0, practised=0, named_only=named_only)


def test_a_box_that_no_tool_named_can_be_left_unlearnt(samples, mini):
    """Its four numbers count nothing then; the brackets around them and all else do."""
    model, processor = mini
    row = train_data.encode(world.conversation(samples[1], says=True, calls=False), processor)
    assert (row.place < 0).sum() == 4
    batch = train_data.collate([row], processor.tokenizer.pad_token_id, processor.image_token_id)
    with torch.no_grad():
        loss = sft.BucketTrainer.compute_loss(weighing(1.0, named_only=True), model, batch)
        log_p = log_probabilities(model, batch)[0]
    assert loss.item() == pytest.approx(-log_p[(row.mask & (row.place >= 0))[1:]].mean().item(), rel=1e-5)


def test_decisions_count_more_by_the_weight_given(mini):
    """The loss is the weighted mean over learnt tokens: 4 for a decision, 1 for the others, 0 for what was given."""
    model, processor = mini
    picture = np.full((64, 64, 3), 90, np.uint8)
    thoughts = ("see crack, the crop shows it", "see nothing, even all over", "no finding is named here")
    talks = [protocol.start(picture, protocol.question(detail="short")) for _ in thoughts]
    talks = [protocol.add_assistant(t, protocol.format_final(x, False)) for t, x in zip(talks, thoughts, strict=True)]
    rows = [train_data.encode(t, processor) for t in talks]
    batch = train_data.collate(rows, processor.tokenizer.pad_token_id, processor.image_token_id)
    weights = torch.zeros(batch["input_ids"].shape)
    for row, found, own in zip(rows, ("see crack", "see nothing", ""), weights, strict=True):
        assert processor.tokenizer.decode(row.input_ids[row.decision == 1].tolist()).strip() == found
        assert not row.decision[~row.mask].any()
        own[: len(row)] = torch.from_numpy(1.0 * row.mask + 3.0 * row.decision)
    with torch.no_grad():
        loss = sft.BucketTrainer.compute_loss(weighing(4.0), model, batch)
        log_p = log_probabilities(model, batch)
    assert loss.item() == pytest.approx(-(log_p * weights[:, 1:]).sum().item() / weights[:, 1:].sum().item(), rel=1e-5)


@pytest.mark.parametrize("before", ["", "evidence: "])
def test_the_finding_is_a_decision_and_its_sentence_is_not(samples, mini, before):
    """`see crack` at the head of a thought, up to its first comma; at its very head `see` says that none is asked."""
    talk = world.conversation(samples[1], says=True, calls=False)[:1]
    talk = protocol.add_assistant(talk, f"<think>{before}see crack, all the rest</think><answer>Yes</answer>")
    one = train_data.encode(talk, mini[1])
    text = mini[1].tokenizer.decode(one.input_ids[one.decision == 1].tolist())
    assert text.strip() == ("crack" if before else "see crack")


def test_behind_a_name_the_finding_alone_is_a_decision(samples, mini):
    """The name is read off an observation, and that no tool is asked is not in doubt in a second round."""
    talk = world.conversation(samples[1], says=True, calls=False)[:1]
    talk = protocol.add_assistant(talk, f"<think>prior dot, crop bar, see nothing</think>{protocol.final_text(False)}")
    one = train_data.encode(talk, mini[1])
    assert mini[1].tokenizer.decode(one.input_ids[one.decision == 1].tolist()).strip() == "nothing"


def test_the_choice_of_tools_is_a_decision_and_their_arguments_are_not(samples, mini):
    calls = [{"name": "crop", "arguments": {"region": [0, 0, 500, 500]}}, {"name": "prior", "arguments": {}}]
    talk = world.conversation(samples[1], says=True, calls=False)[:1]
    talk = protocol.add_assistant(talk, f"<think>{protocol.UNSURE}</think>{protocol.tool_tail(calls)}")
    one = train_data.encode(talk, mini[1])
    text = mini[1].tokenizer.decode(one.input_ids[one.decision == 1].tolist())
    assert text.replace(" ", "") == f"{protocol.UNSURE}cropprior"


def test_what_an_answer_names_counts_a_little_more(samples, mini):
    talk = world.conversation(samples[1], says=True, calls=False)[:1]
    talk = protocol.add_assistant(talk, protocol.format_final("see crack", True, (100, 200, 300, 400), "broken thread"))
    one = train_data.encode(talk, mini[1])
    named = one.decision == train_data.SHARES[train_data.NAME]
    assert mini[1].tokenizer.decode(one.input_ids[named].tolist()) == "100200300400broken thread"


def test_a_terse_thought_is_weighed_where_it_says_what_it_sees(samples, mini):
    """Its margin is log p(something) - log p(nothing) behind `see`; beside it a long thought is weighed as before."""
    model, processor = tiny_model.build(world.MINI, ["see something", "see nothing"] * 900)
    policy = LocalPolicy(model, processor)
    start = world.conversation(samples[0], says=True, calls=False)[:1]
    terse = protocol.add_assistant(start, protocol.LOOK)
    long = protocol.add_assistant(start, "<think>even all over</think>")
    named = protocol.add_assistant(start, "<think>prior dot, crop bar, see")
    both = policy.margins([terse, long])
    with torch.no_grad():
        log_p = model(**policy.encode([terse], prompt=False)).logits[0, -1].log_softmax(-1)
    some, none = (processor.tokenizer.encode(w, add_special_tokens=False)[0] for w in protocol.FOUND)
    assert some != none and both[0] == pytest.approx((log_p[some] - log_p[none]).item(), abs=1e-4)
    assert both[1] == pytest.approx(policy.margins([long])[0], abs=1e-4)
    with torch.no_grad():
        log_p = model(**policy.encode([named], prompt=False)).logits[0, -1].log_softmax(-1)
    assert policy.margins([named])[0] == pytest.approx((log_p[some] - log_p[none]).item(), abs=1e-4)
    blunt = LocalPolicy(*mini)  # its tokenizer spells both words, and begins them with the same space
    with pytest.raises(ValueError, match="no margin"):
        blunt.margins([terse])


def test_bad_conversations_are_named(samples, mini):
    """Too long, without an image, or with an image token as text."""
    talk = world.conversation(samples[0], says=True, calls=False)
    longer = world.conversation(samples[0], says=True, calls=True)
    most = len(train_data.encode(longer, mini[1]))
    with pytest.raises(ValueError, match=rf"2 of 2 conversations have more than the 20 tokens .* up to {most}: raise"):
        train_data.encode_all([talk, longer], mini[1], max_length=20, progress="")
    with pytest.raises(ValueError, match="1 of 2 conversations"):
        train_data.encode_all([talk, longer], mini[1], max_length=most - 1, progress="")
    with pytest.raises(ValueError, match="needs its image"):
        train_data.encode([{**talk[0], "content": talk[0]["content"][1:]}, talk[1]], mini[1])
    with pytest.raises(ValueError, match="image placeholders"):
        train_data.encode([talk[0], *protocol.add_assistant([], "<|image_pad|>")], mini[1])


def test_large_pictures_are_kept_on_disk_to_the_same_tokens_and_pixels(samples, mini, monkeypatch):
    talk = world.conversation(samples[0], says=True, calls=True)
    (kept,) = train_data.encode_all([talk], mini[1], max_length=10**6, progress="")
    monkeypatch.setattr(train_data, "ON_DISK", 1)
    (stored,) = train_data.encode_all([talk], mini[1], max_length=10**6, progress="")
    assert stored.pixel_values.dtype == kept.pixel_values.dtype and torch.equal(stored.pixel_values, kept.pixel_values)
    batches = [train_data.collate([one], 0, 1)["pixel_values"] for one in (kept, stored)]
    assert torch.equal(*batches)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    many = [train_data._out_of_memory(stored.pixel_values) for _ in range(50)]  # thousands, of 1,024 descriptors
    assert len(many) == 50 and len(list(Path("/proc/self/fd").iterdir())) < opened + 10


def test_what_a_trajectory_calls_is_always_offered():
    """Half of the lists are whole, the others of every length, and none lacks a tool that is called."""
    lists = [train_data.offered({"crop"}, str(k)) for k in range(400)]
    assert all("crop" in names for names in lists) and lists == [
        train_data.offered({"crop"}, str(k)) for k in range(400)
    ]
    whole = sum(names == protocol.TOOL_NAMES for names in lists) / 400
    assert 0.45 < whole < 0.68 and {len(names) for names in lists} == {1, 2, 3, 4}
    assert {train_data.offered((), str(k)) for k in range(400)} > {(), ("prior",), protocol.TOOL_NAMES}
