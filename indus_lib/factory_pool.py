"""Products of the training pool (Real-IAD's layout), built on a bench; no stand-in uses them."""

from __future__ import annotations

from .factory_bench import Bench


def comb_header(b: Bench) -> None:
    """Comb of metal pins in a plastic foot."""
    b.ground("smooth paint", b.colour(70, 74, 82))
    b.pose()
    b.row((-0.37, -0.06), (0.37, -0.06), int(b.rng.integers(8, 14)), "pin", 0.026, 0.42, b.colour(206, 206, 198))
    b.up(
        b.box(0, 0.25, 0.92, 0.26, 0, 0.02),
        b.material("satin metal", b.colour(150, 78, 60)),
        0.012,
        45,
        0.35,
        face=True,
    )


def rack_bar(b: Bench) -> None:
    """Toothed rack."""
    b.ground("smooth paint", b.colour(206, 204, 198))
    b.pose()
    steel = b.colour(88, 90, 96)
    b.row((-0.4, -0.1), (0.4, -0.1), int(b.rng.integers(8, 13)), "tooth", 0.05, 0.16, steel)
    b.up(b.box(0, 0.12, 0.94, 0.3), b.material("brushed metal", steel), 0.008, 40, 0.3, face=True)


def hole_strip(b: Bench) -> None:
    """Flat strip with a row of drilled holes."""
    b.ground("woven cloth", b.colour(96, 100, 92))
    b.pose()
    b.up(
        b.box(0, 0, 0.96, 0.34, 0, 0.05), b.material("satin metal", b.colour(178, 176, 168)), 0.01, 45, 0.35, face=True
    )
    b.row((-0.4, 0.0), (0.4, 0.0), int(b.rng.integers(7, 13)), "hole", 0.044, 0.044, b.colour(38, 40, 42))


def bead_string(b: Bench) -> None:
    """Beads on a wire."""
    b.ground("smooth paint", b.colour(52, 60, 74), face=True)
    b.pose()
    b.wire(b.poly([[-0.5, 0], [0.5, 0]]), 0.006, b.colour(130, 130, 134))
    b.row((-0.39, 0.0), (0.39, 0.0), int(b.rng.integers(7, 12)), "bead", 0.052, 0.052, b.colour(218, 178, 96))


def slot_grille(b: Bench) -> None:
    """Ventilation grille."""
    b.ground("fibre felt", b.colour(60, 58, 56))
    b.pose()
    b.up(
        b.box(0, 0, 0.9, 0.72, 0, 0.06), b.material("smooth paint", b.colour(156, 164, 170)), 0.014, 45, 0.35, face=True
    )
    b.row((-0.35, 0.0), (0.35, 0.0), int(b.rng.integers(8, 13)), "slot", 0.024, 0.34, b.colour(30, 32, 36))


def led_bar(b: Bench) -> None:
    """Light bar: square emitters along a carrier."""
    b.ground("smooth paint", b.colour(120, 112, 104))
    b.pose()
    b.up(b.box(0, 0, 0.98, 0.22, 0, 0.01), b.material("smooth paint", b.colour(40, 44, 58)), 0.008, 40, 0.35, face=True)
    b.row((-0.42, 0.0), (0.42, 0.0), int(b.rng.integers(8, 14)), "pad", 0.036, 0.045, b.colour(240, 222, 140))


def steel_washer(b: Bench) -> None:
    """Blasted steel washer."""
    b.ground("smooth paint", b.colour(58, 64, 60))
    b.pose()
    b.up(
        [b.disc(0, 0, 0.44), b.disc(0, 0, 0.16)],
        b.material("satin metal", b.colour(160, 160, 162)),
        0.01,
        50,
        0.4,
        face=True,
    )


def coin_blank(b: Bench) -> None:
    """Unstruck coin with a raised rim."""
    b.ground("fibre felt", b.colour(48, 50, 86))
    b.pose()
    brass = b.material("satin metal", b.colour(176, 144, 84))
    b.up(b.disc(0, 0, 0.43), brass, 0.012, 55, 0.4, face=True)
    b.up([b.disc(0, 0, 0.42), b.disc(0, 0, 0.375)], brass * 1.08, 0.01, 50, 0)


def plastic_cover(b: Bench) -> None:
    """Grained plastic lid with four screw holes."""
    b.ground("smooth paint", b.colour(188, 180, 166))
    b.pose()
    b.up(b.box(0, 0, 0.88, 0.7, 0, 0.07), b.material("satin metal", b.colour(78, 82, 92)), 0.016, 45, 0.35, face=True)
    for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        b.flat(b.disc(0.37 * sx, 0.28 * sy, 0.028), b.colour(24, 25, 28))


