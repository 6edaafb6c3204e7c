"""`indus-tiny`: the Qwen3-VL architecture (the transformers class, unmodified) in 3-8 M parameters, our own weights.

`build` makes it with random weights (Xavier: with the stock 0.02 deviation a tower this small learnt nothing in 900
steps; the language model starts quiet, see `_quiet_start`); `load` opens any Qwen3-VL, this one or the 8B, local folder
or hub name, with or without a LoRA adapter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from .processing import END_OF_TURN, VISION_TOKENS, IndusProcessor, StandardisedImageProcessor, load_processor

PAD, START = "<|endoftext|>", "<|im_start|>"
ADAPTER = "adapter"  # folder beside merged weights
RESIDUAL = 0.15  # size of what a layer of the language model adds at first, against Xavier's
PHRASES = ('{"name":"', '","arguments":{"', '","points":[[', '],[', "evidence:", "; target:", "; region: [", "; scale:",
           "; cue:", "; suspicion:", "; preliminary:")  # fmt: skip
"""Fixed strings of the trajectory format, one token each: a third fewer steps to generate."""
TAGS = ("think", "call_tool", "observation", "location", "type", "answer")


@dataclass(frozen=True)
class TinyConfig:
    """Shape of the miniature. Every value is ours (not in paper)."""

    view: int = 144  # pixels a side of what the encoder sees of a square image; tools work on the original
    patch: int = 8
    grid: int = 18  # patches a side in pre-training; for larger views transformers interpolates the position embeddings
    vision_hidden: int = 192
    vision_depth: int = 6
    vision_heads: int = 6
    vision_mlp: int = 768
    deepstack: tuple[int, ...] = (2,)
    hidden: int = 192
    depth: int = 4
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    mlp: int = 384
    vocab: int = 2432


def make_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE (any text goes in and out); tags and every multiple of 10 up to 1000 are single tokens."""
    special = [PAD, START, END_OF_TURN, *VISION_TOKENS]
    tags = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
    tokenizer = Tokenizer(models.BPE())
    split = Regex(r" ?\d{1,4}| ?[A-Za-z]+|\s+|[^\sA-Za-z\d]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet)
    coordinates = "[" + ",".join(str(n) for n in range(0, 1001, 10)) + "]"
    numbers = [f"{coordinates} {' '.join(str(n) for n in range(100))} Yes No\nYes\nNo\n"] * 600
    tokenizer.train_from_iterator([*numbers, *texts], trainer)
    tokenizer.add_tokens([*tags, *PHRASES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END_OF_TURN, padding_side="left",
        extra_special_tokens=[START, *VISION_TOKENS], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def make_processor(tokenizer: PreTrainedTokenizerFast, config: TinyConfig) -> IndusProcessor:
    """Processor whose pixel budget is `view` squared, whatever the aspect ratio."""
    size = {"shortest_edge": config.view**2 // 2, "longest_edge": config.view**2}
    image = StandardisedImageProcessor(size=size, patch_size=config.patch, merge_size=2, temporal_patch_size=2)
    return IndusProcessor(image, tokenizer)


def make_config(config: TinyConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """The transformers configuration of the miniature."""
    quarter = config.head_dim // 8
    sections = [config.head_dim // 2 - 2 * (quarter + 1), quarter + 1, quarter + 1]
    text = dict(
        vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=config.hidden, intermediate_size=config.mlp,
        num_hidden_layers=config.depth, num_attention_heads=config.heads, num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim, max_position_embeddings=4096, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections,
                         "mrope_interleaved": True},
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = dict(
        depth=config.vision_depth, hidden_size=config.vision_hidden, num_heads=config.vision_heads,
        intermediate_size=config.vision_mlp, patch_size=config.patch, temporal_patch_size=2, spatial_merge_size=2,
        out_hidden_size=config.hidden, num_position_embeddings=config.grid**2,
        deepstack_visual_indexes=list(config.deepstack),
    )  # fmt: skip
    ids = {f"{n}_token_id": tokenizer.convert_tokens_to_ids(t)
           for n, t in zip(("vision_start", "vision_end", "image", "video"), VISION_TOKENS, strict=True)}  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def build(config: TinyConfig, texts: Iterable[str], seed: int = 0) -> tuple[Any, IndusProcessor]:
    """(model, processor) with random weights. Same seed and texts, same weights."""
    tokenizer = make_tokenizer(texts, config.vocab)
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(make_config(config, tokenizer))
    _xavier(model)
    _quiet_start(model.model.language_model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), make_processor(tokenizer, config)


@torch.no_grad()
def restart_language(model: Any) -> None:
    """The language model of a miniature as `build` makes it, with torch's present random state; the tower stays."""
    language = model.model.language_model
    for name, weight in language.named_parameters():
        if "norm" in name:
            nn.init.ones_(weight)
    _xavier(language)
    _quiet_start(language)


def _xavier(module: nn.Module) -> None:
    for name, weight in module.named_parameters():
        if weight.dim() >= 2 and "embed" not in name:
            nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))


@torch.no_grad()
def _quiet_start(language: nn.Module) -> None:
    """Embeddings of norm 1 and small writes to the residual stream: a token is at first itself, not the noise of random
    layers. Loss after 22 steps of short answers 1.0 against 2.2 with plain Xavier (docs/log.md)."""
    width = language.embed_tokens.weight.shape[1]
    language.embed_tokens.weight.normal_(0, width**-0.5)
    for layer in language.layers:
        layer.self_attn.o_proj.weight *= RESIDUAL
        layer.mlp.down_proj.weight *= RESIDUAL


def unmerged(path: Path | str) -> dict[str, Any]:
    """`path` and `adapter` for `load`, of a model that was saved with its adapter (`training_runs.finish`) and whose
    base is still there; else `path` alone. Merged weights are rounded, and a small change may round to none."""
    folder = Path(path) / ADAPTER
    if (folder / "adapter_config.json").is_file():
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        hub = base and base.count("/") == 1 and not Path(base).is_absolute()
        if hub or (base and (Path(base) / "config.json").is_file()):
            return {"path": base, "adapter": folder}
    return {"path": path}


def load(
    path: Path | str, *, adapter: Path | str | None = None, dtype: torch.dtype | None = None, device: str | None = None
) -> tuple[Any, IndusProcessor]:
    """(model, processor) of a local folder or hub name, weights from safetensors only.

    Raises FileNotFoundError when `path` looks local and holds no model.
    """
    if not (Path(path) / "config.json").is_file() and (Path(path).is_absolute() or str(path).count("/") != 1):
        raise FileNotFoundError(f"no model in {path}: expected config.json and *.safetensors there")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.bfloat16 if device != "cpu" else torch.float32)
    model = Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=dtype, use_safetensors=True)
    if adapter:
        from peft import PeftModel  # LoRA adapters of the 8B profile

        model = PeftModel.from_pretrained(model, adapter, use_safetensors=True)
    return model.to(device).eval(), load_processor(path)


def save(model: Any, processor: IndusProcessor, path: Path | str, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Save model (safetensors of `dtype`) and processor so that `load` and `AutoModel` open them; the model itself is
    not rounded."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    original = next(model.parameters()).dtype
    kept = {} if original == dtype else {name: w.clone() for name, w in model.state_dict().items()}
    model.to(dtype).save_pretrained(path)
    if kept:
        model.to(original).load_state_dict(kept)
    processor.save_pretrained(path)
    return path
