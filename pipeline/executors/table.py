"""Which executor a name means."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.batch_config import ExecutorConfig
from pipeline.executors.protocol import Executor


def _local(_config: ExecutorConfig) -> Executor:
    from pipeline.executors.local import LocalExecutor

    return LocalExecutor()


def _ray(config: ExecutorConfig) -> Executor:
    from pipeline.executors.cluster import import_ray
    from pipeline.executors.ray import RayExecutor

    import_ray(config.address)
    return RayExecutor()


EXECUTORS: Mapping[str, Callable[[ExecutorConfig], Executor]] = {"local": _local, "ray": _ray}
"""Factories by `executor.name`; each imports what it needs only when it is called."""


def executor_for(config: ExecutorConfig) -> Executor:
    """The executor that the settings name."""
    return EXECUTORS[config.name](config)
