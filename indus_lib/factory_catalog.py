"""The product categories: who draws them, their mechanisms, the sign that belongs on them, their size."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from . import factory_assemblies as assemblies
from . import factory_composed as composed
from . import factory_objects as objects
from . import factory_pool as pool
from . import factory_textures as textures
from .factory_bench import Bench

MECHANISMS = ("plain", "small", "geometric", "prior", "faint")
SIGNS = {
    "dark dot": ("dot", -1),
    "bright ring": ("ring", 1),
    "short dark bar": ("bar", -1),
    "bright cross": ("cross", 1),
}
BODY = ("scratch", "crack", "dent", "chip", "stain", "pit", "foreign_particle", "hole_in_surface")
METAL = (*BODY, "burr", "corrosion", "rubbed")
CLOTH = ("stain", "broken_thread", "hole_in_surface", "foreign_particle", "scratch", "rubbed")
PIECES = ("crack", "chip", "stain", "pit", "foreign_particle", "scratch", "burr")
SHEET = ("scratch", "crack", "stain", "pit", "hole_in_surface", "water_mark", "rubbed", "foreign_particle")
MODELS = 6  # finishes of every written product of the pool
COMPOSED = {"plain": 176, "small": 480, "faint": 352, "geometric": 256, "prior": 320}
"""Composed products by mechanism, as many as there are parts for: variety of products carries over. Every other product
shows plain marks too; no closer look shows some of the small ones, which the corpus then refuses (docs/log.md)."""
EVERY = 6  # one composed product of so many is for validation
FORMATS = ((384, 384), (544, 224), (384, 384), (224, 544), (384, 384))  # (height, width) px of composed products
GREY = 4  # one composed product of so many is photographed without colour
HELD_OUT = ("bead_string", "sim_carrier", "lacquer_box", "foam_pad", "valve_cover")  # and these written ones, whole


@dataclass(frozen=True)
class Category:
    """One product.

    Attributes:
        name: As the data sets spell it.
        set: mvtec, visa, mpdd, dtd, sdd, pool, or overlap (a pool category that a stand-in has too).
        draw: Builds one part on a bench.
        mechanisms: Mechanism -> weight, summing to 1.
        defects: Raw names of its plain defects.
        sign: The one sign that belongs on it (prior mechanism), "" otherwise.
        bends: Whether the features of its row can be bent.
        size: (height, width) px.
        grey: Whether it is photographed without colour.
        family: object, board, tray, metal, surface.
        model: Which model of its product (`factory_bench.Style`); 0 = as the product is written.
        held_out: Whether a pool product is kept for validation.
    """

    name: str
    set: str
    draw: Callable[[Bench], None] = field(repr=False)
    mechanisms: dict[str, float] = field(hash=False)
    defects: tuple[str, ...] = BODY
    sign: str = ""
    bends: bool = False
    size: tuple[int, int] = (384, 384)
    grey: bool = False
    family: str = "object"
    model: int = 0
    held_out: bool = False

    @property
    def description(self) -> str:
        """First line of what the draw function says of itself."""
        return (self.draw.__doc__ or self.name).strip().splitlines()[0]


def _one(name: str, group: str, draw: Callable[[Bench], None], main: str, **more: object) -> Category:
    """A category with one main mechanism; a quarter of its images are plain ones."""
    names = main.split("+")
    weights = {"plain": 1.0} if main == "plain" else {m: 0.75 / len(names) for m in names} | {"plain": 0.25}
    return Category(name, group, draw, weights, **more)  # type: ignore[arg-type]


def _mvtec() -> list[Category]:
    o = objects
    return [
        _one("bottle_mouth", "mvtec", o.bottle, "small"),
        _one("three_core_cable", "mvtec", o.cable, "plain"),
        _one("gel_capsule", "mvtec", o.capsule, "prior", sign="bright ring"),
        _one("gear_wheel", "mvtec", o.gear_wheel, "small", defects=METAL),
        _one("power_transistor", "mvtec", o.transistor, "geometric", bends=True),
        _one("brush_head", "mvtec", o.toothbrush, "geometric"),
        _one("zip_fastener", "mvtec", o.zipper, "geometric", defects=CLOTH, bends=True),
        _one("glass_lens", "mvtec", o.glass_lens, "faint", size=(512, 512)),
        _one("enamel_dish", "mvtec", o.enamel_dish, "faint"),
        _one("rubber_stopper", "mvtec", o.rubber_stopper, "prior", sign="dark dot"),
        _one("pressed_tablet", "mvtec", o.tablet, "small"),
        _one("glazed_tile", "mvtec", o.wall_tile, "plain", family="surface"),
        _one("nut_shell", "mvtec", o.hazel_shell, "plain"),
    ]


def _visa() -> list[Category]:
    a = assemblies
    return [
        _one("circuit_board1", "visa", a.pcb1, "geometric", bends=True, size=(512, 512), family="board"),
        _one("circuit_board2", "visa", a.pcb2, "small", family="board"),
        _one("header_strip", "visa", a.header_strip, "geometric", family="board"),
        _one("candle_tray", "visa", a.candle, "small", defects=PIECES, family="tray"),
        _one("soft_capsules", "visa", a.capsules, "plain", defects=PIECES, family="tray"),
        _one("tube_pasta", "visa", a.macaroni, "small", defects=PIECES, family="tray"),
        _one("gum_pellet", "visa", a.chewing_gum, "faint"),
        _one("key_switch", "visa", a.key_switch, "prior", sign="short dark bar"),
        _one("fuse_holder", "visa", a.fuse_tray, "prior", sign="bright cross"),
    ]


def _mpdd() -> list[Category]:
    a = assemblies
    return [
        _one("coated_bracket", "mpdd", a.bracket_black, "geometric", defects=METAL, family="metal"),
        _one("lacquered_clip", "mpdd", a.bracket_white, "faint", defects=METAL, family="metal"),
        _one("drawn_tubes", "mpdd", a.tubes, "plain", defects=METAL, family="metal"),
        _one("hinge_plate", "mpdd", a.hinge_plate, "small", defects=METAL, family="metal"),
        _one("slotted_rail", "mpdd", a.connector_rail, "geometric", defects=METAL, family="metal"),
        _one("stamped_plate", "mpdd", a.stamped_plate, "prior", sign="dark dot", defects=METAL, family="metal"),
        _one("rolled_plate", "mpdd", a.metal_plate, "plain", defects=METAL, size=(640, 640), family="metal"),
    ]


def _surfaces() -> list[Category]:
    t = textures
    strip = {"size": (640, 256), "grey": True, "family": "surface"}
    return [
        _one("linen_weave", "dtd", t.woven_band, "faint", defects=CLOTH, family="surface"),
        _one("lime_wash", "dtd", t.blotchy_wall, "faint", defects=SHEET, family="surface"),
        _one("veined_slab", "dtd", t.marbled_slab, "plain", defects=SHEET, family="surface"),
        _one("hole_panel", "dtd", t.perforated_panel, "plain", defects=METAL, family="surface"),
        _one("fibre_mat", "dtd", t.fibrous_mat, "plain", defects=SHEET, family="surface"),
        _one("bare_ceramic", "dtd", t.matte_ceramic, "faint+small", defects=SHEET, family="surface"),
        _one("ribbed_rubber", "dtd", t.ribbed_rubber, "plain", defects=SHEET, family="surface"),
        _one("layered_board", "dtd", t.stratified_board, "plain", defects=SHEET, family="surface"),
        _one("blasted_sheet", "dtd", t.blasted_sheet, "small", defects=SHEET, family="surface"),
        _one("segment_surface", "sdd", t.commutator, "small+faint", defects=("crack",), **strip),
    ]


def _pool() -> list[Category]:
    p = pool
    main = {
        "geometric": (p.comb_header, p.rack_bar, p.hole_strip, p.bead_string, p.slot_grille, p.led_bar, p.bristle_line),
        "small": (p.steel_washer, p.coin_blank, p.plastic_cover, p.ceramic_disc, p.sim_carrier),
        "faint": (p.phone_glass, p.painted_panel, p.oil_pan, p.lacquer_box, p.mirror_cap),
        "plain": (p.wood_block, p.cast_housing, p.foam_pad, p.stud_sheet, p.paper_roll),
    }
    bends = {p.comb_header, p.rack_bar, p.led_bar, p.bristle_line}
    found = [_one(d.__name__, "pool", d, m, bends=d in bends) for m, draws in main.items() for d in draws]
    found.append(_one("cloth_patch", "pool", p.cloth_patch, "plain", defects=CLOTH, family="surface"))
    signed = (
        p.push_button,
        p.screw_lid,
        p.fuse_body,
        p.game_token,
        p.cell_cathode,
        p.relay_case,
        p.valve_cover,
        p.label_plate,
    )
    found += [_one(d.__name__, "pool", d, "prior", sign=list(SIGNS)[k % len(SIGNS)]) for k, d in enumerate(signed)]
    written = [_model(c, m) for c in found for m in range(MODELS)]
    return sorted([*written, *_composed()], key=lambda c: zlib.crc32(c.name.encode()))  # any beginning has all sorts


def _model(product: Category, number: int) -> Category:
    name = f"{product.name}{number + 1 if number else ''}"
    return replace(product, name=name, model=number, held_out=product.name in HELD_OUT)


def _composed() -> list[Category]:
    """`COMPOSED` products of each mechanism, those of one family numbered from 1."""
    c, half, quarter = composed, COMPOSED["geometric"] // 2, COMPOSED["prior"] // 4
    families = [
        (_one("", "pool", c.plain_assembly, "plain"), COMPOSED["plain"]),
        (_one("", "pool", c.fine_assembly, "small"), COMPOSED["small"]),
        (_one("", "pool", c.glossy_assembly, "faint"), COMPOSED["faint"]),
        (_one("", "pool", c.pinned_assembly, "geometric", bends=True), half),
        (_one("", "pool", c.beaded_assembly, "geometric"), half),
    ]
    signed = (c.dotted_assembly, c.ringed_assembly, c.barred_assembly, c.crossed_assembly)
    families += [(_one("", "pool", d, "prior", sign=sign), quarter) for d, sign in zip(signed, SIGNS, strict=True)]
    return [
        replace(
            family,
            name=f"{family.draw.__name__}{k}",
            model=k,
            held_out=k % EVERY == 0,
            size=FORMATS[k % len(FORMATS)],
            grey=k % GREY == 1,
        )  # no format or camera goes with a mechanism
        for family, n in families
        for k in range(1, n + 1)
    ]


def _overlap() -> list[Category]:
    """Pool categories that a stand-in has too, spelt as data sets do; the disjointness filter must find them."""
    return [
        _one("circuit_board", "overlap", assemblies.pcb1, "geometric", bends=True, family="board"),
        _one("brush_head", "overlap", objects.toothbrush, "geometric"),
        _one("Zip_Fasteners", "overlap", objects.zipper, "geometric", defects=CLOTH, bends=True),
        _one("gear_wheels", "overlap", objects.gear_wheel, "small", defects=METAL),
    ]


def catalogue() -> dict[str, Category]:
    """All categories by name; an overlapping pool category of the same name is the stand-in's entry."""
    every = [*_overlap(), *_mvtec(), *_visa(), *_mpdd(), *_surfaces(), *_pool()]
    return {c.name: c for c in every}


CATEGORIES: dict[str, Category] = catalogue()
OVERLAPPING = tuple(c.name for c in _overlap())


def members(group: str) -> list[Category]:
    """Categories of one stand-in, or of the pool (its own and the overlapping ones)."""
    if group == "pool":
        return [*_pool(), *(CATEGORIES[n] for n in OVERLAPPING)]
    return [c for c in CATEGORIES.values() if c.set == group]
