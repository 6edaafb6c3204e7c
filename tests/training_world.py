"""A miniature world for the training tests: 24 pictures, four kinds of trajectories, a model of 60 thousand weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from indus_lib import loop, profiles, protocol, tiny_model
from indus_lib.images import load_image, save_png
from indus_lib.samples import Sample

MINI = tiny_model.TinyConfig(
    view=32, grid=4, vision_hidden=32, vision_depth=1, vision_heads=2, vision_mlp=64, deepstack=(0,), hidden=64,
    depth=2, heads=2, kv_heads=1, mlp=128, vocab=600,
)  # fmt: skip
BOX = (200, 200, 600, 600)
CALL = {"name": "enhance", "arguments": {"method": "clahe"}}
PROFILE = replace(
    profiles.get("tiny"),
    inspection=replace(profiles.get("tiny").inspection, max_new_tokens=40),
    sft=replace(
        profiles.get("tiny").sft,
        epochs=20,
        batch=8,
        learning_rate=1e-2,
        looking=0,
        reading=0,
        practice=0,
        named_only=False,
    ),
    grpo=replace(profiles.get("tiny").grpo, prompts=4, steps=3, learning_rate=3e-3, beta=0.0),
)


def make_samples(folder: Path, n: int = 24, label: bool | None = None) -> list[Sample]:
    """`n` pictures; odd ones have a dark patch and are anomalous, unless `label` says something else."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        picture = rng.integers(110, 150, (64, 64, 3), dtype=np.uint8)
        bad = bool(i % 2) if label is None else label
        if i % 2:
            picture[13:38, 13:38] = 20
        path = folder / f"{i:02d}.png"
        save_png(path, picture)
        made.append(Sample(f"part/test/{i:02d}", path, label=bad, node="stain" if bad else "", boxes=(BOX,) * bad))
    return made


def conversation(sample: Sample, says: bool, calls: bool) -> list[dict]:
    """One trajectory with the given verdict, with or without a tool."""
    image = load_image(sample.image)
    talk = protocol.start(image, protocol.question("", "short"))
    fields = {"evidence": "seen", "preliminary": "Yes" if says else "No"}
    verdict = {"anomalous": says, "box": BOX if says else None, "type": "stain" if says else ""}
    if not calls:
        return protocol.add_assistant(talk, protocol.format_turn1(fields, **verdict))
    talk = protocol.add_assistant(talk, protocol.format_turn1(fields, [CALL]))
    talk = protocol.add_observation(talk, [(CALL, loop.run_call(CALL, image, sample))])
    return protocol.add_assistant(talk, protocol.format_final("so", **verdict))


def conversations(samples: list[Sample]) -> list[list[dict]]:
    """Every combination of verdict and tool use, whatever the picture shows: the policy learns the format only."""
    return [conversation(s, bool(i // 2 % 2), bool(i // 4 % 2)) for i, s in enumerate(samples)]


def texts(talks: list[list[dict]]) -> list[str]:
    """All text, for the tokenizer."""
    return [part["text"] for talk in talks for m in talk for part in m["content"] if part["type"] == "text"]


def same(answered: str, node: str) -> float:
    """Stand-in for the taxonomy."""
    return float(answered == node)
