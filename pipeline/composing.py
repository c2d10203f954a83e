"""From overrides on a command line to checked dataclasses: everything here that knows Hydra and OmegaConf.

Both are imported inside the functions, so that the dataclasses can be built from plain Python without either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from data.errors import UsageError
from pipeline.errors import one_line
from pipeline.validation import build, check_mapping, did_you_mean, known_keys, unknown_key

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

T = TypeVar("T")

LAUNCHER_GROUP = "hydra/launcher"
LAUNCHER_PACKAGES = {
    "joblib": "hydra-joblib-launcher==1.2.0",
    "submitit_local": "hydra-submitit-launcher==1.2.0",
    "submitit_slurm": "hydra-submitit-launcher==1.2.0",
}
"""Launchers of sweeps that work with the Hydra which photodrag asks for."""


@dataclass(frozen=True, slots=True)
class Source(Generic[T]):
    """A file of `conf/` with the dataclass of its types and ranges; `listing` is where a person finds its settings.

    `groups`: the folders of `conf/` choose parts of it. `sweeps`: its command line runs several values after `-m`.
    """

    name: str
    cls: type[T]
    listing: str
    groups: bool
    sweeps: bool


def compose_tree(source: Source[T], overrides: Sequence[str]) -> DictConfig:
    """The file's config with overrides in Hydra's grammar, unresolved and without Hydra's own part.

    Raises UsageError for an override that cannot be read, or that names no setting, group or choice.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    with hydra.initialize_config_module("conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for override in parse_overrides(overrides, loader):
            _check_override(override, loader, source)
        try:
            return hydra.compose(source.name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(f"{' '.join(overrides)} cannot be applied: {one_line(error)}") from error


def load_tree(source: Source[T], cfg: DictConfig | Mapping[str, Any]) -> T:
    """Resolve a composed config, check names, types and ranges, and lay it over the defaults as plain dataclasses.

    Raises UsageError: one sentence that names the key, its value and what is allowed.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg))
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{error.full_key or 'the config'} cannot be read: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    values = {str(key): value for key, value in plain.items()}
    check_mapping(source.cls, values)
    return build(source.cls, values)


def parse_overrides(overrides: Sequence[str], loader: ConfigLoader | None = None) -> list[Override]:
    """Overrides read by Hydra's grammar; raises UsageError for one that it cannot read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HydraException as error:
            raise UsageError(
                f"{text} cannot be read: allowed is key=value, with lists as [a,b] and text that holds "
                "any of ,=:()[]{} in quotes, as in \"key='a, b'\""
            ) from error
    return parsed


def _check_launcher(name: str, installed: Sequence[str]) -> None:
    """Raise UsageError for a launcher of sweeps that is not installed; it names the package that brings it."""
    if name not in installed:
        package = LAUNCHER_PACKAGES.get(name)
        mend = (
            f": pip install '{package}' brings it" if package else did_you_mean(name, [*installed, *LAUNCHER_PACKAGES])
        )
        raise UsageError(f"{LAUNCHER_GROUP} is {name}, but only {', '.join(installed)} is installed{mend}")


def _check_override(override: Override, loader: ConfigLoader, source: Source[T]) -> None:
    """Raise UsageError unless an override names a setting, or a group and one of its choices, with a single value."""
    from hydra.core.object_type import ObjectType

    key = override.key_or_group
    if key == LAUNCHER_GROUP:
        _check_launcher(str(override.value()), loader.get_group_options(key, ObjectType.CONFIG))
    if override.is_hydra_override() or key == "hydra":
        return
    if override.is_sweep_override():
        instead = ", or -m before it to run them all" if source.sweeps else ""
        raise UsageError(f"{override.input_line} gives several values: allowed is one{instead}")
    groups = [name for name in loader.list_groups("") if name != "hydra"] if source.groups else []
    if key not in groups or override.package:
        key += f"@{override.package}" if override.package else ""
        known = known_keys(source.cls)
        if key not in known:
            raise unknown_key(key, known + groups, source.listing)
        return
    options = loader.get_group_options(key, ObjectType.CONFIG)
    choice = override.value()
    if not override.is_delete() and choice not in options:
        shown = "null" if choice is None else choice
        raise UsageError(f"{key} is {shown}: allowed are {', '.join(options)}{did_you_mean(str(choice), options)}")
