"""How suspicious a photograph looks: levels of a terse first thought, by read-outs of other products."""

from pathlib import Path

import numpy as np
import pytest
import training_world as world

from indus_lib import parsing, practice, protocol, suspicion, tiny_model, train_data
from indus_lib.terse_thoughts import terse
from indus_lib.tools import ToolResult

HIGH = protocol.SUSPICIONS.index("high")
WIDTH = 8


def part(rng, product: int, label: bool, mark: np.ndarray, strength: float = 6.0):
    """(record, patches): 4 x 5 noisy patches, a marked one among those of an anomalous part."""
    patches = rng.normal(size=(4, 5, WIDTH)).astype(np.float16)
    if label:
        patches[1, 2] += (strength * mark).astype(np.float16)
    record = {"category": f"product {product}", "label": label, "boxes": [[400, 250, 600, 500]] if label else []}
    return record, patches


def parts(rng, products: int, mark: np.ndarray, **more):
    made = [part(rng, k, label, mark, **more) for k in range(products) for label in (False, True) * 2]
    return [r for r, _ in made], [p for _, p in made]


def rank(found):
    return np.array([protocol.SUSPICIONS.index(level) for level in found])


def test_marks_that_look_alike_on_all_products_are_suspicious():
    rng, mark = np.random.default_rng(0), np.eye(WIDTH)[0]
    records, patches = parts(rng, 20, mark)
    found, faulty = rank(suspicion.levels(patches, records, len(records))), np.array([r["label"] for r in records])
    assert (found[faulty] == HIGH).mean() > 0.8
    shares = [(found[~faulty] == k).mean() for k in range(3)]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.05)  # by the quantiles, of which they are


def test_a_photograph_is_judged_by_other_products():
    """Each product has its own mark: what is fitted on the others knows nothing of it."""
    rng = np.random.default_rng(1)
    made = [part(rng, k, label, np.eye(WIDTH)[k], 15.0) for k in range(WIDTH) for label in (False, True) * 5]
    records, patches = [r for r, _ in made], [p for _, p in made]
    own = rank(suspicion.levels(patches, records, len(records)))
    faulty = np.array([r["label"] for r in records])
    assert (own[faulty] == HIGH).mean() < 0.3
    fitted = rank(suspicion.levels(patches * 2, records * 2, len(records)))[len(records) :]  # the same as new ones
    assert (fitted[faulty] == HIGH).mean() > 0.9


def test_the_validation_part_is_judged_and_not_fitted_on():
    rng, mark = np.random.default_rng(2), np.eye(WIDTH)[3]
    records, patches = parts(rng, 12, mark)
    others, seen = parts(rng, 3, mark)
    found = suspicion.levels([*patches, *seen], [*records, *others], len(records))
    turned = [{**r, "label": not r["label"], "boxes": []} for r in others]
    assert suspicion.levels([*patches, *seen], [*records, *turned], len(records)) == found
    late, faulty = rank(found[len(records) :]), np.array([r["label"] for r in others])
    assert late[faulty].mean() > late[~faulty].mean() + 1


@pytest.mark.parametrize("keep", ["nothing", "one product", "normal ones", "anomalous ones"])
def test_where_nothing_can_be_fitted_nothing_is_said(keep):
    records, patches = parts(np.random.default_rng(3), 4, np.eye(WIDTH)[0])
    kept = {
        "nothing": [], "one product": range(4), "normal ones": range(0, 16, 2), "anomalous ones": range(1, 16, 2)
    }[keep]  # fmt: skip
    found = suspicion.levels([patches[k] for k in kept], [records[k] for k in kept], len(kept))
    assert found == [suspicion.UNKNOWN] * len(kept)


def test_a_box_marks_the_patches_that_it_covers():
    record = {"label": True, "boxes": [[0, 0, 500, 250], [900, 900, 1000, 1000]]}
    share = suspicion._marked(record, 4, 4)
    assert share[0].tolist() == [1, 1, 0, 0] and share[3].tolist() == pytest.approx([0, 0, 0, 0.16])
    assert share[1:3].sum() == 0


def test_a_terse_first_thought_names_it():
    call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}}
    whole = protocol.format_turn1({"evidence": "see nothing, grey", "suspicion": "low", "preliminary": "No"}, [call])
    for level in protocol.SUSPICIONS:
        said = terse(whole, suspicion=level)
        assert said == f"<think>unsure, suspicion: {level}</think>{protocol.tool_tail(call)}"
        parsed = parsing.parse_turn(said)
        assert parsed.routing == {"suspicion": level} and not parsed.violations
        assert protocol.decision_prefix(said) == protocol.LOOK
    answer = protocol.format_final("see nothing, fine", False)
    assert terse(answer, suspicion="high") == terse(answer)


def _talk(level: str):
    photo = np.full((64, 64, 3), 90, np.uint8)
    call = {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}}
    thought = f"<think>unsure, suspicion: {level}</think>"
    ask = protocol.add_assistant(protocol.start(photo, "?"), thought + protocol.tool_tail(call))
    seen = protocol.add_observation(ask, [(call, ToolResult(True, "nothing stands out", [photo]))])
    return protocol.add_assistant(seen, f"<think>see nothing</think>{protocol.final_text(False)}")


def test_it_is_a_decision_and_words_alone_are_practised_with_it():
    talks = [_talk(level) for level in protocol.SUSPICIONS]
    model, processor = tiny_model.build(world.MINI, world.texts(talks))
    rows = train_data.encode_all(talks, processor, max_length=512, progress="")
    words, decode = practice.Practice(model, processor, rows, weight=12.0), processor.tokenizer.decode
    for row, answer, level in zip(rows, words.answers, protocol.SUSPICIONS, strict=True):
        chosen = decode(row.input_ids[: row.first_turn][row.decision[: row.first_turn] == 1])
        kept = decode(row.input_ids[answer.kept])
        assert level in chosen and kept.strip().startswith(level) and "unsure" not in kept
        assert answer.weight[: row.first_turn].sum() == 0  # given, not learnt


def test_the_tower_sees_photographs_of_any_shape(tmp_path: Path):
    import cv2

    model, processor = tiny_model.build(world.MINI, world.texts([_talk("low")]))
    base = tiny_model.save(model, processor, tmp_path / "base")
    rng, files = np.random.default_rng(0), []
    for k, (high, wide) in enumerate(((80, 80), (60, 160))):
        files.append(tmp_path / f"{k}.png")
        cv2.imwrite(str(files[-1]), rng.integers(0, 255, (high, wide, 3), np.uint8))
    whole, tile = suspicion.look(base, ((files[0], None), (files[1], (0, 0, 60, 60))), 1024)
    assert whole.shape[-1] == tile.shape[-1] and whole.ndim == 3 and np.isfinite(whole).all()
    assert suspicion.look(base, ((files[1], None),), 1024)[0].shape[1] > tile.shape[1]
