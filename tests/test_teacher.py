"""The offline teacher: grounded, honest, and silent about what it was told."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from corpus_pool import make_pool, picture

from indus_lib import boxes, parsing, protocol, quality, row_search, sight, teacher, teacher_plan, teacher_tools, tools
from indus_lib.row_search import find_rows, read_best
from indus_lib.teacher_tools import ASK_AND_LOOK, NONE, SINGLE


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("pool"))


CHOICES = [NONE, *dict.fromkeys(f for fs in SINGLE.values() for f in fs), ASK_AND_LOOK]


def test_every_choice_passes_the_gate_for_both_labels(pool) -> None:
    written = Counter()
    for i, sample in enumerate(pool):
        choice = CHOICES[i % len(CHOICES)]
        for turns in teacher.write(sample, choice, seed=0):
            assert quality.check(turns, sample) == (), [t.text for t in turns]
            assert len(turns) == (1 if choice == NONE else 2)
            written[sample.label] += 1
    assert written[True] and written[False]


def test_observations_are_what_the_tools_return(pool) -> None:
    sample = pool[3]
    turns = teacher.write(sample, "crop:whole+enhance:texture", seed=0)[0]
    image = teacher_tools.open_scene(sample).image
    for call in turns[0].calls:
        assert tools.run(call.name, call.arguments, image, category=sample.category).text == call.text


def test_same_seed_same_text_and_another_seed_another(pool) -> None:
    sample = next(s for s in pool if s.label)
    assert teacher.write(sample, "crop:whole", 0) == teacher.write(sample, "crop:whole", 0)
    assert teacher.write(sample, "crop:whole", 0) != teacher.write(sample, "crop:whole", 1)
    assert len({turns[0].text for turns in teacher.write(sample, "crop:whole", 0)}) > 1


def test_arguments_do_not_depend_on_the_annotation(pool) -> None:
    sample = next(s for s in pool if s.label)
    blind = replace(sample, label=False, boxes=(), mask=None, node="", defect="")
    for flavour in ("crop:whole", "crop:part", "crop:spot", "enhance:texture", "measure:row", "prior:ask"):
        calls = [
            teacher_tools.make_call(flavour, teacher_tools.open_scene(s), teacher_tools.rng_for(0, "x"))
            for s in (sample, blind)
        ]
        assert calls[0] == calls[1]


def test_a_mark_that_nothing_shows_is_refused(tmp_path) -> None:
    sample = next(s for s in make_pool(tmp_path, 8, contrast=1) if s.label)
    with pytest.raises(teacher.Refused, match="mark_not_shown"):
        teacher.write(sample, NONE, seed=0)


def test_full_detail_fills_every_routing_field(pool) -> None:
    turn = parsing.parse_turn(teacher.write(pool[0], "enhance:clahe", 0, detail="full")[0][0].text)
    assert set(turn.routing) == set(protocol.ROUTING_FIELDS)


def test_samples_it_cannot_teach_are_named(pool) -> None:
    with pytest.raises(ValueError, match="label"):
        teacher.write(replace(pool[0], label=None), NONE, 0)
    with pytest.raises(ValueError, match="box"):
        teacher.write(replace(pool[0], label=True, boxes=()), NONE, 0)


def test_visibility_grows_with_contrast_and_size() -> None:
    scores = []
    for contrast in (0, 5, 20, 80):
        image, mask = picture(5, "stain", contrast=contrast)
        y, x = np.nonzero(mask)
        box = (x.min() / 0.16, y.min() / 0.16, (x.max() + 1) / 0.16, (y.max() + 1) / 0.16)
        scores.append(sight.visibility(image, box, mask).score)
    assert scores == sorted(scores) and scores[0] < sight.VISIBLE < scores[-1]
    assert sight.visibility(image, box, mask).tone == "dark"


@pytest.mark.parametrize(
    ("box", "word"),
    [((0, 0, 100, 100), "upper left"), ((450, 450, 550, 550), "centre"), ((400, 900, 600, 1000), "bottom"),
     ((900, 400, 1000, 600), "right"), ((400, 0, 600, 100), "top")],
)  # fmt: skip
def test_place_words(box, word) -> None:
    assert sight.place(box) == word


def test_snap_and_around_stay_inside_and_keep_what_they_hold() -> None:
    assert boxes.snap((13, 27, 94, 1000)) == (10, 20, 100, 1000)
    assert boxes.snap((13, 27, 94, 1000), outward=False) == (10, 30, 90, 1000)
    assert boxes.snap((998, 998, 1000, 1000)) == (990, 990, 1000, 1000)
    x1, y1, x2, y2 = sight.around((900, 10, 950, 40))
    assert x1 >= 0 and y1 == 0 and x2 == 1000 and x1 <= 900 and y2 >= 40


def test_a_row_of_holes_is_found_where_it_is() -> None:
    image = np.full((200, 300, 3), 180, np.uint8)
    for k in range(9):
        image[95:107, 40 + 25 * k : 52 + 25 * k] = 40
    (x1, y1), (x2, y2) = find_rows(image)[0].points
    assert abs(y1 - 505) < 50 and abs(y2 - 505) < 50
    assert abs(x1 - 153) < 90 and abs(x2 - 820) < 90
    assert find_rows(np.full((100, 100, 3), 90, np.uint8)) == []


@pytest.mark.parametrize("upright", [False, True])
def test_row_of_a_short_part_in_a_long_image_is_found(upright) -> None:
    """Nine features that fill a quarter of the long side, either way round; along the whole they hardly repeat."""
    image = np.full((200, 560, 3), 180, np.uint8)
    for k in range(9):
        image[95:107, 200 + 16 * k : 208 + 16 * k] = 40
    guess, row = read_best(np.ascontiguousarray(image.transpose(1, 0, 2)) if upright else image)
    assert len(row.centres) >= 8 and row.deviation < 8 and row.median == pytest.approx(16, abs=0.5)
    along = sorted(np.array(guess.points)[:, 1 if upright else 0])
    assert abs(along[0] - 365) < 70 and abs(along[1] - 595) < 70
    assert row_search._windows(200, 240) == [(0, 0, 240, 200)]
    assert row_search._windows(100, 200) == [(0, 0, 200, 100), (0, 0, 100, 100), (50, 0, 150, 100), (100, 0, 200, 100)]


def test_rows_are_pointed_at_by_their_ends_or_through_the_middle() -> None:
    image = np.full((200, 300, 3), 180, np.uint8)
    for k in range(9):
        image[95 + 60 : 107 + 60, 40 + 25 * k : 52 + 25 * k] = 40
    for view, middle in ((image, [[100, 500], [900, 500]]), (image.transpose(1, 0, 2), [[500, 100], [500, 900]])):
        drawn = np.ascontiguousarray(view)
        scene = teacher_tools.Scene(None, drawn, sight.look(drawn))
        calls = [teacher_tools.make_call("measure:row", scene, np.random.default_rng(k)) for k in range(40)]
        points = [c["arguments"]["points"] for c in calls]
        ends = [list(p) for p in read_best(drawn)[0].points]
        assert 10 <= points.count(middle) <= 30 and points.count(middle) + points.count(ends) == 40
        texts = {tools.run("measure", {"kind": "row", "points": p}, drawn).text[:14] for p in (middle, ends)}
        assert texts == {"row elsewhere:", "row: 9 feature"}


def test_quotas_are_even_and_within_what_there_is() -> None:
    assert teacher_plan.quotas({"a": 10, "b": 10, "c": 1}, 9) == {"a": 4, "b": 4, "c": 1}
    assert sum(teacher_plan.quotas({"a": 3, "b": 2}, 100).values()) == 5
    assert teacher_plan.quotas({}, 5) == {}


def test_normal_plan_copies_the_choices_of_each_category() -> None:
    wanted = {"a": Counter({"none": 3, "crop:whole": 2}), "b": Counter({"prior:ask": 1})}
    plan = teacher_plan.plan_normal(wanted, {"a": list("12345678"), "b": ["9"]}, {"a": Counter({"none": 1})}, 0)
    assert Counter(c for _, c in plan) == Counter({"none": 2, "crop:whole": 2, "prior:ask": 1})
    assert len({key for key, _ in plan}) == len(plan)


def survey_of(visible: float, gain: dict[str, float], useful: tuple[str, ...] = ()) -> dict:
    return {"visible": visible, "tried": [*gain, "edges"], "shown": list(gain), "useful": [*useful], "gain": gain}


def planned(surveys: list[dict], exploration: float = 0.0, parts: tuple[str, ...] = ("part",)) -> list[tuple[str, str]]:
    keyed = [(str(i), survey) for i, survey in enumerate(surveys)]
    category = {key: parts[i % len(parts)] for i, key in enumerate(dict(keyed))}
    return teacher_plan.plan_anomalous(keyed, category, exploration=exploration, seed=0)


def test_exploration_only_where_the_view_shows_the_mark() -> None:
    hidden = survey_of(0.0, {"crop:whole": 9.0}, ("crop:whole",))
    plan = planned([hidden] * 50, exploration=1.0)
    assert all("crop:whole" in choice for _, choice in plan)
    plain = survey_of(9.0, {"crop:whole": 9.0}, ("crop:whole",))
    plan = planned([plain] * 50, exploration=1.0)
    assert {c for _, c in plan} == {"none", "edges"}


@pytest.mark.parametrize(
    ("visible", "gain", "best"),
    [
        (9.0, {"crop:whole": 1.0, "measure:row": 2.0}, "measure:row"),  # a reading decides
        (0.0, {"crop:whole": 9.0, "prior:ask": 2.0}, ASK_AND_LOOK),  # the design, and what there is
        (9.0, {"crop:part": 1.0, "enhance:edges": 3.0}, "crop:part"),  # seen already: look closer
        (0.0, {"crop:part": 2.0, "enhance:edges": 3.0}, "enhance:edges"),  # hidden: what shows it best
        (9.0, {}, "none"),
    ],
)
def test_the_tool_that_settles_it_is_asked(visible: float, gain: dict[str, float], best: str) -> None:
    assert {choice for _, choice in planned([survey_of(visible, gain)] * 20)} == {best}


def test_a_sample_is_looked_at_as_most_of_its_product_are() -> None:
    """A plain mark on a product with rows is measured like the others; a hidden one, only where that would show it."""
    row = survey_of(0.0, {"measure:row": 2.0})
    plain = {**survey_of(9.0, {"crop:whole": 1.0}), "tried": ["crop:whole", "measure:row"]}
    hidden = {**survey_of(0.0, {"crop:whole": 5.0}), "tried": ["crop:whole", "measure:row"]}
    choices = [choice for _, choice in planned([row, row, row, plain, hidden])]
    assert choices == ["measure:row"] * 4 + ["crop:whole"]
    signed = {**survey_of(9.0, {"crop:whole": 1.0}), "tried": ["crop:whole", "prior:ask"]}
    assert planned([survey_of(0.0, {"prior:ask": 2.0})] * 2 + [signed])[2][1] == ASK_AND_LOOK
    several = [row, row, plain]
    assert planned(several, parts=("pcb1", "pcb2", "pcb3"))[2][1] == "measure:row"  # models of one product
    assert planned(several, parts=("pcb1", "pcb2", "cable3"))[2][1] == "crop:whole"
    assert teacher_plan.product("7") == "7"


def test_an_answer_repeats_the_box_that_a_tool_named_where_it_is_about_right() -> None:
    said = tools.ToolResult(True, "crop [0,0,900,900] from foreground extraction, it lies at [300,300,420,400]", [])
    found = [teacher_tools.Finding("crop", {"name": "crop", "arguments": {}}, said)]
    assert teacher._named(found, (310, 300, 430, 400)) == (300, 300, 420, 400)
    assert teacher._named(found, (500, 300, 620, 400)) == (500, 300, 620, 400)
    assert teacher._named([], (500, 300, 620, 400)) == (500, 300, 620, 400)
