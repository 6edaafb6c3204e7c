"""The procedural factory: `base_scene` for pre-training, `render` for the products of the stand-ins and the pool."""

from __future__ import annotations

from .factory_base import BaseScene, base_scene
from .factory_marks import Mark

__all__ = ["BaseScene", "Mark", "base_scene"]
