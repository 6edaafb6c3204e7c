"""Qwen3-VL's vision tower on a CPU, many images at once: the same mathematics in fewer, larger calls.

transformers runs attention image by image and embeds patches by a 3-D convolution whose kernel is the whole input.
Both are exact as one batched attention per image size and one matrix product, several times faster for the miniature
(`make bench` measures the ratio, a test the equality). Only the forward methods of this instance change: the class,
its weights and what is saved are transformers' own. GPUs use transformers' flash / SDPA path untouched.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch.nn import functional as F
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision


def accelerate(model: Any) -> Any:
    """Give the vision tower of `model` (a `Qwen3VLForConditionalGeneration`) the batched forward; returns `model`."""
    visual = model.model.visual
    visual.patch_embed.forward = types.MethodType(_embed, visual.patch_embed)
    for block in visual.blocks:
        block.attn.forward = types.MethodType(_attend, block.attn)
    return model


def _embed(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """(N patches, C*T*P*P) -> (N, D)."""
    weight = self.proj.weight
    return F.linear(hidden_states.to(weight.dtype), weight.flatten(1), self.proj.bias)


def _attend(
    self: Any, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor, position_embeddings: Any = None, **_: Any
) -> torch.Tensor:
    """(N, D) tokens of all images -> (N, D); images of equal length share one call."""
    n = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).view(n, 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    lengths = cu_seqlens.diff()
    if bool((lengths == lengths[0]).all()):
        return self.proj(_batched(query, key, value, int(lengths[0])))
    owner = lengths.repeat_interleave(lengths)  # each token's image length
    out = torch.empty_like(hidden_states, dtype=value.dtype)
    for length in lengths.unique().tolist():
        at = (owner == length).nonzero().squeeze(1)
        out[at] = _batched(query[at], key[at], value[at], length)
    return self.proj(out)


def _batched(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, length: int) -> torch.Tensor:
    """(B*L, heads, d) each -> (B*L, heads*d)."""
    q, k, v = (t.reshape(-1, length, *t.shape[1:]).transpose(1, 2) for t in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(query.shape[0], -1)
