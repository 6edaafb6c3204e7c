"""Products of the VisA-like (boards, several instances) and MPDD-like (metal) stand-ins, built on a bench."""

from __future__ import annotations

import numpy as np

from .factory_bench import Bench


def _chips(b: Bench, places: list[tuple[float, float, float, float]]) -> None:
    for x, y, w, h in places:
        b.up(b.box(x, y, w, h, 0, 0.006), b.colour(36, 37, 40), 0.006, 45, 0.35)
        b.flat(b.disc(x - 0.4 * w, y - 0.36 * h, 0.008), b.colour(120, 120, 120))
        for s in (-1, 1):
            for k in np.linspace(-0.42, 0.42, 6):
                b.flat(b.box(x + k * w, y + s * (0.5 * h + 0.012), 0.012, 0.024), b.colour(200, 200, 196))


def _tracks(b: Bench, colour: np.ndarray, ys: tuple[float, ...]) -> None:
    for y in ys:
        x = b.rng.uniform(-0.05, 0.05)
        b.wire(b.poly([[-0.42, y], [x, y], [x + 0.06, y + 0.05], [0.42, y + 0.05]]), 0.008, colour, 0.5)


def pcb1(b: Bench) -> None:
    """Green board with an edge connector: a row of golden pads."""
    b.ground("smooth paint", b.colour(24, 24, 28))
    b.pose(turn=2.5)
    green = b.colour(38, 98, 66)
    b.up(b.box(0, 0, 0.94, 0.8, 0, 0.02), b.material("satin metal", green), 0.006, 30, 0.3, face=True)
    _tracks(b, green * 1.35, (-0.33, -0.05, 0.0))
    _chips(b, [(-0.22, -0.18, 0.26, 0.16), (0.24, -0.2, 0.18, 0.18)])
    b.row((-0.38, 0.25), (0.38, 0.25), 13, "pad", 0.034, 0.13, b.colour(214, 180, 92))


def pcb2(b: Bench) -> None:
    """Blue sensor board: two transducers and a plain solder-mask field."""
    b.ground("fibre felt", b.colour(196, 194, 190))
    b.pose(turn=3)
    blue = b.colour(34, 66, 128)
    b.up(b.box(0, 0, 0.94, 0.62, 0, 0.015), b.material("satin metal", blue), 0.006, 30, 0.35, face=True)
    for x in (-0.31, 0.31):
        b.up([b.disc(x, -0.06, 0.14), b.disc(x, -0.06, 0.115)], b.colour(190, 190, 192), 0.01, 60, 0.35)
        b.flat(b.disc(x, -0.06, 0.115), b.material("mesh", b.colour(90, 92, 96)))
    for sx in (-0.43, 0.43):
        b.flat(b.disc(sx, 0.26, 0.018), b.colour(210, 205, 190))
        b.flat(b.disc(sx, -0.26, 0.018), b.colour(210, 205, 190))


def header_strip(b: Bench) -> None:
    """Pin header on a white board."""
    b.ground("satin metal", b.colour(176, 178, 180), face=True)
    b.pose(turn=5)
    b.up(b.box(0, 0, 0.96, 0.2, 0, 0.01), b.material("smooth paint", b.colour(32, 32, 34)), 0.01, 40, 0.4)
    b.row((-0.42, 0.0), (0.42, 0.0), 14, "pad", 0.03, 0.05, b.colour(226, 208, 130))
    for x in (-0.3, 0.0, 0.3):
        b.up(b.box(x, -0.28, 0.12, 0.09, 0, 0.01), b.colour(70, 92, 120), 0.006, 40, 0.3)


def candle(b: Bench) -> None:
    """Four wax candles with wicks."""
    b.ground("smooth paint", b.colour(46, 50, 54))
    b.pose()
    for x in (-0.24, 0.24):
        for y in (-0.24, 0.24):
            jx, jy = b.rng.normal(0, 0.008, 2)
            b.up(
                b.disc(x + jx, y + jy, 0.2),
                b.material("smooth paint", b.colour(206, 198, 178)),
                0.02,
                40,
                0.4,
                face=True,
            )
            b.wire(b.poly([[x + jx, y + jy], [x + jx + 0.04, y + jy - 0.03]]), 0.014, b.colour(70, 60, 50))


def capsules(b: Bench) -> None:
    """A tray of soft capsules."""
    b.ground("smooth paint", b.colour(214, 214, 216))
    b.pose(turn=6)
    tint = b.colour(96, 122, 60)
    for i, y in enumerate(np.linspace(-0.34, 0.34, 4)):
        for x in np.linspace(-0.34, 0.34, 3):
            jx, jy, a = b.rng.normal(0, (0.008, 0.008, 9))
            outline = b.box(x + jx + 0.03 * (i % 2), y + jy, 0.24, 0.13, a, 0.065)
            b.up(
                outline, b.material("smooth paint", tint) if (i + int(3 * x)) % 2 else tint, 0.018, 55, 0.35, face=True
            )


def macaroni(b: Bench) -> None:
    """Short ribbed tubes laid out in rows."""
    b.ground("satin metal", b.colour(62, 88, 128))
    b.pose(turn=5)
    for y in (-0.3, 0.0, 0.3):
        for x in (-0.3, 0.0, 0.3):
            a = float(b.rng.normal(0, 12))
            b.up(
                b.box(x, y, 0.24, 0.17, a, 0.05),
                b.material("smooth paint", b.colour(208, 160, 78)),
                0.022,
                50,
                0.35,
                face=True,
            )


