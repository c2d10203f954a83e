"""Files made to run code, hang or fill the memory: refused with a sentence, and nothing in them is ever run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from data.errors import ModelError
from inversion.generators.checkpoint import load_generator, open_checkpoint
from tests.malicious_files import HARMLESS, REAL, builders, corpus, names, real_file
from tests.malicious_pickles import blob, bombs, broken, calls, legacy_stream
from tests.malicious_tensors import honest
from tests.opcodes import Marker
from tests.watching import time_limit, watching

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = names()
FUZZ_EXAMPLES = 2000
FUZZ_MARKER = Path(tempfile.gettempdir()) / f"photodrag_marker_{os.getpid()}"
MOST_SECONDS = 60
MOST_BYTES = 1 << 30
LIVE = [
    *("call_os_system", "call_posix_system", "call_subprocess_check_output", "call_eval", "call_exec", "call_open"),
    *("call_getattr_chain", "call_runpy_run_code", "call_timeit", "call_partial", "call_methodcaller", "call_map"),
    *("call_attrgetter", "call_pickle_loads", "call_pathlib_touch", "call_dotted_from_torch", "call_torch_from_file"),
    *("call_torch_jit_exec", "call_torch_collect_env", "call_numpy_memmap", "inst", "obj", "text_protocol"),
    *("text_protocol_eval", "build_setstate", "append_as_call", "extend_as_call", "blob_with_call", "keys_with_call"),
    *("stream_with_call", "stream_magic_with_call", "zip_call"),
]
"""Files whose payload Python's own unpickler or `torch.load` runs today."""


def read_whole(path: Path) -> None:
    """Open a file and read every tensor in it; where the file states an architecture, build it too."""
    with open_checkpoint(path) as checkpoint:
        checkpoint.tensors()
    load_generator(path)


