"""Slides whose tissue is known, made of real pixels: stained tissue of a real slide in a known outline on its own
glass, then spoilt in one known way. Ink hides what is under it, so that it is not tissue wherever it is.

Everything is the low-resolution view that detection works on; a pixel is some 8 µm.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_attn.data.sources import open_source
from wsi_attn.slides.view import read_view

SHAPE = (420, 560)

INKS = {"blue": (25, 50, 165), "green": (15, 130, 75), "red": (205, 25, 40), "black": (32, 30, 36)}
"""Colours of markers on glass, under a scanner."""

OTHER_INKS = {
    "navy": (30, 40, 110),
    "sky blue": (40, 110, 200),
    "turquoise": (20, 150, 160),
    "lime": (90, 190, 60),
    "dark green": (10, 80, 50),
    "dark red": (140, 15, 40),
    "orange": (230, 110, 20),
    "thin black": (60, 58, 64),
}
PURPLE_INK = (110, 40, 140)
"""As haematoxylin and eosin together: taken for tissue."""


@dataclass(frozen=True)
class Scene:
    """Pixels, where tissue is, and where that may be argued about: the soft edges of strokes."""

    pixels: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    unsure: NDArray[np.bool_]

    def iou(self, mask: NDArray[np.bool_]) -> float:
        """Intersection over union with the truth; 1 where both are empty."""
        sure = ~self.unsure
        union = ((mask | self.truth) & sure).sum()
        return float((mask & self.truth & sure).sum() / union) if union else 1.0

    def errors(self, mask: NDArray[np.bool_]) -> float:
        """Share of the picture that is wrong."""
        return float(((mask != self.truth) & ~self.unsure).mean())


def view_of(path: Path, um: float = 8.0, side: int = 1400) -> NDArray[np.uint8]:
    """The whole of a slide at about `um` µm/px, or at `side` pixels where its pixel size is not known."""
    with open_source(path) as slide:
        factor = um / slide.info.mpp.x if slide.info.mpp else max(slide.info.size0) / side
        return read_view(slide, max(1.0, factor), max(1.0, factor), workers=1).pixels


def solid_tissue(view: NDArray[np.uint8], side: int = 48) -> NDArray[np.uint8]:
    """The square of the view that is stained everywhere, and most varied."""
    chroma = view.max(-1).astype(np.float32) - view.min(-1)
    stained = cv2.erode((cv2.blur(chroma, (5, 5)) > 24).astype(np.uint8), np.ones((side, side), np.uint8))
    inside = np.zeros_like(stained)
    inside[side // 2 : -side // 2, side // 2 : -side // 2] = 1
    mean, square = cv2.blur(chroma, (side, side)), cv2.blur(chroma**2, (side, side))
    y, x = np.unravel_index(np.argmax(np.where(stained & inside, square - mean**2 + 1, 0)), chroma.shape)
    return view[y - side // 2 : y + side // 2, x - side // 2 : x + side // 2]


def bare_glass(view: NDArray[np.uint8], side: int = 24) -> NDArray[np.uint8]:
    """The square of the view that varies least among the bright ones."""
    grey = view.astype(np.float32).mean(-1)
    spread = cv2.blur(grey**2, (side, side)) - cv2.blur(grey, (side, side)) ** 2
    spread[cv2.blur(grey, (side, side)) < 215] = np.inf
    half = side // 2
    y, x = np.unravel_index(np.argmin(spread[half:-half, half:-half]), spread[half:-half, half:-half].shape)
    return view[y : y + side, x : x + side]


def filled(patch: NDArray[np.uint8], shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    """The patch, mirrored until it fills the shape."""
    doubled = np.concatenate([patch, patch[::-1]])
    doubled = np.concatenate([doubled, doubled[:, ::-1]], axis=1)
    repeats = [-(-wanted // have) for wanted, have in zip(shape, doubled.shape, strict=False)]
    return np.tile(doubled, (*repeats, 1))[: shape[0], : shape[1]]


def outline(seed: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    """Three pieces with wavy borders, one with a hole of a thousand pixels, one at the picture's edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = np.zeros(shape, bool)
    for centre, radius in (((0.3, 0.3), 80), ((0.65, 0.7), 95), ((0.95, 0.2), 60)):
        angle = np.arctan2(y - centre[0] * shape[0], x - centre[1] * shape[1])
        distance = np.hypot(y - centre[0] * shape[0], x - centre[1] * shape[1])
        wave = sum(rng.uniform(0.02, 0.1) * np.sin(k * angle + rng.uniform(0, 6)) for k in range(2, 8))
        truth |= distance < radius * (1 + wave)
    truth &= np.hypot(y - 0.65 * shape[0], x - 0.7 * shape[1]) > 20
    return truth


