"""How fast this machine draws, runs each tool and inspects: `make bench`. Numbers in notes come from here.

On two cores it takes about half a minute. Say on which machine: the last line does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from indus_lib import cli, factory, images, loop, profiles, runs_meta, tools
from indus_lib.local_policy import LocalPolicy
from indus_lib.samples import Sample

ARGUMENTS = {
    "crop": {"region": [200, 200, 700, 700]},
    "prior": {"query": "surface"},
    "enhance": {"method": "texture"},
    "measure": {"kind": "row", "points": [[100, 500], [900, 500]]},
}


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Mean seconds of `work` after one call for warming up."""
    work()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def say(what: str, value: float, unit: str) -> None:
    """One aligned line."""
    print(f"{what:36} {value:9.1f} {unit}", flush=True)


def drawing() -> list[np.ndarray]:
    """Every product once, on one core."""
    names = list(factory.CATEGORIES)
    factory.render(names[0], 0, anomalous=False)
    start = time.perf_counter()
    scenes = [factory.render(n, i, anomalous=bool(i % 2)).image for i, n in enumerate(names)]
    say("draw a product, one core", len(names) / (time.perf_counter() - start), "images/s")
    return scenes


def tool_times(image: np.ndarray) -> None:
    """Each tool on one large image, and the same calls once they are remembered."""
    for name, arguments in ARGUMENTS.items():
        spent = seconds(lambda n=name, a=arguments: (tools.forget(), tools.run(n, a, image)), 20)
        say(f"{name}, {image.shape[1]} x {image.shape[0]} px", 1000 * spent, "ms")
        again = seconds(lambda n=name, a=arguments: tools.run(n, a, image), 20)
        say(f"{name}, made again", 1000 * again, "ms")


def inspecting(scenes: list[np.ndarray], profile: profiles.Profile) -> None:
    """The whole loop with the profile's agent: reading, two rounds, tools, margins."""
    policy = LocalPolicy.from_path(cli.weights_of(profile), batch=profile.inspection.batch)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.png" for i in range(len(scenes))]
        for path, scene in zip(paths, scenes, strict=True):
            images.save_png(path, scene)
        samples = [Sample(path.stem, path) for path in paths]
        loop.inspect(policy, samples[:2], profile=profile)
        start = time.perf_counter()
        loop.inspect(policy, samples, profile=profile)
        say("inspect, whole loop", len(samples) / (time.perf_counter() - start), "images/s")
    say("model parameters", sum(p.numel() for p in policy.model.parameters()) / 1e6, "million")


def main() -> None:
    """Print every measurement."""
    scenes = drawing()
    large = images_of_size(scenes[0], 1024)
    tool_times(large)
    inspecting(scenes, profiles.get("tiny"))
    print(json.dumps(runs_meta.machine()))


def images_of_size(image: np.ndarray, side: int) -> np.ndarray:
    """The image repeated to at least `side` pixels, cut to a square."""
    times = -(-side // min(image.shape[:2]))
    return np.tile(image, (times, times, 1))[:side, :side]


if __name__ == "__main__":
    main()
