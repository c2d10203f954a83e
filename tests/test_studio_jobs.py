"""Turns and jobs: one computes at a time, in order, and can be held, stepped and ended."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from pipeline.studio.jobs import EndedError, Job, Turns


class Steps:
    """Work of numbered steps that tells a test where it is."""

    def __init__(self, total: int) -> None:
        self.total, self.made = total, 0
        self.told = threading.Condition()
        self.ended: list[BaseException | None] = []
        self.changes = 0

    def __call__(self, job: Job) -> None:
        for _ in range(self.total):
            job.between_steps()
            if job.ending:
                raise EndedError
            with self.told:
                self.made += 1
                self.told.notify_all()

    def change(self) -> None:
        with self.told:
            self.changes += 1
            self.told.notify_all()

    def end(self, wrong: BaseException | None) -> None:
        with self.told:
            self.ended.append(wrong)
            self.told.notify_all()

    def wait(self, holds: Callable[[], bool]) -> None:
        with self.told:
            assert self.told.wait_for(holds, 30)


def job_of(steps: Steps, turns: Turns, paused: bool = False) -> Job:
    return Job(steps, turns, steps.change, steps.end, paused)


def test_a_job_makes_its_steps_and_says_that_it_has_ended() -> None:
    steps = Steps(5)
    job = job_of(steps, Turns())
    job.start()
    assert job.join(30)
    assert steps.made == 5 and steps.ended == [None]


def test_a_held_job_waits_steps_once_and_goes_on() -> None:
    steps = Steps(6)
    job = job_of(steps, Turns(), paused=True)
    job.start()
    steps.wait(lambda: steps.changes == 1)
    assert steps.made == 0 and job.paused
    job.step()
    steps.wait(lambda: steps.made == 1 and steps.changes >= 3)
    assert job.paused
    job.step()
    steps.wait(lambda: steps.made == 2)
    job.go()
    assert job.join(30)
    assert steps.made == 6


def test_a_held_job_can_be_ended() -> None:
    steps = Steps(6)
    job = job_of(steps, Turns(), paused=True)
    job.start()
    steps.wait(lambda: steps.changes == 1)
    job.end()
    assert job.join(30)
    assert steps.made == 0 and steps.ended == [None], "being ended is nothing that went wrong"


def test_while_one_is_held_others_compute() -> None:
    turns, first, second = Turns(), Steps(3), Steps(3)
    held, other = job_of(first, turns, paused=True), job_of(second, turns)
    held.start()
    first.wait(lambda: first.changes == 1)
    other.start()
    assert other.join(30) and second.made == 3
    held.end()
    assert held.join(30)


def test_two_jobs_take_turns_step_by_step() -> None:
    turns, order = Turns(), list[str]()
    begun = threading.Barrier(2)

    def work(name: str) -> Callable[[Job], None]:
        def steps(job: Job) -> None:
            turns.give_back(job)
            begun.wait(30)
            turns.take(job)
            while not order and not turns._waiting:
                threading.Event().wait(0.001)  # until the other waits for its turn
            for _ in range(20):
                order.append(name)
                job.between_steps()

        return steps

    jobs = [Job(work(name), turns, lambda: None, lambda _: None) for name in "ab"]
    for job in jobs:
        job.start()
    assert all(job.join(30) for job in jobs)
    changes = sum(first != second for first, second in itertools.pairwise(order))
    assert len(order) == 40 and changes > 15, order


def test_what_goes_wrong_is_told_and_the_turn_is_free() -> None:
    turns, told = Turns(), list[BaseException | None]()

    def wrong(_: Job) -> None:
        raise ValueError("no")

    job = Job(wrong, turns, lambda: None, told.append)
    job.start()
    assert job.join(30)
    assert isinstance(told[0], ValueError)
    with turns.turn():
        assert turns.before(object()) == 0


def test_a_job_that_waits_knows_how_many_come_before() -> None:
    turns, steps = Turns(), Steps(1)
    with turns.turn():
        job = job_of(steps, turns)
        job.start()
        while job.waiting == 0:  # until its thread has asked
            threading.Event().wait(0.001)
        assert job.waiting == 1
    assert job.join(30)
