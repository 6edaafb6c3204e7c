"""The procedural factory: `base_scene` for pre-training, `render` for the products of the stand-ins and the pool.

Departures from nothing: the paper has no factory. Everything here is ours and `# not in paper`.
"""

from __future__ import annotations

from .factory_base import BASE_KINDS, BaseScene, base_scene
from .factory_catalog import CATEGORIES, MECHANISMS, OVERLAPPING, SIGNS, Category, members
from .factory_marks import Mark
from .factory_render import VIEWS, Scene, part_scene, render

__all__ = [
    "BASE_KINDS",
    "CATEGORIES",
    "MECHANISMS",
    "OVERLAPPING",
    "SIGNS",
    "VIEWS",
    "BaseScene",
    "Category",
    "Mark",
    "Scene",
    "base_scene",
    "members",
    "part_scene",
    "render",
]
