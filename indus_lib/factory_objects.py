"""Products of the MVTec-like stand-in: each function builds one object on a bench."""

from __future__ import annotations

import numpy as np

from .factory_bench import Bench


def bottle(b: Bench) -> None:
    """Mouth of a brown bottle seen from above."""
    b.ground("smooth paint", b.colour(226, 226, 222))
    b.pose()
    glass = b.colour(92, 58, 34)
    b.up(b.disc(0, 0, 0.42), b.material("smooth paint", glass * 0.8), 0.02, 50, 0.25, face=True)
    b.up([b.disc(0, 0, 0.37), b.disc(0, 0, 0.30)], b.material("satin metal", glass * 1.35), 0.012, 70, 0.2)
    b.up([b.disc(0, 0, 0.295), b.disc(0, 0, 0.275)], glass * 1.1, 0.004, 40, 0)
    b.dome(0, 0, 0.27, 0.27, 0.4)


def cable(b: Bench) -> None:
    """Cross-section of a three-core cable."""
    b.ground("fibre felt", b.colour(70, 72, 76))
    b.pose(turn=60)
    b.up(b.disc(0, 0, 0.43), b.material("satin metal", b.colour(168, 168, 165)), 0.012, 35, 0.4, face=True)
    colours = (b.colour(60, 120, 70), b.colour(70, 95, 165), b.colour(132, 86, 56))
    for k, colour in enumerate(colours):
        x, y = 0.2 * np.cos(2.1 * k), 0.2 * np.sin(2.1 * k)
        b.up(b.disc(x, y, 0.175), b.material("smooth paint", colour), 0.008, 45, 0.25)
        b.flat(b.disc(x, y, 0.115), b.colour(70, 45, 26))
        for r, n in ((0.03, 4), (0.075, 9)):
            for t in np.linspace(0, 6.28, n, endpoint=False) + b.rng.uniform(0, 1):
                b.up(b.disc(x + r * np.cos(t), y + r * np.sin(t), 0.019), b.colour(205, 140, 92), 0.006, 60, 0.1)


def capsule(b: Bench) -> None:
    """Two-coloured gelatine capsule."""
    b.ground("smooth paint", b.colour(232, 232, 230))
    b.pose(turn=9)
    b.up(b.box(0, 0, 0.86, 0.4, 0, 0.2), b.material("smooth paint", b.colour(192, 122, 52)), 0.045, 55, 0.3, face=True)
    b.flat(b.box(0.22, 0, 0.41, 0.385, 0, 0.19), b.material("smooth paint", b.colour(66, 44, 40)), keep=True)
    b.wire(b.poly([[0.015, -0.19], [0.015, 0.19]]), 0.008, b.colour(40, 28, 24), 0.7)
    b.flat(b.box(0, -0.12, 0.6, 0.03, 0, 0.015), 250.0, 0.35)
    b.spot(-0.2, 0.03)


def gear_wheel(b: Bench) -> None:
    """Sintered gear with a keyed bore."""
    b.ground("fibre felt", b.colour(52, 56, 60))
    b.pose(turn=30)
    steel = b.material("satin metal", b.colour(150, 152, 155))
    b.up([b.gear(0, 0, 0.44, 24, 0.13), b.disc(0, 0, 0.12)], steel, 0.008, 55, 0.45, face=True)
    b.up([b.disc(0, 0, 0.17), b.disc(0, 0, 0.12)], steel * 1.12, 0.008, 45, 0.2)
    b.flat(b.box(0.115, 0, 0.05, 0.06), b.colour(42, 44, 48))


def transistor(b: Bench) -> None:
    """Moulded package whose leads stand in a row."""
    b.ground("smooth paint", b.colour(188, 196, 190))
    b.pose()
    b.row((-0.33, 0.2), (0.33, 0.2), 9, "pin", 0.028, 0.32, b.colour(226, 226, 222) * 0.45)
    b.up(
        b.box(0, -0.13, 0.8, 0.42, 0, 0.02), b.material("cast metal", b.colour(46, 46, 48)), 0.012, 50, 0.35, face=True
    )
    b.up([b.disc(0, -0.15, 0.09), b.disc(0, -0.15, 0.05)], b.colour(120, 120, 120), 0.006, 40, 0.1)


