"""Token view: kinds from the mask, folding, escaping, and agreement with the encoder used in training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indus_lib import protocol, tiny_model, train_data
from indus_lib import token_view as tv

TEXTS = ["<img>"] * 6 + ["Is", " it", "?", "<think>", "ok", "</think>", "<obs>", "x", "No", "<end>"]
MASK = [0] * 9 + [1] * 3 + [0] * 2 + [1, 1]


def test_kinds_follow_the_mask():
    assert tv.kinds_of(MASK) == ["prompt"] * 9 + ["generated"] * 3 + ["observation"] * 2 + ["generated"] * 2
    assert tv.kinds_of([0, 0]) == ["prompt", "prompt"] and tv.kinds_of([]) == []


def test_image_placeholders_fold_and_text_is_escaped():
    found = tv.tokens(TEXTS, MASK)
    assert (found[0].count, found[0].text, found[1].position) == (6, "<img>", 6)
    html = tv.static_html(found)
    assert "&lt;think&gt;" in html and "<think>" not in html and "×6" in html
    assert tv.summary(found) == "9 prompt, 5 generated, 2 observation"


def test_log_probabilities_on_hover_and_in_the_table():
    log_p = [None] * 9 + [-0.1, -3.0, -0.2, None, None, -0.5, -0.7]
    found = tv.tokens(TEXTS, MASK, log_p)
    html = tv.static_html(found, "log-probability")
    assert "log p -3.000, p 0.050" in html and "mean log p of generated tokens -0.900" in html
    table = html.split("<table>")[1]
    assert table.index("ok") < table.index("&lt;end&gt;") < table.index("No") < table.index("&lt;/think&gt;")
    assert "rgba(213,94,0,0.45)" in html  # 3/5 of the way to the floor, times 0.75


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "<"]), st.booleans())))
def test_folding_keeps_every_token(pairs):
    texts, mask = [t for t, _ in pairs] + ["a"] * 9, [m for _, m in pairs] + [True] * 9
    assert sum(t.count > 1 and t.kind == "generated" for t in tv.tokens(texts, mask)) == 0  # each has its own log p
    found = tv.tokens(texts, mask)
    assert sum(t.count for t in found) == len(texts)
    assert [t.text for t in found for _ in range(t.count)] == texts
    assert sum(t.count for t in found if t.kind == "generated") == sum(mask)


def test_widget_recolours_and_errors_name_the_lengths():
    widget = tv.TokenView(TEXTS, MASK, [-1.0] * len(TEXTS))
    before = widget.view.value
    widget.by.value = "loss mask"
    assert widget.view.value != before and "text/html" in widget._repr_mimebundle_()
    assert len(tv.static_figure(widget.tokens).axes) == 1
    assert len(widget.children) == 2 and len(tv.TokenView(TEXTS, MASK).children) == 1  # nothing to choose from
    with pytest.raises(ValueError, match="16 tokens, 2 mask"):
        tv.tokens(TEXTS, [0, 1])
    with pytest.raises(ValueError, match="choose one of"):
        tv.static_html([], "mood")


def test_training_sequence_shows_exactly_what_is_learnt():
    config = tiny_model.TinyConfig(vocab=1024)
    processor = tiny_model.make_processor(tiny_model.make_tokenizer(["is it all right ? Yes No plain"], 1024), config)
    image = np.full((64, 64, 3), 120, np.uint8)
    asked = protocol.start(image, "Is it anomalous?")
    conversation = protocol.add_assistant(asked, "<think>plain</think><answer>No</answer>")
    one = train_data.encode(conversation, processor)
    found = tv.tokens(tv.decoded(one.input_ids, processor.tokenizer), one.mask.tolist())
    learnt = "".join(t.text for t in found if t.kind == "generated")
    assert "<answer>No</answer>" in learnt.replace(" ", "") and "anomalous" not in learnt