def ceramic_disc(b: Bench) -> None:
    """Ceramic sealing disc with six lobes."""
    b.ground("smooth paint", b.colour(36, 36, 40))
    b.pose(turn=60)
    b.up(
        [b.gear(0, 0, 0.43, 6, 0.07, 0.7), b.disc(0, 0, 0.07)],
        b.material("satin metal", b.colour(198, 192, 182)),
        0.012,
        40,
        0.4,
        face=True,
    )


def sim_carrier(b: Bench) -> None:
    """Card with a contact field and an empty printed area."""
    b.ground("cast metal", b.colour(92, 88, 84))
    b.pose()
    b.up(
        b.box(0, 0, 0.92, 0.6, 0, 0.04), b.material("satin metal", b.colour(170, 180, 186)), 0.006, 35, 0.35, face=True
    )
    b.up(b.box(-0.24, 0.02, 0.26, 0.24, 0, 0.03), b.colour(206, 170, 92), 0.004, 25, 0.1)
    for y in (-0.04, 0.02, 0.08):
        b.wire(b.poly([[-0.37, y], [-0.11, y]]), 0.006, b.colour(120, 92, 46))


def phone_glass(b: Bench) -> None:
    """Cover glass with rounded corners."""
    b.ground("fibre felt", b.colour(176, 172, 168))
    b.pose()
    b.up(b.box(0, 0, 0.56, 0.94, 0, 0.07), b.material("smooth paint", b.colour(74, 84, 96)), 0.01, 45, 0.35, face=True)
    b.flat(b.box(0, -0.42, 0.12, 0.014, 0, 0.007), b.colour(20, 20, 22))


def painted_panel(b: Bench) -> None:
    """Lacquered sheet filling the view."""
    b.ground("smooth paint", b.colour(104, 132, 150, 16), face=True)
    b.wire(b.poly([[-0.8, 0.36], [0.8, 0.36]]), 0.012, b.colour(60, 78, 92), 0.8)


def oil_pan(b: Bench) -> None:
    """Deep-drawn pan, its floor glossy."""
    b.ground("plaster", b.colour(52, 52, 54))
    b.pose()
    b.up(b.box(0, 0, 0.94, 0.74, 0, 0.12), b.colour(120, 118, 112), 0.02, 60, 0.4)
    b.up(b.box(0, 0, 0.82, 0.62, 0, 0.1), b.material("smooth paint", b.colour(138, 136, 130)), 0.035, -55, 0, face=True)


def lacquer_box(b: Bench) -> None:
    """Lid of a lacquered box with an inlaid line."""
    b.ground("wood", b.colour(168, 146, 116))
    b.pose()
    b.up(b.box(0, 0, 0.84, 0.84, 0, 0.03), b.material("smooth paint", b.colour(128, 52, 46)), 0.02, 45, 0.4, face=True)
    frame = b.poly([[-0.36, -0.36], [0.36, -0.36], [0.36, 0.36], [-0.36, 0.36]])
    b.wire(frame, 0.01, b.colour(206, 172, 96), 0.9, closed=True)


def mirror_cap(b: Bench) -> None:
    """Domed glossy cap."""
    b.ground("smooth paint", b.colour(196, 194, 192))
    b.pose()
    b.up(b.disc(0, 0, 0.44, 0.4), b.material("smooth paint", b.colour(108, 118, 112)), 0.03, 50, 0.35, face=True)
    b.dome(0, 0, 0.44, 0.4, 0.35)


def _signed(b: Bench, ground: tuple, body: tuple, outline: str, material: str = "smooth paint") -> None:
    """A simple body that carries one sign in its middle: the pool's products with legitimate marks."""
    b.ground("smooth paint" if sum(ground) > 330 else "satin metal", b.colour(*ground))
    b.pose()
    shapes = {"disc": lambda: b.disc(0, 0, 0.43), "square": lambda: b.box(0, 0, 0.82, 0.82, 0, 0.08),
              "wide": lambda: b.box(0, 0, 0.94, 0.6, 0, 0.05), "hex": lambda: b.ngon(0, 0, 0.47, 6),
              "pill": lambda: b.box(0, 0, 0.92, 0.54, 0, 0.27), "oct": lambda: b.ngon(0, 0, 0.46, 8, 22.5)}  # fmt: skip
    b.up(shapes[outline](), b.material(material, b.colour(*body)), 0.018, 50, 0.4, face=True)


