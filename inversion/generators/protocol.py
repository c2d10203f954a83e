"""What inversion and editing ask of a generator, whatever its family."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import Parameter

NoiseMode = Literal["const", "random", "none"]
NoiseMaps = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class LinearStart:
    """A linear map from a picture's area means to w: `weight` [3 * side * side, D], `bias` [D] (inversion.encoder)."""

    weight: Tensor
    bias: Tensor

    @property
    def side_px(self) -> int:
        """Side of the area means that it takes."""
        return math.isqrt(self.weight.shape[0] // 3)

    def to(self, device: torch.device) -> LinearStart:
        """The same map on a device."""
        return LinearStart(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True, eq=False, slots=True)
class LatentStats:
    """Moments of mapped samples: `w_avg` [D]; `w_std` one float, sqrt(mean ||w - w_avg||^2); P_N mean [D] and
    whitening matrix [D, D] (columns: principal directions over their standard deviations). `start` finds a photo's
    neighbourhood without drawing, where it was fitted."""

    w_avg: Tensor
    w_std: float
    pn_mean: Tensor
    pn_whiten: Tensor
    start: LinearStart | None = None

    def to(self, device: torch.device) -> LatentStats:
        """The same statistics on a device."""
        start = None if self.start is None else self.start.to(device)
        return LatentStats(self.w_avg.to(device), self.w_std, self.pn_mean.to(device), self.pn_whiten.to(device), start)


@dataclass(frozen=True, slots=True)
class FeatureLayer:
    """A layer whose activations can be read: [N, channels, height, width], aligned with the picture's canvas.

    `num_ws` leading W+ layers influence it. A layer that computes a margin round the canvas is given without it.
    """

    name: str
    channels: int
    height: int
    width: int
    num_ws: int


@dataclass(frozen=True, slots=True)
class Window:
    """A square of `side` pixels in a full-resolution picture."""

    top: int
    left: int
    side: int


@runtime_checkable
class Generator(Protocol):
    """A style-based image generator, a `torch.nn.Module`.

    Latents `ws` are [N, num_ws, w_dim] float32 (W+); images are [N, 3, H, W], about [-1, 1], RGB. `resolution` is H;
    `image_size` is (H, W). `block_resolutions` are the heights at which a block ends, ascending; an `at` that is a
    number means the last layer of that height, one that is a string a name of `feature_layers`.
    """

    resolution: int
    image_size: tuple[int, int]
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
        """Render ws [N, num_ws, w_dim] to images [N, 3, H, W]; `noise` replaces the registered maps by name."""
        ...

    @property
    def feature_layers(self) -> tuple[FeatureLayer, ...]:
        """Every layer that `features` can be asked for, in order."""
        ...

    def features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """Activations [N, C, h, w] of one layer; later layers are not computed."""
        ...

    def synthesize_with_features(
        self, ws: Tensor, at: int | str, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 3, H, W] and the activations [N, C, h, w] of one layer, in one pass."""
        ...

    def noise_maps(self) -> dict[str, Tensor]:
        """The registered constant noise by layer name, each [r, r], of the layers in which it shows."""
        ...

    def ws_used_by(self, at: int | str) -> int:
        """How many leading W+ layers influence `features(ws, at)`."""
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

    def to(self, device: torch.device) -> Any:
        """Move all weights to a device."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Switch gradients of all weights."""
        ...


@runtime_checkable
class Windowed(Protocol):
    """A generator that can draw a coarse picture and a window of the full one without drawing the rest."""

    def running_image_and_window(
        self, ws: Tensor, at: int, window: Window, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> tuple[Tensor, Tensor]:
        """The picture [N, 3, at, at] before the finer blocks add to it, and a window [N, 3, t, t] of the full one."""
        ...

    def running_image(
        self, ws: Tensor, resolution: int, noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> Tensor:
        """That picture [N, 3, r, r] alone."""
        ...

    def draws_windows(self) -> bool:
        """Whether this generator's architecture has such a coarse picture."""
        ...


@runtime_checkable
class Layered(Protocol):
    """A generator that gives the maps of several blocks in one pass."""

    def feature_maps(
        self, ws: Tensor, ats: Sequence[int], noise_mode: NoiseMode = "const", noise: NoiseMaps | None = None
    ) -> list[Tensor]:
        """`features(ws, at)` for each of `ats`, in their order."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Patches:
    """Squares of a feature map: values [T, C, s, s], the places [T, 2] (x, y) of their first pixels on the CPU, and the
    map's size (h, w); 0 outside the map."""

    values: Tensor
    starts: Tensor
    size: tuple[int, int]


@runtime_checkable
class Styled(Protocol):
    """A generator that tells by which linear maps its W+ layers become styles."""

    def style_weights(self, layer: int) -> Tensor:
        """The weight [C, w_dim] of the affine maps that W+ layer `layer` goes through, stacked, without their biases,
        times every gain that is applied when pictures are drawn."""
        ...


@runtime_checkable
class Squared(Protocol):
    """A generator that can compute a few squares of a feature map without computing the whole map."""

    def feature_squares(
        self,
        ws: Tensor,
        at: int,
        starts: Tensor,
        side: int,
        noise_mode: NoiseMode = "const",
        noise: NoiseMaps | None = None,
    ) -> tuple[list[Patches], Tensor]:
        """`features(ws, at)` of one latent in squares [T, C, side, side] whose first pixels are starts [T, 2] (x, y),
        whole numbers on the CPU; then the squares of each coarser block that were computed on the way, which hold all
        of the first ones' area. And the last map on the way that was computed whole, [1, B, b, b].
        """
        ...

    def squares_work(self, at: int, count: int, side: int) -> float:
        """The work that so many squares take, in units of that of the whole map; infinite where none can be had."""
        ...
