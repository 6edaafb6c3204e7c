"""While the vision tower is frozen, look at every picture once.

An RL step passes the same pictures through the tower again and again: G rollouts of a prompt, two rounds, two margin
passes, the reference and the update; on two CPU cores that was 450 images a step against about 60. An inspection looks
six times at two pictures, SFT once per epoch, and all runs of a table, whose towers are alike, at the same photographs.

Features are kept by the tower's weights and the pixels. In whatever company a picture is looked at, also in a run that
is resumed, they are the same to the last bit (tested on the CPU, where alone this is used).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from .train_data import Encoded

AT_ONCE = 8  # pictures a call of the tower: what it holds stays in a CPU's cache, 64 at once take a third longer
Features = tuple[torch.Tensor, ...]  # merged patches (n, D) for the input, then one per deepstack layer


class VisionMemory:
    """Features of the pictures seen since `forget`, of any number of models.

    `limit`: bytes of features after which it starts anew (a picture is 55 kB for the miniature, tens of MB for the 8B);
    None = never.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.known: dict[tuple[bytes, bytes], Features] = {}  # by tower and picture
        self.limit, self.size = limit, 0
        self.asked = self.computed = 0  # images, for measurements

    def forget(self) -> None:
        """Start anew."""
        self.known.clear()
        self.size = 0

    def attach(self, visual: Any) -> None:
        """Put this memory before a vision tower (`Qwen3VLVisionModel`), by replacing the instance's `forward`.

        Raises:
            ValueError: The tower is trained: its features would go stale and get no gradient.

        Weights that are loaded into the tower afterwards would go unnoticed.
        """
        if any(p.requires_grad for p in visual.parameters()):
            raise ValueError("the vision tower is not frozen: its features must be computed every time")
        compute, tower = visual.forward, _weights(visual)

        def forward(hidden_states: torch.Tensor, grid_thw: torch.Tensor, **options: Any) -> Any:
            return self._recall(
                partial(compute, **options), tower, visual.spatial_merge_size**2, hidden_states, grid_thw
            )

        visual.forward = forward

    @torch.no_grad()
    def fill(self, visual: Any, rows: Sequence[Encoded], batch: int = 32, progress: bool = True) -> None:
        """Look at all pictures of a corpus."""
        starts = range(0, len(rows), batch)
        for i in tqdm(starts, desc="look at the corpus", unit=f"x{batch}", disable=not progress):
            part = rows[i : i + batch]
            visual(torch.cat([r.pixel_values for r in part]).float(),
                   grid_thw=torch.cat([r.image_grid_thw for r in part]))  # fmt: skip

    def _recall(
        self, compute: Callable[..., Any], tower: bytes, merged: int, pixels: torch.Tensor, grid: torch.Tensor
    ) -> BaseModelOutputWithDeepstackFeatures:
        """pixels (patches of all images, D), grid (images, 3) -> the tower's output for all of them, in order."""
        if self.limit is not None and self.size > self.limit:
            self.forget()
        pieces = pixels.split(grid.prod(-1).tolist())
        keys = [(tower, _key(piece, shape)) for piece, shape in zip(pieces, grid.tolist(), strict=True)]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        new = sorted(i for key, i in first.items() if key not in self.known)
        self.asked, self.computed = self.asked + len(keys), self.computed + len(new)
        for some in (new[i : i + AT_ONCE] for i in range(0, len(new), AT_ONCE)):
            output = compute(torch.cat([pieces[i] for i in some]), grid_thw=grid[some])
            counts = (grid[some].prod(-1) // merged).tolist()
            parts = _split([output.pooler_output, *output.deepstack_features], counts)
            self.known.update({keys[i]: part for i, part in zip(some, parts, strict=True)})
            self.size += sum(t.nbytes for part in parts for t in part)
        columns = [torch.cat(column) for column in zip(*(self.known[key] for key in keys), strict=True)]
        return BaseModelOutputWithDeepstackFeatures(
            last_hidden_state=columns[0], pooler_output=columns[0], deepstack_features=columns[1:]
        )


SHARED = VisionMemory(2**28)
"""Of this process: the rollouts of a step and the runs of a table look at the same pictures."""


def _weights(visual: Any) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(visual.state_dict().items()):
        state.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return state.digest()


def _key(piece: torch.Tensor, shape: Sequence[int]) -> bytes:
    return hashlib.blake2b(piece.contiguous().numpy().tobytes() + str(shape).encode(), digest_size=16).digest()


def _split(tensors: Sequence[torch.Tensor], counts: list[int]) -> list[Features]:
    """Per image, a copy of its rows of every tensor (a view would keep the whole batch alive)."""
    return [tuple(t.clone() for t in row) for row in zip(*(t.detach().split(counts) for t in tensors), strict=True)]
