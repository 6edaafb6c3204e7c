"""Processes that end with what they work for."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from indus_lib.workers import beside, run_jobs


def mark(folder: Path, k: int) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(0.2)


def draw(folder: Path) -> None:
    """Far more jobs than anybody waits for."""
    list(run_jobs(mark, [(folder, k) for k in range(5000)], 2, few=1))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="asks Linux which processes are there")
def test_a_failure_ends_the_process_beside_it_and_its_workers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training failed"), beside(draw, tmp_path):
        until = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        workers = [int(p.name) for p in tmp_path.iterdir()]
        assert len(workers) == 2 and all(map(alive, workers))
        raise ValueError("training failed")
    until = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_what_is_done_beside_the_body_is_done(tmp_path: Path) -> None:
    with beside(mark, tmp_path, 0):
        until = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < until:
            time.sleep(0.1)
    (found,) = tmp_path.iterdir()
    assert int(found.name) != os.getpid()


def seen(k: int) -> str:
    time.sleep(0.2)  # so that both processes get some
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_each_process_sees_one_gpu() -> None:
    assert set(run_jobs(seen, [(k,) for k in range(12)], 2, few=2, gpus=["4", "7"])) == {"4", "7"}
