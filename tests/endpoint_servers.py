"""Real HTTP servers for the endpoint tests: uvicorn in a thread, and `transformers serve` as a process."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def completion(text: str | None, **choice: Any) -> JSONResponse:
    """A chat completion; `choice` changes or adds fields of its one choice."""
    message = {"role": "assistant", "content": text, **choice.pop("message", {})}
    return JSONResponse(
        {
            "id": "x", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None, **choice}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }
    )  # fmt: skip


def ask(text: str) -> list[dict[str, Any]]:
    """A conversation of one question about a small image."""
    image = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def said(body: dict[str, Any]) -> str:
    """The question of a request."""
    return body["messages"][0]["content"][1]["text"]


@contextlib.contextmanager
def chat_server(answer: Callable[[dict[str, Any], int], Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve `answer(body, request number) -> Response` or awaitable; yields (base URL, bodies received)."""
    app, bodies, lock = FastAPI(), [], threading.Lock()

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        body = await request.json()
        with lock:
            number = len(bodies)
            bodies.append({**body, "_authorization": request.headers.get("authorization", "")})
        result = answer(body, number)
        return await result if hasattr(result, "__await__") else result

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/v1", bodies
    finally:
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def transformers_serve(model: Path, repo: Path, log: Path) -> Iterator[str]:
    """`transformers serve` on `model` (through `python -m indus_lib serve`, which registers our processor first)."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "indus_lib",
        "serve",
        str(model),
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=repo)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"server did not come up:\n{log.read_text(errors='replace')[-2000:]}")
