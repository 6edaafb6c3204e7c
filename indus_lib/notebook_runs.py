"""Run one notebook headless with papermill, all or nothing: the Makefile's notebook targets call this.

    python -m indus_lib.notebook_runs notebooks/03_train_sft.ipynb --profile tiny --seeds 1

The executed copy appears under `results/<profile>/notebooks/` only when every cell ran, so that it can serve as the
mark of a finished stage. A failed run leaves `<name>.failed.ipynb` beside it, to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import profiles, runs_meta
from .fingerprint import ROOT, parameters_of

KERNEL = "indus"
TIMEOUT = 4 * 3600  # seconds for one cell: training cells of the tiny profile take minutes, a hang must still end


class NotebookError(RuntimeError):
    """A cell failed, ran too long, or its kernel died; the message is one line that names notebook, cell and error."""


def run_notebook(
    notebook: Path, output: Path, parameters: Mapping[str, Any], *, timeout: int = TIMEOUT, progress: bool = True
) -> float:
    """Execute `notebook` from the checkout's root and move the executed copy to `output`.

    Args:
        notebook: Source, left untouched.
        output: Where the executed copy goes, replaced on success only.
        parameters: Values for names of the notebook's parameters cell.
        timeout: Seconds for each cell.
        progress: Show papermill's bar on stderr.

    Returns:
        Seconds taken.

    Raises:
        ValueError: No such notebook, or a parameter it does not declare or that has another type.
        NotebookError: It did not run through; `<output stem>.failed.ipynb` shows how far it came.
    """
    import papermill  # a second to import, and the tests of the rest do without

    values = checked(notebook, parameters)
    notebook, output = notebook.resolve(), output.resolve()
    part, failed = output.with_name(f".{output.stem}.running.ipynb"), output.with_name(f"{output.stem}.failed.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        papermill.execute_notebook(
            str(notebook), str(part), parameters=values, kernel_name=kernel_name(), language="python", cwd=str(ROOT),
            execution_timeout=timeout, progress_bar=progress, stderr_file=sys.stderr if progress else None,
        )  # fmt: skip
        os.replace(part, output)
    except Exception as error:  # papermill, nbclient and zmq raise what they like; all of it means: not finished
        kept = _keep(part, failed)
        raise NotebookError(f"{notebook.name}{_what(error)}{kept}") from error
    finally:
        part.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    return time.monotonic() - start


def checked(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` if the notebook declares each with that type; papermill itself only warns. Raises ValueError."""
    if not notebook.is_file():
        raise ValueError(f"{notebook}: no such notebook")
    declared = parameters_of(notebook)
    for name, value in parameters.items():
        if name not in declared:
            raise ValueError(f"{notebook}: no parameter {name!r}; it has {', '.join(declared) or 'none'}")
        if type(value) is not type(declared[name]):
            kind = type(declared[name]).__name__
            raise ValueError(f"{notebook}: parameter {name} must be {kind}, not {value!r}")
    return dict(parameters)


def _keep(part: Path, failed: Path) -> str:
    if not part.is_file():
        return ""
    os.replace(part, failed)
    inside = failed.is_relative_to(ROOT)
    return f" (see {failed.relative_to(ROOT) if inside else failed})"


def _what(error: Exception) -> str:
    """Where and what, in one line."""
    count, name, value = (getattr(error, key, None) for key in ("exec_count", "ename", "evalue"))
    if name is not None:
        return f", cell [{count}]: {name}: {' '.join(str(value).split())[:300]}"
    return f": {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def kernel_name() -> str:
    """Our kernel where `make` installed it, else the one that ipykernel brings (same interpreter)."""
    from jupyter_client.kernelspec import KernelSpecManager

    return KERNEL if KERNEL in KernelSpecManager().find_kernel_specs() else "python3"


def install_kernel(prefix: Path | None = None) -> Path:
    """Register this interpreter with Jupyter as `indus`, starting in the checkout's root wherever the notebook lies.

    Args:
        prefix: Environment to install into, None = this one.

    Returns:
        The kernel's folder.
    """
    from .fingerprint import write_if_changed

    folder = (prefix or Path(sys.prefix)) / "share" / "jupyter" / "kernels" / KERNEL
    start = f"--IPKernelApp.exec_lines=%cd -q {ROOT}"
    launch = ["-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.log_level=40", start]
    spec = {
        "argv": [sys.executable, *launch],
        "display_name": "Python (indus)",
        "language": "python",
        "metadata": {"debugger": True},
    }
    write_if_changed(folder / "kernel.json", json.dumps(spec, indent=1) + "\n")
    return folder


def missing_data(profile: profiles.Profile, root: Path = ROOT) -> str:
    """One line on the data sets that a profile wants and that are not there, "" when all are (or are generated)."""
    folder = root / profile.data.root
    names = [name for name in (*profiles.SETS, profile.data.pool) if not (folder / name).is_dir()]
    if profile.data.standins or not names:
        return ""
    return f"profile {profile.name}: no {', '.join(names)} under {profile.data.root}; data/README.md says where from"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line. Exit code 2 for bad input, 1 for a notebook that failed; one line on stderr either way."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except (ValueError, OSError) as error:
        print(f"notebook: {error}", file=sys.stderr)
        return 2
    except NotebookError as error:
        print(f"notebook: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    profile = profiles.get(args.profile)
    declared = parameters_of(args.notebook) if args.notebook.is_file() else {}
    given = {"profile": args.profile, **({"seeds": args.seeds} if "seeds" in declared else {})}
    given |= {name: _typed(value, declared.get(name)) for name, value in args.p}
    folder = args.results / profile.name
    seconds = run_notebook(args.notebook, folder / "notebooks" / args.notebook.name, given, timeout=args.timeout)
    runs_meta.write_run_json(
        profile, folder / "run.json", seeds=range(args.seeds), notebook=args.notebook.stem, seconds=seconds
    )
    return 0


def _typed(text: str, default: Any) -> Any:
    """Text of the command line as the type of the default; what does not fit stays text, and `checked` refuses it."""
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            return text
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m indus_lib.notebook_runs", description="Run a notebook headless.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, for notebooks that have the parameter")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="parameter")
    parser.add_argument("--timeout", type=int, default=TIMEOUT, help="seconds for one cell")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
