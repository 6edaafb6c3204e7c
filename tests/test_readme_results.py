"""README's results come from the committed reference run and from nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation import sets

from indus_lib import audit_claims, audit_consistency, benchmarks, cards, comparisons, profiles, readme_results, tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    runs = {"base": sets(0.5, 0.5, n=12), "full": sets(0.9, 0.9, n=12), "no_crop": sets(0.8, 0.8, n=12)}
    found = benchmarks.build(runs, "tiny", "abc")
    found["differences"] = comparisons.difference_table(runs, "tiny", "abc")
    found["claims"] = audit_claims.audit(found, "tiny", "abc")
    found["consistency"] = audit_consistency.table("tiny", "abc")
    for table in found.values():
        table.write(folder)
    return folder


def _readme(text: str) -> str:
    return f"# Title\n\nbefore\n\n{readme_results.BEGIN}\n{text}\n{readme_results.END}\n\nafter\n"


def test_block_shows_ours_beside_reported(folder: Path) -> None:
    text = readme_results.block(folder)
    assert "| ours, in place of IndusAgent 8B |" in text and "| IndusAgent 8B |" not in text
    assert "MVTec reported" in text and "GPT-4.1" not in text
    assert "w/o crop" in text and "Claims supported" in text and "contradictions" in text


def test_update_and_check(tmp_path: Path, folder: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(_readme("old"))
    assert not readme_results.agrees(readme, folder)
    readme.write_text(readme_results.updated(readme.read_text(), readme_results.block(folder)))
    assert readme_results.agrees(readme, folder)
    text = readme.read_text()
    assert text.startswith("# Title\n\nbefore\n") and text.endswith("\nafter\n")
    assert readme_results.updated(text, readme_results.block(folder)) == text
    readme.write_text(text.replace("IndusAgent 8B | ", "IndusAgent 8B | 1", 1))
    assert not readme_results.agrees(readme, folder)


@pytest.mark.parametrize("text", ["nothing", readme_results.END + readme_results.BEGIN])
def test_missing_markers_are_named(text: str) -> None:
    with pytest.raises(readme_results.ReadmeError, match=r"README\.md needs"):
        readme_results.updated(text, "x")


def test_missing_reference_is_named(tmp_path: Path) -> None:
    with pytest.raises(readme_results.ReadmeError, match="make reproduce"):
        readme_results.block(tmp_path)


def test_readme_agrees_with_the_reference(repo: Path) -> None:
    folder, readme = repo / "results" / "reference" / "tables", repo / "README.md"
    if not (folder / "table1_balanced_accuracy.json").is_file():
        pytest.skip("no reference run is committed yet")
    assert readme_results.agrees(readme, folder), "run: python -m indus_lib.readme_results"


def test_the_reference_was_measured_on_the_stand_ins_as_they_are_now() -> None:
    """A stand-in of another version has another card, so every number is measured again."""
    found = tables.read_all(readme_results.REFERENCE)
    now = [f"card {cards.load_card(name, standins=True).hash()}" for name in profiles.SETS]
    paper_alone, pool_alone = {"claims", "consistency"}, {"grounding_patches"}
    for name in set(found) - paper_alone - pool_alone:
        assert all(card in found[name].notes[-1] for card in now), name
