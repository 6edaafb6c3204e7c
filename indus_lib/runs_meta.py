"""`results/<profile>/run.json`: resolved configuration, commit, library versions, machine, and what ran when."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .files import write_text
from .profiles import Profile

LIBRARIES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy", "scipy", "scikit-learn",
    "opencv-python-headless", "pillow", "papermill", "ipywidgets",
)  # fmt: skip


def config_hash(profile: Profile) -> str:
    """Twelve hex digits that change with any value of the profile; stands in every table."""
    return profile.hash


def write_run_json(
    profile: Profile, path: Path | str, *, seeds: Sequence[int] = (0,), notebook: str = "", seconds: float | None = None
) -> dict[str, Any]:
    """Write or update `path` atomically and return its content.

    A run that was interrupted and continued may have seen several commits: each notebook keeps the commit, time and
    configuration hash it ran under; the top of the file describes the latest.

    Args:
        profile: Resolved configuration.
        path: Usually `results/<profile>/run.json`.
        seeds: Seeds of the run.
        notebook: Name of the notebook that just ran, "" = none.
        seconds: How long it took.
    """
    path = Path(path)
    commit = git_state(Path(__file__).resolve().parents[1])
    notebooks = _read(path).get("notebooks", {})
    if notebook:
        notebooks[notebook] = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": seconds and round(seconds, 1),
            "config_hash": profile.hash, "seeds": list(seeds), **commit,
        }  # fmt: skip
    data = {
        "profile": profile.name, "config_hash": profile.hash, "config": asdict(profile), "seeds": list(seeds),
        "git": commit, "libraries": versions(), "machine": machine(), "notebooks": dict(sorted(notebooks.items())),
    }  # fmt: skip
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: not JSON any more ({error}); remove it and run again") from error


def git_state(root: Path) -> dict[str, Any]:
    """`{"commit": full hash, "dirty": bool}`; both None outside a git checkout or without git (a source archive)."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (FileNotFoundError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def versions() -> dict[str, str | None]:
    """Python and the libraries that move numbers; None = not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """System, cores this process may use, memory in GiB, names of NVIDIA GPUs. Nothing that identifies a person."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    return {"system": system, "cores": cores, "memory_gib": round(memory, 1), "gpus": gpus()}


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs; asked of the driver's tool, because importing torch for it costs seconds."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []
