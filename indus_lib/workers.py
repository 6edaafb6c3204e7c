"""Jobs in several processes, results in order: drawing sets, writing the corpus, making pre-training scenes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

import cv2

Result = TypeVar("Result")
FEW = 32  # jobs that are not worth starting processes for


def run_jobs(
    job: Callable[..., Result], arguments: Sequence[tuple[Any, ...]], workers: int, few: int = FEW
) -> Iterator[Result]:
    """`job(*a)` for each of `arguments`, in order; fewer than `few` jobs run in this process.

    Processes are spawned, not forked: a fork of a process with torch's or OpenCV's threads hangs now and then, and no
    time limit gets it out.
    """
    if workers <= 1 or len(arguments) < few:
        yield from (job(*a) for a in arguments)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        at_once = 1 if len(arguments) < FEW else min(8, -(-len(arguments) // (4 * workers)))  # few jobs are long ones
        yield from pool.map(job, *zip(*arguments, strict=True), chunksize=at_once)


@contextmanager
def beside(job: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """`job(*arguments)` in another process while the body runs; ended with it, the processes that it started too."""
    process = get_context("spawn").Process(target=_in_own_group, args=(job, *arguments))
    process.start()
    assert process.pid is not None
    try:
        yield
    finally:
        if process.is_alive():
            try:
                os.killpg(process.pid, signal.SIGTERM)  # its workers would wait for jobs for ever
            except ProcessLookupError:  # it has not begun, and started none
                process.terminate()
        process.join()


def _in_own_group(job: Callable[..., object], *arguments: Any) -> None:
    os.setpgrp()
    job(*arguments)


def _one_thread() -> None:
    """One thread each, and no bars of their own: torch and tqdm read these when a job first imports them."""
    os.environ.update(OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    cv2.setNumThreads(1)
