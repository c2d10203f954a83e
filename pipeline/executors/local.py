"""Worker processes on this machine: spawned, one GPU each where there are several, and gone when their parent is."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from data.errors import ModelError, PhotodragError, UsageError
from pipeline.executors.protocol import BatchJob, ItemOutcome, WorkItem, died
from pipeline.executors.waiting import Waiting

STOPPING_S = 20.0
"""How long a worker may take after Ctrl-C to end its step and store its checkpoint."""
_BROKEN = "broken"
_ERRORS: dict[str, type[PhotodragError]] = {"UsageError": UsageError, "ModelError": ModelError}


class LocalExecutor:
    """Sends each item to a process that is free; a process that dies is replaced, and its item tried again."""

    def run(self, job: BatchJob, items: Iterable[WorkItem]) -> Generator[ItemOutcome, None, None]:
        """As `Executor.run`."""
        with _crew(job) as crew:
            waiting = Waiting(items)
            while True:
                while waiting.more() and (free := crew.free()) is not None:
                    free.give(*waiting.next())
                busy = crew.busy()
                if not busy:
                    return
                waiting.more()  # hashes the next photo while the workers work
                for worker in _ready(busy):
                    outcome = worker.take()
                    if outcome is None:
                        item, attempts = crew.bury(worker)
                        if attempts <= job.retries:
                            waiting.again(item, attempts + 1)
                            continue
                        outcome = died(item, worker.end(), attempts, job.workers)
                    yield outcome


class _Process:
    """A worker process and the item that it has."""

    def __init__(self, job: BatchJob, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_work, args=(job, theirs), name=f"photodrag-worker-{number}", daemon=True
        )
        self.number = number
        self.task: tuple[WorkItem, int] | None = None
        with _environment(job, number), _interrupts_held():
            self._process.start()
        theirs.close()

    def give(self, item: WorkItem, attempt: int) -> None:
        """Send an item; a process that has died meanwhile is noticed when its outcome is taken."""
        self.task = item, attempt
        with contextlib.suppress(OSError):
            self._pipe.send(item)

    def waitables(self) -> list[Any]:
        """What becomes ready when an outcome is there, or the process has ended."""
        return [self._pipe, self._process.sentinel]

    def take(self) -> ItemOutcome | None:
        """The outcome of its item, None when the process died of it; PhotodragError when it could not begin at all."""
        assert self.task is not None
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            return None
        kind, content = message
        if kind == _BROKEN:
            name, text = content
            raise _ERRORS.get(name, PhotodragError)(text)
        outcome = replace(content, attempts=self.task[1])
        self.task = None
        return outcome

    def end(self) -> str:
        """How the process ended, in words."""
        self._process.join()
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def interrupt(self) -> None:
        """Ask for the end of the running step, or of the process where it has nothing to do."""
        with contextlib.suppress(OSError):
            self._pipe.close()
        if self.task is not None and self._process.pid is not None and self._process.is_alive():
            with contextlib.suppress(OSError):
                if sys.platform == "win32":
                    self._process.terminate()
                else:
                    os.kill(self._process.pid, signal.SIGINT)

    def finish(self, deadline: float) -> None:
        """Wait for its end, until `deadline` (monotonic seconds) at most, and then end it."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class _Crew:
    """The processes of one call."""

    def __init__(self, job: BatchJob) -> None:
        self._job = job
        self._processes: list[_Process] = []

    def free(self) -> _Process | None:
        """A process without an item, a new one while there may be more of them, else None."""
        idle = next((process for process in self._processes if process.task is None), None)
        if idle is not None or len(self._processes) >= self._job.workers:
            return idle
        used = {process.number for process in self._processes}
        process = _Process(self._job, next(n for n in range(self._job.workers) if n not in used))
        self._processes.append(process)
        return process

    def busy(self) -> list[_Process]:
        """Processes that have an item."""
        return [process for process in self._processes if process.task is not None]

    def bury(self, process: _Process) -> tuple[WorkItem, int]:
        """Forget a process that died; returns its item and which attempt at it that was."""
        self._processes.remove(process)
        process.end()
        assert process.task is not None
        return process.task

    def stop(self) -> None:
        """End every process: those with an item store their checkpoint first, unless Ctrl-C is pressed again."""
        deadline = time.monotonic() + STOPPING_S
        try:
            for process in self._processes:
                process.interrupt()
            for process in self._processes:
                process.finish(deadline)
        except KeyboardInterrupt:
            for process in self._processes:
                process.finish(0.0)
            raise


@contextlib.contextmanager
def _crew(job: BatchJob) -> Iterator[_Crew]:
    crew = _Crew(job)
    try:
        yield crew
    finally:
        crew.stop()


def _ready(busy: list[_Process]) -> list[_Process]:
    """The processes that have something to say, after waiting for the first of them."""
    by_waitable = {id(waitable): process for process in busy for waitable in process.waitables()}
    found = connection.wait([waitable for process in busy for waitable in process.waitables()])
    return list(dict.fromkeys(by_waitable[id(waitable)] for waitable in found))


@contextlib.contextmanager
def _environment(job: BatchJob, number: int) -> Iterator[None]:
    """What a process must find in its environment before torch loads: its share of the threads, and its GPU."""
    changes = {"OMP_NUM_THREADS": str(job.threads)}
    if job.gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(gpu) for gpu in range(job.gpus)]
        changes["CUDA_VISIBLE_DEVICES"] = names[number % len(names)]
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C back while a process is started, and in that process until it can deal with it."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(job: BatchJob, pipe: connection.Connection) -> None:
    """A worker process: items in, outcomes out, until the pipe closes, Ctrl-C, or the parent's end."""
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        _leave_terminal()
        threading.Thread(target=_end_with_parent, daemon=True).start()
        from tqdm import tqdm

        # Its own lock is a semaphore of the system, of which a killed process would leave a warning behind.
        tqdm.set_lock(threading.RLock())
        from pipeline.errors import sentence
        from pipeline.executors.worker import Worker

        try:
            worker = Worker(job, f"process {os.getpid()}")
        except Exception as error:  # noqa: BLE001  what keeps a worker from starting is told in the parent
            pipe.send((_BROKEN, (type(error).__name__, sentence(error))))
            return
        try:
            while True:
                pipe.send(("outcome", worker.run(pipe.recv())))
        except (KeyboardInterrupt, EOFError, OSError):
            worker.close()
            os._exit(0)  # taking torch down takes longer than the last photo may have taken


def _leave_terminal() -> None:
    """Ctrl-C reaches the parent alone, which passes it on once: two would end a step before its checkpoint."""
    if sys.platform != "win32":
        os.setpgrp()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end_with_parent() -> None:
    """End this process at once when its parent has died, whatever it is computing: stages and checkpoints are whole."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
