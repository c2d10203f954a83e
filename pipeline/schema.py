"""The typed configuration of a run: every knob, its default and its range live here, once.

The YAML files under `conf/` show the same knobs with a comment each; a test keeps both equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

from data.errors import UsageError
from pipeline.batch_config import BatchConfig, ExecutorConfig
from pipeline.composing import Source, compose_tree, load_tree
from pipeline.composing import parse_overrides as parse_overrides
from pipeline.edit_config import DIRECTION_LAYERS as DIRECTION_LAYERS
from pipeline.edit_config import PRESETS as PRESETS
from pipeline.edit_config import EditConfig as EditConfig
from pipeline.edit_config import is_table
from pipeline.quoting import PATH_WORDS
from pipeline.validation import check_fields, did_you_mean, knob

if TYPE_CHECKING:
    from omegaconf import DictConfig

CHAIN = ("align", "invert", "tune", "edit", "blend")
"""The stages that a photograph passes, in order."""

STAGES = (*CHAIN, "sample")
"""Every stage; `sample` starts from a random latent instead of a photo."""

COUNTING_MASKS = PATH_WORDS["invert.mask"]
"""The words of `invert.mask`; anything else there is the path of a picture."""

GENERATORS = tuple(
    sorted(
        file.name.removesuffix(".yaml")
        for file in resources.files("conf").joinpath("generator").iterdir()
        if file.name.endswith(".yaml")
    )
)
"""embedded, file, and the generators of the model zoo: each has a file in `conf/generator/`."""


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    """Which generator draws: the embedded one, one of the model zoo, or the file at `path`, which wins when given."""

    KEY: ClassVar[str] = "generator"
    name: str = knob("embedded", choices=GENERATORS)
    path: str | None = knob(None, path=True)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        if self.name == "file" and self.path is None:
            raise UsageError("generator.name is file but generator.path is null: give generator.path=MODEL.safetensors")


@dataclass(frozen=True, slots=True)
class AlignConfig:
    """How the square crop is taken from the photo; `quad` holds four corners (x, y) in photo pixels."""

    KEY: ClassVar[str] = "align"
    method: str = knob("ffhq", choices=("ffhq", "precropped", "center", "quad"))
    face: str = "largest"
    upsample_max: int = knob(2, 0, 4)
    quad: list[list[float]] | None = None

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        if self.face not in ("largest", "all") and not (self.face.isascii() and self.face.isdigit()):
            raise UsageError(f"align.face is {self.face}: allowed are largest, all or an index (0 is the largest face)")
        if self.quad is not None and not is_table(self.quad, rows=4, columns=2):
            raise UsageError(
                f"align.quad is {self.quad}: allowed are four corners (top left, bottom left, bottom right, top right) "
                "in photo pixels, as in 'align.quad=[[90,80],[90,380],[390,380],[390,80]]'"
            )
        if self.method == "quad" and self.quad is None:
            raise UsageError(
                "align.method is quad but align.quad is null: give four corners in photo pixels, "
                "as in 'align.quad=[[90,80],[90,380],[390,380],[390,80]]'"
            )


@dataclass(frozen=True, slots=True)
class InvertWeights:
    """Weights of the inversion's loss terms; 0 switches a term off."""

    KEY: ClassVar[str] = "invert.weights"
    perceptual: float = knob(1.0, 0)
    pixel: float = knob(10.0, 0)
    color: float = knob(1.0, 0)
    identity: float = knob(0.0, 0)
    noise: float = knob(1e5, 0)
    p_norm: float = knob(0.02, 0)
    delta: float = knob(0.0, 0)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        _check_weights(self)


@dataclass(frozen=True, slots=True)
class InvertConfig:
    """Optimisation of the latent until the generator draws the crop.

    `mask` (where the crop counts: a word of `COUNTING_MASKS`, or a PNG in photo pixels, white counts) and `focus` (how
    much more eyes and mouth count) concern the tuning too. `batch`: faces that are inverted side by side.
    """

    KEY: ClassVar[str] = "invert"
    space: str = knob("w_plus", choices=("w_plus", "w"))
    steps: int = knob(250, 1, 10000)
    lr: float = knob(0.05, above=0, high=1)
    lr_rampup: float = knob(0.05, 0, 1)
    lr_rampdown: float = knob(0.25, 0, 1)
    latent_noise: float = knob(0.0, 0, 1)
    latent_noise_until: float = knob(0.75, 0, 1)
    start: str = knob("samples", choices=("auto", "mean", "samples"))
    start_samples: int = knob(100, 0, 100000)
    w_stats_samples: int = knob(10000, 2, 1000000)
    optimize_noise: bool = True
    target_loss: float = knob(0.0, 0)
    patience: int = knob(0, 0, 10000)
    compare_px: int = knob(0, 0, 4096)
    coarse_until: float = knob(0.3, 0, 1)
    checkpoint_every: int = knob(50, 1, 10000)
    mask: str = "none"
    focus: float = knob(1.0, 1, 100)
    frame_every: int = knob(0, 0, 10000)
    batch: int = knob(1, 1, 64)
    weights: InvertWeights = field(default_factory=InvertWeights)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        if not self.mask.strip():
            raise UsageError(
                f"invert.mask is empty: allowed are {', '.join(COUNTING_MASKS)}, or a PNG in photo pixels, white counts"
            )

    @property
    def mask_path(self) -> str | None:
        """The PNG that `mask` names; None when it is one of the words."""
        return None if self.mask in COUNTING_MASKS else self.mask


