"""Static twins and the player's state: nothing unescaped, nothing fetched, everything shown."""

import dataclasses
import io
import time
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_samples import episode, write_sample

from indus_lib import trace_html, trace_steps, trace_theme
from indus_lib.episodes import ToolCall, Turn, Verdict
from indus_lib.trace_player import TracePlayer
from indus_lib.trace_steps import Mark

CALLS = (("crop", {"region": [560, 260, 740, 380]}), ("enhance", {"method": "clahe"}))


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("plate"), side=1024)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("plate"), side=64)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_page_stands_alone_and_reads_without_scripts(sample):
    page = Page(trace_html.static_page(episode(sample, CALLS), sample))
    links = [v for k, v in page.attributes if k in ("src", "href")]
    assert links and all(v.startswith(("data:image/", "#base")) for v in links)
    assert "link" not in page.tags and page.tags.count("script") == 1
    for words in ("A plate with holes", "A bright line.", "crop: result", "enhance: result", "Verdict", "clahe"):
        assert words in page.text
    assert page.tags.count("section") == 5


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=st.sampled_from("<>&\"'/x =scripton"), max_size=40))
def test_no_model_or_data_set_text_becomes_markup(small, text):
    bad = f"{text}<img src=x onerror=alert(1)>\"'><script>alert(1)</script>"
    call = ToolCall(bad, {bad: bad}, False, bad)
    made = dataclasses.replace(
        episode(small, ()),
        turns=(Turn(f"<think>{bad}", (call,)), Turn(bad)),
        verdict=Verdict(True, (1, 2, 300, 400), bad),
        violations=(bad,),
        policy=bad,
        category=bad,
        error=bad,
        sample_id=bad,
    )
    told = dataclasses.replace(small, category=bad, defect=bad, id=bad, view=bad)
    for html in (trace_html.static_page(made, told), trace_html.static_html(made, told)):
        page = Page(html)
        assert page.tags.count("script") <= 1 and not any(k.startswith("on") for k, _ in page.attributes)
        assert all(v.startswith(("data:image/", "#base")) for k, v in page.attributes if k in ("src", "href"))


def test_fragment_needs_neither_svg_nor_style_to_be_read(sample):
    page = Page(trace_html.static_html(episode(sample), sample))
    pictures = [v for k, v in page.attributes if k == "src"]
    assert len(pictures) == 4 and "script" not in page.tags  # look, tool step, its crop, decide: changed views only
    assert "log p(Yes) - log p(No): before -0.50; after +2.00, change +2.50" in page.text


def test_marks_land_on_the_right_pixels():
    image = np.zeros((200, 400, 3), np.uint8)
    drawn = trace_html.burn(image, [Mark("prediction", (250, 250, 750, 750))], 400)
    vermillion = (np.abs(drawn.astype(int) - (213, 94, 0)).max(2) < 40).nonzero()
    assert abs(vermillion[0].min() - 50) <= 2 and abs(vermillion[0].max() - 150) <= 2
    assert abs(vermillion[1].min() - 100) <= 2 and abs(vermillion[1].max() - 300) <= 2
    svg = trace_html.svg_marks([Mark("truth", (250, 250, 750, 750), label="a<b")], 400, 200)
    assert 'x="100.0" y="50.0" width="200.0" height="100.0"' in svg and "a&lt;b" in svg
    assert not image.any()


def test_every_mark_kind_differs_in_more_than_colour():
    kinds = trace_theme.MARK_COLOUR
    assert set(kinds) == set(trace_theme.MARK_DASH) == set(trace_theme.MARK_WORDS)
    boxes = [trace_theme.MARK_DASH[k] for k in kinds if k != "measure"]  # points have circles
    assert len(set(boxes)) == len(boxes) and len(set(kinds.values())) == len(kinds)


def test_jpeg_keeps_the_picture(sample):
    image = trace_steps.build(episode(sample), sample).image
    back = cv2.imdecode(np.frombuffer(trace_html.jpeg(image), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert back.shape == image.shape and np.abs(back.astype(int) - image).mean() < 4
    assert max(cv2.imdecode(np.frombuffer(trace_html.jpeg(image, 300), np.uint8), 1).shape) == 300


def test_margin_bar_writes_numbers_and_survives_extremes():
    assert "change +2.50" in trace_html.margin_bar(-0.5, 2.0)
    assert "no log-probabilities" in trace_html.margin_bar(None, None)
    assert "+1000.00" in trace_html.margin_bar(None, 1000.0)


def test_figure_has_a_column_per_step(small):
    sheet = trace_html.static_figure(episode(small, CALLS), small)
    assert len(sheet.axes) == 15 and "right" in sheet.get_suptitle()
    assert sheet._repr_png_().startswith(b"\x89PNG")  # a notebook shows it without pyplot having been imported


def test_dollar_signs_and_braces_do_not_break_the_figure(small):
    made = episode(small, think="cost $x_{1$ and \\frac")
    trace_html.static_figure(made, small).savefig(io.BytesIO(), format="png", dpi=30)


def test_player_opens_and_steps_in_time(sample):
    made = episode(sample)
    start = time.perf_counter()
    player = TracePlayer(made, sample)
    opened = time.perf_counter() - start
    times = []
    for step in (1, 2, 3, 0):
        start = time.perf_counter()
        player.step = step
        times.append(time.perf_counter() - start)
    print(f"opened in {1000 * opened:.0f} ms (target 300), steps {[round(1000 * t, 1) for t in times]} ms (target 100)")
    assert opened < 5 and max(times) < 2  # bounds for a busy machine


def test_player_controls_agree(sample):
    player = TracePlayer(episode(sample), sample)
    assert player.back.disabled and player.slider.max == 3
    player.ahead.click()
    player.ahead.click()
    panels, frames = player.stage.panels, player.stage.frames
    assert player.step == 2 and "Given to the tool" in panels[2] and "crop" in frames[2]["label"]
    player.step = 99
    assert player.step == 3 and player.ahead.disabled and "Verdict" in panels[3] and len(panels) == len(frames) == 4
    player.layers["truth"].value = False
    overlay = player.stage.frames[3]["overlay"]
    assert overlay != frames[3]["overlay"] and "truth" not in overlay


def test_player_loads_another_episode_from_its_start(sample, small):
    player = TracePlayer(episode(sample), sample)
    player.step = 3
    player.load(episode(small, CALLS), small)
    assert player.step == 0 and player.slider.max == 4 and list(player.stage.size) == [64, 64]
    assert "text/html" in player._repr_mimebundle_()
