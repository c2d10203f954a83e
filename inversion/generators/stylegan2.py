"""StyleGAN2 (Karras et al. 2020) in plain PyTorch: any resolution, no compiled operators.

State-dict names follow the published checkpoints (`mapping.fc0.weight`, `synthesis.b8.conv0.affine.bias`, ...), so
weights copied from them give their image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.errors import ModelError
from inversion.generators.layers import MappingNetwork, truncated
from inversion.generators.protocol import FeatureLayer, NoiseMaps, NoiseMode, Patches, Window
from inversion.generators.squares import share_of_work, squares_of_features
from inversion.generators.stylegan2_blocks import StyleGAN2Config, SynthesisNetwork

__all__ = ["StyleGAN2", "StyleGAN2Config"]

WINDOW_HALO_PX = 8  # of the block where a window's own blocks begin: each reaches three of its pixels at most


class StyleGAN2(nn.Module):
    """A whole generator: mapping and synthesis, behind the `Generator` protocol."""

    def __init__(self, cfg: StyleGAN2Config) -> None:
        super().__init__()
        self.config = cfg
        self.resolution, self.z_dim, self.w_dim, self.c_dim = cfg.resolution, cfg.z_dim, cfg.w_dim, cfg.c_dim
        self.image_size = (cfg.resolution, cfg.width(cfg.resolution))
        self.block_resolutions = cfg.block_resolutions
        self.mapping = MappingNetwork(cfg)
        self.synthesis = SynthesisNetwork(cfg)
        self.num_ws = 2 * len(self.block_resolutions)

    @property
    def w_avg(self) -> Tensor:
        """Mean latent [w_dim], kept as a buffer while training."""
        return self.mapping.w_avg

    def map(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """z [N, z_dim] -> ws [N, num_ws, w_dim], pulled towards w_avg in the first `truncation_cutoff` layers."""
        ws = self.mapping(z, c)[:, None].repeat(1, self.num_ws, 1)
        return truncated(ws, self.w_avg, truncation_psi, truncation_cutoff)

    def synthesize(
        self,
        ws: Tensor,
        noise_mode: NoiseMode = "const",
        noise: NoiseMaps | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """ws [N, num_ws, w_dim] -> images [N, 3, R, R], about [-1, 1].

        `noise` maps layer names (see `noise_maps`) to [r, r] or [N, 1, r, r]; `rng` seeds noise_mode 'random'.
        """
        image, _ = self._run(ws, self.resolution, noise_mode, noise, rng, None)
        assert image is not None
        return image

    def running_image(
        self, ws: Tensor, resolution: int, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """The skip architecture's image [N, 3, r, r] after block r, before the finer blocks add to it."""
        self._layer(resolution)
        image, _ = self._run(ws, resolution, noise_mode, noise, None, None)
        if image is None:
            raise ModelError(f"A generator of the {self.config.architecture} architecture has no image before its end.")
        return image

    def draws_windows(self) -> bool:
        """Whether there is a running image: in the skip architecture, for square pictures."""
        return self.config.architecture == "skip" and self.config.start_width == 4

    def running_image_and_window(
        self, ws: Tensor, at: int, window: Window, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """The running image [N, 3, at, at], and a window [N, 3, t, t] of the full picture: equal to cutting it out.

        Blocks above `at` act locally, so only the window's surroundings are computed. Raises ModelError for a window
        that does not lie on whole pixels of block `at`, and for architectures without a running image.
        """
        self._layer(at)
        scale = self.resolution // at
        top, left, side = window.top // scale, window.left // scale, window.side // scale
        if (top * scale, left * scale, side * scale) != (window.top, window.left, window.side):
            raise ModelError(f"A window must lie on whole pixels of block {at}; given: {window}.")
        image, x = self._run(ws, at, noise_mode, noise, None, at)
        if image is None or x is None or self.config.architecture != "skip":
            raise ModelError(f"A generator of the {self.config.architecture} architecture has no running image.")
        (y0, y1), (x0, x1) = (
            (max(0, first - WINDOW_HALO_PX), min(bound, first + side + WINDOW_HALO_PX))
            for first, bound in ((top, x.shape[2]), (left, x.shape[3]))
        )
        features, fine = x[:, :, y0:y1, x0:x1], image[:, :, y0:y1, x0:x1]
        for index, r in enumerate(self.block_resolutions):
            if r <= at:
                continue
            grown, block = r // at, self.synthesis.block(r)
            area = (..., slice(y0 * grown, y1 * grown), slice(x0 * grown, x1 * grown))
            noises = [None if n is None else n[area] for n in self._noises(ws, r, noise_mode, noise, None)]
            features = block.run_layers(features, ws[:, 2 * index - 1 : 2 * index + 1], noises)
            drawn = block.add_rgb(features, fine, ws[:, 2 * index + 1])
            assert drawn is not None, "every block of the skip architecture adds colour"
            fine = drawn
        rows, columns = (top - y0) * scale, (left - x0) * scale
        return image, fine[:, :, rows : rows + window.side, columns : columns + window.side]

    @property
    def feature_layers(self) -> tuple[FeatureLayer, ...]:
        """b4.conv1, b8.conv0, b8.conv1 ...; conv1 gives what the next block takes."""
        found = []
        for index, r in enumerate(self.block_resolutions):
            for name, layer in self.synthesis.block(r).layers():
                num_ws = 2 * index + (name == "conv1")
                found.append(FeatureLayer(f"b{r}.{name}", layer.weight.shape[0], r, self.config.width(r), num_ws))
        return tuple(found)

    def features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """Activations [N, C, h, w] after block or layer `at`; later blocks and all colour layers are skipped."""
        layer, x = self._layer(at), None
        for r in self.block_resolutions:
            inside = r == layer.height
            x = self._block_features(x, ws, r, noise_mode, noise, None, inside and layer.name.endswith("conv0"))
            if inside:
                break
        assert x is not None
        return x

    def feature_maps(
        self, ws: Tensor, ats: Sequence[int], noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> list[Tensor]:
        """`features(ws, at)` for each of `ats`, in their order, in one pass."""
        found, x = {}, None
        for r in self.block_resolutions:
            if r > max(ats):
                break
            x = found[r] = self._block_features(x, ws, r, noise_mode, noise, None)
        return [found[self._layer(at).height] for at in ats]

    def squares_work(self, at: int, count: int, side: int) -> float:
        """What `feature_squares` multiplies, in units of `features`; infinite where it cannot be asked for: the resnet
        architecture's shortcut is not cut."""
        return math.inf if self.config.architecture == "resnet" else share_of_work(self, at, count, side)

    def feature_squares(
        self,
        ws: Tensor,
        at: int,
        starts: Tensor,
        side: int,
        noise_mode: NoiseMode = "const",
        noise: NoiseMaps | None = None,
    ) -> tuple[list[Patches], Tensor]:
        """`features(ws, at)` in squares [T, C, side, side] whose first pixels are starts [T, 2], 0 outside the map, the
        squares of coarser blocks that were computed on the way, and the last map that was computed whole."""
        self._layer(at)
        return squares_of_features(self, ws, at, starts, side, noise_mode, noise)

    def synthesize_with_features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 3, H, W] and the activations [N, C, h, w] after block or layer `at`."""
        layer = self._layer(at)
        if layer.name.endswith("conv0"):
            return self.synthesize(ws, noise_mode, noise), self.features(ws, at, noise_mode, noise)
        image, kept = self._run(ws, self.resolution, noise_mode, noise, None, layer.height)
        assert image is not None
        assert kept is not None
        return image, kept

    def noise_maps(self) -> dict[str, Tensor]:
        """Registered constant noise, {'b4.conv1': [4, 4], 'b8.conv0': [8, 8], ...}; without the layers whose noise has
        the strength 0, where it changes nothing."""
        blocks = [self.synthesis.block(r) for r in self.block_resolutions]
        named = {f"b{b.resolution}.{name}": layer for b in blocks for name, layer in b.layers()}
        return {name: layer.noise_const for name, layer in named.items() if float(layer.noise_strength.detach()) != 0}

    def ws_used_by(self, at: int | str) -> int:
        """Leading W+ layers that influence `features(ws, at)`."""
        return self._layer(at).num_ws

    def style_weights(self, layer: int) -> Tensor:
        """Affine weights [C, w_dim] behind W+ layer `layer`: of a convolution, of the colours, or of both, which share
        it where a block ends. Colours count with their gain, as one of so many channels."""
        block = self.synthesis.block(self.block_resolutions[layer // 2])
        found = [] if layer % 2 else [block.conv1.affine.scaled_weight()]
        if layer % 2 and block.has_rgb:
            found.append(block.torgb.affine.scaled_weight() * block.torgb.weight_gain)
        if layer % 2 and layer + 1 < self.num_ws:
            following = self.synthesis.block(self.block_resolutions[layer // 2 + 1])
            found.append(following.conv0.affine.scaled_weight())
        return torch.cat(found)

    def _layer(self, at: int | str) -> FeatureLayer:
        name = at if isinstance(at, str) else f"b{at}.conv1"
        for layer in self.feature_layers:
            if layer.name == name:
                return layer
        if isinstance(at, str):
            known = ", ".join(layer.name for layer in self.feature_layers)
            raise ModelError(f"This generator has no layer {at[:40]}: choose one of {known}.")
        raise ModelError(f"This generator has no {at} px block: choose one of {self.block_resolutions}.")

    def _block_features(
        self,
        x: Tensor | None,
        ws: Tensor,
        resolution: int,
        mode: NoiseMode,
        noise: NoiseMaps | None,
        rng: torch.Generator | None,
        first_only: bool = False,
    ) -> Tensor:
        block = self.synthesis.block(resolution)
        first = max(2 * self.block_resolutions.index(resolution) - 1, 0)
        noises = self._noises(ws, resolution, mode, noise, rng)
        return block.run_layers(x, ws[:, first : first + block.num_conv], noises, first_only)

    def _noises(
        self, ws: Tensor, resolution: int, mode: NoiseMode, noise: NoiseMaps | None, rng: torch.Generator | None
    ) -> list[Tensor | None]:
        layers, given = self.synthesis.block(resolution).layers(), noise or {}
        return [layer.pick_noise(ws, mode, given.get(f"b{resolution}.{name}"), rng) for name, layer in layers]

    def _run(
        self,
        ws: Tensor,
        until: int,
        mode: NoiseMode,
        noise: NoiseMaps | None,
        rng: torch.Generator | None,
        keep: int | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ModelError(f"This generator takes ws of [N, {self.num_ws}, {self.w_dim}], not {list(ws.shape)}.")
        x, image, kept = None, None, None
        for index, r in enumerate(self.block_resolutions):
            x = self._block_features(x, ws, r, mode, noise, rng)
            image = self.synthesis.block(r).add_rgb(x, image, ws[:, 2 * index + 1])
            kept = x if r == keep else kept
            if r == until:
                break
        return image, kept
