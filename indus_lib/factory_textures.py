"""Surfaces of the DTD-like and the KolektorSDD-like stand-ins: a whole field of view of one material, on a bench."""

from __future__ import annotations

import numpy as np

from .factory_bench import Bench
from .factory_draw import fractal, smooth_noise
from .factory_surfaces import tint


def woven_band(b: Bench) -> None:
    """Fine linen weave."""
    b.ground("smooth paint", b.colour(150, 134, 108), face=True)
    y, x = np.mgrid[0 : b.h, 0 : b.w].astype(np.float32)
    pitch = b.side * b.rng.uniform(0.014, 0.017)
    y = y + 2 * smooth_noise(b.rng, b.h, b.w, 0.2 * b.side)
    thread = np.sin(np.pi * x / pitch) * np.sin(np.pi * y / pitch)
    b.image[:] = tint(b.rng, thread + 0.25 * smooth_noise(b.rng, b.h, b.w, 1.0), b.colour(150, 134, 108), 9)


def blotchy_wall(b: Bench) -> None:
    """Lime plaster with soft clouds."""
    b.ground("smooth paint", b.colour(170, 160, 146), face=True)
    b.image += (6 * smooth_noise(b.rng, b.h, b.w, 0.5 * b.side) + 2.2 * smooth_noise(b.rng, b.h, b.w, 1.5))[..., None]


def marbled_slab(b: Bench) -> None:
    """Polished stone with veins."""
    b.ground("smooth paint", b.colour(150, 154, 158), face=True)
    warp = fractal(b.rng, b.h, b.w, 0.35 * b.side, 4)
    y, x = np.mgrid[0 : b.h, 0 : b.w].astype(np.float32) / b.side
    a = b.rng.uniform(0, 3.1)
    veins = np.abs(np.sin(9 * (np.cos(a) * x + np.sin(a) * y) + 1.6 * warp)) ** 0.35
    b.image += ((veins - 0.85) * 26 + 1.5 * smooth_noise(b.rng, b.h, b.w, 1.4))[..., None]


def perforated_panel(b: Bench) -> None:
    """Sheet with a regular hole pattern."""
    b.ground("satin metal", b.colour(156, 158, 162), face=True)
    b.pose(0.02, 4)
    step = 0.105
    for i in np.arange(-6, 7):
        for j in np.arange(-6, 7):
            b.flat(b.disc(i * step + 0.5 * step * (j % 2), j * step * 0.87, 0.026), b.colour(38, 38, 40, 2))


def fibrous_mat(b: Bench) -> None:
    """Pressed fibre mat."""
    b.ground("fibre felt", b.colour(148, 138, 122), face=True)
    b.image[:] = 0.6 * b.image + 0.4 * b.image.mean((0, 1))


def matte_ceramic(b: Bench) -> None:
    """Unglazed ceramic: even fine grain."""
    b.ground("smooth paint", b.colour(168, 162, 152), face=True)
    b.image += (2.0 * smooth_noise(b.rng, b.h, b.w, 1.4 * b.side / 384))[..., None]


def ribbed_rubber(b: Bench) -> None:
    """Rubber sheet with shallow ribs."""
    b.ground("smooth paint", b.colour(96, 98, 100), face=True)
    y = np.mgrid[0 : b.h, 0 : b.w][0].astype(np.float32)
    pitch = b.side * b.rng.uniform(0.055, 0.065)
    b.image += (10 * np.sin(2 * np.pi * y / pitch + 0.4 * smooth_noise(b.rng, b.h, b.w, 0.4 * b.side)))[..., None]


def stratified_board(b: Bench) -> None:
    """Layered board with long grain."""
    b.ground("wood", b.colour(158, 128, 92), face=True)


def commutator(b: Bench) -> None:
    """Long grey surface of a commutator segment between two dark borders (grey, tall)."""
    b.ground("smooth paint", np.full(3, b.rng.uniform(118, 150), np.float32))
    b.image += (2.5 * smooth_noise(b.rng, b.h, b.w, 1.3))[..., None]
    stripes = smooth_noise(b.rng, b.h, b.w, 0.9 * b.h, 0.1 * b.side)
    b.image += (2.0 * stripes + 4.0 * fractal(b.rng, b.h, b.w, 0.6 * b.side, 2))[..., None]
    b.face[:] = 1
    for x in (0.0, 1.0):
        edge = np.clip(np.abs(np.arange(b.w) / b.w - x) / b.rng.uniform(0.05, 0.09), 0, 1).astype(np.float32) ** 2
        b.image *= (0.25 + 0.75 * edge)[None, :, None]
        b.face *= edge[None] > 0.95
    for _ in range(int(b.rng.integers(4, 12))):  # turning marks belong to the surface
        y = b.rng.uniform(0, b.h) - b.h / 2
        points = np.array([[-0.5 * b.w, y], [0.5 * b.w, y + b.rng.normal(0, 2)]]) + np.array([b.x, b.y])
        b.wire(points, 0.004, b.image.mean((0, 1)) * float(b.rng.choice([0.9, 1.08])), 0.3)
    b.face[:] = b.face > 0.5


def blasted_sheet(b: Bench) -> None:
    """Glass-bead blasted sheet: fine, even, slightly shaded."""
    b.ground("satin metal", b.colour(128, 132, 138), face=True)
    b.image += (2.0 * smooth_noise(b.rng, b.h, b.w, 0.35 * b.side))[..., None]
