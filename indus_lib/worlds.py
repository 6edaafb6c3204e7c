"""Write the generated world: five stand-ins in the official layouts and a training pool in Real-IAD's layout.

    write_world("data/generated/world", seed=0)

A set is built in a hidden folder beside its place and renamed when complete; a killed run goes on where it stopped.
The stand-ins of seed 0 at scale 1 are frozen: `data/standins.json` holds their hashes, `check_frozen` compares.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from . import worlds_plan
from .factory import render
from .workers import run_jobs
from .worlds_plan import SETS, Job

VERSIONS = {**dict.fromkeys(SETS, 1), "pool": 11}  # raise whenever the factory draws a set differently
FROZEN = Path(__file__).resolve().parents[1] / "data" / "standins.json"
SIDECAR = "mechanisms.json"
RECORD = "world.json"
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


class WorldError(ValueError):
    """The world on disk is not what was asked for; says which set and what to do."""


def write_world(
    root: str | Path,
    *,
    seed: int = 0,
    n_workers: int = 2,
    scale: float = 1.0,
    sets: Sequence[str] | None = None,
    progress: bool = True,
) -> dict[str, dict[str, object]]:
    """Write the sets that are missing or differ, one folder each below `root`.

    Args:
        root: Folder of the world, made when missing.
        seed: Of everything.
        n_workers: Processes; the files do not depend on it.
        scale: Share of the full counts, for smoke runs.
        sets: Some of `SETS`; None = all.
        progress: Show a bar on stderr.

    Returns:
        Per set its record: version, seed, scale, n_normal, n_anomalous, hash.

    Raises:
        ValueError: unknown set, scale or worker count out of range.
    """
    names = tuple(SETS if sets is None else sets)
    unknown = [n for n in names if n not in SETS]
    if unknown or not 0 < scale <= 10 or n_workers < 1 or seed < 0:
        raise ValueError(f"write_world: unknown sets {unknown}, or out of range: {scale=}, {n_workers=}, {seed=}")
    base = Path(root)
    base.mkdir(parents=True, exist_ok=True)
    return {name: _write_set(base, name, seed, scale, n_workers, progress) for name in names}


def _write_set(base: Path, name: str, seed: int, scale: float, n_workers: int, progress: bool) -> dict[str, object]:
    key = {"set": name, "version": VERSIONS[name], "seed": seed, "scale": scale}
    done = _record(base / name)
    if done is not None and all(done.get(k) == v for k, v in key.items()):
        return done
    part = base / f".{name}.part"
    if _record(part) != key:
        shutil.rmtree(part, ignore_errors=True)
    part.mkdir(exist_ok=True)
    _put(part / RECORD, json.dumps(key).encode())
    plan = worlds_plan.jobs(name, seed, scale)
    _draw(part, plan, n_workers, name if progress else "")
    _listings(part, name, plan)
    test = [j for j in plan if j.split == "test" or name == "pool"]
    record = key | {
        "n_normal": sum(not j.anomalous for j in test),
        "n_anomalous": sum(j.anomalous for j in test),
        "hash": world_hash(part),
    }
    _put(part / RECORD, json.dumps(record, indent=1).encode())
    if (base / name).exists():
        shutil.rmtree(base / name)
    os.rename(part, base / name)
    return record


def _record(folder: Path) -> dict[str, object] | None:
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a run was killed while it wrote this file: the set is built again
        return None
    return found if isinstance(found, dict) else None


def _draw(part: Path, plan: list[Job], n_workers: int, title: str) -> None:
    todo = [j for j in plan if not (part / j.image).is_file()]  # the mask is written before its image
    bar = tqdm(total=len(plan), initial=len(plan) - len(todo), desc=title, unit="image", disable=not title)
    with bar:
        for _ in run_jobs(draw_job, [(part, job) for job in todo], n_workers):
            bar.update()


def draw_job(part: Path, job: Job) -> None:
    """Render one planned image and write its mask, then the image."""
    scene = render(job.category, job.seed, anomalous=job.anomalous, mechanism=job.mechanism, view=job.view)
    if job.mask:
        _put(part / job.mask, _encoded(job.mask, scene.mask))
    grey = job.image.startswith("kos")
    pixels = scene.image[..., 0] if grey else scene.image[..., ::-1]
    _put(part / job.image, _encoded(job.image, pixels))


def _encoded(name: str, pixels: np.ndarray) -> bytes:
    suffix = Path(name).suffix.lower()
    options = {".jpg": _JPEG, ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1]}.get(suffix, [])
    ok, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    if not ok:
        raise WorldError(f"{name}: cv2 could not encode an image of shape {pixels.shape}")
    return data.tobytes()


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _listings(part: Path, name: str, plan: list[Job]) -> None:
    """The set's own index files and the sidecar of mechanisms (for the evaluation; the agent never sees it)."""
    _put(part / SIDECAR, json.dumps({j.image: j.mechanism for j in plan}, indent=0, sort_keys=True).encode())
    if name == "visa":
        _visa_tables(part, plan)
    if name == "pool":
        for category in sorted({j.category for j in plan}):
            own = [j for j in plan if j.category == category]
            _put(part / "realiad_jsons" / f"{category}.json", json.dumps(_real_iad(category, own), indent=1).encode())


