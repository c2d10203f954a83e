"""Generator files of every known format, opened by content and without running anything in them; and our own format.

Formats: pickles of stylegan2-ada-pytorch and stylegan3, TensorFlow StyleGAN2 pickles, rosinality's and PTI's .pt, plain
state dicts, and safetensors with the architecture as JSON in the header, which is what we write.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from data.errors import MemoryShortError, ModelError
from data.files import file_sha256, fill_atomically
from inversion.generators.families import Family, family_named, family_of
from inversion.generators.formats.lazy import LazyState
from inversion.generators.formats.reading import HEADER_KEY, STATS_PREFIX, Contents, read_contents
from inversion.generators.formats.source import RefusedError
from inversion.generators.protocol import Generator, LatentStats, LinearStart

AVERAGE_NAME = "mapping.w_avg"
AVERAGE_SAMPLES = 10_000
AVERAGE_SEED = 0
STATS_NAMES = ("w_avg", "w_std", "pn_mean", "pn_whiten")
START_WEIGHT, START_BIAS = "start.weight", "start.bias"


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """An opened generator file: what it holds, with its tensors still in it. Close it, or use it in a `with`.

    `format` is nvidia, tensorflow, rosinality, module, state_dict or safetensors; `notes` say in sentences what the
    file left out and what was taken instead; `extra` are the header's own values; `source_sha256` belongs to the source
    text that came with a pickle.
    """

    path: Path
    format: str
    family: Family
    config: Any
    state: LazyState
    notes: tuple[str, ...]
    extra: Mapping[str, Any]
    stats: LatentStats | None
    source_sha256: str | None
    file: BinaryIO

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; tensors cannot be read any more."""
        self.file.close()

    @property
    def parameters(self) -> int:
        """How many numbers the generator has."""
        return sum(torch.Size(tensor.shape).numel() for tensor in self.state.values())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors as the file has them, by published name."""
        try:
            return {name: tensor.read() for name, tensor in self.state.items()}
        except (RefusedError, OSError) as error:
            raise ModelError(f"{self.path} {error}.") from error

    def build(self) -> Generator:
        """The generator, float32, eval and frozen; ModelError when a tensor is missing, unknown or misshapen."""
        with torch.device("meta"):
            module = self.family.build(self.config)
        self._check_shapes(module)
        try:
            state = {name: self.state[name].read().float() for name in module.state_dict() if name in self.state}
        except (RefusedError, OSError) as error:
            raise ModelError(f"{self.path} {error}.") from error
        average = AVERAGE_NAME in module.state_dict() and AVERAGE_NAME not in state
        if average:
            state[AVERAGE_NAME] = torch.zeros(self.config.w_dim)
        module.load_state_dict(state, strict=True, assign=True)
        module.eval().requires_grad_(False)
        assert isinstance(module, Generator)
        if average:
            module.w_avg.copy_(_average(module))
        return module

    def _check_shapes(self, module: nn.Module) -> None:
        wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        found = {name: tensor.shape for name, tensor in self.state.items()}
        if AVERAGE_NAME in wanted:
            found.setdefault(AVERAGE_NAME, wanted[AVERAGE_NAME])
        if found == wanted:
            return
        misfit = f"The weights in {self.path} do not fit a {self.family.name} of {self.config.resolution} px"
        for name in wanted:
            if found.get(name) != wanted[name]:
                have = "none" if name not in found else str(list(found[name]))
                raise ModelError(f"{misfit}: {name} should be {list(wanted[name])} and is {have}.")
        unknown = sorted(set(found) - set(wanted))
        raise ModelError(f"{misfit}: {unknown[0][:80]} does not belong to it.")


@torch.no_grad()
def _average(generator: Generator) -> Tensor:
    rng = torch.Generator().manual_seed(AVERAGE_SEED)
    z = torch.randn(AVERAGE_SAMPLES, generator.z_dim, generator=rng)
    c = None
    if generator.c_dim:
        c = torch.eye(generator.c_dim)[torch.randint(generator.c_dim, (AVERAGE_SAMPLES,), generator=rng)]
    return generator.map(z, c)[:, 0].mean(dim=0)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a generator file of any known format; its name does not matter.

    Raises ModelError, one sentence that says what was found, for everything else: nothing in the file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no generator file at {path}: give generator.path=FILE.")
    file = path.open("rb")
    try:
        contents = read_contents(file)
        return _checkpoint(path, file, contents)
    except BaseException as error:
        file.close()
        if isinstance(error, RefusedError):
            raise ModelError(f"{path} {printable(str(error))}.") from None
        if isinstance(error, ModelError):
            raise ModelError(f"{path} cannot be used: {printable(str(error))}") from error
        if isinstance(error, MemoryError):
            raise MemoryShortError(f"{path} does not fit the memory: give a smaller generator file.") from error
        if isinstance(error, (OSError, RecursionError, OverflowError)):
            raise ModelError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:80]}).") from error
        raise


def _checkpoint(path: Path, file: BinaryIO, contents: Contents) -> Checkpoint:
    config = contents.config
    family = family_of(config) if not isinstance(config, Mapping) else family_named(contents.family)
    if isinstance(config, Mapping):
        try:
            config = family.config(**config)
        except (TypeError, ValueError) as error:
            # Python 3.13 proposes a name in a second sentence, which is not ours to say.
            reason = str(error).partition(". Did you mean")[0][:120]
            raise RefusedError(f"has a generator header that cannot be read ({reason})") from error
    return Checkpoint(
        path,
        contents.format,
        family,
        config,
        contents.state,
        tuple(contents.notes),
        contents.extra,
        _stats(contents.stats),
        contents.source_sha256,
        file,
    )


def printable(text: str) -> str:
    """Text for a message, without what a file could do to a terminal with it."""
    return "".join(one if one.isprintable() else "?" for one in text)


def load_generator(path: Path) -> tuple[Generator, str]:
    """Read a generator file: the module (float32, eval, frozen) and the file's sha256.

    Raises ModelError when the file is missing, damaged, of another kind, or does not fit its own architecture.
    """
    with open_checkpoint(path) as checkpoint:
        return checkpoint.build(), file_sha256(Path(path))


def read_stats(path: Path) -> LatentStats | None:
    """The statistics of the latent space that a generator file carries, or None when it has none.

    Raises ModelError when they do not belong together.
    """
    with open_checkpoint(path) as checkpoint:
        return checkpoint.stats


def _stats(found: LazyState) -> LatentStats | None:
    if not found:
        return None
    width = found["w_avg"].shape[0] if "w_avg" in found and len(found["w_avg"].shape) == 1 else 0
    shapes = {"w_avg": (width,), "w_std": (), "pn_mean": (width,), "pn_whiten": (width, width)}
    inputs = found[START_WEIGHT].shape[0] if START_WEIGHT in found and found[START_WEIGHT].shape else 0
    if inputs and inputs == 3 * math.isqrt(inputs // 3) ** 2:
        shapes |= {START_WEIGHT: (inputs, width), START_BIAS: (width,)}
    if {name: tensor.shape for name, tensor in found.items()} != shapes:
        raise RefusedError("has damaged latent statistics: write the generator file again")
    values = {name: tensor.read().float() for name, tensor in found.items()}
    start = LinearStart(values[START_WEIGHT], values[START_BIAS]) if START_WEIGHT in values else None
    return LatentStats(values["w_avg"], float(values["w_std"]), values["pn_mean"], values["pn_whiten"], start)


def save_generator(
    generator: Generator,
    path: Path,
    extra: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.float16,
    stats: LatentStats | None = None,
) -> None:
    """Write a generator file atomically, weights as `dtype`; `extra` (JSON values) is kept beside the architecture.

    `stats` are kept as float32 tensors beside the weights, so that whoever opens the file need not sample them again.
    """
    config: Any = generator.config  # type: ignore[attr-defined]
    state = {name: tensor.detach().cpu().to(dtype) for name, tensor in generator.state_dict().items()}
    write_safetensors(path, config, state, extra, stats)


def write_safetensors(
    path: Path,
    config: Any,
    state: Mapping[str, Tensor],
    extra: Mapping[str, object] | None = None,
    stats: LatentStats | None = None,
) -> None:
    """Write tensors with a config as a generator file of ours, atomically; the tensors keep their types."""
    header = {family_of(config).name: dataclasses.asdict(config), "extra": dict(extra or {})}
    tensors = {name: value.contiguous() for name, value in state.items()}
    if stats is not None:
        kept = {name: torch.as_tensor(getattr(stats, name)).float() for name in STATS_NAMES}
        if stats.start is not None:
            kept |= {START_WEIGHT: stats.start.weight.half(), START_BIAS: stats.start.bias.float()}
        tensors |= {STATS_PREFIX + name: value.cpu().contiguous() for name, value in kept.items()}
    metadata = {HEADER_KEY: json.dumps(header, sort_keys=True)}
    fill_atomically(path, lambda name: save_file(tensors, name, metadata=metadata))
