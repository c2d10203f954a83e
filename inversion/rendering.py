"""What an optimisation step draws: the whole picture, or a coarse one and a window of the full one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inversion.generators.protocol import Generator, NoiseMaps, Window, Windowed
from inversion.losses import Rendered, area_shrunk

COMPARE_PX = 256
"""LPIPS and face features look at no more; what lies above it is compared in windows of this side."""
MIN_COMPARE_PX = 64
GOLDEN = 0.618


def compared_px(generator: Generator, asked_px: int, detail_px: float) -> int:
    """Side at which whole pictures are compared: `asked_px`, or for 0 what the photo's detail deserves.

    detail_px: side of the crop in photo pixels. A generator without windows is always compared at its own resolution.
    """
    size = generator.resolution
    if not isinstance(generator, Windowed) or not generator.draws_windows():
        return size
    wanted = float(asked_px or min(COMPARE_PX, max(detail_px, MIN_COMPARE_PX)))
    return min((r for r in generator.block_resolutions if r >= wanted), default=size)


def coarse_px(generator: Generator, at: int) -> int:
    """Side at which the first steps of an inversion compare pictures: half of `at`, or `at` where that is too coarse or
    the generator cannot stop there."""
    windowed = isinstance(generator, Windowed) and generator.draws_windows()
    return at // 2 if windowed and at // 2 >= MIN_COMPARE_PX else at


@dataclass(eq=False, slots=True)
class Renderer:
    """Draws pictures at `at` pixels and, below the generator's own resolution, one window a step; in the steps before
    `fine_from` only pictures at `coarse_at` pixels.

    The running image of a block is not the picture's area mean: finer blocks add to it. What they add is measured in
    every window and kept (`residual`, [N, 3, at, at]), so that coarse picture plus residual is the area mean, exact
    where a window just was and elsewhere as old as the last window there. Gradients reach the fine blocks by windows.
    """

    resolution: int
    at: int
    coarse_at: int = 0
    fine_from: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict)

    def side(self, step: int) -> int:
        """Side of the pictures that a step draws."""
        return self.at if step >= self.fine_from else self.coarse_at

    @torch.no_grad()
    def begin(self, generator: Generator, ws: Tensor, noise: NoiseMaps | None, step: int = 0) -> None:
        """Measure the residual everywhere, by drawing the whole picture once."""
        side = self.side(step)
        if side == self.resolution:
            self.kept.pop("residual", None)
            return
        assert isinstance(generator, Windowed)
        whole = Window(0, 0, self.resolution)
        coarse, fine = generator.running_image_and_window(ws, side, whole, "const", noise)
        self.kept["residual"] = area_shrunk(fine, side) - coarse

    @property
    def num_windows(self) -> int:
        """Windows that cover the picture."""
        return (self.resolution // self.at) ** 2

    def window(self, step: int) -> Window:
        """The window of a step; as many steps as there are windows see each of them once."""
        columns = self.resolution // self.at
        stride = next(
            s for s in range(max(1, round(GOLDEN * columns**2)), columns**2 + 1) if math.gcd(s, columns**2) == 1
        )
        row, column = divmod(step * stride % columns**2, columns)
        return Window(row * self.at, column * self.at, self.at)

    def draw(self, generator: Generator, ws: Tensor, noise: NoiseMaps | None, step: int) -> Rendered:
        """The pictures of ws [N, L, D], and the step's window where those at `at` pixels are not the whole."""
        if step == self.fine_from and step:
            self.begin(generator, ws, noise, step)
        if self.side(step) == self.resolution:
            return Rendered(generator.synthesize(ws, "const", noise))
        assert isinstance(generator, Windowed)
        if step < self.fine_from:
            return Rendered(generator.running_image(ws, self.coarse_at, "const", noise) + self.kept["residual"])
        window = self.window(step)
        coarse, fine = generator.running_image_and_window(ws, self.at, window, "const", noise)
        shrink = self.resolution // self.at
        side, top, left = (x // shrink for x in (window.side, window.top, window.left))
        place = (..., slice(top, top + side), slice(left, left + side))
        residual = self.kept["residual"].clone()
        residual[place] = (area_shrunk(fine, side) - coarse[place]).detach()
        self.kept["residual"] = residual
        return Rendered(coarse + residual, fine, window.top, window.left)
