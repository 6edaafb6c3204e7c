"""What the notebooks show beside plain library calls: worked examples, sheets, summaries. No method lives here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from . import experiments, figures, images, loop, metrics, protocol, report, variants
from .episodes import Episode, ToolCall, Turn, Verdict
from .files import write_text
from .local_policy import LocalPolicy
from .profiles import Profile
from .rewards import RewardParts
from .samples import Sample

COINS = "data/generated/coins.png"  # below the checkout
ROW_OF_COINS = [[60, 600], [970, 560]]
"""Rough ends of the third row of coins from above: the tool finds it from any points within 10 units of these."""


def photograph(image: str = "", category: str = "") -> Sample:
    """The user's photograph, or scikit-image's coins (real, public domain, inside its package)."""
    if image:
        return Sample(Path(image).stem, Path(image), category=category)
    path = experiments.ROOT / COINS
    with as_file(files("skimage") / "data" / "coins.png") as source:
        images.save_png(path, images.load_image(source))
    return Sample("coins", path, category=category or "coin")


def pixels(sample: Sample) -> np.ndarray:
    """The image as uint8 (H, W, 3)."""
    return images.load_image(sample.image, sample.tile)


def four_calls(sample: Sample, photo: np.ndarray) -> tuple[dict[str, Any], ...]:
    """One call of each tool. The coins are looked up as coins and measured along their third row; of another photograph
    (H, W, 3) the prior is asked about its category, and the row is looked for along the middle of the longer side."""
    coins = sample.image == experiments.ROOT / COINS
    middle = [[50, 500], [950, 500]] if photo.shape[1] >= photo.shape[0] else [[500, 50], [500, 950]]
    return (
        {"name": "crop", "arguments": {"region": [0, 0, 1000, 1000]}},
        {"name": "enhance", "arguments": {"method": "texture"}},
        {"name": "prior", "arguments": {"query": "coin, struck metal"} if coins else {}},
        {"name": "measure", "arguments": {"kind": "row", "points": ROW_OF_COINS if coins else middle}},
    )


def tool_sheet(photo: np.ndarray, calls: Sequence[dict[str, Any]], sample: Sample) -> Figure:
    """What each call returned; of a measurement the points given (dashed) and the features found (dots)."""
    figure = figures.new(3.2 * (len(calls) + 1), 4.2)
    axes = figure.subplots(1, len(calls) + 1)
    axes[0].imshow(photo)
    axes[0].set_title(f"photograph {photo.shape[1]} x {photo.shape[0]}", fontsize=9)
    for axis, call in zip(axes[1:], calls, strict=True):
        result = loop.run_call(call, photo, sample)
        axis.imshow(result.images[0] if result.images else photo, alpha=1.0 if result.images else 0.35)
        axis.autoscale(False)
        given = np.reshape(call["arguments"].get("points", ()), (-1, 2)) * photo.shape[1::-1] / 1000
        axis.plot(*given.T, "--", color=figures.COLOURS[1])
        axis.plot(*np.reshape(result.details.get("centres", ()), (-1, 2)).T, "o", ms=4, color=figures.COLOURS[0])
        axis.set_title(f"{call['name']}: {_wrapped(result.text)}", fontsize=7)
    for axis in axes:
        axis.set_axis_off()
    return figure


def _wrapped(text: str, width: int = 42) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:7])


def agent(profile: Profile) -> LocalPolicy:
    """The agent of a fresh clone: the trained one that ships with it, else the base model."""
    shipped = experiments.ROOT / profile.model.agent
    path = shipped if profile.model.agent and shipped.is_dir() else experiments.model_path(profile, "base")
    return LocalPolicy.from_path(path, batch=profile.inspection.batch)


def trained(profile: Profile, run: str, seed: int = 0) -> LocalPolicy:
    """The model of one of this machine's runs."""
    path = experiments.train(profile, run, seed)
    return LocalPolicy.from_path(path, name=run, batch=profile.inspection.batch)


def record(profile: Profile, name: str, **facts: Any) -> Path:
    """Write `results/<profile>/metrics/<name>.json` (the runner writes machine and versions to `run.json`)."""
    if "episodes" in facts and not isinstance(facts["episodes"], int):
        facts["episodes"] = [e.to_json() for e in facts["episodes"]]
    path = experiments.folder(profile) / "metrics" / f"{name}.json"
    content = {"profile": profile.name, "config_hash": profile.hash, **facts}
    return write_text(path, json.dumps(content, indent=1, default=str))


