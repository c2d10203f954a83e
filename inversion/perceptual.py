"""Perceptual distances with cached target features: dlib's face features, and LPIPS on a trunk from the disk."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import ModelError
from inversion.identity import CHIP_SIZE_PX, FaceNetwork

FAR_DISTANCES = (0.97, 1.11, 0.55, 0.19)
"""Distance of unrelated photographs at each tap, measured; dividing by it makes the taps count alike."""
LPIPS_SIZE_PX = 256
GRADIENT_FLOOR = 1e-3  # of the mean squared length of a picture's features, see `unit_channels`
BACKBONE_FILES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


@dataclass(frozen=True, eq=False, slots=True)
class PreparedTarget:
    """A target's features: by a view's number, one list of maps."""

    views: dict[int, list[Tensor]]


class Perceptual(Protocol):
    """A perceptual distance: features of the target are computed once, then compared with many images."""

    name: str

    @property
    def num_views(self) -> int:
        """How many views of the picture take turns; a mean over one turn is comparable between steps."""
        ...

    def prepare(self, target: Tensor, step: int | None = None) -> PreparedTarget:
        """Features of target [N, 3, R, R] in [-1, 1]: of every view, or of the one that `step` picks."""
        ...

    def distance(self, prepared: PreparedTarget, images: Tensor, step: int) -> Tensor:
        """Distance [N] of images [N, 3, R, R] to the target (batch 1 or N); `step` picks the view."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """A square window of the picture (centre and side as fractions), mirrored or not, that fills the chip."""

    center_x: float
    center_y: float
    side: float
    mirror: bool = False


WHOLE_AND_FACE_VIEWS = (
    View(0.5, 0.5, 1.0),
    View(0.5, 0.56, 0.66),
    View(0.51, 0.51, 1.0, mirror=True),
    View(0.49, 0.58, 0.62, mirror=True),
    View(0.49, 0.52, 0.98),
    View(0.51, 0.54, 0.70),
)
"""Alternately the whole crop and the face at the scale that the network was trained on, shifted and mirrored so that
its blind rows and columns never fall on the same pixels."""


def cut_view(images: Tensor, view: View, size_px: int = CHIP_SIZE_PX) -> Tensor:
    """Resample the window of [N, 3, R, R] to [N, 3, size, size], bilinear, the border repeated outside."""
    flip = -1.0 if view.mirror else 1.0
    theta = torch.tensor(
        [[flip * view.side, 0.0, 2 * view.center_x - 1], [0.0, view.side, 2 * view.center_y - 1]],
        device=images.device,
        dtype=images.dtype,
    )
    shrink = int(images.shape[-1] * view.side / size_px)
    if shrink > 1:
        images = F.avg_pool2d(images, shrink)
    grid = F.affine_grid(
        theta.expand(images.shape[0], 2, 3), [images.shape[0], 3, size_px, size_px], align_corners=False
    )
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def unit_channels(x: Tensor) -> Tensor:
    """[N, C, h, w] scaled to unit length over the channels.

    Where hardly any channel answers, as in flat backgrounds, the derivative would grow without bound, and one such
    step ruins an optimisation; there it is that of a division by a little more.
    """
    energy = x.square().sum(dim=1, keepdim=True)
    exact = x * (energy + 1e-10).rsqrt()
    if not x.requires_grad:
        return exact
    floor = GRADIENT_FLOOR * energy.detach().mean(dim=(2, 3), keepdim=True)
    smooth = x * (energy + floor).rsqrt()
    return smooth + (exact - smooth).detach()


class FacePerceptual:
    """Distances between taps of dlib's face network, each divided by what unrelated photographs give."""

    name = "face"

    def __init__(self, network: FaceNetwork, views: Sequence[View] = WHOLE_AND_FACE_VIEWS) -> None:
        self.network = network.requires_grad_(False)
        self.views = tuple(views)

    @property
    def num_views(self) -> int:
        """Views that take turns."""
        return len(self.views)

    def _features(self, images: Tensor, view: View) -> list[Tensor]:
        return [unit_channels(tap) for tap in self.network.taps(cut_view(images, view))]

    @torch.no_grad()
    def prepare(self, target: Tensor, step: int | None = None) -> PreparedTarget:
        """Unit-normalised taps of target [N, 3, R, R] in every view, or in that of one step."""
        wanted = range(len(self.views)) if step is None else [step % len(self.views)]
        return PreparedTarget({index: self._features(target, self.views[index]) for index in wanted})

    def distance(self, prepared: PreparedTarget, images: Tensor, step: int) -> Tensor:
        """Mean over taps of the squared distance of unit features, 0 (same) to about 1 (unrelated), [N]."""
        index = step % len(self.views)
        found = self._features(images, self.views[index])
        terms = [
            (a - b).square().sum(dim=1).mean(dim=(1, 2)) / far
            for a, b, far in zip(found, prepared.views[index], FAR_DISTANCES, strict=True)
        ]
        return torch.stack(terms).mean(dim=0)


