"""Images and chat messages to model inputs, for `indus-tiny` and Qwen3-VL alike.

The stock `Qwen3VLProcessor` insists on a video processor, and that on torchvision, which has no CPU build. This
subclass leaves video out. One chat template serves every model: prefix-preserving (a longer conversation starts
with the tokens of the shorter one), images allowed in the tool role, tool results shown to the model as a user turn
(Qwen's own convention).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.processing_utils import ProcessorMixin

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
END_OF_TURN = "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


LEAST_DEVIATION = 20 / 255  # of an image: what is flatter stays flat, so that a clean texture map looks clean


class StandardisedImageProcessor(Qwen2VLImageProcessorPil):
    """Zero mean, unit deviation per image: a small tower then sees low contrasts that fixed constants would bury."""

    def normalize(self, image: np.ndarray, mean: Any, std: Any, **kwargs: Any) -> np.ndarray:
        """(C, H, W) in 0..1 -> same shape. The deviation is floored at `LEAST_DEVIATION`: without, the noise of a
        clean map was as loud as a mark (docs/log.md)."""
        image = np.asarray(image, dtype=np.float32)
        return (image - image.mean()) / max(float(image.std()), LEAST_DEVIATION)


class IndusProcessor(Qwen3VLProcessor):
    """`Qwen3VLProcessor` without the video part."""

    attributes = ("image_processor", "tokenizer")

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any):
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        names = ("vision_start", "vision_end", "image", "video")
        for name, token in zip(names, VISION_TOKENS, strict=True):
            setattr(self, f"{name}_token", token)
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        self.video_processor = None


def load_processor(path: Path | str) -> IndusProcessor:
    """Processor of a local folder or hub name. The tiny model's standardisation is chosen by its own config."""
    register()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    kind = Qwen2VLImageProcessorPil.get_image_processor_dict(path)[0].get("image_processor_type", "")
    cls = StandardisedImageProcessor if kind.startswith("Standardised") else Qwen2VLImageProcessorPil
    return IndusProcessor(cls.from_pretrained(path), tokenizer)


def register() -> None:
    """Let `AutoProcessor` and `AutoImageProcessor` (TRL, `transformers serve`) find these classes. Idempotent."""
    from transformers import Qwen3VLConfig

    AutoImageProcessor.register(Qwen3VLConfig, slow_image_processor_class=StandardisedImageProcessor, exist_ok=True)
    AutoProcessor.register(Qwen3VLConfig, IndusProcessor, exist_ok=True)


def images_of(conversation: list[dict[str, Any]]) -> list[Image.Image]:
    """Images of a conversation in order, as PIL RGB."""
    parts = [p for m in conversation if not isinstance(m["content"], str) for p in m["content"]]
    return [p["image"] if isinstance(p["image"], Image.Image) else Image.fromarray(p["image"]) for p in parts
            if p["type"] == "image"]  # fmt: skip


def render(processor: IndusProcessor, conversation: list[dict[str, Any]], *, prompt: bool) -> str:
    """Chat text. `prompt` True: ends where the assistant speaks next; an unfinished assistant message stays open."""
    if not prompt and conversation[-1]["role"] == "assistant":
        text = processor.apply_chat_template(conversation, tokenize=False)
        return text.rstrip("\n").removesuffix(END_OF_TURN)
    return processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)