@dataclass(frozen=True, slots=True)
class TuneWeights:
    """Weights of the tuning's loss terms; 0 switches a term off."""

    KEY: ClassVar[str] = "tune.weights"
    perceptual: float = knob(1.0, 0)
    pixel: float = knob(20.0, 0)
    color: float = knob(1.0, 0)
    identity: float = knob(0.0, 0)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        _check_weights(self)


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """Pivotal tuning: the generator's weights are fitted around the inverted latent; 0 steps leave them alone.

    `shared`: one change of the weights for all faces of the call.
    """

    KEY: ClassVar[str] = "tune"
    steps: int = knob(150, 0, 10000)
    rank: int = knob(16, 0, 512)
    lr: float = knob(5e-4, above=0, high=1)
    lr_rampup: float = knob(0.1, 0, 1)
    lr_rampdown: float = knob(0.25, 0, 1)
    target_loss: float = knob(0.0, 0)
    compare_px: int = knob(0, 0, 4096)
    checkpoint_every: int = knob(50, 1, 10000)
    locality_weight: float = knob(0.0, 0)
    locality_alpha: float = knob(30.0, above=0)
    locality_every: int = knob(4, 1, 10000)
    shared: bool = False
    weights: TuneWeights = field(default_factory=TuneWeights)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)


@dataclass(frozen=True, slots=True)
class BlendConfig:
    """How the change is carried back into the photo (`editing.blend`); `feather` is a fraction of the crop's side.

    `stitch`: steps of stitching tuning before (`editing.stitch`), 0 for none.
    """

    KEY: ClassVar[str] = "blend"
    method: str = knob("flow", choices=("flow", "difference", "laplacian", "poisson", "crop"))
    rest: str = knob("auto", choices=("auto", "new", "all"))
    tint: float = knob(0.0, 0, 1)
    feather: float = knob(0.04, 0, 0.5)
    threshold: float = knob(0.02, 0, 2)
    stitch: int = knob(0, 0, 10000)
    mask: str | None = knob(None, path=True)
    format: str = knob("keep", choices=("keep", "jpeg", "png", "tiff", "webp"))
    quality: int = knob(95, 1, 100)
    label: str | None = None
    label_corner: str = knob("bottom right", choices=("top left", "top right", "bottom left", "bottom right"))
    c2pa_certificates: str | None = knob(None, path=True)
    c2pa_key: str | None = knob(None, path=True)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)


@dataclass(frozen=True, slots=True)
class PerceptualConfig:
    """The perceptual distance; `backbone_dir` null means the model cache, and then torch hub's."""

    KEY: ClassVar[str] = "perceptual"
    name: str = knob("auto", choices=("auto", "face", "lpips_vgg", "lpips_alex", "lpips_squeeze"))
    backbone_dir: str | None = knob(None, path=True)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)


@dataclass(frozen=True, slots=True)
class SampleConfig:
    """The generated image that `stages=[sample,edit]` starts from; `psi` is the truncation."""

    KEY: ClassVar[str] = "sample"
    seed: int = knob(0, 0, 2**32 - 1)
    psi: float = knob(0.7, 0, 2)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)