def faults(message: str, path: Path) -> list[str]:
    """What is wrong with a message for a person: it should be one short, printable sentence that names the file."""
    rest = re.sub(r"'[^']*'", "QUOTED", message.replace(str(path), "FILE"))
    found = {
        "does not name the file": path.name not in message,
        "is long": len(message) > 400,
        "is not printable": not message.isprintable(),
        "does not end": not message.endswith("."),
        "is several sentences": re.search(r"[.!?]\s+[A-Z]", rest) is not None,
    }
    return [fault for fault, present in found.items() if present]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where payloads write; the folder exists, so that nothing but a refusal keeps them from it."""
    return tmp_path / "marker"


@pytest.mark.parametrize("name", NAMES)
def test_file_is_refused(name: str, tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(builders(marker)[name]())
    refusal = None
    with time_limit(MOST_SECONDS):
        try:
            read_whole(path)
        except ModelError as error:
            refusal = str(error)
    assert not marker.exists()
    if refusal is not None:
        assert faults(refusal, path) == [], refusal
        return
    assert name.endswith(HARMLESS), "the file was read"
    state = load_generator(path)[0].state_dict()  # type: ignore[attr-defined]
    assert state.keys() == honest().keys()
    assert all(torch.equal(state[key], value) for key, value in honest().items())


@pytest.mark.parametrize("name", sorted(REAL))
def test_honest_files_of_the_corpus_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(real_file(name))
    state = load_generator(path)[0].state_dict()  # type: ignore[attr-defined]
    assert state.keys() == honest().keys()
    relative = 1e-3 if name == "safetensors" else 0.0  # ours holds 16-bit numbers
    unlike = [key for key, value in honest().items() if not torch.allclose(state[key], value, relative, atol=1e-6)]
    assert unlike == []


@pytest.mark.parametrize("container", ["zip", "stream", "nvidia"])
def test_lying_tensors_would_be_read_but_for_their_lie(container: str, tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(builders(marker)[f"{container}_tensors_honest_harmless"]())
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.tensors()
    assert torch.equal(found["synthesis.b4.const"], honest()["synthesis.b4.const"])


@pytest.mark.parametrize("name", LIVE)
def test_payloads_are_live(name: str, marker: Path) -> None:
    data = builders(marker)[name]()
    with contextlib.suppress(Exception):
        if name.startswith(("stream", "keys", "zip")):
            torch.load(io.BytesIO(data), weights_only=False)
        else:
            pickle.loads(data)
    assert marker.exists()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [make_pipe, make_folder, make_device, make_loop, lambda path: None])
def test_what_is_no_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    make(path)
    with time_limit(MOST_SECONDS), pytest.raises(ModelError) as refusal:
        open_checkpoint(path)
    assert faults(str(refusal.value), path) == [], refusal.value


def examine(folder: str) -> None:
    """Read every file in a folder with little more memory than it takes to begin; one JSON line for each.

    Runs in a process of its own (see `test_corpus_within_limits`).
    """
    torch.set_num_threads(1)
    for name in REAL:
        with contextlib.suppress(ModelError):
            read_whole(Path(folder).parent / "honest" / name)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for path in sorted(Path(folder).iterdir()):
        print(json.dumps({"begun": path.name}), flush=True)
        start, error, message = time.monotonic(), "", ""
        try:
            read_whole(path)
        except BaseException as raised:  # noqa: BLE001 # whatever comes out is the finding
            error, message = type(raised).__name__, str(raised)
        seconds = time.monotonic() - start
        print(json.dumps({"name": path.name, "error": error, "message": message, "seconds": seconds}), flush=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory limits of processes are Linux's")
def test_corpus_within_limits(tmp_path: Path, marker: Path) -> None:
    for folder, files in (("honest", {name: real_file(name) for name in REAL}), ("corpus", corpus(marker))):
        (tmp_path / folder).mkdir()
        for name, data in files.items():
            (tmp_path / folder / name).write_bytes(data)
    script = f"from tests.test_malicious import examine; examine({str(tmp_path / 'corpus')!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    results = {line["name"]: line for line in lines if "name" in line}
    assert sorted(results) == sorted(NAMES)
    expected = {name: "" if name.endswith(HARMLESS) else "ModelError" for name in NAMES}
    assert {n: r["error"] for n, r in results.items() if r["error"] not in (expected[n], "ModelError")} == {}
    assert {n: r["seconds"] for n, r in results.items() if r["seconds"] > MOST_SECONDS} == {}
    assert not marker.exists()


def opcode_pieces() -> list[bytes]:
    """Runs of opcodes to put into honest files."""
    m = Marker(FUZZ_MARKER)
    ops = calls(m)
    found = [ops[name] for name in ("os_system", "eval", "getattr_chain", "partial", "persistence_hook", "torch_load")]
    found += [bombs(m)[name]()[2:-1] for name in ("laughs_tuple", "laughs_key", "endless_list", "put_farthest")]
    found += [broken(m)[name]()[2:-1] for name in ("binbytes8_huge", "frame_huge", "unhashable_key", "pop_of_nothing")]
    return [*found, blob(legacy_stream(ops["os_system"])), b"(((", b"t", b"R", b"b", b"Q", b"\x92", b"."]


PIECES = opcode_pieces()
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["bit", "byte", "remove", "repeat", "piece", "move"]),
        st.integers(0, (1 << 20) - 1),
        st.integers(1, 64),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, kind: str, at: int, count: int, value: int) -> bytes:
    """One mutation of a file, at a place given as a fraction of its length in millionths or so."""
    at = at * len(data) >> 20
    if kind == "bit":
        return data[:at] + bytes([data[at] ^ 1 << value % 8]) + data[at + 1 :]
    if kind == "byte":
        return data[:at] + bytes([value]) + data[at + 1 :]
    if kind == "remove":
        return data[:at] + data[at + count :]
    if kind == "repeat":
        return data[: at + count] + data[at:]
    if kind == "piece":
        return data[:at] + PIECES[value % len(PIECES)] + data[at:]
    target = value * len(data) >> 8
    return data[:target] + data[at : at + count] + data[target:]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the files to mutate; each format has been read there, so that no module is still to be imported."""
    path = tmp_path_factory.mktemp("fuzz") / "network.pkl"
    for name in REAL:
        for data in (real_file(name), real_file(name)[:-1], real_file(name)[: len(real_file(name)) // 2]):
            path.write_bytes(data)
            with contextlib.suppress(ModelError):
                read_whole(path)
    return path


@pytest.mark.parametrize("name", sorted(REAL))
def test_mutated_files_are_read_or_refused(name: str, fuzzed: Path) -> None:
    @settings(
        max_examples=-(-FUZZ_EXAMPLES // len(REAL)),
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # edits are few already, and shrinking them takes minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(EDITS)
    def check(edits: list[tuple[str, int, int, int]]) -> None:
        data = real_file(name)
        for edit in edits:
            data = edited(data, *edit) or b"\0"
        fuzzed.write_bytes(data)
        with time_limit(MOST_SECONDS), watching(fuzzed) as seen:
            try:
                read_whole(fuzzed)
            except ModelError as error:
                refusal = str(error)
            else:
                refusal = None
        assert seen == []
        assert refusal is None or faults(refusal, fuzzed) == [], refusal

    check()
    assert not FUZZ_MARKER.exists()


def test_the_watch_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(b"x")
    (tmp_path / "never_imported_before.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with watching(path) as seen:
        path.read_bytes()
    assert seen == []
    with watching(path) as seen:
        os.system("true")
        pickle.loads(b"ccollections\nOrderedDict\n.")
        eval("1")
        (tmp_path / "other").write_bytes(b"x")
        __import__("never_imported_before")
    heard = [entry.split()[0] for entry in seen]
    assert {"os.system", "pickle.find_class", "exec", "open", "import"} <= set(heard)
    with pytest.raises(TimeoutError), time_limit(1):
        time.sleep(5)
