"""dlib's face recognition network (29-layer ResNet, King 2017) in PyTorch: descriptor and feature taps.

The weights come from `dlib_face_recognition_resnet_model_v1.dat`, parsed here: the file is a flat run of records with
variable-length integers and raw float32 tensors. Every affine layer is folded into the convolution before it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import ModelError

CHIP_SIZE_PX = 150
CHANNEL_MEAN = (122.782, 117.001, 104.298)
NUM_RECORDS = 108
BLOCKS = ("same",) * 3 + ("down",) + ("same",) * 3 + ("down",) + ("same",) * 2 + ("down",) + ("same",) * 2 + ("down",)
TAP_BLOCKS = (2, 6, 9, 12)
"""Blocks whose outputs serve as perceptual features: 32, 64, 128 and 256 channels at 35, 17, 8 and 4 px of a chip."""


class _Reader:
    """Primitives of dlib's serialisation, read from a bytes object."""

    def __init__(self, blob: bytes) -> None:
        self.blob, self.at = blob, 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.blob):
            raise ModelError(f"The face network file ends at byte {len(self.blob)}, inside a record: it is damaged.")
        piece = self.blob[self.at : self.at + count]
        self.at += count
        return piece

    def integer(self) -> int:
        control = self.take(1)[0]
        size = control & 0x0F
        if control & 0x70 or not 1 <= size <= 8:
            raise ModelError(f"The face network file holds no integer at byte {self.at - 1}: it is damaged.")
        value = int.from_bytes(self.take(size), "little")
        return -value if control & 0x80 else value

    def scalar(self) -> float:
        mantissa, exponent = self.integer(), self.integer()
        return float(mantissa) * 2.0**exponent if abs(exponent) < 32000 else float("nan")

    def text(self) -> str:
        return self.take(self.integer()).decode("latin-1")

    def alias(self) -> tuple[int, int, int, int]:
        self.expect(1, "shape")
        return self.integer(), self.integer(), self.integer(), self.integer()

    def tensor(self) -> Tensor:
        self.expect(2, "tensor")
        shape = [self.integer() for _ in range(4)]
        count = shape[0] * shape[1] * shape[2] * shape[3]
        data = self.take(4 * count)
        return torch.frombuffer(bytearray(data), dtype=torch.float32).clone() if count else torch.empty(0)

    def expect(self, value: int, what: str) -> None:
        found = self.integer()
        if found != value:
            raise ModelError(f"The face network file has version {found} of a {what}; {value} is known.")

    def skip_integers(self, count: int) -> list[int]:
        return [self.integer() for _ in range(count)]

    def skip_scalars(self, count: int) -> None:
        for _ in range(count):
            self.scalar()


def _read_details(reader: _Reader) -> tuple[str, list[Tensor]]:
    """One layer's name and its parameters (convolution: weight [O,I,k,k], bias; affine: gamma, beta; fc: weight)."""
    name = reader.text()
    if name == "con_4":
        params = reader.tensor()
        reader.skip_integers(7)
        shape, biases = reader.alias(), reader.alias()
        reader.skip_scalars(4)
        split = shape[0] * shape[1] * shape[2] * shape[3]
        if params.numel() != split + biases[1]:
            raise ModelError(f"The face network file has a convolution of {params.numel()} values; {split} expected.")
        return name, [params[:split].reshape(shape), params[split:]]
    if name == "affine_":
        params = reader.tensor()
        reader.alias(), reader.alias()
        reader.integer()
        half = params.numel() // 2
        return name, [params[:half], params[half:]]
    if name in ("max_pool_2", "avg_pool_2"):
        reader.skip_integers(6)
        return name, []
    if name == "fc_2":
        outputs, inputs = reader.integer(), reader.integer()
        params = reader.tensor()
        reader.alias(), reader.alias()
        reader.integer()
        reader.skip_scalars(4)
        return name, [params.reshape(inputs, outputs)]
    if name in ("relu_", "add_prev_"):
        return name, []
    raise ModelError(f"The face network file has a layer '{name}' that this reader does not know.")


def read_face_network(blob: bytes) -> list[tuple[str, list[Tensor]]]:
    """The 108 layer records of the file's bytes, in forward order. Raises ModelError for anything else."""
    reader = _Reader(blob)
    reader.expect(1, "loss layer")
    if reader.text() != "loss_metric_2":
        raise ModelError("This file is not dlib's face recognition network (no loss_metric_2 at its start).")
    reader.skip_scalars(2)
    reader.skip_integers(130)
    if reader.text() != "input_rgb_image_sized":
        raise ModelError("This file is not dlib's face recognition network (no sized RGB input layer).")
    reader.skip_scalars(3)
    reader.skip_integers(2)
    records = []
    for index in range(NUM_RECORDS):
        records.append(_read_details(reader))
        reader.take(3)
        for _ in range(3):
            reader.tensor()
        if index == 0:
            reader.integer()
    if reader.at != len(blob):
        raise ModelError(f"The face network file has {len(blob) - reader.at} bytes after its last layer.")
    return records