@dataclass(frozen=True, slots=True)
class MeasureConfig:
    """What is measured of a reconstruction, beyond its PSNR and face distance; it changes nothing that is computed."""

    KEY: ClassVar[str] = "measure"
    metrics: bool = True
    editability: list[str] = knob([])

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        for name in self.editability:
            if name not in PRESETS:
                raise UsageError(
                    f"measure.editability holds {name}: allowed are {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}"
                )


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides what a run computes and where it writes; paths are as the user gave them.

    `out` holds the run folders; `save` is where the finished photo leaves them for: null, `beside`, a folder or a file.
    """

    KEY: ClassVar[str] = ""
    photo: str | None = knob(None, path=True)
    stages: list[str] = knob(list(CHAIN))
    from_run: str | None = knob(None, path=True)
    out: str = knob("photodrag_runs", path=True)
    save: str | None = knob(None, path=True)
    on_exists: str = knob("suffix", choices=("suffix", "skip", "overwrite"))
    seed: int = knob(0, 0, 2**32 - 1)
    device: str = knob("auto", choices=("auto", "cpu", "cuda"))
    speed: str = knob("auto", choices=("auto", "exact", "fast"))
    threads: int = knob(0, 0, 1024)
    progress: bool = True
    resume: bool = True
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    invert: InvertConfig = field(default_factory=InvertConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    edit: EditConfig = field(default_factory=EditConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        _check_stages(self.stages)


@dataclass(frozen=True, slots=True)
class JobInfo:
    """Which job of a sweep a run is: `sweep` is the sweep's time stamp (a folder name), `number` counts from 0.

    side_by_side: other jobs of the sweep may run at the same time in processes of their own, and this one waits for its
    turn in a run folder that they share instead of failing.
    """

    sweep: str
    number: int
    overrides: tuple[str, ...] = ()
    side_by_side: bool = False


def check_runnable(config: RunConfig) -> None:
    """Raise UsageError when settings that are each valid together leave a stage without its input."""
    first = config.stages[0]
    if first == "align" and config.photo is None and config.from_run is None:
        raise UsageError("photo is null: write photodrag PHOTO, photodrag demo, or from=RUN to continue an earlier run")
    if first in CHAIN[1:] and config.from_run is None:
        raise UsageError(
            f"stages begins with {first} but from is null: give from=RUN, the folder of an earlier run, "
            "or begin with align"
        )
    if "edit" in config.stages and not config.edit.asks and config.edit.replay is None:
        raise UsageError(
            "edit.points is empty and edit.preset is null: give 'edit.points=[[x,y,x2,y2]]' in photo pixels, or "
            "edit=smile, edit.like=PHOTO, edit.direction=pca:0 or edit.replay=RUN, or leave the edit out with "
            "stages=[align,invert,tune]"
        )
    if config.save is not None and config.stages[-1] != "blend":
        raise UsageError(
            f"save is {config.save} and stages ends with {config.stages[-1]}: only a run that ends with blend has "
            "a photo to save; leave out save"
        )


def missing_mask(path: str) -> UsageError:
    """The sentence for an `invert.mask` that is neither a word nor a file."""
    return UsageError(
        f"invert.mask is {path}, which does not exist: allowed are {', '.join(COUNTING_MASKS)} or the path of a PNG in "
        f"photo pixels{did_you_mean(path, COUNTING_MASKS)}"
    )


def _check_weights(weights: InvertWeights | TuneWeights) -> None:
    if weights.perceptual + weights.pixel + weights.color == 0:
        key = weights.KEY
        raise UsageError(
            f"{key}.perceptual, {key}.pixel and {key}.color are 0: allowed is at least one above 0, "
            "or nothing pulls towards the photo"
        )


def _check_stages(stages: Sequence[str]) -> None:
    for name in stages:
        if name not in STAGES:
            raise UsageError(f"stages holds {name}: allowed are {', '.join(STAGES)}{did_you_mean(name, STAGES)}")
    parts = {CHAIN[i:j] for i in range(len(CHAIN)) for j in range(i + 1, len(CHAIN) + 1)}
    if tuple(stages) not in parts | {("sample",), ("sample", "edit")}:
        raise UsageError(
            f"stages is [{','.join(stages)}]: allowed are an unbroken part of [{','.join(CHAIN)}], "
            "[sample] and [sample,edit]"
        )


SOURCE = Source("config", RunConfig, listing="photodrag --cfg job", groups=True, sweeps=True)
"""`conf/config.yaml`, its groups and its types."""


def load(cfg: DictConfig | Mapping[str, Any]) -> RunConfig:
    """The checked dataclasses of a composed config; UsageError names the key, its value and what is allowed."""
    return load_tree(SOURCE, cfg)


def compose_raw(overrides: Sequence[str]) -> DictConfig:
    """The config of `conf/` with overrides in Hydra's grammar, unresolved and without Hydra's own part.

    Raises UsageError for an override that cannot be read, or that names no setting, group or choice.
    """
    return compose_tree(SOURCE, overrides)


def compose(overrides: Sequence[str]) -> RunConfig:
    """The checked config that overrides in Hydra's grammar give, as in compose(["edit=smile", "invert.steps=20"])."""
    return load(compose_raw(overrides))