def toothbrush(b: Bench) -> None:
    """Brush head seen from above: one row of tufts between bristle borders."""
    b.ground("smooth paint", b.colour(30, 32, 36))
    b.pose()
    body = b.colour(214, 216, 220)
    b.up(b.box(0, 0, 0.9, 0.5, 0, 0.22), b.material("smooth paint", body), 0.02, 40, 0.4, face=True)
    for y in (-0.17, 0.17):
        for x in np.linspace(-0.3, 0.3, 13):
            b.up(b.disc(x, y, 0.019), b.colour(120, 170, 205), 0.006, 40, 0.2)
    b.row((-0.36, 0.0), (0.36, 0.0), 10, "tuft", 0.046, 0.07, b.colour(38, 70, 130))


def zipper(b: Bench) -> None:
    """Zip fastener on woven tape."""
    b.ground("woven cloth", b.colour(52, 54, 66), face=True)
    b.pose(turn=2)
    b.flat(b.box(0, 0, 1.3, 0.26), b.material("smooth paint", b.colour(40, 42, 50)), 0.85)
    b.row((-0.42, 0.0), (0.42, 0.0), 14, "pin", 0.03, 0.17, b.colour(196, 190, 170))
    for y in (-0.13, 0.13):
        b.wire(b.poly([[-0.8, y], [0.8, y]]), 0.008, b.colour(96, 98, 110), 0.6)


def glass_lens(b: Bench) -> None:
    """Glossy lens in a mount."""
    b.ground("smooth paint", b.colour(46, 48, 52))
    b.pose()
    b.up([b.disc(0, 0, 0.47), b.disc(0, 0, 0.4)], b.material("turned metal", b.colour(104, 104, 108)), 0.01, 60, 0.3)
    b.flat(b.disc(0, 0, 0.4), b.material("smooth paint", b.colour(112, 134, 150)), keep=True)
    b.face[:] = 0
    b.up(b.disc(0, 0, 0.385), b.material("smooth paint", b.colour(120, 142, 158)), 0.01, 20, 0, face=True)
    b.dome(0, 0, 0.385, 0.385, 0.28)


def enamel_dish(b: Bench) -> None:
    """Glossy enamelled dish with a coloured rim."""
    b.ground("wood", b.colour(120, 92, 66))
    b.pose()
    b.up(b.box(0, 0, 0.92, 0.8, 0, 0.18), b.colour(48, 72, 128), 0.015, 60, 0.45)
    b.up(b.box(0, 0, 0.86, 0.74, 0, 0.16), b.material("smooth paint", b.colour(182, 184, 180)), 0.03, -40, 0, face=True)


def rubber_stopper(b: Bench) -> None:
    """Grey rubber stopper with a moulded collar."""
    b.ground("smooth paint", b.colour(206, 208, 214))
    b.pose()
    rubber = b.colour(118, 120, 124)
    b.up(b.disc(0, 0, 0.43), b.material("satin metal", rubber * 0.9), 0.03, 45, 0.35)
    b.up(b.disc(0, 0, 0.34), b.material("satin metal", rubber), 0.015, 35, 0.15, face=True)
    b.spot(0, 0)


def tablet(b: Bench) -> None:
    """Pressed tablet with a score line."""
    b.ground("smooth paint", b.colour(58, 74, 92))
    b.pose(turn=40)
    b.up(b.disc(0, 0, 0.4, 0.37), b.material("satin metal", b.colour(186, 176, 158)), 0.03, 55, 0.4, face=True)
    b.wire(b.poly([[-0.36, 0], [0.36, 0]]), 0.014, b.colour(140, 130, 114), 0.8)


def wall_tile(b: Bench) -> None:
    """Glazed tile with its joints."""
    b.ground("plaster", b.colour(196, 194, 188))
    b.pose(turn=2)
    b.up(b.box(0, 0, 0.9, 0.9, 0, 0.02), b.material("gravel", b.colour(112, 130, 126)), 0.012, 45, 0.2, face=True)


def hazel_shell(b: Bench) -> None:
    """A nut in its shell on a dark belt."""
    b.ground("woven cloth", b.colour(34, 34, 36))
    b.pose(turn=180)
    skin = b.material("wood", b.colour(140, 92, 54))
    b.up(b.disc(0, 0, 0.4, 0.36), skin, 0.06, 60, 0.5, face=True)
    b.dome(0, 0, 0.4, 0.36, 0.5)
    b.flat(b.disc(0.22, 0.02, 0.15, 0.19), b.material("plaster", b.colour(176, 142, 104)), 0.8, keep=True)
