"""The three profiles: every knob of every stage, with the paper's section or `not in paper` beside each value.

Nothing outside this file branches on the profile: same tools, loop, rewards, metrics and notebooks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace

SETS = ("mvtec", "visa", "mpdd", "dtd", "kolektorsdd")
"""The five test sets (paper section 7)."""


@dataclass(frozen=True)
class Model:
    """Which weights. Paths are relative to the checkout; a name with one slash that is no folder is a hub name."""

    base: str
    agent: str  # trained agent shipped with the checkout; "" = none
    dtype: str = "float32"
    lora: bool = False


@dataclass(frozen=True)
class Data:
    """Where the data sets are and how many images a run takes."""

    root: str  # holds one folder per set and the pool
    standins: bool
    pool: str  # folder of the Real-IAD-layout training pool under `root`
    scale: float = 1.0  # of the generated world; smoke shrinks it
    limit: int | None = None  # test images per set in the main tables (balanced), None = all
    ablation_limit: int | None = None  # the same for ablation runs


@dataclass(frozen=True)
class Inspection:
    """The inspection loop (paper section 3: two rounds)."""

    detail: str = "full"  # wording of the instruction: `full` or `short` (a tiny context has no room)
    name_category: bool = True  # tell the model the product's name; not in paper
    max_new_tokens: int = 512  # paper section 6, completion length
    max_calls: int = 4  # per trajectory, one of each tool; not in paper
    temperature: float = 0.0  # evaluation is greedy; not in paper
    batch: int = 16
    max_side: int = 2048  # an image shown to the model is scaled down to this; tools keep the original


@dataclass(frozen=True)
class Corpus:
    """Indus-CoT (paper section 4)."""

    n: int = 3000  # section 4
    teacher: str = "endpoint"  # `endpoint` (section 4) or `offline`
    validation: float = 0.05  # not in paper
    exploration: float = 0.3  # share of trajectories that try a tool which may not help; not in paper


@dataclass(frozen=True)
class SFT:
    """Cold start (paper section 5)."""

    epochs: float = 1.0  # section 5
    batch: int = 1
    accumulation: int = 2
    learning_rate: float = 1e-5  # not in paper
    warmup: float = 0.03  # not in paper
    max_length: int = 4608  # section 6: prompt 4096 + completion 512
    vision_rate: float = 0.0  # learning rate of the vision tower / of the rest, 0 = frozen; not in paper
    terse: bool = False  # thoughts cut to what they find, for a model too small for the sentences; not in paper
    restart: bool = False  # the language model starts anew, only the tower is the base's (docs/log.md); not in paper
    looking: int = 0  # epochs in which the tower first learns what a photograph asks for; not in paper
    reading: int = 0  # steps in which a language model that starts anew first learns answers in words; not in paper
    practice: int = 0  # answers in words that are learnt beside every batch; not in paper
    decision_weight: float = 1.0  # of what is seen, whether to ask and which tool, against other tokens; not in paper
    withheld: float = 0.0  # above 0: rounds apart, this share of the second ones with a blank photograph; not in paper
    named_only: bool = False  # a box is learnt only where a tool named it: all others are guesses; not in paper
    format_first: float = 0.0  # share of the steps, from the start, in which it does not count more; not in paper


@dataclass(frozen=True)
class GRPO:
    """Gated RL (paper section 6)."""

    group: int = 4  # G, section 6
    prompts: int = 1  # prompts per step and device, section 6
    accumulation: int = 2  # section 6
    steps: int = -1  # -1: one epoch, section 6
    max_completion: int = 512  # section 6
    learning_rate: float = 1e-6  # not in paper
    epsilon: float = 0.2  # not in paper
    beta: float = 0.04  # KL weight (k3), not in paper
    temperature: float = 1.0  # not in paper
    top_p: float = 1.0  # not in paper
    freeze_vision: bool = True  # not in paper


@dataclass(frozen=True)
class Profile:
    """One profile: frozen, hashable, printed whole into `run.json`."""

    name: str
    model: Model
    data: Data
    inspection: Inspection = field(default_factory=Inspection)
    corpus: Corpus = field(default_factory=Corpus)
    sft: SFT = field(default_factory=SFT)
    grpo: GRPO = field(default_factory=GRPO)
    runs: tuple[str, ...] = ()  # ablation runs of notebook 5, empty = all of `variants.ABLATIONS`

    @property
    def hash(self) -> str:
        """First 12 hex digits of the sha256 of all values."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


