"""Write or check `requirements.lock` and `environment.yml`: what `pip freeze` says of what pyproject.toml needs.

    make lock                           write both from the environment in use (.venv)
    python scripts/lock.py --check      change nothing, fail when the two files and pyproject.toml disagree

To move to newer versions: `.venv/bin/pip install -U -e '.[dev]'`, run the tests, `make lock`. What happens to be
installed besides is left out, because pins are the closure of the declared dependencies. A local version such as
torch's `+cpu` is dropped and the nvidia packages are left to pip, so that one lock serves CPU and GPU machines.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from indus_lib.files import write_text

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# Every pin of the environment: `pip freeze` of .venv, cut down to what pyproject.toml needs. `make lock` writes it.
# torch stands without a local version (+cpu) and without its nvidia packages: pip takes what fits the wheel it finds.
"""
LEFT_TO_PIP = ("nvidia-", "cuda-", "triton")  # which of them, if any, depends on the torch wheel


def declared(root: Path = ROOT) -> list[Requirement]:
    """Requirements of pyproject.toml, the dev extra included."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Name as published -> version, for `requirements` and all they need in this environment.

    Raises:
        SystemExit: One of them is not installed.
    """
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(r, extra) for r in requirements for extra in ("", *r.extras)]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen or name.startswith(LEFT_TO_PIP):
            continue
        seen.add((name, extra))
        found = _distribution(requirement.name)
        pins[found.metadata["Name"]] = found.version.partition("+")[0]
        for line in found.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                queue += [(needed, e) for e in ("", *needed.extras)]
    return pins


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise SystemExit(f"lock: {name} is not installed here: .venv/bin/pip install -e '.[dev]', then again") from None


def read_pins(path: Path) -> dict[str, str]:
    """Canonical name -> version of the `name==version` lines of a lock file or of environment.yml."""
    lines = (line.strip().removeprefix("- ") for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def problems(root: Path = ROOT) -> list[str]:
    """Disagreements between pyproject.toml, requirements.lock and environment.yml, one line each; needs no network."""
    lock, conda = read_pins(root / "requirements.lock"), read_pins(root / "environment.yml")
    found = [
        f"{n}: lock has {lock.get(n)}, environment.yml {conda.get(n)}"
        for n in sorted({*lock, *conda})
        if lock.get(n) != conda.get(n)
    ]
    for requirement in declared(root):
        version = lock.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(f"{requirement.name}: declared in pyproject.toml, missing in requirements.lock")
        elif not requirement.specifier.contains(Version(version), prereleases=True):
            found.append(f"{requirement.name}: lock has {version}, pyproject.toml wants {requirement.specifier}")
    return found


def write(root: Path = ROOT) -> None:
    """Both files, each whole or not at all."""
    pins = [
        f"{name}=={version}" for name, version in sorted(closure(declared(root)).items(), key=lambda p: p[0].lower())
    ]
    conda = ["name: indus", "channels: [conda-forge]", "dependencies:", "  - python=3.11", "  - pip", "  - pip:"]
    write_text(root / "requirements.lock", HEADER + "\n".join(pins) + "\n")
    lines = [HEADER.rstrip(), "# For conda users; a test keeps the pins equal to requirements.lock.", *conda]
    write_text(root / "environment.yml", "\n".join(lines + [f"      - {pin}" for pin in pins]) + "\n")


def main() -> int:
    """Command line; exit code 1 when `--check` finds something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on disagreement")
    if not parser.parse_args().check:
        write()
    found = problems()
    for line in found:
        print(f"lock: {line} (make lock)", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
