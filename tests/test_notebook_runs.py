"""Headless notebook runs are all or nothing; their fingerprints, run.json, and the house style of our notebooks."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indus_lib import fingerprint, notebook_runs, profiles, runs_meta

REPO = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


def notebook(
    folder: Path, *code: str, parameters: str = 'profile: str = "smoke"\nn: int = 2\nrate: float = 0.5'
) -> Path:
    book = nbformat.v4.new_notebook()
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    book.cells = [nbformat.v4.new_markdown_cell("# Title"), tagged, *map(nbformat.v4.new_code_cell, code)]
    path = folder / "01_try.ipynb"
    nbformat.write(book, path)
    return path


def texts(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", ()))


def test_runs_in_the_checkout_with_the_parameters_given(tmp_path: Path, repo: Path) -> None:
    source = notebook(tmp_path, "import os\nprint(os.getcwd(), profile, n + 1, rate)")
    before = source.read_bytes()
    out = tmp_path / "results" / "01_try.ipynb"
    seconds = notebook_runs.run_notebook(source, out, {"profile": "tiny", "n": 4}, timeout=60, progress=False)
    assert f"{repo} tiny 5 0.5" in texts(out) and seconds > 0
    assert source.read_bytes() == before
    assert [p.name for p in out.parent.iterdir()] == ["01_try.ipynb"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("print('so far')\nraise ValueError('no\\nsuch thing')", "cell [2]: ValueError: no such thing"),
        ("import time\nprint('so far')\ntime.sleep(60)", "timed out"),
        ("import os, sys\nprint('so far', flush=True)\nos._exit(3)", "died"),
    ],
)
def test_a_failure_is_one_line_and_leaves_no_result(tmp_path: Path, code: str, told: str) -> None:
    source, out = notebook(tmp_path, code), tmp_path / "out" / "01_try.ipynb"
    out.parent.mkdir()
    out.write_text("an earlier good run")
    with pytest.raises(notebook_runs.NotebookError) as caught:
        notebook_runs.run_notebook(source, out, {}, timeout=3, progress=False)
    message = str(caught.value)
    assert message.startswith("01_try.ipynb") and told in message
    assert "\n" not in message and "01_try.failed.ipynb" in message
    assert out.read_text() == "an earlier good run"
    assert sorted(p.name for p in out.parent.iterdir()) == ["01_try.failed.ipynb", "01_try.ipynb"]


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"sedes": 3}, "no parameter 'sedes'; it has profile, n, rate"),
        ({"n": "3"}, "parameter n must be int"),
        ({"n": True}, "parameter n must be int"),
        ({"rate": 1}, "parameter rate must be float"),
    ],
)
def test_unknown_and_ill_typed_parameters_are_refused_before_anything_runs(
    tmp_path: Path, given_: dict[str, Any], told: str
) -> None:
    out = tmp_path / "out" / "01_try.ipynb"
    with pytest.raises(ValueError, match=told):
        notebook_runs.run_notebook(notebook(tmp_path), out, given_, progress=False)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ("n = 3", "name: type = value"),
        ("n: int = 'a'", "is no int scalar"),
        ("n: list = [1]", "is no list scalar"),
        ("n: int", "name: type = value"),
    ],
)
def test_a_parameters_cell_holds_typed_scalars(tmp_path: Path, parameters: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fingerprint.parameters_of(notebook(tmp_path, parameters=parameters))


def test_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = notebook(tmp_path, "print(n, rate)")
    arguments = [str(source), "--profile", "smoke", "--results", str(tmp_path / "r"), "--timeout", "60"]
    assert notebook_runs.main([*arguments, "-p", "n", "7", "-p", "rate", "1"]) == 0
    assert "7 1.0" in texts(tmp_path / "r" / "smoke" / "notebooks" / "01_try.ipynb")
    run = json.loads((tmp_path / "r" / "smoke" / "run.json").read_text())
    assert run["notebooks"]["01_try"]["seconds"] > 0 and run["config_hash"] == profiles.get("smoke").hash
    capfd.readouterr()
    for bad in (["-p", "n", "many"], ["-p", "m", "1"], ["--profile", "huge"]):
        assert notebook_runs.main([*arguments, *bad]) == 2
        assert len(capfd.readouterr().err.splitlines()) == 1
    assert notebook_runs.main([str(tmp_path / "none.ipynb")]) == 2
    assert "no such notebook" in capfd.readouterr().err


def test_missing_real_data_are_named_in_one_line(tmp_path: Path) -> None:
    qwen = profiles.get("qwen3-vl-8b")
    (tmp_path / qwen.data.root / "visa").mkdir(parents=True)
    line = notebook_runs.missing_data(qwen, tmp_path)
    assert "mvtec" in line and "real-iad" in line and "visa" not in line and "\n" not in line
    assert notebook_runs.missing_data(profiles.get("tiny"), tmp_path) == "", "stand-ins are made, not fetched"


def test_the_kernel_starts_in_the_checkout(tmp_path: Path, repo: Path) -> None:
    spec = json.loads((notebook_runs.install_kernel(tmp_path) / "kernel.json").read_text())
    assert f"--IPKernelApp.exec_lines=%cd -q {repo}" in spec["argv"] and "{connection_file}" in spec["argv"]


# ---- fingerprints ----------------------------------------------------------------------------------------------------
@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "indus_lib/__init__.py": '"""Doc."""\n',
        "indus_lib/a.py": 'from .b import f\nPATH = "data/facts.yaml"\nSET = "data/set"\n',
        "indus_lib/b.py": "import math\ndef f():\n    from . import c\n    return c\n",
        "indus_lib/c.py": "X = 1\n",
        "indus_lib/alone.py": "Y = 1\n",
        "data/facts.yaml": "k: 1\n",
        "data/other.yaml": "k: 1\n",
        "data/set/words.yaml": "k: 1\n",
        "data/set/README.md": "Words.\n",
        "requirements.lock": "torch==1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    notebook(tmp_path, "from indus_lib import a\n%matplotlib inline\nprint(a)")
    return tmp_path


def mark(tree: Path, **parameters: str) -> str:
    return fingerprint.fingerprint(tree / "01_try.ipynb", {"profile": "tiny", "seeds": "1"} | parameters, tree)


def test_closure_follows_every_form_of_import(tree: Path) -> None:
    assert fingerprint.closure({"a"}, tree) == ["__init__", "a", "b", "c"]
    source = (
        "import indus_lib.b\nfrom indus_lib.c import X\nfrom indus_lib import a as q, f\nimport math\nfrom os import a"
    )
    assert fingerprint.imported(source) == {"a", "b", "c", "f"}


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("indus_lib/c.py", "X = 2\n", True),
        ("indus_lib/c.py", '"""Now with a docstring."""\n\n# and a comment\nX  =  1\n', False),
        ("indus_lib/alone.py", "Y = 2\n", False),
        ("data/facts.yaml", "k: 2\n", True),
        ("data/other.yaml", "k: 2\n", False),
        ("data/set/words.yaml", "k: 2\n", True),
        ("data/set/README.md", "More words.\n", False),
        ("requirements.lock", "torch==2\n", True),
    ],
)
def test_a_fingerprint_changes_with_what_matters_only(tree: Path, name: str, text: str, changes: bool) -> None:
    before = mark(tree)
    assert mark(tree) == before
    (tree / name).write_text(text)
    assert (mark(tree) != before) is changes


def test_a_code_digest_changes_with_code_and_facts_but_not_with_profiles(tree: Path) -> None:
    def digest() -> str:
        fingerprint.code_digest.cache_clear()
        return fingerprint.code_digest("a", root=tree)

    (tree / "indus_lib/b.py").write_text("from . import c, profiles\n")
    (tree / "indus_lib/profiles.py").write_text("N = 1\n")
    found = [digest()]
    for name, text in [
        ("indus_lib/profiles.py", "N = 2\n"), ("indus_lib/alone.py", "Y = 2\n"), ("indus_lib/c.py", "X = 2\n"),
        ("data/facts.yaml", "k: 2\n"),
    ]:  # fmt: skip
        (tree / name).write_text(text)
        found.append(digest())
    assert found[0] == found[1] == found[2] and len(set(found)) == 3
    fingerprint.code_digest.cache_clear()


def test_a_fingerprint_knows_only_parameters_that_the_notebook_declares(tree: Path) -> None:
    assert mark(tree) == mark(tree, seeds="3"), "this notebook has no `seeds`"
    assert mark(tree) != mark(tree, profile="smoke")
    changed = notebook(tree, "from indus_lib import a\nprint(a, 2)")
    assert fingerprint.code_of(changed).endswith("print(a, 2)")


def test_an_unchanged_fingerprint_keeps_its_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.sha256"
    assert fingerprint.write_if_changed(path, "a\n")
    before = path.stat().st_mtime_ns
    assert not fingerprint.write_if_changed(path, "a\n") and path.stat().st_mtime_ns == before
    assert fingerprint.write_if_changed(path, "b\n") and path.read_text() == "b\n"


@given(st.text(alphabet=st.characters(exclude_characters="\r\n\x00\x0c", exclude_categories=["Cs"])))
def test_comments_never_matter(comment: str) -> None:
    assert fingerprint.bare(f"x = 1  # {comment}\n") == fingerprint.bare("x = 1")


# ---- run.json --------------------------------------------------------------------------------------------------------
def test_run_json_tells_configuration_commit_versions_machine_and_seeds(tmp_path: Path) -> None:
    profile, path = profiles.get("smoke"), tmp_path / "smoke" / "run.json"
    runs_meta.write_run_json(profile, path, seeds=range(2), notebook="01_try", seconds=1.23)
    runs_meta.write_run_json(profile, path, seeds=range(2), notebook="02_more", seconds=2.0)
    run = json.loads(path.read_text())
    assert run["config"]["grpo"]["group"] == 4 and run["config_hash"] == runs_meta.config_hash(profile)
    assert set(run["notebooks"]) == {"01_try", "02_more"} and run["seeds"] == [0, 1]
    assert run["libraries"]["torch"] and run["machine"]["cores"] >= 1 and run["machine"]["memory_gib"] > 0
    assert not re.search(r'"/|\\\\', path.read_text()), "a path of this machine"
    other = replace(profile, runs=("base",))
    assert runs_meta.config_hash(other) != runs_meta.config_hash(profile)


def test_run_json_that_is_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json: not JSON any more"):
        runs_meta.write_run_json(profiles.get("smoke"), tmp_path / "run.json")


def test_git_state(tmp_path: Path) -> None:
    assert runs_meta.git_state(tmp_path) == {"commit": None, "dirty": None}
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    state = runs_meta.git_state(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{40}", state["commit"]) and state["dirty"] is False
    (tmp_path / "f").write_text("x")
    subprocess.run(["git", "-C", str(tmp_path), "add", "f"], check=True)
    assert runs_meta.git_state(tmp_path)["dirty"] is True


# ---- house style of the committed notebooks --------------------------------------------------------------------------
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_house_style(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert re.fullmatch(r"\d\d_[a-z]+(_[a-z]+)+", path.stem), "NN_verb_noun"
    first = book.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# "), "title first"
    assert len(first.source.splitlines()) > 1, "a line on what it shows under the title"
    assert "profile" in fingerprint.parameters_of(path)
    assert book.metadata.kernelspec.name == notebook_runs.KERNEL, "make registers this kernel; it starts in the root"
    code = [c for c in book.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code), "make notebooks-strip"
    assert max(len(c.source.splitlines()) for c in code) <= 20, "cells of about 10 lines"
    long = [n.name for n in functions(path) if n.end_lineno - n.lineno + 1 > 6]
    assert not long, f"functions of more than 5 lines belong in the library: {long}"
    assert not re.search(r"widgets\.Output\(|\binteract\(", fingerprint.code_of(path)), "these hang headless kernels"
    assert any("things to notice" in c.source.lower() for c in book.cells if c.cell_type == "markdown")


def functions(path: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(fingerprint.code_of(path))) if isinstance(n, ast.FunctionDef)]