# --- data ---------------------------------------------------------------------------------------------------------


def counts(sets: Mapping[str, Sequence[Sample]], reports: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per set: images, labels, categories, and whether the protocol card agrees."""
    return [
        {
            "set": name,
            "normal": sum(s.label is False for s in samples),
            "anomalous": sum(s.label is True for s in samples),
            "categories": len({s.category for s in samples}),
            "against its card": reports[name].label if name in reports else "",
        }
        for name, samples in sets.items()
    ]


def sheet(name: str, samples: Sequence[Sample], standins: bool, columns: int = 12, rows: int = 3) -> Figure:
    """A contact sheet of a set: images chosen evenly from its samples."""
    picks = np.linspace(0, len(samples) - 1, min(columns * rows, len(samples))).astype(int)
    figure = figures.new(columns, rows + 0.3)
    axis = figure.subplots()
    axis.imshow(_grid((pixels(samples[k]) for k in picks), columns, rows))
    axis.set_title(f"{name} ({'stand-in' if standins else 'real'})", loc="left", fontsize=10)
    axis.set_axis_off()
    return figure


def _grid(pictures: Iterable[np.ndarray], columns: int, rows: int, side: int = 160) -> np.ndarray:
    """Pictures (H, W, 3) side by side on white, (rows * side, columns * side, 3) uint8."""
    grid = np.full((rows * side, columns * side, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        scale = (side - 4) / max(picture.shape[:2])
        size = [max(round(n * scale), 1) for n in picture.shape[1::-1]]
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        y, x = (k // columns) * side + 2, (k % columns) * side + 2
        grid[y : y + small.shape[0], x : x + small.shape[1]] = small
    return grid


def trajectory(pool: Sequence[Sample], profile: Profile) -> str:
    """The first anomalous sample of the pool that a tool shows, through the offline teacher, as a static trace.

    Raises:
        ValueError: No tool shows any of the first samples.
    """
    from . import teacher, trace_html

    for sample in [s for s in pool if s.label][:20]:
        for choice in ("crop:whole", "enhance:texture", "measure:row", "prior:ask"):
            try:
                turns = teacher.write(sample, choice, 0, detail=profile.inspection.detail)[0]
            except teacher.Refused:  # this tool shows nothing here: the teacher does not pretend
                continue
            verdict = Verdict(True, sample.boxes[0], sample.node)
            made = Episode(sample.id, sample.dataset, sample.category, str(sample.image), True, "teacher",
                           turns=turns, verdict=verdict)  # fmt: skip
            return trace_html.static_html(made, sample)
    raise ValueError("no tool shows any of the first twenty anomalous samples of the pool")


def token_view(one: Any, processor: Any, policy: LocalPolicy | None = None) -> Any:
    """Widget: a training sequence (`train_data.Encoded`) coloured by loss mask, or by how likely a policy's model takes
    each token that carries loss."""
    from .token_view import TokenView, decoded

    ids, mask, image = one.input_ids, one.mask, processor.image_token_id
    keep = [i for i in range(len(ids)) if ids[i] != image or ids[i - 1] != image]
    likely = policy and [p if learnt else None for p, learnt in zip(log_p(one, policy.model), mask, strict=True)]
    return TokenView(decoded(ids[keep], processor.tokenizer), mask[keep], likely and [likely[i] for i in keep])


def log_p(one: Any, model: Any) -> list[float | None]:
    """Log-probability of each token of a sequence (`train_data.Encoded`) after those before it; None of the first."""
    import torch

    from .train_data import collate

    batch = collate([one], 0, model.config.image_token_id)
    given = {k: v.to(model.device) for k, v in batch.items() if k not in ("labels", "decision", "place", "second")}
    with torch.no_grad():
        found = model(**given).logits[0, :-1].float().log_softmax(-1)
    return [None, *found.gather(1, given["input_ids"][0, 1:, None])[:, 0].tolist()]


def validate(profile: Profile, run: str, seed: int = 0, limit: int = 300) -> list[Episode]:
    """A run on the pool's own validation part."""
    from .selection import balanced_limit

    samples = balanced_limit(experiments.pool(profile, "test"), min(limit, (profile.data.limit or limit) * 5))
    variant = variants.VARIANTS[run]
    policy = trained(profile, run, seed)
    return loop.inspect(
        policy, samples, profile=profile, mode=variant.mode, allowed_tools=variant.tools, progress=f"validate {run}"
    )


def rates(episodes: Sequence[Episode]) -> dict[str, float | int | None]:
    """A few numbers of a run, rounded, with N."""
    data, used = metrics.outcomes(episodes), report.usage(episodes)
    found = {name: metrics.value(data, name) for name in ("balanced_accuracy", "recall", "specificity")}
    return {
        **{k: None if v is None else round(100 * v, 1) for k, v in found.items()},
        "calls per image": round(used.calls_per_image, 2),
        "normal": data.n_normal, "anomalous": data.n_anomalous, "unparsed": data.n_unparsed,
    }  # fmt: skip


# --- rewards by hand ----------------------------------------------------------------------------------------------


def rollouts() -> list[tuple[Episode, Sample]]:
    """Four answers to one anomalous image: useful call, useless call, wrong with a good box, malformed."""
    box = (400, 300, 520, 420)
    sample = Sample("hand", Path("hand.png"), label=True, defect="scratch", node="scratch", boxes=(box,))
    call = ToolCall("crop", {"region": [300, 200, 700, 600]}, text="crop [390,290,530,430]", n_images=1)
    first = Turn("<think>small mark; preliminary: No</think><call_tool>...</call_tool>", (call,), -0.4)
    yes = protocol.format_final("a scratch", True, box, "scratch")
    made = [
        ((first, Turn(yes)), Verdict(True, box, "scratch"), (), -0.4, 2.1),
        ((first, Turn(yes)), Verdict(True, box, "scratch"), (), 1.5, 1.2),
        ((first, Turn("<think>fine</think><answer>No</answer>")), Verdict(False, box, ""), (), -0.4, -1.0),
        ((Turn("I think it is broken"),), None, ("missing_think", "text_outside_tags", "missing_answer"), None, None),
    ]
    return [
        (Episode("hand", label=True, policy="by hand", turns=turns, verdict=verdict, violations=bad,
                 margin_before=before, margin=after), sample)
        for turns, verdict, bad, before, after in made
    ]  # fmt: skip


def reward_rows(group: Sequence[tuple[Episode, Sample]], parts: Sequence[RewardParts]) -> list[dict[str, Any]]:
    """The named parts of each rollout's reward."""
    names = ("right, useful call", "right, useless call", "wrong, good box", "malformed")
    keys = ("acc", "loc", "type", "tool", "format", "total")
    return [{"rollout": n, **{k: round(getattr(q, k), 3) for k in keys}} for n, q in zip(names, parts, strict=True)]


def loss_by_hand(profile: Profile, advantage: float) -> list[dict[str, Any]]:
    """What is given and what is generated in a short trajectory, in turns, with its tokens' share of GRPO's loss at
    ratio 1: a generated token's is `-advantage` / the number of generated tokens, a given one's 0."""
    from . import train_data
    from .processing import load_processor

    processor = load_processor(experiments.model_path(profile, "base"))
    one = train_data.encode(_conversation_by_hand(profile), processor)
    parts = np.split(one.mask, np.flatnonzero(np.diff(one.mask)) + 1)
    rows = []
    for (learnt, text), part in zip(train_data.spans(one, processor), parts, strict=True):
        share = -advantage / int(one.mask.sum()) if learnt else 0.0
        rows.append({
            "text": _shortened(text), "tokens": len(part), "generated": learnt,
            "loss of each": round(share, 4), "loss of all": round(share * len(part), 4),
        })  # fmt: skip
    return rows


def _conversation_by_hand(profile: Profile) -> list[dict[str, Any]]:
    """A picture, a crop, what the tool really returns, and a verdict."""
    picture, sample = np.full((96, 96, 3), 128, np.uint8), Sample("hand", Path("hand.png"))
    call = {"name": "crop", "arguments": {"region": [380, 280, 540, 440]}}
    talk = protocol.start(picture, protocol.question("", profile.inspection.detail))
    talk = protocol.add_assistant(talk, protocol.turn_text("a small mark", protocol.tool_tail(call)))
    talk = protocol.add_observation(talk, [(call, loop.run_call(call, picture, sample))])
    return protocol.add_assistant(talk, protocol.format_final("a scratch", True, (400, 300, 520, 420), "scratch"))


def _shortened(text: str, most: int = 100) -> str:
    """One line, its middle left out."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"
