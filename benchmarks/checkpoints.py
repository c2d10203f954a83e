"""Generator files of every format: do they open, is the image right, how long does it take and how much memory.

    python benchmarks/checkpoints.py [--quick] [--json FILE]

Files are built from random weights in the exact structure of each format (tests/checkpoint_files.py). Time and memory
are those of a process of its own for each file: memory is the growth of the peak over what the process had before
opening, as a ratio to the generator's bytes in float32. Then the malicious corpus and 2,000 mutations are read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from benchmarks.common import tell
from data.errors import ModelError
from inversion.generators.checkpoint import open_checkpoint, write_safetensors
from inversion.generators.exports import write_rosinality
from inversion.generators.protocol import Generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from tests import malicious_files
from tests.checkpoint_files import module_pt, nvidia_pickle, rosinality_pt, state_dict_pt, tensorflow_pickle
from tests.checkpoint_names import constructor_kwargs
from tests.test_checkpoints import stylegan3_kwargs
from tests.watching import time_limit, watching

ORDER = (
    "formats_opened",
    "max_image_error",
    "roundtrip_bit_equal",
    "malicious_files",
    "malicious_executed",
    "malicious_hung",
    "fuzz_mutations",
    "open_seconds_350mb",
    "open_extra_memory_ratio",
)
HUNG_SECONDS = 60
FUZZ_MUTATIONS = 2000
SEED = 1
Write = Callable[[Path, dict[str, Tensor], dict[str, Any]], None]

SMALL = {
    "stylegan2": StyleGAN2Config(64, w_dim=128, z_dim=128, channel_base=4096, channel_max=64),
    "stylegan2 resnet": StyleGAN2Config(
        64, w_dim=128, z_dim=128, channel_base=4096, channel_max=64, architecture="resnet"
    ),
    "stylegan2 orig": StyleGAN2Config(64, w_dim=128, z_dim=128, channel_base=4096, channel_max=64, architecture="orig"),
    "stylegan2 conditional": StyleGAN2Config(64, w_dim=128, z_dim=128, c_dim=5, channel_base=4096, channel_max=64),
    "stylegan2 1:2": StyleGAN2Config(64, w_dim=128, z_dim=128, channel_base=4096, channel_max=64, start_width=2),
    "stylegan3-t": StyleGAN3Config(64, w_dim=128, z_dim=128, channel_base=4096, channel_max=64),
    "stylegan3-r": StyleGAN3Config(
        64, w_dim=128, z_dim=128, channel_base=8192, channel_max=128, conv_kernel=1, use_radial_filters=True
    ),
}
LARGE = StyleGAN2Config(1024)
"""FFHQ's at 1024 px: 30 million numbers; a training snapshot with G, D and G_ema has about 380 MB."""
DISCRIMINATOR_NUMBERS = 29_000_000
LARGE_FILES = ("nvidia, snapshot", "tensorflow", "rosinality", "module (PTI)", "state dict", "safetensors")


def own_format(path: Path, state: dict[str, Tensor], kwargs: dict[str, Any]) -> None:
    """Our safetensors; the config comes in `kwargs`, which the other formats read in their own way."""
    write_safetensors(path, kwargs["config"], state)


FORMATS: dict[str, Write] = {
    **{
        f"nvidia, protocol {p}, {n}": (
            lambda path, state, kwargs, p=p, n=n: nvidia_pickle(path, state, kwargs, protocol=p, numpy_path=n)
        )
        for p in (2, 3, 4)
        for n in ("numpy.core", "numpy._core")
    },
    "nvidia, bare": lambda path, state, kwargs: nvidia_pickle(path, state, kwargs, whole=False),
    "nvidia, ada": lambda path, state, kwargs: nvidia_pickle(path, state, kwargs, nested=True),
    "tensorflow": tensorflow_pickle,
    "rosinality": lambda path, state, _: rosinality_pt(path, state),
    "rosinality, legacy": lambda path, state, _: rosinality_pt(path, state, zip=False),
    "module (PTI)": lambda path, state, kwargs: module_pt(path, state, kwargs, nested=False),
    "module (PTI), legacy": lambda path, state, kwargs: module_pt(path, state, kwargs, zip=False, nested=False),
    "state dict": lambda path, state, _: state_dict_pt(path, state),
    "state dict, legacy": lambda path, state, _: state_dict_pt(path, state, zip=False),
    "safetensors": own_format,
}


