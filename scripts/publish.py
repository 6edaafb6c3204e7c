"""Publish a whole run: its tables, figures and metrics go to results/reference, its full agent is the one that ships.

    .venv/bin/python scripts/publish.py results/tiny [--add tables/tool_choice]

Only what the reference already holds is taken, and what `--add` names. The agent is kept in float16, half the size of
what was trained and eight times finer than bfloat16. README's prose, the card of the weights and the log are by hand.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from indus_lib import readme_results, tiny_model, training_runs

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tables", "figures", "metrics")


def take(run: Path, reference: Path, added: list[str]) -> list[str]:
    """Copy; returns what the reference holds and the run lacks."""
    names = {path.relative_to(reference) for part in PARTS for path in (reference / part).iterdir()}
    for name in added:
        found = sorted(run.glob(f"{name}.*"))
        if not found:
            raise FileNotFoundError(f"--add {name}: no {run / name}.*")
        names |= {path.relative_to(run) for path in found}
    missing = [str(name) for name in sorted(names) if not (run / name).is_file()]
    for name in names:
        if (run / name).is_file():
            shutil.copyfile(run / name, reference / name)
    shutil.copyfile(run / "run.json", reference / "run.json")
    return missing


def ship(model: Path, out: Path) -> None:
    """The weights of `model`, in float16, with what was logged of its training."""
    trained, processor = tiny_model.load(model, dtype=torch.float32, device="cpu")
    part = out.with_name(f".{out.name}.part")
    tiny_model.save(trained, processor, part, torch.float16)
    shutil.copyfile(model / training_runs.CURVE, part / training_runs.CURVE)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--add", action="append", default=[], metavar="PART/NAME")
    args = parser.parse_args()
    for name in take(args.run, ROOT / "results" / "reference", args.add):
        print(f"not in the run: {name}", file=sys.stderr)
    ship(args.run / "work/models/full-s0", ROOT / "data/models/indus-tiny-agent")
    return readme_results.main([])


if __name__ == "__main__":
    sys.exit(main())