TINY = Profile(
    name="tiny",
    model=Model("data/models/indus-tiny", "data/models/indus-tiny-agent"),
    data=Data("data/generated/world", True, "pool", limit=None, ablation_limit=80),
    inspection=Inspection(detail="short", name_category=False, max_new_tokens=96, batch=128, max_side=1024),
    corpus=Corpus(n=5200, teacher="offline", exploration=0.1),  # of 6,000 that there are; RL needs others
    sft=SFT(
        epochs=2,
        batch=32,
        accumulation=1,
        learning_rate=1.5e-3,
        max_length=640,
        terse=True,
        restart=True,
        looking=2,
        reading=450,
        practice=24,
        decision_weight=12.0,
        withheld=0.5,
        named_only=True,
        format_first=0.1,
    ),
    grpo=GRPO(  # a weaker pull to the start, or a higher rate, and tools are unlearnt by drift (docs/log.md)
        prompts=16,
        accumulation=1,
        steps=8,
        max_completion=256,
        learning_rate=5e-5,
        beta=0.5,
        temperature=0.5,  # long calls of the miniature break at 0.7
        top_p=0.9,
    ),
)
SMOKE = replace(
    TINY,
    name="smoke",
    data=replace(TINY.data, root="data/generated/smoke", scale=0.02, limit=4, ablation_limit=4),
    inspection=replace(TINY.inspection, max_new_tokens=32),
    corpus=replace(TINY.corpus, n=24),
    sft=replace(TINY.sft, epochs=1, batch=8, looking=1, reading=3, practice=4),
    grpo=replace(TINY.grpo, prompts=2, steps=2),
    runs=("base", "sft", "full", "no_tools", "weights_0_0_0", "no_crop_at_inference", "group_2"),
)
QWEN = Profile(
    name="qwen3-vl-8b",
    model=Model("Qwen/Qwen3-VL-8B-Instruct", "", dtype="bfloat16", lora=True),
    data=Data("data/raw", False, "real-iad", ablation_limit=200),
    inspection=Inspection(max_side=1024),  # with what tools return beside it, SFT's 6144 tokens hold it
    sft=SFT(  # not in paper; an adapter's usual rate, and room for three large pictures of tools with long thoughts
        learning_rate=1e-4, max_length=6144
    ),
    grpo=GRPO(
        prompts=2,  # of 4 trajectories: the paper's 8 a step (batch 1 x accumulation 2 x 4 GPUs), here on one GPU
        steps=1500,  # section 6: one epoch, of how many images it does not say; here as many as trajectories of SFT
        learning_rate=1e-5,  # not in paper; an adapter's usual one
    ),
    runs=(  # each run with RL takes days of a GPU: `variants.ABLATIONS` has all
        "base", "full", "sft", "rl_only", "sft_no_tools", "no_tools", "additive", "weights_0_0_0",
        *(f"no_{tool}_at_inference" for tool in ("crop", "enhance", "measure", "prior")),
    ),
)  # fmt: skip
_ALL = {p.name: p for p in (SMOKE, TINY, QWEN)}
NAMES = tuple(_ALL)


def get(name: str) -> Profile:
    """Profile by name. Raises ValueError naming the known ones."""
    if name not in _ALL:
        raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(NAMES)}")
    return _ALL[name]