def clean(view: NDArray[np.uint8], seed: int = 0) -> Scene:
    """Tissue of a real view on glass of the same view."""
    truth = outline(seed)
    soft = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 0.7)[..., None]
    glass, tissue = filled(bare_glass(view)), filled(solid_tissue(view))
    return Scene(as_bytes(glass * (1 - soft) + tissue * soft), truth, np.zeros_like(truth))


def as_bytes(pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def jpeg(scene: Scene, quality: int = 70) -> Scene:
    buffer = io.BytesIO()
    Image.fromarray(scene.pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    return replace(scene, pixels=np.asarray(Image.open(buffer).convert("RGB")))


def penned(scene: Scene, colour: tuple[int, int, int], width: int = 22, opacity: float = 0.93) -> Scene:
    """Two strokes of a marker, over glass and tissue, with soft edges; what is under them shines through a little."""
    canvas = np.zeros(scene.truth.shape, np.uint8)
    rows, columns = scene.truth.shape
    curve = [(int(columns * t), int(rows * (0.5 + 0.3 * np.sin(5 * t)))) for t in np.linspace(0.05, 0.95, 60)]
    cv2.polylines(canvas, [np.array(curve, np.int32)], False, 255, width)
    cv2.ellipse(canvas, (int(columns * 0.3), int(rows * 0.3)), (110, 95), 0, 20, 300, 255, width)
    alpha = cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), 2.5)
    # Ink attenuates: a thinner film lets the power of its transmittance through.
    transmittance = (np.array(colour, np.float32) / 245) ** (alpha[..., None] * opacity)
    return Scene(
        as_bytes(scene.pixels * transmittance),
        scene.truth & (alpha < 0.5),
        scene.unsure | (np.abs(alpha - 0.4) < 0.38),
    )


def paled(scene: Scene, contrast: float = 0.25) -> Scene:
    glass = np.median(scene.pixels[~scene.truth], axis=0)
    return replace(scene, pixels=as_bytes(glass + (scene.pixels - glass) * contrast))


def underexposed(scene: Scene, factor: float = 0.7) -> Scene:
    return replace(scene, pixels=as_bytes(scene.pixels * factor))


def padded(scene: Scene, share: float = 0.3) -> Scene:
    """Black where the scanner did not look: a border and a corner."""
    pixels, truth = scene.pixels.copy(), scene.truth.copy()
    columns = int(pixels.shape[1] * share)
    for part in (np.s_[:, -columns:], np.s_[:30], np.s_[-100:, :80]):
        pixels[part], truth[part] = 0, False
    return replace(scene, pixels=pixels, truth=truth)


def dusty(scene: Scene, seed: int = 0) -> Scene:
    """Grey blobs out of focus, as dust on the coverslip throws them."""
    rng, shade = np.random.default_rng(seed), np.zeros(scene.truth.shape, np.float32)
    for _ in range(25):
        centre = (int(rng.integers(shade.shape[1])), int(rng.integers(shade.shape[0])))
        spot = np.zeros_like(shade)
        cv2.circle(spot, centre, int(rng.integers(3, 16)), float(rng.uniform(0.15, 0.6)), -1)
        shade = np.maximum(shade, cv2.GaussianBlur(spot, (0, 0), 4))
    return replace(scene, pixels=as_bytes(scene.pixels * (1 - shade[..., None])))


