"""Inspect-my-image without a browser: good file, bad files, upload, save; real loop, scripted policy."""

import pytest
from trace_samples import write_sample

from indus_lib import protocol
from indus_lib.inspect_widget import InspectWidget
from indus_lib.policies import ScriptedPolicy

TURNS = (
    protocol.format_turn1(
        {"evidence": "plate", "preliminary": "No"}, [{"name": "crop", "arguments": {"region": [560, 260, 740, 380]}}]
    ),
    protocol.format_final("a bright line", True, (600, 300, 700, 340), "scratch"),
)


@pytest.fixture
def widget(tmp_path):
    loaded = []

    def load(profile):
        loaded.append(profile.name)
        return ScriptedPolicy(TURNS)

    made = InspectWidget(load, ["plate"], profile="smoke", folder=tmp_path / "uploads")
    made.loaded = loaded
    return made


def test_a_file_goes_through_to_the_verdict(widget, tmp_path):
    widget.path.value = str(write_sample(tmp_path, side=256).image)
    widget.go.click()
    assert widget.episode.verdict.anomalous and widget.player.step == 3
    assert "anomalous" in widget.status.value and "Verdict" in widget.static_html()
    widget.go.click()
    assert widget.loaded == ["smoke"]  # the model is kept
    widget.save_as.value = str(tmp_path / "out" / "trace.html")
    widget.save.click()
    assert (tmp_path / "out" / "trace.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("gone.png", None, "gone.png"), ("text.png", b"no image at all", "text.png"), ("empty.jpg", b"", "empty.jpg")],
)
def test_bad_files_are_named_before_any_model_is_loaded(widget, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    widget.path.value = str(tmp_path / name)
    widget.go.click()
    assert said in widget.status.value and "bad" in widget.status.value
    assert widget.loaded == [] and not widget.go.disabled and widget.below.children == ()


def test_nothing_chosen_and_model_missing_are_said(tmp_path):
    def load(profile):
        raise FileNotFoundError("no weights; run make train")

    widget = InspectWidget(load, profile="smoke")
    widget.go.click()
    assert "choose a file" in widget.status.value
    widget.path.value = str(write_sample(tmp_path, side=64).image)
    widget.go.click()
    assert "run make train" in widget.status.value and not widget.go.disabled


def test_upload_is_kept_under_a_harmless_name(widget, tmp_path):
    content = write_sample(tmp_path, side=64).image.read_bytes()
    widget._uploaded(({"name": "../../etc/<b>.png", "content": memoryview(content)},))
    assert [p.name for p in widget.folder.iterdir()] == ["_b_.png"] and "64 x 64" in widget.status.value
    widget._uploaded(({"name": "note.png", "content": memoryview(b"hello")},))
    assert "note.png" in widget.status.value and "bad" in widget.status.value
