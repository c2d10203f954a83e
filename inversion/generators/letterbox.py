"""A generator of pictures that are not square, seen as one of square pictures with empty bands at the sides.

Everything around a generator (crops, masks, drags, the blend) is square; the bands count nowhere, as `canvas` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import ModelError
from inversion.generators.protocol import FeatureLayer, Generator, Layered, NoiseMaps, NoiseMode, Styled


class Letterboxed(nn.Module):
    """`inner`, whose pictures are higher than wide, with its weights under their own names."""

    def __init__(self, inner: Generator) -> None:
        super().__init__()
        height, width = inner.image_size
        if width > height or (height - width) % 2:
            raise ModelError(
                f"A generator of {width} x {height} px cannot be used: pictures must be square, or higher than wide."
            )
        assert isinstance(inner, nn.Module)
        object.__setattr__(self, "inner", inner)  # not as a part: its parts, shared below, keep their names
        self._modules, self._parameters, self._buffers = inner._modules, inner._parameters, inner._buffers
        self.inner: Generator
        self.resolution, self.image_size = height, (height, height)
        self.num_ws, self.z_dim, self.w_dim, self.c_dim = inner.num_ws, inner.z_dim, inner.w_dim, inner.c_dim
        self.block_resolutions = inner.block_resolutions
        self.config: Any = getattr(inner, "config", None)

    @property
    def w_avg(self) -> Tensor:
        """Mean latent [w_dim]."""
        return self.inner.w_avg

    @property
    def canvas(self) -> Tensor:
        """[1, 1, R, R], 1 where the generator draws and 0 in the bands."""
        return _boxed(torch.ones(1, 1, *self.inner.image_size))

    @property
    def feature_layers(self) -> tuple[FeatureLayer, ...]:
        """The generator's layers, widened to squares."""
        return tuple(replace(layer, width=layer.height) for layer in self.inner.feature_layers)

    def map(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """z [N, z_dim] -> ws [N, num_ws, w_dim]."""
        return self.inner.map(z, c, truncation_psi, truncation_cutoff)

    def synthesize(self, ws: Tensor, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None) -> Tensor:
        """ws [N, num_ws, w_dim] -> images [N, 3, R, R], 0 in the bands."""
        return _boxed(self.inner.synthesize(ws, noise_mode, noise))

    def features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """Activations [N, C, h, h], 0 in the bands."""
        return _boxed(self.inner.features(ws, at, noise_mode, noise))

    def feature_maps(
        self, ws: Tensor, ats: Sequence[int], noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> list[Tensor]:
        """`features(ws, at)` for each of `ats`, in their order."""
        if isinstance(self.inner, Layered):
            return [_boxed(x) for x in self.inner.feature_maps(ws, ats, noise_mode, noise)]
        return [self.features(ws, at, noise_mode, noise) for at in ats]

    def synthesize_with_features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images and activations of one layer, in one pass."""
        image, features = self.inner.synthesize_with_features(ws, at, noise_mode, noise)
        return _boxed(image), _boxed(features)

    def noise_maps(self) -> dict[str, Tensor]:
        """The generator's noise maps, as they are."""
        return self.inner.noise_maps()

    def ws_used_by(self, at: int | str) -> int:
        """Leading W+ layers that influence `features(ws, at)`."""
        return self.inner.ws_used_by(at)

    def style_weights(self, layer: int) -> Tensor:
        """The generator's style weights, as they are; ModelError when its family tells none."""
        if not isinstance(self.inner, Styled):
            raise ModelError("This family of generators tells no style weights: use the directions pca:0, pca:1, ...")
        return self.inner.style_weights(layer)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Replace the generator's weights."""
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def _boxed(x: Tensor) -> Tensor:
    missing = x.shape[2] - x.shape[3]
    return F.pad(x, (missing // 2, missing - missing // 2, 0, 0))


def squared(generator: Generator) -> Generator:
    """The generator itself when its pictures are square, else with bands at their sides."""
    height, width = generator.image_size
    return generator if height == width else Letterboxed(generator)


def canvas_of(generator: Generator) -> Tensor | None:
    """[1, 1, R, R] with 0 in the bands of a letterboxed generator; None for one that draws everywhere."""
    return generator.canvas if isinstance(generator, Letterboxed) else None
