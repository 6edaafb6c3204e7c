"""Jobs in several processes, results in order: drawing sets, the corpus, pre-training scenes, runs."""

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
    job: Callable[..., Result], arguments: Sequence[tuple[Any, ...]], workers: int, few: int = FEW,
    gpus: Sequence[str] = (),
) -> Iterator[Result]:  # fmt: skip
    """`job(*a)` for each of `arguments`, in order; fewer than `few` jobs run in this process. Each process sees one of
    `gpus`, if there are any: no more workers than those, then.

    Processes are spawned, not forked: a fork of a process with torch's or OpenCV's threads hangs now and then, and no
    time limit gets it out.
    """
    if workers <= 1 or len(arguments) < few:
        yield from (job(*a) for a in arguments)
        return
    context = get_context("spawn")
    free = context.SimpleQueue()
    for gpu in gpus:
        free.put(gpu)
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(free, bool(gpus))) as pool:
        at_once = 1 if len(arguments) < FEW else min(8, -(-len(arguments) // (4 * workers)))  # few jobs are long ones
        yield from pool.map(job, *zip(*arguments, strict=True), chunksize=at_once)


def gpus() -> list[str]:
    """The visible GPUs as CUDA_VISIBLE_DEVICES names them."""
    import torch  # seconds, which drawing and writing do without

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()
    return named[:count] if len(named) >= count and named[0] else [str(k) for k in range(count)]


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


def _begin(free: Any, on_gpu: bool) -> None:
    """One thread each and no bars of their own, or one GPU: torch and tqdm read these when a job first needs them."""
    os.environ.update(OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    if on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = free.get()
    cv2.setNumThreads(1)
