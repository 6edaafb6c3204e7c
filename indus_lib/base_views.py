"""Views of pre-training as the tower takes them, many at once, where it is trained: on a GPU all of them lie there."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers.vision_utils import get_vision_position_ids

from .base_data import CELL, CELLS, CLASSES, GRIDS
from .base_store import NAMES, written
from .processing import LEAST_DEVIATION

PATIENCE = 600.0  # seconds without a new view; fifty scenes take half a minute on a slow core


def patches(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, patches, 384), exactly as `StandardisedImageProcessor`, all images at once."""
    b, high, wide, _ = images.shape
    x = images.float().div(255).flatten(1)
    x = x - x.mean(1, keepdim=True)
    x = x / x.std(1, keepdim=True, correction=0).clamp(min=LEAST_DEVIATION)
    x = x.view(b, high // 16, 2, 8, wide // 16, 2, 8, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)  # blocks, in block, C, 8, 8
    return x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(b, high * wide // 64, 3 * 2 * 8 * 8)


@lru_cache
def position_ids(high: int, wide: int) -> torch.Tensor:
    """(patches, 2) of a grid: transformers makes them image by image, a thousand small calls a step."""
    return get_vision_position_ids(torch.tensor([[1, high, wide]]), 2)


def _mirrored() -> torch.Tensor:
    """(grids, 2, 2, 81): for each patch of a view turned upside down, left to right, the patch it was."""
    index = torch.arange(CELLS).repeat(len(GRIDS), 2, 2, 1)
    for kind, shape in enumerate(GRIDS):
        cells = np.arange(np.prod(shape)).reshape(shape)
        for down, across in np.ndindex(2, 2):
            turned = cells[:: 1 - 2 * down, :: 1 - 2 * across].ravel()
            index[kind, down, across, : cells.size] = torch.from_numpy(turned.copy())
    return index


MIRRORED = _mirrored()


class Views:
    """What `base_store.generate` writes, while it writes: images (N, 81 * 768), targets (N, 81, classes), surfaces and
    grids (N,).

    On a GPU everything lies there, 6 GB for 20,000 scenes.
    """

    def __init__(self, data: Path, device: torch.device):
        self.data, self.device, self.ready = data, device, 0
        self._files = {name: np.load(data / f"{name}.npy", mmap_mode="r") for name in NAMES}
        on_gpu = device.type == "cuda"
        self.images, self.targets, self.surfaces, self.grids = (
            torch.empty(file.shape, dtype=torch.from_numpy(file[:0].copy()).dtype, device=device)
            if on_gpu and name != "grids" else torch.from_numpy(np.load(data / f"{name}.npy", mmap_mode="c"))
            for name, file in self._files.items()
        )  # fmt: skip

    def wait(self, rows: int) -> None:
        """Until the first `rows` views are written. Raises TimeoutError when no more come."""
        if rows <= self.ready:
            return
        last, since = written(self.data), time.monotonic()
        while (ready := written(self.data)) < rows:
            if ready > last:
                last, since = ready, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                raise TimeoutError(
                    f"{self.data}: {ready} of {rows} views, and no more for {PATIENCE:.0f} s. Has drawing failed? Its "
                    "error is above; run `make base-model` again"
                )
            time.sleep(0.2)
        if self.device.type == "cuda":
            for name in NAMES[:-1]:
                part = torch.from_numpy(self._files[name][self.ready : ready].copy())
                getattr(self, name)[self.ready : ready] = part.to(self.device)
        self.ready = ready

    def take(self, rows: np.ndarray, flips: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Patches of all views (n, 384), targets (B, 81, classes), grids (B, 3); `flips` (B, 2): upside down, left to
        right."""
        at, (down, across) = (
            torch.from_numpy(np.asarray(rows)).to(self.device),
            torch.from_numpy(flips).to(self.device).T,
        )
        kinds = self.grids[rows].long()
        grid = 2 * torch.tensor(GRIDS)[kinds]
        counts = grid.prod(-1)
        starts = (counts.cumsum(0) - counts).to(self.device)
        pixels = torch.empty(int(counts.sum()), 3 * 2 * 8 * 8, device=self.device)
        for kind in kinds.unique().tolist():
            here = (kinds == kind).nonzero()[:, 0].to(self.device)
            high, wide = (CELL * n for n in GRIDS[kind])
            images = self.images[at[here], : high * wide * 3].view(-1, high, wide, 3)
            for axis, turned in ((1, down), (2, across)):
                images = torch.where(turned[here][:, None, None, None], images.flip(axis), images)
            found = patches(images)
            pixels[starts[here][:, None] + torch.arange(found.shape[1], device=self.device)] = found
        source = MIRRORED.to(self.device)[kinds.to(self.device), down.long(), across.long()]
        targets = self.targets[at].gather(1, source[..., None].expand(-1, -1, len(CLASSES)))
        return pixels, targets.float(), torch.cat([torch.ones(len(grid), 1, dtype=grid.dtype), grid], 1).to(self.device)
