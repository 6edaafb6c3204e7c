"""What the player shows, without any widget."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_samples import SCRATCH, episode, plate, write_sample

from indus_lib import images, tools, trace_steps
from indus_lib.episodes import ToolCall, Turn


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("plate"), side=512)


def test_one_call_gives_four_steps_in_order(sample):
    trace = trace_steps.build(episode(sample), sample)
    assert [s.kind for s in trace.steps] == ["look", "route", "tool", "decide"]
    assert [s.calls for s in trace.steps] == [0, 0, 1, 1]
    assert trace.steps[1].ms == 200 and trace.steps[3].ms > 500


def test_margins_stand_before_and_after_the_observation(sample):
    steps = trace_steps.build(episode(sample, margins=(-0.5, 2.0)), sample).steps
    assert (steps[0].before, steps[0].after) == (None, None)
    assert (steps[1].before, steps[1].after) == (None, -0.5)
    assert (steps[2].before, steps[2].after) == (-0.5, 2.0)
    assert (steps[3].before, steps[3].after) == (-0.5, 2.0)


def test_no_log_probabilities_means_no_margin_anywhere(sample):
    steps = trace_steps.build(episode(sample, margins=(None, None)), sample).steps
    assert all(s.before is None and s.after is None for s in steps)


def test_tool_image_is_made_again_from_the_original(sample):
    arguments = {"region": [560, 260, 740, 380], "refine": False}
    step = trace_steps.build(episode(sample, (("crop", arguments),)), sample).steps[2]
    expected = tools.run("crop", arguments, images.load_image(sample.image)).images[0]
    assert np.array_equal(step.images[0], expected) and len(step.captions) == 1


def test_the_caption_says_how_far_a_crop_was_enlarged(sample):
    small = {"region": [600, 300, 640, 340], "refine": False}
    step = trace_steps.build(episode(sample, (("crop", small),)), sample).steps[2]
    result = tools.run("crop", small, images.load_image(sample.image))
    x1, y1, x2, y2 = result.details["window_px"]
    height, width = result.images[0].shape[:2]
    assert width > x2 - x1
    assert step.captions == (f"cut from the original, {x2 - x1} x {y2 - y1} px, enlarged to {width} x {height} px",)


def test_marks_hold_truth_prediction_and_tool_regions(sample):
    steps = trace_steps.build(episode(sample), sample).steps
    assert [m.box for m in steps[0].marks] == [SCRATCH]
    assert {m.kind for m in steps[2].marks} == {"truth", "asked", "tool"}
    prediction = [m for m in steps[3].marks if m.kind == "prediction"]
    assert prediction[0].box == (590, 300, 700, 340) and "IoU 0.91" in prediction[0].label


def test_measured_points_are_marked(sample):
    call = ("measure", {"kind": "distance", "points": [[100, 100], [400, 500]]})
    step = trace_steps.build(episode(sample, (call,)), sample).steps[2]
    assert next(m.points for m in step.marks if m.kind == "measure") == ((100.0, 100.0), (400.0, 500.0))


def test_features_of_a_row_are_marked_where_the_holes_are(sample):
    call = ("measure", {"kind": "row", "points": [[80, 750], [820, 750]]})
    step = trace_steps.build(episode(sample, (call,)), sample).steps[2]
    found = [m.points for m in step.marks if m.kind == "measure"][1]
    assert len(found) == 8
    assert np.allclose([x for x, _ in found], [100 * (1 + i) for i in range(8)], atol=6)


def test_refused_call_shows_why_and_draws_nothing_wrong(sample):
    step = trace_steps.build(episode(sample, (("crop", {"region": "everywhere"}),)), sample).steps[2]
    assert not step.ok and "region" in step.returned and step.images == ()
    assert {m.kind for m in step.marks} == {"truth"}


def test_observation_changed_by_hand_is_said(sample):
    plain = episode(sample)
    call = dataclasses.replace(plain.calls[0], text="another text")
    changed = dataclasses.replace(plain, turns=(dataclasses.replace(plain.turns[0], calls=(call,)), plain.turns[1]))
    assert any("changed by hand" in note for note in trace_steps.build(changed, sample).steps[2].notes)
    assert not any("changed by hand" in note for note in trace_steps.build(plain, sample).steps[2].notes)


def test_thinking_accumulates_and_verdict_is_compared(sample):
    trace = trace_steps.build(episode(sample), sample)
    assert "A plate with holes" in trace.steps[2].thought_before and trace.steps[3].thinking == "A bright line."
    assert trace_steps.verdict_words(trace.episode, sample) == (
        "Yes: anomalous (scratch)",
        "anomalous (scratch)",
        "right",
    )
    assert trace_steps.verdict_words(episode(sample, answer=None), sample)[::2] == ("no readable answer", "wrong")
    unlabelled = dataclasses.replace(sample, label=None)
    assert trace_steps.verdict_words(dataclasses.replace(trace.episode, label=None), unlabelled)[2] == "unknown"


def test_failed_episode_and_direct_mode_still_show(sample):
    failed = dataclasses.replace(episode(sample), turns=(), verdict=None, error="endpoint down")
    steps = trace_steps.build(failed, sample).steps
    assert len(steps) == 1 and any("endpoint down" in note for note in steps[0].notes)
    direct = dataclasses.replace(episode(sample), mode="direct", turns=(Turn("I see a scratch. Yes"),))
    assert trace_steps.build(direct, sample).steps[1].thinking == "I see a scratch. Yes"


def test_missing_image_is_named(sample):
    lost = dataclasses.replace(sample, image=sample.image.with_name("lost.png"))
    with pytest.raises(images.ImageError, match=r"lost\.png"):
        trace_steps.build(episode(sample), lost)


def test_several_calls_say_that_they_are_read_together(sample):
    calls = (("enhance", {"method": "edges"}), ("crop", {"region": [0, 0, 500, 500]}))
    steps = trace_steps.build(episode(sample, calls), sample).steps
    assert len(steps) == 5 and all("together" in s.notes[-1] for s in steps[2:4])


PIECES = ("x", "z", " ", "\n", "<", ">", "<think>", "</think>", "<answer>", "</answer>", "<location>")


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_segments_are_total_and_lose_no_word(text):
    shown = "".join(body for _, body in trace_steps.segments(text))
    assert [c for c in shown if c in "xz"] == [c for c in text if c in "xz"]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=12))
def test_model_made_geometry_never_raises(value):
    box, points = trace_steps.as_box(value), trace_steps.as_points(value)
    assert box is None or (len(box) == 4 and box[2] > box[0] and box[3] > box[1])
    assert all(len(p) == 2 for p in points)


@given(st.floats(allow_nan=False))
def test_probability_stays_in_range(margin):
    assert 0 <= trace_steps.probability(margin) <= 1


def test_truth_can_be_hidden(sample):
    marks = trace_steps.build(episode(sample), sample).steps[3].marks
    assert [m.kind for m in trace_steps.visible(marks, ("prediction",))] == ["prediction"]


def test_arguments_of_any_kind_are_shown(sample):
    odd = ToolCall("crop", {"region": [None, {"x": float("inf")}]}, False, "bad")
    changed = dataclasses.replace(episode(sample), turns=(Turn("<think>x", (odd,)), Turn("y")))
    assert "Infinity" in trace_steps.build(changed, sample, plate(64)).steps[2].given


def test_sample_from_episode_alone(sample):
    trace = trace_steps.build(episode(sample))
    assert trace.sample.image == sample.image and trace.steps[0].marks == ()
