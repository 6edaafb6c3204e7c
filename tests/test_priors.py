"""Normalcy descriptions: every category is described, unknown ones are said to be unknown."""

import re
import textwrap

import pytest

from indus_lib import priors
from indus_lib.policies import Reply

BENCHMARKS = {
    "mvtec": "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood "
    "zipper",
    "visa": "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum",
    "mpdd": "bracket_black bracket_brown bracket_white connector metal_plate tubes",
    "dtd": "Blotchy_099 Fibrous_183 Marbled_078 Matted_069 Mesh_114 Perforated_037 Stratified_154 Woven_001 Woven_068 "
    "Woven_104 Woven_125 Woven_127",
    "kolektorsdd": "electrical_commutator",
    "custom": "hazelnut_toy magnetic_tile",
    "real-iad": "audiojack bottle_cap button_battery end_cap eraser fire_hood mint mounts pcb phone_battery "
    "plastic_nut plastic_plug porcelain_doll regulator rolled_strip_base sim_card_set switch tape terminalblock "
    "toothbrush toy toy_brick transistor1 u_block usb usb_adaptor vcpill wooden_beads woodstick zipper",
}


@pytest.mark.parametrize("group", BENCHMARKS)
def test_every_category_is_described_under_its_own_name(group: str) -> None:
    described = {e.product for e in priors.load().products if e.set == group}
    assert described >= set(BENCHMARKS[group].split())
    for name in BENCHMARKS[group].split():
        answer = priors.load().lookup(name)
        assert answer.known and answer.score == 1.0
        assert answer.source.endswith("/" + name)


def test_descriptions_are_short_and_name_no_verdict() -> None:
    for entry in priors.read_entries(priors.DIRECTORY):
        sentences = len(re.findall(r"[.;](?:\s|$)", entry.text))
        assert sentences >= 1 and 40 < len(entry.text) < 900, entry.product
        assert not re.search(r"anomal|defective|test image|ground truth", entry.text, re.I), entry.product


def test_factory_categories_are_described() -> None:
    from indus_lib import factory

    missing = [name for name in factory.CATEGORIES if not priors.load().lookup(name).known]
    assert not missing


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("Metal Nut", "mvtec/metal_nut"),
        ("metal-nuts", "mvtec/metal_nut"),
        ("PCB_2", "visa/pcb2"),
        ("pcb9", "real-iad/pcb"),
        ("KolektorSDD", "kolektorsdd/electrical_commutator"),
        ("bottle", "mvtec/bottle"),
        ("bottleCap", "real-iad/bottle_cap"),
    ],
)
def test_spelling_variants_are_one_name(asked: str, found: str) -> None:
    answer = priors.load().lookup(asked)
    assert (answer.source, answer.score, answer.known) == (found, 1.0, True)


def test_similar_name_is_retrieved_and_says_which() -> None:
    answer = priors.load().lookup("white metal bracket")
    assert answer.known and answer.source == "mpdd/bracket_white" and priors.THRESHOLD <= answer.score < 1
    assert answer.text.startswith("Closest known product, normal bracket white:")


@pytest.mark.parametrize("asked", ["", "flux capacitor", "12345", "!!!", "Ω" * 5000])
def test_unknown_is_said_to_be_unknown(asked: str) -> None:
    answer = priors.load().lookup(asked)
    assert not answer.known and answer.text.startswith("Nothing is known") and len(answer.text) < 500


def test_material_in_the_query_adds_marked_general_knowledge() -> None:
    answer = priors.load().lookup("flux capacitor", query="is this streak usual on brushed steel?")
    assert not answer.known
    assert "General, about brushed metal:" in answer.text and answer.source == "materials/brushed_metal"
    assert "General" not in priors.load().lookup("flux capacitor", query="unbrushed").text


def test_load_is_cached_per_directory() -> None:
    assert priors.load() is priors.load(priors.DIRECTORY)


def test_own_directory(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(
        textwrap.dedent("""\
            - product: gizmo
              aliases: [thingamajig]
              set: mine
              text: Round and red.
            """)
    )
    assert priors.load(tmp_path).lookup("Thingamajig").text == "Normal gizmo: Round and red."


@pytest.mark.parametrize(
    ("text", "told"),
    [("- product: x\n  set: y\n", "entry 1"), ("a: 1", "list of entries"), ("- [", "not YAML"), ("- 3", "entry 1")],
)
def test_broken_file_is_named(tmp_path, text: str, told: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(priors.PriorError, match=told) as error:
        priors.load(tmp_path)
    assert "broken.yaml" in str(error.value)


def test_empty_directory_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        priors.load(tmp_path)


class _Expert:
    """A policy that answers from a list, as an endpoint would."""

    name = "expert"

    def __init__(self, reply: Reply) -> None:
        self.answer, self.asked = reply, ""

    def reply(self, conversations, *, max_new_tokens, temperature=0.0, seed=0):
        self.asked = conversations[0][0]["content"][0]["text"]
        return [self.answer]


def test_backend_answers_instead_of_the_files() -> None:
    expert = _Expert(Reply("A smooth\nring."))
    retriever = priors.Retriever(priors.read_entries(priors.DIRECTORY), priors.policy_backend(expert))
    answer = retriever.lookup("bottle", view="C3", query="the rim")
    assert (answer.text, answer.source, answer.known) == ("A smooth ring.", "api", True)
    assert all(word in expert.asked for word in ("bottle", "C3", "the rim"))


def test_backend_that_is_down_leaves_the_files_and_says_so() -> None:
    down = priors.policy_backend(_Expert(Reply("", error="APITimeoutError: timed out")))
    answer = priors.Retriever(priors.read_entries(priors.DIRECTORY), down).lookup("bottle")
    assert answer.known and answer.text.startswith("Normal bottle:")
    assert answer.source == "mvtec/bottle (api unavailable: APITimeoutError: timed out)"