def _visa_tables(part: Path, plan: list[Job]) -> None:
    rows = [(j.category, j.split, "anomaly" if j.anomalous else "normal", j.image, j.mask) for j in plan]
    _put(part / "split_csv" / "1cls.csv", _csv(("object", "split", "label", "image", "mask"), rows))
    for category in sorted({j.category for j in plan}):
        own = [j for j in plan if j.category == category]
        notes = [(j.image, worlds_plan.defect_of(j) or "normal", j.mask) for j in own]
        _put(part / category / "image_anno.csv", _csv(("image", "label", "mask"), notes))


def _csv(head: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode()


def _real_iad(category: str, plan: list[Job]) -> dict[str, object]:
    def entry(job: Job) -> dict[str, object]:
        inside = {k: (p.removeprefix(f"{category}/") or None) for k, p in (("image", job.image), ("mask", job.mask))}
        code = worlds_plan.defect_of(job) or "OK"
        return {"category": category, "anomaly_class": code, "image_path": inside["image"], "mask_path": inside["mask"]}

    lists = {split: [entry(j) for j in plan if j.split == split] for split in ("train", "test")}
    return {"meta": {"prefix": f"{category}/", "normal_class": "OK", "pre_transform": None}, **lists}


def world_hash(root: str | Path) -> str:
    """sha256 over the sorted (relative path, sha256 of the file) of a set's folder, its own record left out."""
    base, total = Path(root), hashlib.sha256()
    for path in sorted(p for p in base.rglob("*") if p.is_file() and p.name != RECORD):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(base).as_posix()}\0{digest}\n".encode())
    return total.hexdigest()


def freeze(root: str | Path) -> Path:
    """Write `data/standins.json` from a complete world of seed 0 and scale 1. Maintainers only."""
    frozen = {}
    for name in SETS:
        record = _record(Path(root) / name)
        if record is None or (record["seed"], record["scale"]) != (0, 1.0):
            raise WorldError(f"{root}/{name}: not written with seed 0 and scale 1; run write_world first")
        frozen[name] = {k: record[k] for k in ("version", "hash", "n_normal", "n_anomalous")}
    _put(FROZEN, (json.dumps(frozen, indent=1) + "\n").encode())
    return FROZEN


def check_frozen(root: str | Path, sets: Sequence[str] | None = None) -> list[str]:
    """What differs between the world on disk and the frozen one, one line per set; empty when nothing does.

    The bytes depend on the numpy and cv2 of `requirements.lock`; other builds draw the same scenes with pixels that
    differ by rounding, which this reports too.
    """
    frozen, complaints = json.loads(FROZEN.read_text(encoding="utf-8")), []
    for name in SETS if sets is None else sets:
        folder = Path(root) / name
        if not folder.is_dir():
            complaints.append(f"{folder}: missing; run `make world`")
        elif world_hash(folder) != frozen[name]["hash"]:
            complaints.append(
                f"{folder}: not the frozen version {frozen[name]['version']}; remove it and run `make world`"
            )
    return complaints
