"""What both trainers share: a run's identity, its folders, its log and its progress bar.

A finished model lies in `out`; until then the run lives beside it in `.<name>.work` (checkpoints, log). The identity
of a run is a hash of everything that decides its result, so that a changed setting starts afresh and an unchanged one
resumes or is not repeated.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

from . import fast_vision, fingerprint, tiny_model

CURVE = "training.json"
HASHED = 2**28  # bytes; larger weight files are known by their size
LARGE = 1e9  # parameters
LORA_RANK = 16  # not in paper
LORA_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"  # not in paper


def identity(base: Path | str, code: Sequence[str], **facts: Any) -> str:
    """Hash of the facts, of the base model (the run that trained it, and its bytes, or names and sizes where hashing
    16 GB would be too slow) and of the library's `code`, named by modules: what an older library made is not taken for
    what this one would make."""
    files = sorted((p.name, _content(p)) for p in Path(base).glob("*.safetensors")) or [str(base)]
    made = Path(base) / CURVE  # weights of one shape are equally large, however they were trained
    files.append((CURVE, json.loads(made.read_text()).get("run") if made.is_file() else ""))
    known = [files, fingerprint.code_digest(*code), facts]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _content(path: Path) -> str:
    size = path.stat().st_size
    return hashlib.sha256(path.read_bytes()).hexdigest() if size < HASHED else str(size)


def complete(out: Path, run: str) -> bool:
    """Whether `out` holds the finished model of this very run."""
    path = out / CURVE
    return path.is_file() and json.loads(path.read_text()).get("run") == run


def open_work(out: Path, run: str) -> tuple[Path, str | None]:
    """(work folder, last checkpoint or None); what another run left there is dropped."""
    work = out.parent / f".{out.name}.work"
    mark = work / "run.txt"
    if not mark.is_file() or mark.read_text() != run:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        mark.write_text(run)
    for half in work.glob("checkpoint-*"):  # the trainer writes its state last, and drops the older one after that
        if not _readable(half / "trainer_state.json"):
            shutil.rmtree(half)
    return work, get_last_checkpoint(str(work))


def _readable(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text()))
    except (OSError, ValueError):
        return False


def prepare(base: Path | str, *, lora: bool, dtype: str, freeze_vision: bool) -> tuple[Any, Any]:
    """(model to train, processor): frozen parts, fast vision on a CPU. The adapter is added by the caller's engine.

    Full training keeps float32 master weights, since a bfloat16 step of 1e-6 would round to nothing; under an adapter
    the frozen base may be bfloat16.
    """
    half = dtype == "bfloat16" and lora and torch.cuda.is_available()
    free_memory()
    model, processor = tiny_model.load(base, dtype=torch.bfloat16 if half else torch.float32)
    if not torch.cuda.is_available():
        fast_vision.accelerate(model)
    model.model.visual.requires_grad_(not freeze_vision)
    model.config.use_cache = False
    return model.train(), processor


def free_memory() -> None:
    """A trainer and its model hold each other, and the GPU, until Python looks for such circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_large(model: Any) -> bool:
    """Whether activations are recomputed in the backward pass rather than kept (section 6)."""
    return sum(p.numel() for p in model.parameters()) > LARGE


def lora_config() -> Any:
    """The adapter of the 8B profile: every linear layer of the language model."""
    from peft import LoraConfig

    return LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=LORA_LAYERS, task_type="CAUSAL_LM")


def on_one_gpu(arguments: Any) -> Any:
    """The same arguments, for one GPU whatever is visible: the stock trainer would split batches between all of them,
    which pictures of different sizes do not allow. The runs of a table go side by side instead, one a GPU."""
    if arguments.world_size == 1 and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # `n_gpu` has no setter
    return arguments


def finish(trainer: Any, base: Path | str, processor: Any, out: Path, facts: dict[str, Any], *, lora: bool) -> Path:
    """Save the trained weights so that `out` loads by path, merging an adapter; atomic, then drop the checkpoints.

    The trainer gathers sharded weights, then one process opens what it wrote: the same way for one CPU and ZeRO-3.
    """
    work = Path(trainer.args.output_dir)
    gathered = work / "gathered"
    trainer.save_model(str(gathered))
    if trainer.accelerator.is_main_process:
        if not lora:
            processor.save_pretrained(gathered)
        source = {"path": base, "adapter": gathered} if lora else {"path": gathered}
        model, _ = tiny_model.load(**source, dtype=torch.float32, device="cpu")
        part = out.parent / f".{out.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        # bfloat16 rounds most small changes of RL back to the start: of those of 1e-4, 61 % of the miniature's
        kept = torch.bfloat16 if lora else torch.float32
        tiny_model.save(model.merge_and_unload() if lora else model, processor, part, kept)
        if lora:  # as it was trained, for `LocalPolicy`; the merged weights are for whatever else opens a model
            shutil.copytree(gathered, part / tiny_model.ADAPTER)
        (part / CURVE).write_text(json.dumps({**facts, "history": trainer.state.log_history}, indent=1))
        shutil.rmtree(out, ignore_errors=True)
        os.replace(part, out)
        shutil.rmtree(work)
    trainer.accelerator.wait_for_everyone()
    return out


class KeepLog(TrainerCallback):
    """JSONL of all logged steps, rewritten whole from the trainer's own state: a resumed run has no doubled steps."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what there is so far, so that a running or killed run can be looked at."""
        if state.is_world_process_zero:
            part = self.path.with_suffix(".part")
            part.write_text("".join(json.dumps(row) + "\n" for row in state.log_history))
            os.replace(part, self.path)


class Bar(TrainerCallback):
    """One line that moves, with the last values of `names`: the stock bars print a line per logged step."""

    def __init__(self, title: str, names: tuple[str, ...], shown: bool):
        self.title, self.names, self.shown = title, names, shown
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open at the step a resumed run goes on from."""
        quiet = not (self.shown and state.is_world_process_zero)
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title, disable=quiet, unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step further."""
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show the last values."""
        found = {n: logs[n] for n in self.names if logs and logs.get(n) is not None}
        if self.bar is not None and found:
            self.bar.set_postfix({n: f"{v:.3g}" for n, v in found.items()}, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close."""
        self.bar.close()


def quiet(trainer: Any) -> None:
    """Take the stock printing callbacks out."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