def holds(format_name: str, family: str) -> bool:
    """Whether a format can hold a generator of a family."""
    if format_name.startswith("rosinality"):
        return family == "stylegan2"
    return not (format_name == "tensorflow" and (family.startswith("stylegan3") or family.endswith("1:2")))


def random_generator(config: Any) -> Generator:
    """A frozen generator of random weights whose noise shows."""
    torch.manual_seed(SEED)
    module: nn.Module = (StyleGAN2 if isinstance(config, StyleGAN2Config) else StyleGAN3)(config)
    for name, value in module.named_parameters():
        if name.endswith("noise_strength"):
            value.data.fill_(0.05)
    module.eval().requires_grad_(False)
    assert isinstance(module, Generator)
    return module


def kwargs_of(config: Any) -> dict[str, Any]:
    """The constructor's arguments as the files have them, and the config itself for our own format."""
    kwargs = constructor_kwargs(config) if isinstance(config, StyleGAN2Config) else stylegan3_kwargs(config)
    return {**kwargs, "config": config}


def foreign(write: Write) -> Write:
    """The same without our config among the arguments."""
    return lambda path, state, kwargs: write(path, state, {k: v for k, v in kwargs.items() if k != "config"})


@torch.no_grad()
def picture(generator: Generator) -> Tensor:
    """Two images of fixed z, divided by their own spread: random weights have no scale of their own."""
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(SEED))
    c = torch.eye(generator.c_dim)[:1].repeat(2, 1) if generator.c_dim else None
    image = generator.synthesize(generator.map(z, c))
    return image / image.std()


def format_figures(folder: Path) -> tuple[dict[str, float], list[str]]:
    """Every format with every family that it can hold: opened, image error, round trip; and the rows of the table."""
    errors, equal, rows, opened = [], True, [], 0
    for family, config in SMALL.items():
        generator = random_generator(config)
        wanted, kwargs = picture(generator), kwargs_of(config)
        for name, write in FORMATS.items():
            if not holds(name, family):
                continue
            path = folder / "model.bin"
            (write if write is own_format else foreign(write))(path, dict(generator.state_dict()), kwargs)
            error, same = image_error_and_round_trip(path, wanted, folder)
            opened += 1
            errors.append(error)
            equal = equal and same
            rows.append(f"{family:24s}{name:32s}{error:10.1e}{'yes' if same else 'NO':>8s}")
            path.unlink()
    figures = {"formats_opened": opened, "max_image_error": max(errors), "roundtrip_bit_equal": float(equal)}
    return figures, rows


def image_error_and_round_trip(path: Path, wanted: Tensor, folder: Path) -> tuple[float, bool]:
    """The largest difference of the image, and whether our format (and rosinality's where it fits) keeps every bit."""
    with open_checkpoint(path) as checkpoint:
        error = float((picture(checkpoint.build()) - wanted).abs().max())
        state = checkpoint.tensors()
        copies = [folder / "copy.safetensors"]
        write_safetensors(copies[0], checkpoint.config, state)
        try:
            write_rosinality(folder / "copy.pt", checkpoint.config, state)
            copies.append(folder / "copy.pt")
        except ModelError:
            pass
    same = True
    for copy in copies:
        with open_checkpoint(copy) as checkpoint:
            back = checkpoint.tensors()
        same = same and set(back) == set(state) and all(torch.equal(back[name], value) for name, value in state.items())
        copy.unlink()
    return error, same