def coverslipped(scene: Scene) -> Scene:
    """The edge of a coverslip: two grey lines and a faint, slightly yellow band between them."""
    pixels = scene.pixels.astype(np.float32)
    shade = np.zeros(scene.truth.shape, np.uint8)
    cv2.line(shade, (500, 0), (520, SHAPE[0]), 255, 3)
    cv2.line(shade, (530, 0), (548, SHAPE[0]), 255, 2)
    shade = cv2.GaussianBlur(shade.astype(np.float32) / 255, (0, 0), 1)
    pixels *= 1 - 0.5 * shade[..., None]
    pixels[:, 510:] *= (0.99, 0.985, 0.97)
    return replace(scene, pixels=as_bytes(pixels))


def vignetted(scene: Scene, strength: float = 0.25) -> Scene:
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    return replace(scene, pixels=as_bytes(scene.pixels * (1 - strength * (x**2 + y**2) / 2)[..., None]))


def tinted(scene: Scene) -> Scene:
    """A lamp that is too warm."""
    return replace(scene, pixels=as_bytes(scene.pixels * np.array((1.0, 0.97, 0.89))))


def emptied(scene: Scene, view: NDArray[np.uint8]) -> Scene:
    return replace(scene, pixels=filled(bare_glass(view)), truth=np.zeros_like(scene.truth))


def whole(scene: Scene, view: NDArray[np.uint8]) -> Scene:
    return replace(scene, pixels=filled(solid_tissue(view)), truth=np.ones_like(scene.truth))


def counterstained(scene: Scene) -> Scene:
    """Faint haematoxylin alone, as in negative immunohistochemistry: each pixel's density in that stain's colour."""
    glass = np.median(scene.pixels[~scene.truth], axis=0)
    density = np.log(glass / np.maximum(scene.pixels, 1)).clip(0).mean(-1)
    colour = np.array((0.65, 0.60, 0.29)) * 0.45
    return replace(scene, pixels=as_bytes(glass * np.exp(-density[..., None] * colour)))


def fluorescent(scene: Scene, seed: int = 0) -> Scene:
    """Its density as blue light on a black background with a camera's noise."""
    glass = np.median(scene.pixels[~scene.truth], axis=0)
    density = np.log(glass / np.maximum(scene.pixels, 1)).clip(0).mean(-1)
    noise = np.random.default_rng(seed).normal(0, 2, scene.pixels.shape)
    colour = np.array((0.02, 0.05, 1.0)) * 110
    return replace(scene, pixels=as_bytes(4 + noise + density[..., None] * colour))


def grey(scene: Scene) -> Scene:
    return replace(scene, pixels=np.repeat(as_bytes(scene.pixels.mean(-1))[..., None], 3, -1))


def inked(name: str) -> Callable[[Scene], Scene]:
    return lambda scene: penned(scene, INKS[name])


SPOILINGS: dict[str, Callable[[Scene], Scene]] = {
    "none": lambda scene: scene,
    **{f"{name} marker": inked(name) for name in INKS},
    "contrast 25 %": paled,
    "contrast 12 %": lambda scene: paled(scene, 0.12),
    "haematoxylin only, faint": counterstained,
    "light 70 %": underexposed,
    "vignetting": vignetted,
    "warm lamp": tinted,
    "black padding": padded,
    "black padding and green marker": lambda scene: padded(penned(scene, INKS["green"])),
    "dust out of focus": dusty,
    "coverslip edge": coverslipped,
    "dark field, blue": fluorescent,
    "grey": grey,
    "pale, blue marker": lambda scene: penned(paled(scene), INKS["blue"]),
}
"""What becomes of a clean scene."""
SPOILINGS["grey, vignetting"] = lambda scene: grey(vignetted(scene))