class FoldedConv(nn.Module):
    """Frozen convolution with its affine layer folded in: gamma * (w * x + b) + beta."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: Sequence[Tensor], affine: Sequence[Tensor], stride: int, padding: int) -> None:
        super().__init__()
        (weight, bias), (gamma, beta) = conv, affine
        self.register_buffer("weight", weight * gamma[:, None, None, None])
        self.register_buffer("bias", bias * gamma + beta)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W']."""
        return F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


def _add_padded(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two maps, the smaller zero-extended at the end of each axis, as dlib's add_prev does."""
    size = [max(s, t) for s, t in zip(a.shape[1:], b.shape[1:], strict=True)]

    def extend(x: Tensor) -> Tensor:
        c, h, w = (want - have for want, have in zip(size, x.shape[1:], strict=True))
        return F.pad(x, (0, w, 0, h, 0, c)) if c or h or w else x

    return extend(a) + extend(b)


class FaceNetwork(nn.Module):
    """The frozen network: `taps` for perceptual features, `descriptor` for identity.

    Input images are [N, 3, H, W], RGB in [-1, 1], of any size from 103 px (150 px is what it was trained on).
    """

    mean: Tensor
    fc: Tensor

    def __init__(self, records: list[tuple[str, list[Tensor]]]) -> None:
        super().__init__()
        convs = [params for name, params in records if name == "con_4"]
        affines = [params for name, params in records if name == "affine_"]
        self.stem = FoldedConv(convs[0], affines[0], stride=2, padding=0)
        self.first = nn.ModuleList()
        self.second = nn.ModuleList()
        for i, kind in enumerate(BLOCKS):
            stride, padding = (2, 0) if kind == "down" else (1, 1)
            self.first.append(FoldedConv(convs[1 + 2 * i], affines[1 + 2 * i], stride, padding))
            self.second.append(FoldedConv(convs[2 + 2 * i], affines[2 + 2 * i], 1, 1))
        self.register_buffer("fc", records[-1][1][0])
        self.register_buffer("mean", torch.tensor(CHANNEL_MEAN)[:, None, None])

    def _block(self, index: int, x: Tensor) -> Tensor:
        y = self.second[index](F.relu(self.first[index](x)))
        shortcut = x if BLOCKS[index] == "same" else F.avg_pool2d(x, 2, 2)
        return F.relu(_add_padded(y, shortcut))

    def taps(self, images: Tensor, blocks: Sequence[int] = TAP_BLOCKS) -> list[Tensor]:
        """Activations after each of `blocks` (ascending), [N, C, h, w] each; later layers are not computed."""
        x = (images * 127.5 + (127.5 - self.mean)) / 256.0
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        found = []
        for index in range(max(blocks) + 1):
            x = self._block(index, x)
            if index in blocks:
                found.append(x)
        return found

    def descriptor(self, images: Tensor) -> Tensor:
        """dlib's 128-D face descriptor [N, 128] (not normalised); same person: distance below about 0.6."""
        return self.descriptor_of(self.taps(images, (len(BLOCKS) - 1,))[0])

    def descriptor_of(self, last: Tensor) -> Tensor:
        """The descriptor [N, 128] from the deepest tap [N, 256, h, w]."""
        return last.mean(dim=(2, 3)) @ self.fc


def load_face_network(path: Path) -> FaceNetwork:
    """Read dlib's face network file into a frozen module. Raises ModelError when it is missing or damaged."""
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"dlib's face network cannot be read from {path} ({error.strerror}): "
            "run `pip install face_recognition_models`."
        ) from error
    try:
        return FaceNetwork(read_face_network(blob)).eval()
    except (struct.error, IndexError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"The face network file {path} is damaged ({error}): run `pip install --force-reinstall "
            "face_recognition_models`."
        ) from error


def resize_to_chip(images: Tensor, size_px: int = CHIP_SIZE_PX) -> Tensor:
    """Resize [N, 3, R, R] to the network's input size: area when shrinking, bilinear when enlarging."""
    if images.shape[-1] == size_px:
        return images
    if images.shape[-1] > size_px:
        return F.interpolate(images, size=(size_px, size_px), mode="area")
    return F.interpolate(images, size=(size_px, size_px), mode="bilinear", align_corners=False)
