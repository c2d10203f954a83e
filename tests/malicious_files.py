"""Every malicious or broken file that the readers of generators must refuse, by name.

A name that ends in `_harmless` is a file that may be read, as the honest generator that it is but for something that a
reader need not heed: source text, a table's count, a statement that the tensors contradict.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from inversion.generators.checkpoint import save_generator
from tests.checkpoint_files import module_pt, nvidia_pickle, rosinality_pt, state_dict_pt, tensorflow_pickle
from tests.malicious_archives import malicious_archives
from tests.malicious_pickles import blob, calls, legacy_stream, malicious_pickles
from tests.malicious_tensors import honest_network, lying_architectures, lying_tensors
from tests.opcodes import Lazy, Marker, inside
from tests.tiny import tiny_generator

HARMLESS = "_harmless"
FLIPS = 3
REBUILD, PERSISTENT = b"_rebuild_tensor_", b"_reconstruct_persistent_obj"
"""Names without which a file is no generator: a bit of them is flipped."""


def _nvidia(path: Path, **options: object) -> None:
    nvidia_pickle(path, *honest_network(), **options)  # type: ignore[arg-type]


REAL: dict[str, tuple[Callable[[Path], None], bytes]] = {
    "nvidia": (_nvidia, PERSISTENT),
    "nvidia_bare": (lambda path: _nvidia(path, whole=False, nested=True, protocol=3), PERSISTENT),
    "nvidia_protocol_2": (lambda path: _nvidia(path, protocol=2), PERSISTENT),
    "tensorflow": (lambda path: tensorflow_pickle(path, *honest_network()), b"dnnlib.tflib.network"),
    "rosinality": (lambda path: rosinality_pt(path, honest_network()[0]), REBUILD),
    "rosinality_stream": (lambda path: rosinality_pt(path, honest_network()[0], zip=False), REBUILD),
    "module": (lambda path: module_pt(path, *honest_network()), PERSISTENT),
    "module_stream": (lambda path: module_pt(path, *honest_network(), zip=False), PERSISTENT),
    "state_dict": (lambda path: state_dict_pt(path, honest_network()[0]), REBUILD),
    "state_dict_stream": (lambda path: state_dict_pt(path, honest_network()[0], zip=False), REBUILD),
    "safetensors": (lambda path: save_generator(tiny_generator(8, 4, 8), path), b'"data_offsets"'),
}
"""Writers of small honest files of every format, and a text in each without which it is none."""


@lru_cache
def real_file(name: str) -> bytes:
    """A small honest file of one format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        REAL[name][0](path)
        return path.read_bytes()


def flipped(name: str, seed: int) -> bytes:
    """An honest file, one bit of the text that it cannot do without flipped where it stands first."""
    data, needed = bytearray(real_file(name)), REAL[name][1]
    rng = random.Random(f"{name} {seed}")
    data[data.index(needed) + rng.randrange(len(needed))] ^= 1 << rng.randrange(8)
    return bytes(data)


def damaged() -> Lazy:
    """Honest files of every format, cut off or with a flipped bit."""
    found: Lazy = {}
    for name in REAL:
        for eighths in (1, 4, 7):
            found[f"{name}_cut_{eighths}_8"] = lambda n=name, e=eighths: real_file(n)[: len(real_file(n)) * e // 8]
        found[f"{name}_cut_last_byte"] = lambda n=name: real_file(n)[:-1]
        found[f"{name}_first_byte_gone"] = lambda n=name: real_file(n)[1:]
        for seed in range(FLIPS):
            found[f"{name}_bit_{seed}"] = lambda n=name, s=seed: flipped(n, s)
    return found


def hidden(m: Marker) -> Lazy:
    """Honest pickles that do something more before they end, and leave no trace in what they hold."""
    ops = calls(m)
    in_blob = blob(legacy_stream(ops["os_system"]))
    found: Lazy = {}
    for name in ("nvidia_bare", "nvidia_protocol_2"):
        for call in (
            "os_system",
            "eval",
            "timeit",
            "partial",
            "torch_load",
            "getattr_chain",
            "persistence_hook",
        ):
            found[f"{name}_hiding_{call}"] = lambda n=name, c=call: inside(real_file(n), ops[c])
        found[f"{name}_hiding_blob"] = lambda n=name: inside(real_file(n), in_blob)
    return found


def builders(marker: Path) -> Lazy:
    """Every file by name, not yet built; their payloads make `marker`."""
    m = Marker(marker)
    families = (malicious_pickles(m), lying_tensors(m), lying_architectures(m), malicious_archives(m), damaged())
    found: Lazy = {}
    for family in (*families, hidden(m)):
        assert found.keys().isdisjoint(family), found.keys() & family.keys()
        found |= family
    return found


def names() -> list[str]:
    """The names of all files."""
    return list(builders(Path("marker")))


def corpus(marker: Path) -> dict[str, bytes]:
    """Every file by name; whatever runs one of them, or believes it, makes `marker`, hangs, or fills the memory."""
    return {name: build() for name, build in builders(marker).items()}
