"""Texts beside questions and answers that the miniature's tokenizer should write in few tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import factory, protocol, sight, teacher_words, tools


def vocabulary_texts(root: Path) -> list[str]:
    """Texts beside the captions that the tokenizer should write in few tokens: priors, prompts, tool words."""
    files = [*sorted((root / "data/priors").glob("*.yaml")), root / "data/taxonomy.yaml"]
    texts = [line for f in files if f.is_file() for line in f.read_text(encoding="utf-8").splitlines()]
    words = json.dumps(tools.schemas()) + " ".join([*protocol.SCALES, *protocol.CUES, *protocol.SUSPICIONS])
    sample = protocol.format_turn1(
        {"evidence": "the surface looks even", "target": "part", "region": (0, 0, 1000, 1000), "scale": "small",
         "cue": "surface mark", "suspicion": "medium", "preliminary": "No"},
        [{"name": t, "arguments": a} for t, a in (
            ("crop", {"region": [0, 0, 1000, 1000]}), ("enhance", {"method": "texture"}), ("prior", {}),
            ("measure", {"kind": "row", "points": [[100, 500], [900, 500]]}))],
    )  # fmt: skip
    final = protocol.format_final("the crop shows it", True, (10, 20, 30, 40), "scratch")
    common = [sample, final, protocol.question(detail="short"), protocol.direct_question(detail="short"), words]
    phrases = list(_strings([v for k, v in vars(teacher_words).items() if k.isupper() and k.strip("_")]))
    return texts + (common + phrases + _tool_texts()) * 40


def _tool_texts() -> list[str]:
    """What the tools say of a few scenes, and the teacher's words for place, size, colour and grain."""
    texts = []
    for seed in range(60):
        scene = factory.base_scene(seed)
        x1, y1, x2, y2 = ((scene.row or (20, 128, 230, 128))[i] * 1000 / 256 for i in range(4))
        calls = (
            ("crop", {"region": [0, 0, 1000, 1000]}),
            ("enhance", {"method": ("texture", "clahe")[seed % 2]}),
            ("measure", {"kind": "row", "points": [[x1, y1], [x2, y2]]}),
            ("prior", {"product": "gear"}),
        )
        texts += [tools.run(name, arguments, scene.image).text for name, arguments in calls]
        look = sight.look(scene.image)
        box = (10 * seed, 600 - 10 * seed, 10 * seed + 40, 640 - 10 * seed)
        texts.append(f" {look.texture} {look.colour} {sight.place(box)} {sight.size_word(box)}")
    return texts


def _strings(value: Any) -> Iterator[str]:
    """Every string inside nested dictionaries, lists and tuples."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
