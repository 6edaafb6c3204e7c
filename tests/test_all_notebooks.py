"""Every notebook, headless, at smoke scale: `make reproduce PROFILE=smoke` as the README says it.

The name sorts first so that this long test starts first and the other core does the rest meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from indus_lib import profiles

PATHS = ("PATH", "HOME", "OMP_NUM_THREADS", "TMPDIR")


def reproduce(repo: Path) -> subprocess.CompletedProcess[str]:
    """MAKEFLAGS of the `make test` around this must not reach the inner make."""
    environment = {name: os.environ[name] for name in PATHS if name in os.environ}
    command = ["make", "reproduce", "PROFILE=smoke", f"PY={sys.executable}", "TIMEOUT=300"]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_notebook_runs_at_smoke_scale_and_leaves_its_files(repo: Path) -> None:
    done = reproduce(repo)
    assert done.returncode == 0, done.stderr[-3000:]
    results = repo / "results" / "smoke"
    sources = {p.name for p in (repo / "notebooks").glob("*.ipynb")}
    assert {p.name for p in (results / "notebooks").glob("*.ipynb")} == sources
    run = json.loads((results / "run.json").read_text())
    assert run["config_hash"] == profiles.get("smoke").hash
    assert set(run["notebooks"]) == {Path(name).stem for name in sources}
    tables = {p.stem for p in (results / "tables").glob("*.json")}
    assert tables >= {"table1_balanced_accuracy", "table2_recall", "table6_f1", "table7_tool_usage"}
    assert {p.stem for p in (results / "tables").glob("*.csv")} == tables
    assert list((results / "figures").glob("*.png"))
    again = reproduce(repo)
    assert "notebook_runs" not in again.stdout, "an unchanged notebook is not repeated"