def measure_open(path: Path) -> dict[str, float]:
    """Seconds and extra memory of opening and building one file, in this process."""
    with open_checkpoint(Path(__file__).resolve().parents[1] / "data" / "embedded" / "faces.safetensors") as small:
        small.build()
    before = _reset_peak()
    started = time.monotonic()
    with open_checkpoint(path) as checkpoint:
        generator = checkpoint.build()
    seconds = time.monotonic() - started
    numbers = sum(value.numel() for value in generator.state_dict().values())
    return {"seconds": seconds, "ratio": (_peak_bytes() - before) / (4 * numbers)}


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def large_figures(folder: Path, repeats: int) -> tuple[dict[str, float], list[str]]:
    """Time and memory of the formats with a 1024 px generator: medians of processes of their own."""
    generator = random_generator(LARGE)
    state, kwargs = dict(generator.state_dict()), kwargs_of(LARGE)
    snapshot: Write = partial(nvidia_pickle, discriminator_numbers=DISCRIMINATOR_NUMBERS)
    rows, seconds, ratios = [], [], []
    for name in LARGE_FILES:
        path, write = folder / "large.bin", FORMATS.get(name, snapshot)
        (write if write is own_format else foreign(write))(path, state, kwargs)
        runs = [measured_apart(path) for _ in range(repeats)]
        seconds.append(statistics.median(run["seconds"] for run in runs))
        ratios.append(statistics.median(run["ratio"] for run in runs))
        rows.append(f"{name:32s}{path.stat().st_size / 1e6:8.0f} MB{seconds[-1]:8.2f} s{ratios[-1]:8.2f}")
        path.unlink()
    return {"open_seconds_350mb": seconds[0], "open_extra_memory_ratio": max(ratios)}, rows


def measured_apart(path: Path) -> dict[str, float]:
    """What `measure_open` finds in a process of its own."""
    script = "import json, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import checkpoints; "
    script += "print(json.dumps(checkpoints.measure_open(Path(sys.argv[2]))))"
    words = [sys.executable, "-c", script, str(Path(__file__).resolve().parent), str(path)]
    found: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def malicious_figures(folder: Path) -> dict[str, float]:
    """The malicious corpus: how many files, how many ran anything, how many hung, how many were refused."""
    marker = folder / "marker"
    executed = hung = refused = count = 0
    for name, build in malicious_files.builders(marker).items():
        if name.endswith(malicious_files.HARMLESS):
            continue
        path = folder / "bad.pkl"
        path.write_bytes(build())
        events: list[str] = []
        try:
            with time_limit(HUNG_SECONDS), watching(path) as events:
                refused += is_refused(path)
        except TimeoutError:
            hung += 1
        executed += bool(events) or marker.exists()
        count += 1
        marker.unlink(missing_ok=True)
    return {
        "malicious_files": count,
        "malicious_refused": refused,
        "malicious_executed": executed,
        "malicious_hung": hung,
    }


def is_refused(path: Path) -> bool:
    """Whether a file is refused with a sentence."""
    try:
        with open_checkpoint(path) as checkpoint:
            checkpoint.build()
    except ModelError:
        return True
    return False


def fuzz_figures(folder: Path, mutations: int) -> dict[str, float]:
    """Random changes to small real files of each format: opened or refused, never anything else."""
    rng = random.Random(SEED)
    originals = [malicious_files.real_file(name) for name in sorted(malicious_files.REAL)]
    executed = opened = 0
    path = folder / "fuzz.pkl"
    for index in range(mutations):
        path.write_bytes(mutated(originals[index % len(originals)], rng))
        with watching(path) as events:
            opened += not is_refused(path)
        executed += bool(events)
    return {"fuzz_mutations": mutations, "fuzz_executed": executed, "fuzz_opened": opened}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four bytes changed, a slice removed, doubled, or moved."""
    found = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            found[rng.randrange(len(found))] = rng.randrange(256)
    else:
        start = rng.randrange(len(found))
        end = min(len(found), start + rng.randint(1, 64))
        part = bytes(found[start:end])
        if kind != 2:
            del found[start:end]
        if kind != 1:
            at = rng.randrange(len(found) + 1)
            found[at:at] = part
    return bytes(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat and 500 mutations")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    figures: dict[str, float] = {"cores": os.cpu_count() or 1}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: list[tuple[Mapping[str, float], list[str]]] = [format_figures(folder)]
        print(f"{'family':24s}{'format':32s}{'error':>10s}{'bits':>8s}")
        print("\n".join(parts[0][1]))
        parts.append(large_figures(folder, 1 if options.quick else 3))
        print(f"\n{'1024 px, in':32s}{'file':>11s}{'opened':>10s}{'memory':>8s}")
        print("\n".join(parts[1][1]) + "\n")
        for found, _ in parts:
            figures |= found
        figures |= malicious_figures(folder)
        figures |= fuzz_figures(folder, 500 if options.quick else FUZZ_MUTATIONS)
    tell(figures, options.json, ORDER)


if __name__ == "__main__":
    main()
