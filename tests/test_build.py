"""Lock, environment, declared dependencies and the Makefile agree with each other and with what the code imports."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from packaging.utils import canonicalize_name

from indus_lib import fingerprint, profiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import lock

# used as programs, by other libraries, for the files inside, or imported through pytest.importorskip
TOOLS = {"accelerate", "ipykernel", "jupyterlab", "nbstripout", "playwright", "pytest-timeout", "pytest-xdist"}
TOOLS |= {"ruff", "scikit-image", "setuptools"}
OPTIONAL = {"vllm", "deepspeed"}  # installed by hand on a GPU machine; imported only where asked for


def make(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = "/usr/bin:/bin"
    return subprocess.run(
        ["make", *arguments], cwd=repo, capture_output=True, text=True, env={"PATH": path}, timeout=300
    )


def test_lock_environment_and_pyproject_agree(repo: Path) -> None:
    assert lock.problems(repo) == []


def test_disagreements_are_found(repo: Path, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "requirements.lock", "environment.yml"):
        shutil.copy(repo / name, tmp_path)
    text = (tmp_path / "requirements.lock").read_text()
    torch = re.search(r"^torch==(.*)$", text, re.MULTILINE)[1]
    text = text.replace(f"torch=={torch}", "torch==1.0").replace(f"tqdm=={metadata.version('tqdm')}\n", "")
    (tmp_path / "requirements.lock").write_text(text)
    found = "\n".join(lock.problems(tmp_path))
    assert f"torch: lock has 1.0, environment.yml {torch}" in found
    assert "torch: lock has 1.0, pyproject.toml wants" in found
    assert "tqdm: declared in pyproject.toml, missing" in found


def test_the_lock_serves_cpu_and_gpu(repo: Path) -> None:
    pins = lock.read_pins(repo / "requirements.lock")
    assert not [n for n in pins if n.startswith(("nvidia-", "triton", "cuda-"))]
    assert not [v for v in pins.values() if "+" in v], "a local version exists on one index only"
    assert "torchvision" not in pins, "one that does not match torch stops the model classes from importing"


def imports(files: list[Path]) -> dict[str, Path]:
    """Top-level module -> a file that imports it, the standard library and our own left out."""
    found: dict[str, Path] = {}
    for path in files:
        source = fingerprint.code_of(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found[node.module.split(".")[0]] = path
    own = {"indus_lib", *(p.stem for p in files)}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | own}


def distributions_of(modules: dict[str, Path]) -> dict[str, Path]:
    known = metadata.packages_distributions()
    unknown = {m: p for m, p in modules.items() if m not in known and m not in OPTIONAL}
    assert not unknown, f"imported and not installed: {unknown}"
    return {canonicalize_name(known[m][0]): path for m, path in modules.items() if m in known}


def declared(repo: Path) -> tuple[set[str], set[str]]:
    everything = {canonicalize_name(r.name) for r in lock.declared(repo)}
    import tomllib

    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    dev = {canonicalize_name(re.split(r"[^\w-]", line)[0]) for line in project["optional-dependencies"]["dev"]}
    return everything - dev, dev


def test_every_import_is_declared(repo: Path) -> None:
    main, dev = declared(repo)
    library = [*repo.glob("indus_lib/*.py"), *repo.glob("notebooks/*.ipynb")]
    rest = [*repo.glob("tests/*.py"), *repo.glob("scripts/*.py")]
    missing = {n: p.name for n, p in distributions_of(imports(library)).items() if n not in main}
    missing |= {n: p.name for n, p in distributions_of(imports(rest)).items() if n not in main | dev}
    assert not missing, f"imported and not declared in pyproject.toml: {missing}"


def test_every_declared_dependency_is_used(repo: Path) -> None:
    main, dev = declared(repo)
    files = [p for folder in ("indus_lib", "tests", "scripts", "notebooks") for p in repo.glob(f"{folder}/*.*")]
    used = set(distributions_of(imports([p for p in files if p.suffix in (".py", ".ipynb")])))
    assert not (main | dev) - used - TOOLS, "declared and neither imported nor listed as a tool"


def test_help_is_the_default_and_lists_every_target(repo: Path) -> None:
    text = (repo / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()) - {"FORCE"}
    shown = make(repo).stdout
    assert phony == set(re.findall(r"^  make ([a-z-]+) +\S", shown, re.MULTILINE))
    assert make(repo, "help").stdout == shown


def test_makefile_and_library_know_the_same_profiles(repo: Path) -> None:
    text = (repo / "Makefile").read_text(encoding="utf-8")
    assert tuple(re.search(r"^PROFILES := (.*)$", text, re.MULTILINE)[1].split()) == profiles.NAMES


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["reproduce", "PROFILE=huge"], "unknown PROFILE 'huge': choose one of smoke tiny qwen3-vl-8b"),
        (["reproduce", "PROFILE=smoke tiny"], "unknown PROFILE"),
        (["reproduce", "SEEDS=0"], "SEEDS='0'"),
        (["test", "PYTHON=no-such-python"], "no no-such-python: install Python 3.11"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    repo: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(repo / name, tmp_path)
    done = make(tmp_path, *arguments)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert done.returncode != 0 and told in done.stderr
    assert len(lines) <= 1 and "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Makefile", "requirements.lock"]


def test_an_old_python_is_refused(repo: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(repo / name, tmp_path)
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = -c ] && case "$2" in *version_info*) exit 1;; esac\nexit 0\n')
    old.chmod(0o755)
    done = make(tmp_path, "env", f"PYTHON={old}")
    assert done.returncode != 0 and "older than 3.11" in done.stderr and not (tmp_path / ".venv").exists()


def test_ci_runs_what_the_readme_says(repo: Path) -> None:
    script = (repo / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -eu" in script and re.search(r"^make test$", script, re.MULTILINE)


def test_a_dry_run_names_every_notebook_once_in_order_and_the_world_before_the_corpus(
    repo: Path, tmp_path: Path
) -> None:
    shutil.copy(repo / "Makefile", tmp_path)
    (tmp_path / "notebooks").mkdir()
    numbers = [f"{n:02}" for n in range(1, 8)]
    for number in numbers:
        (tmp_path / "notebooks" / f"{number}_do_it.ipynb").write_text("{}")
    dry = make(tmp_path, "-n", "reproduce", "PY=python3").stdout
    assert re.findall(r"notebook_runs notebooks/(\d\d)", dry) == numbers
    assert dry.index("indus_lib world") < dry.index("notebook_runs notebooks/02")


@pytest.fixture
def checkout(repo: Path, tmp_path: Path) -> Path:
    """A checkout with two notebooks that finish at once; 04 needs 03."""
    root = tmp_path / "copy"
    shutil.copytree(repo / "indus_lib", root / "indus_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(repo / name, root)
    (root / "notebooks").mkdir()
    for name in ("03_three", "04_four"):
        write_notebook(root, name, "import indus_lib.boxes  # a word\nprint(profile)")
    return root


def write_notebook(root: Path, name: str, code: str) -> None:
    book = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell('profile: str = "smoke"', metadata={"tags": ["parameters"]})
    book.cells = [nbformat.v4.new_markdown_cell(f"# {name}"), parameters, nbformat.v4.new_code_cell(code)]
    nbformat.write(book, root / "notebooks" / f"{name}.ipynb")


def reproduce(root: Path) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    done = make(root, "reproduce", "PROFILE=smoke", f"PY={sys.executable}", "TIMEOUT=60")
    return re.findall(r"notebook_runs notebooks/(\d\d)", done.stdout), done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_done_is_not_repeated_and_what_failed_is_continued(checkout: Path) -> None:
    write_notebook(checkout, "04_four", "raise OSError('disk full')")
    ran, done = reproduce(checkout)
    folder = checkout / "results" / "smoke" / "notebooks"
    assert ran == ["03", "04"] and done.returncode != 0
    assert "notebook: 04_four.ipynb, cell [3]: OSError: disk full (see " in done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["03_three.ipynb", "04_four.failed.ipynb"]
    write_notebook(checkout, "04_four", "print('needs no boxes')")
    assert reproduce(checkout)[0] == ["04"]
    assert sorted(p.name for p in folder.iterdir()) == ["03_three.ipynb", "04_four.ipynb"]
    write_notebook(checkout, "03_three", "import indus_lib.boxes  # another word\nprint(profile)")
    boxes = checkout / "indus_lib" / "boxes.py"
    boxes.write_text(boxes.read_text() + "\n# a comment\n")
    assert reproduce(checkout)[0] == [], "comments change no result"
    boxes.write_text(boxes.read_text().replace("SCALE = 1000", "SCALE = 1001"))
    assert reproduce(checkout)[0] == ["03", "04"], "03 has a new library, 04 a new predecessor"
