"""What is the same for every photo of a batch: its recipe's hash, what each worker gets, how the machine is shared.

Imports torch with `pipeline.models`: only what is checked before a batch begins must come without it.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.errors import UsageError
from data.files import file_sha256
from pipeline import __version__
from pipeline.artifacts import plain, stage_key
from pipeline.batch_config import BatchConfig, ExecutorConfig
from pipeline.edits import EDITS, read_edits
from pipeline.executors.protocol import BatchJob
from pipeline.models import generator_path, pick_device
from pipeline.quoting import PATH_KEYS, PATH_WORDS
from pipeline.recipe import HERE_ONLY
from pipeline.run import perceptual_of
from pipeline.schema import RunConfig

WORKER_BYTES = 2 << 30
"""Memory that one worker is thought to take: the sample photo's run takes 1.3 GB, larger photos and generators more."""


def recipe_hash(config: RunConfig) -> str:
    """The hash of everything that decides a result beside the photo: settings, the files that they name, the version.

    Raises ModelError for a model that is missing, UsageError for another file that is.
    """
    plain_config = plain(dataclasses.asdict(config))
    for name in (*HERE_ONLY, "threads"):
        plain_config.pop(name)
    edit, blend = config.edit, config.blend
    named = {
        "invert.mask": config.invert.mask_path,
        "edit.mask": edit.mask,
        "edit.like": edit.like,
        "edit.replay": edit.replay
        and (os.path.join(edit.replay, EDITS) if os.path.isdir(edit.replay) else edit.replay),
        "blend.mask": blend.mask,
        "blend.c2pa_certificates": blend.c2pa_certificates,
        "blend.c2pa_key": blend.c2pa_key,
    }
    poses = [told["like"] for told in read_edits(edit) if told.get("like") is not None]
    for key in PATH_KEYS:
        _replace(plain_config, key, None)
    perceptual = perceptual_of(config)
    parts = {
        "version": __version__,
        "config": plain_config,
        "files": {key: _sha256(Path(path)) for key, path in named.items() if path},
        "poses": [_sha256(Path(pose)) for pose in poses],
        "generator": _sha256(generator_path(config.generator)),
        "perceptual": None if perceptual is None else perceptual.name,
    }
    return stage_key(parts)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"The setting's file {path} cannot be read ({reason}): give one that you may open") from error


def _replace(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a path setting of a nested config, unless it is null or a word there, or no setting of this config."""
    group, _, name = key.rpartition(".")
    owner = config.get(group) if group else config
    if isinstance(owner, dict) and owner.get(name) is not None and owner[name] not in PATH_WORDS.get(key, ()):
        owner[name] = value(owner[name]) if callable(value) else value


def job_of(config: RunConfig, config_hash: str, debug: bool) -> BatchJob:
    """What every worker gets; paths in it are absolute, since a worker of a cluster has another current folder."""
    from torch import cuda

    executor = config.executor
    told = replace(config, photo=None, save=None, executor=ExecutorConfig(), batch=BatchConfig())
    values = dataclasses.asdict(told)
    for key in PATH_KEYS:
        _replace(values, key, os.path.abspath)
    gpus = cuda.device_count() if pick_device(config.device).type == "cuda" else 0
    if executor.name == "ray" and executor.address is not None:  # the machines of the cluster decide, not this one
        workers, threads = executor.workers, config.threads or 1
    else:
        workers, threads = share_out(executor.workers, config.threads, cores(), memory_bytes(), gpus)
    sends = executor.name != "local" and executor.photos == "bytes"
    return BatchJob(
        values, config_hash, threads, workers, gpus, executor.retries, debug, executor.address, send_bytes=sends,
        keep_all=config.batch.keep == "all",
    )  # fmt: skip


def share_out(workers: int, threads: int, cores: int, memory: int, gpus: int) -> tuple[int, int]:
    """(workers, threads of each) for what was asked, 0 where nothing was.

    A worker for each GPU where there are several, one where there is one; else as many as the cores and the memory
    allow. It depends on the machine and not on what runs there now, so that the same call computes the same bits.
    """
    if not workers:
        fit = max(1, memory // WORKER_BYTES) if memory else cores
        workers = gpus or max(1, min(cores // max(1, threads), fit))
    return workers, threads or max(1, cores // workers)


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """The memory of this machine, 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
