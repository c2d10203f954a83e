"""What inversion and editing ask of a generator, whatever its family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import Parameter

NoiseMode = Literal["const", "random", "none"]
NoiseMaps = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class LatentStats:
    """Moments of mapped samples: `w_avg` [D]; `w_std` one float, sqrt(mean ||w - w_avg||^2); P_N mean [D] and
    whitening matrix [D, D] (columns: principal directions over their standard deviations)."""

    w_avg: Tensor
    w_std: float
    pn_mean: Tensor
    pn_whiten: Tensor

    def to(self, device: torch.device) -> LatentStats:
        """The same statistics on a device."""
        return LatentStats(self.w_avg.to(device), self.w_std, self.pn_mean.to(device), self.pn_whiten.to(device))


@runtime_checkable
class Generator(Protocol):
    """A style-based image generator, a `torch.nn.Module`.

    Latents `ws` are [N, num_ws, w_dim] float32 (W+); images are [N, 3, resolution, resolution], about [-1, 1], RGB.
    """

    resolution: int
    num_ws: int
    z_dim: int
    w_dim: int
    c_dim: int
    block_resolutions: list[int]

    @property
    def w_avg(self) -> Tensor:
        """Mean latent [w_dim] of the mapping network."""
        ...

    def map(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """Map z [N, z_dim] (and labels c [N, c_dim]) to ws [N, num_ws, w_dim]."""
        ...

    def synthesize(self, ws: Tensor, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None) -> Tensor:
        """Render ws [N, num_ws, w_dim] to images [N, 3, R, R]; `noise` replaces the registered maps by name."""
        ...

    def features(
        self, ws: Tensor, resolution: int, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """Activations [N, C, r, r] after the block of that resolution; later blocks are not computed."""
        ...

    def synthesize_with_features(
        self, ws: Tensor, resolution: int, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 3, R, R] and the activations [N, C, r, r] of one block, in one pass."""
        ...

    def noise_maps(self) -> dict[str, Tensor]:
        """The registered constant noise by layer name, each [r, r], of the layers in which it shows."""
        ...

    def ws_used_by(self, resolution: int) -> int:
        """How many leading W+ layers influence `features(ws, resolution)`."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Weights by state-dict name; those of the synthesis network begin with `synthesis.`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights and buffers by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Replace weights and buffers."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Switch gradients of all weights."""
        ...
