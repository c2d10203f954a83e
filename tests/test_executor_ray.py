"""A batch on a real Ray cluster: two nodes of this machine, of which workers and then a whole node are killed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from data.errors import ClusterError, ModelError, UsageError
from pipeline.batch_config import ExecutorConfig
from pipeline.cli import main
from pipeline.executors import actor, cluster
from pipeline.executors import ray as ray_executor
from pipeline.executors.protocol import AGAIN, DONE, BatchJob, WorkItem
from pipeline.executors.ray import RayExecutor
from pipeline.executors.table import executor_for
from tests.batches import batch_folder, short_batch, small_photos
from tests.runs import PHOTO, short_config

STORE_BYTES = 80 * 2**20
PHOTOS = 6
STAGES = 5


def shifted(by: int) -> Callable[[Any], Any]:
    return lambda picture: picture[:, by : by + 160]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    small_photos(folder, PHOTO, {f"p{number}.png": shifted(4 * number) for number in range(PHOTOS)})
    return folder


with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray has no wheel for this Python, or is not installed: pip install '.[test]'",
)


@pytest.fixture(scope="module", autouse=True)
def no_nicer_than_others() -> Iterator[None]:
    """Ray makes its workers give way to every other process, which on a busy machine is waiting without end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of a head and one more node, each with one processor."""
    cluster.import_ray("auto")
    from ray.cluster_utils import Cluster

    common = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    (Path(tempfile.gettempdir()) / "ray").mkdir(exist_ok=True)  # Ray notes the cluster there
    with cluster.session_folder() as folder:
        found = Cluster(initialize_head=True, head_node_args={**common, "temp_dir": folder})
        found.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        try:
            yield found
        finally:
            found.shutdown()


def ledger_items(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["line"] == "item"]


def computed(out: Path) -> dict[str, str]:
    """SHA-256 of every tensor and result of every stage by run folder, stage and key: what must be equal to the bit."""
    found = [path for kind in ("tensors.safetensors", "result.png", "edited.png") for path in out.rglob(f"*/*/{kind}")]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def working_pids() -> set[int]:
    """Actors of this process's cluster that have a photo: Ray writes the running method into a process's title."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "".join(process.info["cmdline"] or []).startswith("ray::ActorWorker.run"):
            found.add(process.info["pid"])
    return found