class LpipsPerceptual:
    """LPIPS (Zhang et al. 2018), the `lpips` package's network with the target's side cached."""

    def __init__(self, model: nn.Module, backbone: str) -> None:
        model.eval().requires_grad_(False)
        self.trunk = model.get_submodule("net")
        self.scaling = model.get_submodule("scaling_layer")
        self.linears = list(model.get_submodule("lins").children())
        self.name = f"lpips_{backbone}"

    @property
    def num_views(self) -> int:
        """LPIPS always looks at the whole picture."""
        return 1

    def _features(self, images: Tensor) -> list[Tensor]:
        if images.shape[-1] > LPIPS_SIZE_PX:
            images = F.interpolate(images, size=(LPIPS_SIZE_PX, LPIPS_SIZE_PX), mode="area")
        return [unit_channels(x) for x in self.trunk(self.scaling(images))]

    @torch.no_grad()
    def prepare(self, target: Tensor, step: int | None = None) -> PreparedTarget:  # noqa: ARG002 (one view for all)
        """Unit-normalised trunk features of target [N, 3, R, R]."""
        return PreparedTarget({0: self._features(target)})

    def distance(self, prepared: PreparedTarget, images: Tensor, step: int) -> Tensor:
        """LPIPS [N]; pictures above 256 px are shrunk by area first."""
        view = prepared.views[step % self.num_views]
        terms = [
            lin((a - b).square()).mean(dim=(1, 2, 3))
            for lin, a, b in zip(self.linears, self._features(images), view, strict=True)
        ]
        return torch.stack(terms).sum(dim=0)


def backbone_path(backbone: str, folder: Path | None = None, cache: Path | None = None) -> Path:
    """Where LPIPS's trunk weights are looked for: `folder` alone, or else first in `cache`, then in torch hub's."""
    file = BACKBONE_FILES[backbone]
    if folder is not None:
        return folder / file
    hub = Path(torch.hub.get_dir()) / "checkpoints" / file
    return hub if cache is None or (hub.is_file() and not (cache / file).is_file()) else cache / file


def missing_backbone(backbone: str, path: Path) -> ModelError:
    """The sentence for a trunk that is not at `path`."""
    return ModelError(
        f"perceptual=lpips_{backbone} needs {path}, which is not there: run `photodrag models download "
        f"lpips-{backbone}` (its file is found while perceptual.backbone_dir is null), or use perceptual=face, which "
        "needs no download."
    )


def load_lpips(backbone: str, folder: Path | None = None) -> LpipsPerceptual:
    """Build LPIPS with its own linear weights and the trunk read from disk; downloads nothing.

    Raises ModelError naming the command that brings a missing trunk.
    """
    import lpips

    path = backbone_path(backbone, folder)
    if not path.is_file():
        raise missing_backbone(backbone, path)
    network = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False)
    wanted = network.net.state_dict()
    try:
        trunk = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: trunk["features." + name.split(".", 1)[1]] for name in wanted}
        network.net.load_state_dict(state, strict=True)
    except (pickle.UnpicklingError, KeyError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ModelError(f"{path} is not the published trunk of LPIPS-{backbone} ({error}).") from error
    return LpipsPerceptual(network, backbone)
