"""A Ray cluster: joining one that runs, or starting one on this machine, quietly; and how its errors are told."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from data.errors import ClusterError, UsageError
from pipeline.errors import one_line
from pipeline.executors.protocol import BatchJob

ANSWER_S = 10.0
"""How long a cluster's address may take to answer."""
STORE_BYTES = 256 * 2**20
"""Object store of a cluster that is started here: with executor.photos=bytes one photo for each worker lies in it."""
MOST_SOCKET_FOLDER_LETTERS = 40
"""Ray's sockets lie in long paths below the temporary folder, and a socket's path may have 107 bytes."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # notices of dead workers and machines, pages long, which are dealt with here
}

_JOINING = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
_STARTING = {"RAY_worker_niceness": "0"}  # Ray's workers would give way to every other process, which ours do not


def import_ray(address: str | None = None) -> ModuleType:
    """The package ray with its reports to its makers switched off; UsageError when it is not installed.

    address: of the cluster that will be joined; Ray then asks there once (for some 40 s), and not 20 times.
    """
    for name, value in (_QUIET | (_STARTING if address is None else _JOINING)).items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UsageError(
            "executor=ray needs the package ray, which is not installed: pip install 'photodrag[ray]' brings it, or "
            "leave executor=ray out to use the processes of this machine"
        ) from error
    return ray


@contextlib.contextmanager
def joined(job: BatchJob) -> Iterator[ModuleType]:
    """Ray, connected to the cluster at `job.address`, or to one that ends with the block and has room for its workers.

    A process that is connected already stays so. Raises UsageError for an address that cannot be used, ClusterError
    when the cluster does not answer or has another version of Ray.
    """
    ray = import_ray(job.address)
    if ray.is_initialized():
        yield ray
        return
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if job.address is None:
            options |= {
                "address": "local",
                "num_cpus": job.workers * job.threads,
                "num_gpus": job.gpus,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
                "_temp_dir": stack.enter_context(session_folder()),
            }
        else:
            _check_answers(job.address)
            options["address"] = job.address
        with _kept_signals():
            _connect(ray, options)
        stack.callback(ray.shutdown)
        yield ray


def _connect(ray: ModuleType, options: dict[str, Any]) -> None:
    where = options["address"]
    try:
        ray.init(**options)
    except ValueError as error:
        raise UsageError(
            f"executor.address is {where}: allowed are auto, HOST:PORT, ray://HOST:PORT (which needs pip install "
            f"'ray[client]') and null ({one_line(error)})"
        ) from error
    except (ConnectionError, TimeoutError) as error:
        if where == "auto":
            raise ClusterError(
                "executor.address is auto, but no Ray cluster runs on this machine and RAY_ADDRESS names none: start "
                "one with `ray start --head`, or leave executor.address out to start one for this batch alone."
            ) from error
        raise ClusterError(f"What answers at executor.address={where} is no Ray cluster: {one_line(error)}") from error
    except (RuntimeError, ray.exceptions.RayError, OSError) as error:
        if where == "local":
            raise ClusterError(f"Ray cannot be started on this machine: {one_line(error)}") from error
        raise ClusterError(f"The Ray cluster at {where} cannot be joined: {one_line(error)}") from error


def _check_answers(address: str) -> None:
    """Raise unless something listens at the address: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(
            f"executor.address is {address}: allowed are auto, HOST:PORT (as `ray start --head` prints it), "
            "ray://HOST:PORT and null, which starts a cluster on this machine"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        reason = error.strerror or one_line(error) or type(error).__name__
        raise ClusterError(
            f"No Ray cluster answers at executor.address={address} ({reason}, {ANSWER_S:g} s waited at most): see that "
            "it runs (`ray status`) and that its port is open to this machine, or give the address that "
            "`ray start --head` prints."
        ) from error


@contextlib.contextmanager
def session_folder() -> Iterator[str]:
    """A folder for the files of a cluster that is started here, gone when the block ends."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > MOST_SOCKET_FOLDER_LETTERS and os.name == "posix":
        base = "/tmp"
    folder = tempfile.mkdtemp(prefix="pdray-", dir=base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _kept_signals() -> Iterator[None]:
    """Undo that Ray takes over the process's SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