def wait_until(true: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What `true` gives once that is something; a test whose time has come fails."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


class Killer(threading.Thread):
    """Kills a worker that has a photo when one has ended, and a node's raylet when two more have.

    Meanwhile it notes every stage that is finished, by the file that says so: one that is computed again is a new file.
    """

    def __init__(self, out: Path, raylet: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.out, self.raylet = out, raylet
        self.killed: list[int] = []
        self.finished: dict[Path, set[int]] = {}
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            for path in self.out.glob("*/*/[!.]*/stage.json"):
                with contextlib.suppress(FileNotFoundError):
                    self.finished.setdefault(path, set()).add(path.stat().st_ino)
            ended = sum(len(ledger_items(path.parent)) for path in self.out.glob("batch_*/ledger.jsonl"))
            if not self.killed and ended >= 1:
                for pid in list(working_pids())[:1]:
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(pid)
            elif len(self.killed) == 1 and ended >= 3:
                self.raylet.kill()
                self.killed.append(self.raylet.pid)
            time.sleep(0.02)

    def end(self) -> None:
        """Stop looking."""
        self.over.set()
        self.join(10)


@pytest.fixture(scope="module")
def local_results(photos: Path, generator: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the local executor's processes compute."""
    out = tmp_path_factory.mktemp("local")
    assert main([*short_batch(photos, generator, out), "executor.workers=2"]) == 0
    return computed(out)


def job_of(generator: Path, out: Path, **changes: Any) -> BatchJob:
    """A job of few steps for the protocol itself."""
    config = short_config(generator, out, photo=None, stages=["align"])
    config = dataclasses.replace(config, align=dataclasses.replace(config.align, method="center"))
    return dataclasses.replace(BatchJob(dataclasses.asdict(config), "c" * 64, threads=1, workers=2), **changes)


def items_of(photos: Path, pulled: list[int]) -> Iterator[WorkItem]:
    for number, photo in enumerate(sorted(photos.iterdir())):
        pulled.append(number)
        found, sha256 = photo.stat(), hashlib.sha256(photo.read_bytes()).hexdigest()
        yield WorkItem(number, str(photo), photo.name, sha256, "c" * 64, found.st_size, found.st_mtime_ns)


@with_ray
def test_photos_travel_as_bytes_and_no_more_than_workers_can_take(
    nodes: Any, photos: Path, generator: Path, tmp_path: Path
) -> None:
    job = job_of(generator, tmp_path / "nowhere", address=nodes.address, workers=0, send_bytes=True)
    pulled: list[int] = []
    most_ahead, outcomes = 0, []

    def changing(items: Iterator[WorkItem]) -> Iterator[WorkItem]:
        for item in items:
            yield dataclasses.replace(item, sha256="0" * 64) if item.number == 3 else item

    with contextlib.closing(RayExecutor().run(job, changing(items_of(photos, pulled)))) as found:
        for outcome in found:
            outcomes.append(outcome)
            most_ahead = max(most_ahead, len(pulled) - len(outcomes))
    assert most_ahead <= 2 + 1
    assert [outcome.status for outcome in sorted(outcomes, key=lambda outcome: outcome.item.number)] == [
        AGAIN if number == 3 else DONE for number in range(PHOTOS)
    ]
    done = [outcome for outcome in outcomes if outcome.status == DONE]
    assert all(outcome.run is None and outcome.item.content is None for outcome in outcomes)
    assert all(json.loads(outcome.files["manifest.json"])["status"] == "done" for outcome in done)
    assert len({outcome.worker for outcome in done}) == 2
    assert not (tmp_path / "nowhere").exists()
    wait_until(lambda: not list(Path(tempfile.gettempdir()).glob(f"{actor.SCRATCH_PREFIX}*")))


@with_ray
def test_a_worker_of_another_version_or_with_other_models_ends_the_batch(
    nodes: Any, photos: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(generator, tmp_path / "out", address=nodes.address)
    monkeypatch.setattr(ray_executor, "__version__", "0.0.1")
    with pytest.raises(ClusterError, match=r"has photodrag .*, and this is 0\.0\.1: install the same"):
        list(RayExecutor().run(job, items_of(photos, [])))


@with_ray
def test_a_machine_without_photodrag_is_named(
    nodes: Any, photos: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actor's class comes from a module that only this process can import, as photodrag on a bare machine."""
    (tmp_path / "only_here.py").write_text("class ActorWorker:\n    def hello(self):\n        return '', ''\n")
    real = cluster.joined

    @contextlib.contextmanager
    def joined(job: BatchJob) -> Iterator[Any]:
        with real(job) as ray:
            monkeypatch.syspath_prepend(tmp_path)
            monkeypatch.setattr(ray_executor, "ActorWorker", importlib.import_module("only_here").ActorWorker)
            yield ray

    monkeypatch.setattr(ray_executor, "joined", joined)
    with pytest.raises(ClusterError, match=r"has no only_here: install the same photodrag"):
        list(RayExecutor().run(job_of(generator, tmp_path / "out", address=nodes.address), items_of(photos, [])))


@with_ray
def test_more_threads_than_any_machine_has_are_refused(nodes: Any, generator: Path, tmp_path: Path) -> None:
    job = job_of(generator, tmp_path / "out", address=nodes.address, threads=3, workers=0)
    with pytest.raises(
        ClusterError,
        match=r"No machine of the Ray cluster has room for a worker of 3 threads: the largest has 1 processors?;",
    ):
        list(RayExecutor().run(job, iter([])))
    job = dataclasses.replace(job, workers=1)
    with pytest.raises(ClusterError, match=r"No worker has started on the Ray cluster in 0\.1 s"):
        list(RayExecutor(start_wait_s=0.1).run(job, items_of(PHOTO.parent, [])))


@with_ray
def test_killed_workers_and_a_lost_node_lose_nothing_and_repeat_nothing(
    nodes: Any, photos: Path, generator: Path, tmp_path: Path, local_results: dict[str, str],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    call = [*short_batch(photos, generator, out), "executor=ray", f"executor.address={nodes.address}"]
    call.remove("executor.workers=1")
    raylet = next(node for node in nodes.worker_nodes).all_processes["raylet"][0].process
    killer = Killer(out, psutil.Process(raylet.pid))
    killer.start()
    assert main(call) == 0
    killer.end()
    assert len(killer.killed) == 2

    entries = ledger_items(batch_folder(out))
    assert sorted(entry["photo"] for entry in entries) == [f"p{number}.png" for number in range(PHOTOS)]
    assert all(entry["status"] == "done" for entry in entries)
    # Two deaths: the worker had a photo, and so may the node have had.
    assert PHOTOS + 1 <= sum(entry["attempts"] for entry in entries) <= PHOTOS + 2
    assert len(killer.finished) == PHOTOS * STAGES
    assert all(len(files) == 1 for files in killer.finished.values())
    assert computed(out) == local_results
    assert not list(out.rglob("*.partial"))
    assert "raylet" not in "".join(capfd.readouterr())

    assert main(call) == 0
    assert ledger_items(batch_folder(out)) == entries


@with_ray
def test_ctrl_c_ends_a_cluster_of_its_own_and_the_same_command_goes_on(
    photos: Path, generator: Path, tmp_path: Path, local_results: dict[str, str]
) -> None:
    out, few = tmp_path / "out", tmp_path / "few"
    few.mkdir()
    for number in range(3):
        shutil.copy(photos / f"p{number}.png", few)
    call = [*short_batch(few, generator, out), "executor=ray"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *call], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("[1/"):
            below = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the foreground
    assert process.wait(60) == 130, "".join(lines)
    assert "the same command continues" in lines[-1]
    assert not psutil.wait_procs(below, timeout=20)[1]
    assert not list(tmp_path.glob("pdray-*"))
    before = ledger_items(batch_folder(out))
    assert 1 <= len(before) < 3
    assert main([word for word in call if word != "executor=ray"]) == 0
    assert ledger_items(batch_folder(out))[: len(before)] == before
    assert len(ledger_items(batch_folder(out))) == 3
    made = computed(out)
    assert len(made) == len(local_results) * 3 // PHOTOS
    assert made.items() <= local_results.items()


def test_without_ray_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"executor=ray needs the package ray.*pip install 'photodrag\[ray\]'"):
        executor_for(ExecutorConfig(name="ray"))


@with_ray
@pytest.mark.parametrize("address", ["somewhere", "host:port", "10.0.0.1:0", ":6379", "ray://host", "host:70000"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"executor.address is .*: allowed are auto, HOST:PORT"):
        list(RayExecutor().run(BatchJob({}, "c", 1, 1, address=address), iter([])))


@with_ray
def test_an_address_where_nothing_answers_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"No Ray cluster answers at executor.address={address} "):
            list(RayExecutor().run(BatchJob({}, "c", 1, 1, address=address), iter([])))


def test_workers_with_different_models_are_told_apart() -> None:
    crew = object.__new__(ray_executor._Crew)
    crew._first = None
    crew._check_models(actor.Started("a, process 1", "g" * 64, "face"))
    crew._check_models(actor.Started("b, process 2", "g" * 64, "face"))
    with pytest.raises(ModelError, match=r"the perceptual distance is face at a, process 1, and lpips_vgg at c"):
        crew._check_models(actor.Started("c, process 3", "g" * 64, "lpips_vgg"))
    with pytest.raises(ModelError, match=r"A worker \(d\) cannot start: The file is damaged\."):
        crew._check_models(actor.Started("d", error="The file is damaged."))


def test_workers_that_die_at_their_start_end_the_batch() -> None:
    crew = object.__new__(ray_executor._Crew)
    crew._ray, crew._failed_starts, crew._actors = SimpleNamespace(kill=lambda _: None), 0, []
    dead = [SimpleNamespace(task=None, handle=None) for _ in range(ray_executor.MOST_FAILED_STARTS)]
    crew._actors = list(dead)
    for one in dead[:-1]:
        assert crew._bury(one, RuntimeError("gone")) is None
    with pytest.raises(ClusterError, match="5 workers in a row died while they started"):
        crew._bury(dead[-1], RuntimeError("gone"))


def test_scratch_of_killed_workers_is_removed_and_that_of_living_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = tmp_path / f"{actor.SCRATCH_PREFIX}dead"
    (dead / "runs").mkdir(parents=True)
    (dead / actor.SCRATCH_LOCK).write_text("{}")
    with actor.own_scratch() as first, actor.own_scratch() as second:
        assert sorted(tmp_path.iterdir()) == sorted([first, second])
    assert list(tmp_path.iterdir()) == []