def push_button(b: Bench) -> None:
    """Round push button."""
    _signed(b, (60, 62, 66), (134, 140, 132), "disc")
    b.spot(0, 0)


def screw_lid(b: Bench) -> None:
    """Screw lid with a knurled edge."""
    b.ground("smooth paint", b.colour(212, 208, 200))
    b.pose()
    b.up(b.gear(0, 0, 0.46, 40, 0.05), b.colour(96, 110, 124), 0.01, 50, 0.35)
    b.up(b.disc(0, 0, 0.38), b.material("smooth paint", b.colour(112, 128, 142)), 0.014, 40, 0.1, face=True)
    b.spot(0, 0.02)


def fuse_body(b: Bench) -> None:
    """Ceramic fuse body."""
    _signed(b, (48, 48, 52), (152, 132, 110), "pill", "satin metal")
    b.spot(-0.05, 0)


def game_token(b: Bench) -> None:
    """Moulded token."""
    _signed(b, (196, 196, 190), (110, 92, 134), "hex")
    b.spot(0, 0)


def cell_cathode(b: Bench) -> None:
    """Button cell, cathode side."""
    _signed(b, (40, 54, 50), (156, 158, 156), "disc", "turned metal")
    b.flat(b.disc(0, 0, 0.34), b.material("satin metal", b.colour(146, 148, 148)), 0.9, keep=True)
    b.spot(0, 0)


def relay_case(b: Bench) -> None:
    """Moulded relay housing."""
    _signed(b, (170, 174, 178), (118, 96, 74), "square", "satin metal")
    b.spot(0.03, -0.03)


def valve_cover(b: Bench) -> None:
    """Octagonal cover."""
    _signed(b, (62, 58, 54), (124, 134, 150), "oct", "satin metal")
    b.spot(0, 0)


def label_plate(b: Bench) -> None:
    """Rating plate with four rivets."""
    _signed(b, (92, 100, 96), (150, 146, 136), "wide", "brushed metal")
    for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        b.up(b.disc(0.42 * sx, 0.25 * sy, 0.02), b.colour(110, 108, 104), 0.008, 50, 0.1)
    b.spot(0, 0)


def wood_block(b: Bench) -> None:
    """Planed wooden block."""
    b.ground("smooth paint", b.colour(60, 66, 62))
    b.pose(turn=8)
    b.up(b.box(0, 0, 0.88, 0.66, 0, 0.01), b.material("wood", b.colour(176, 138, 94)), 0.012, 40, 0.4, face=True)


def cloth_patch(b: Bench) -> None:
    """Woven patch filling the view."""
    b.ground("woven cloth", b.colour(108, 114, 132, 18), face=True)


def cast_housing(b: Bench) -> None:
    """Cast housing with a round boss."""
    b.ground("plaster", b.colour(44, 46, 50))
    b.pose(turn=10)
    iron = b.material("cast metal", b.colour(118, 116, 112))
    b.up(b.box(0, 0, 0.9, 0.8, 0, 0.12), iron, 0.02, 50, 0.4, face=True)
    b.up([b.disc(0.2, -0.14, 0.16), b.disc(0.2, -0.14, 0.09)], iron * 1.1, 0.014, 60, 0.3)


def foam_pad(b: Bench) -> None:
    """Foam pad."""
    b.ground("smooth paint", b.colour(184, 186, 190))
    b.pose(turn=8)
    b.up(b.box(0, 0, 0.86, 0.7, 0, 0.06), b.material("leather", b.colour(196, 160, 72)), 0.02, 40, 0.35, face=True)


def stud_sheet(b: Bench) -> None:
    """Moulded sheet with fine studs."""
    b.ground("speckled stone", b.colour(98, 96, 104, 14), face=True)


def paper_roll(b: Bench) -> None:
    """Kraft paper running under the camera."""
    b.ground("fibre felt", b.colour(176, 150, 116, 12), face=True)
    b.image[:] = 0.55 * b.image + 0.45 * b.image.mean((0, 1))


def bristle_line(b: Bench) -> None:
    """Sealing brush: upright bristle bundles in a channel."""
    b.ground("smooth paint", b.colour(196, 192, 186))
    b.pose()
    b.row((-0.38, -0.08), (0.38, -0.08), int(b.rng.integers(9, 14)), "pin", 0.03, 0.3, b.colour(58, 52, 46))
    b.up(
        b.box(0, 0.16, 0.92, 0.2, 0, 0.02),
        b.material("brushed metal", b.colour(150, 152, 150)),
        0.012,
        45,
        0.3,
        face=True,
    )
