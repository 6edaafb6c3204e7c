"""What a notebook's result depends on, as one hash: the Makefile reruns a notebook when this changes, and only then.

    python -m indus_lib.fingerprint --out FILE notebooks/03_train_sft.ipynb profile=tiny seeds=1
    python -m indus_lib.fingerprint --out FILE indus_lib/worlds.py profile=tiny

It covers the code cells, every library module they import (directly or through others) without comments and
docstrings, the data files those modules name, requirements.lock, and those parameters of the run that the notebook
declares. Editing a comment or the text beside a cell reruns nothing; touching a file or checking out the same content
again reruns nothing. Standard library only: `make` calls it for every notebook every time.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = "indus_lib"
ROOT = Path(__file__).resolve().parents[1]
MAGIC = re.compile(r"^\s*[%!?].*$", re.MULTILINE)  # IPython lines are no Python


def fingerprint(source: Path, parameters: dict[str, str], root: Path = ROOT) -> str:
    """Hex sha256; see the module's text.

    Args:
        source: Notebook, or a Python module of the package.
        parameters: Of the run; for a notebook those it does not declare are left out (they cannot change it).
        root: The checkout.
    """
    code = source.read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        declared = parameters_of(source)
        parameters = {k: v for k, v in parameters.items() if k in declared}
        code = code_of(source)
    modules = closure(imported(code), root)
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode() + bare(code).encode())
    for module in modules:
        digest.update(bare(_module(module, root)).encode())
    for path in [root / "requirements.lock", *data_files(modules, root)]:
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=8)
def code_digest(*modules: str, root: Path = ROOT) -> str:
    """Hex sha256 of what these modules compute with: themselves and all that they import, without comments and
    docstrings, and the YAML files in data/ that those name. Not `profiles`, whose values a run knows by themselves."""
    reached = [module for module in closure(modules, root) if module != "profiles"]
    digest = hashlib.sha256("".join(bare(_module(module, root)) for module in reached).encode())
    for path in data_files(reached, root):
        if path.suffix == ".yaml":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Name -> default of the cell tagged `parameters`. Raises ValueError unless each is `name: type = scalar`."""
    cells = [c for c in _cells(notebook) if "parameters" in c["metadata"].get("tags", ())]
    if len(cells) != 1:
        raise ValueError(f"{notebook}: {len(cells)} cells tagged 'parameters', exactly one is needed")
    found: dict[str, Any] = {}
    for node in ast.parse("".join(cells[0]["source"])).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ValueError(f"{notebook}: parameters are lines of the form `name: type = value`")
        value, kind = ast.literal_eval(node.value), ast.unparse(node.annotation)
        if type(value).__name__ != kind or kind not in ("int", "float", "str", "bool"):
            raise ValueError(f"{notebook}: parameter {node.target.id}: {value!r} is no {kind} scalar")
        found[node.target.id] = value
    return found


def code_of(notebook: Path) -> str:
    """All code cells, magics blanked."""
    sources = ("".join(c["source"]) for c in _cells(notebook) if c["cell_type"] == "code")
    return MAGIC.sub("", "\n".join(sources))


def _cells(notebook: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook}: not a notebook ({type(error).__name__}: {error})") from error


def bare(source: str) -> str:
    """The program without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
            del body[0]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def imported(source: str) -> set[str]:
    """Names `source` may take from the package: `from indus_lib import a`, `import indus_lib.a`, `from .a import b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names]
            found |= {parts[1] for parts in names if parts[0] == PACKAGE and len(parts) > 1}
        elif isinstance(node, ast.ImportFrom):
            found |= _imported_from(node)
    return found


def _imported_from(node: ast.ImportFrom) -> set[str]:
    parts = node.module.split(".") if node.module else []
    if node.level == 0:
        if parts[0] != PACKAGE:
            return set()
        parts = parts[1:]
    return {parts[0]} if parts else {a.name for a in node.names}


def closure(names: Iterable[str], root: Path = ROOT) -> list[str]:
    """Modules of the package reached from `names`, sorted; names that are no module (functions) drop out."""
    waiting, seen = ["__init__", *names], set()
    while waiting:
        name = waiting.pop()
        if name not in seen and (root / PACKAGE / f"{name}.py").is_file():
            seen.add(name)
            waiting += imported(_module(name, root))
    return sorted(seen)


def data_files(modules: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Files and folders directly below data/ that a string in `modules` names ("priors", "data/paper.json"), sorted.

    Generated and downloaded data are results of stages, not inputs, and stay out; so does what is for reading.
    """
    words: set[str] = set()
    for module in modules:
        texts = (node.value for node in ast.walk(ast.parse(_module(module, root))) if _is_text(node))
        words |= {part for text in texts if len(text) < 100 for part in text.split("/")}
    below = sorted((root / "data").iterdir()) if (root / "data").is_dir() else []
    named = [path for path in below if path.name in words and path.name not in ("raw", "generated")]
    files = (f for path in named for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file())
    return sorted(f for f in files if f.name != "README.md")


def _module(name: str, root: Path) -> str:
    return (root / PACKAGE / f"{name}.py").read_text(encoding="utf-8")


def write_if_changed(path: Path, text: str) -> bool:
    """Leave the file and its time alone when it holds `text` already; True when it was written."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    return True


def main() -> int:
    """Command line; exit code 2 and one line for a broken notebook or module."""
    parser = argparse.ArgumentParser(prog="python -m indus_lib.fingerprint", description="Hash of a stage's inputs.")
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="written only when the hash is another one")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    args = parser.parse_args()
    try:
        text = fingerprint(args.source, dict(p.split("=", 1) for p in args.parameters))
    except (ValueError, OSError, SyntaxError) as error:
        print(f"fingerprint: {error}", file=sys.stderr)
        return 2
    write_if_changed(args.out, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