def chewing_gum(b: Bench) -> None:
    """Glossy coated pellet on a grey belt."""
    b.ground("plaster", b.colour(88, 90, 94))
    b.pose(turn=8)
    b.up(b.box(0, 0, 0.84, 0.6, 0, 0.16), b.material("smooth paint", b.colour(188, 190, 186)), 0.04, 45, 0.4, face=True)
    b.dome(0, 0, 0.5, 0.36, 0.15)


def key_switch(b: Bench) -> None:
    """Push-button cap in a bezel, carrying one sign."""
    b.ground("cast metal", b.colour(66, 68, 72))
    b.pose(turn=3)
    b.up(b.box(0, 0, 0.86, 0.86, 0, 0.08), b.colour(40, 41, 44), 0.014, 50, 0.3)
    b.up(b.box(0, 0, 0.7, 0.7, 0, 0.1), b.material("smooth paint", b.colour(132, 134, 136)), 0.03, 45, 0.3, face=True)
    b.spot(0, -0.05)


def fuse_tray(b: Bench) -> None:
    """Lidded ceramic block between two contact blades, carrying one sign."""
    b.ground("smooth paint", b.colour(112, 118, 112))
    b.pose(turn=4)
    b.up(b.box(0, 0, 0.94, 0.24, 0, 0.02), b.material("brushed metal", b.colour(186, 182, 170)), 0.008, 50, 0.35)
    b.up(b.box(0, 0, 0.62, 0.62, 0, 0.03), b.material("plaster", b.colour(152, 140, 122)), 0.02, 40, 0.35, face=True)
    b.spot(0.05, 0)


def bracket_black(b: Bench) -> None:
    """Black powder-coated angle with a row of holes."""
    b.ground("brushed metal", b.colour(168, 170, 172))
    b.pose(0.03, 8)
    b.up(b.poly([[-0.46, -0.2], [0.46, -0.2], [0.46, 0.14], [0.1, 0.36], [-0.1, 0.36], [-0.46, 0.14]]),
         b.material("cast metal", b.colour(48, 49, 52)), 0.012, 55, 0.45, face=True)  # fmt: skip
    b.row((-0.38, -0.06), (0.38, -0.06), 10, "hole", 0.04, 0.04, b.colour(176, 178, 180))


def bracket_white(b: Bench) -> None:
    """White lacquered clip under a strong lamp."""
    b.ground("smooth paint", b.colour(70, 66, 60))
    b.pose(0.03, 10)
    b.up([b.poly([[-0.44, -0.3], [0.44, -0.36], [0.44, 0.3], [0.12, 0.36], [-0.44, 0.34]]), b.disc(0.34, -0.24, 0.045)],
         b.material("smooth paint", b.colour(184, 184, 180)), 0.02, 45, 0.45, face=True)  # fmt: skip


def tubes(b: Bench) -> None:
    """Three drawn tubes side by side."""
    b.ground("smooth paint", b.colour(40, 42, 46))
    b.pose(0.02, 6)
    for y in (-0.3, 0.0, 0.3):
        b.up(b.box(0, y, 1.5, 0.26), b.material("satin metal", b.colour(148, 150, 154)), 0.05, 70, 0.4, face=True)


def hinge_plate(b: Bench) -> None:
    """Blasted hinge leaf with a barrel and countersunk holes."""
    b.ground("wood", b.colour(142, 112, 80))
    b.pose(0.03, 9)
    steel = b.material("satin metal", b.colour(146, 142, 134))
    b.up(b.box(0.05, 0, 0.8, 0.76, 0, 0.03), steel, 0.012, 50, 0.4, face=True)
    b.up(b.box(-0.4, 0, 0.13, 0.82, 0, 0.06), steel * 1.1, 0.03, 70, 0.4)
    for y in (-0.25, 0.25):
        b.up([b.disc(0.34, y, 0.055), b.disc(0.34, y, 0.03)], steel * 0.85, 0.008, -40, 0)
        b.flat(b.disc(0.34, y, 0.03), b.colour(40, 34, 28))


def connector_rail(b: Bench) -> None:
    """Milled rail with transverse slots."""
    b.ground("plaster", b.colour(58, 60, 64))
    b.pose(0.02, 8)
    b.up(
        b.box(0, 0, 0.94, 0.5, 0, 0.01), b.material("brushed metal", b.colour(172, 172, 168)), 0.01, 55, 0.4, face=True
    )
    b.flat(b.box(0, 0.02, 0.9, 0.3), b.material("smooth paint", b.colour(160, 160, 157)), 0.9)
    b.row((-0.39, 0.02), (0.39, 0.02), 12, "slot", 0.026, 0.2, b.colour(34, 35, 38))


def stamped_plate(b: Bench) -> None:
    """Pressed steel blank with a flange, carrying one sign."""
    b.ground("smooth paint", b.colour(84, 96, 112))
    b.pose(0.03, 10)
    steel = b.material("satin metal", b.colour(150, 150, 148))
    b.up([b.ngon(0, 0, 0.48, 8, 22.5), b.disc(0.36, 0, 0.03), b.disc(-0.36, 0, 0.03)], steel, 0.012, 50, 0.4)
    b.up(b.disc(0, 0, 0.29), steel * 0.95, 0.02, 45, 0.1, face=True)
    b.spot(0, 0.03)


def metal_plate(b: Bench) -> None:
    """Rolled plate with two bores and a stamped frame."""
    b.ground("gravel", b.colour(72, 70, 68))
    b.pose(0.03, 10)
    steel = b.material("brushed metal", b.colour(158, 156, 150))
    b.up(
        [b.box(0, 0, 0.9, 0.78, 0, 0.06), b.disc(-0.35, -0.28, 0.035), b.disc(0.35, 0.28, 0.035)],
        steel,
        0.012,
        45,
        0.4,
        face=True,
    )
