"""The settings of a run: one frozen tree, saying everything, with JSON at its edges.

The tree goes whole to the workers, into every checkpoint, onto the MLflow run and into the
registered model. A field's docstring is its documentation: the command line prints it.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from bt_ray.errors import SettingsError

T = TypeVar("T")

SETTINGS_FILE = "settings.json"
"""Name of the settings' file, in a run's folder and in every checkpoint."""

Encoder = Literal["conv4", "conv6", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
Transformation = Literal["crop", "flip", "jitter", "grayscale", "blur", "solarize"]
WITHOUT: Mapping[Transformation, Mapping[str, Any]] = {
    "crop": {"crop_area": (1.0, 1.0)},
    "flip": {"flip_probability": 0.0},
    "jitter": {"jitter_probability": 0.0},
    "grayscale": {"grayscale_probability": 0.0},
    "blur": {"blur_probability": (0.0, 0.0)},
    "solarize": {"solarize_probability": (0.0, 0.0)},
}
"""What of the views' settings leaves a transformation out."""
Variant = Literal[
    "barlow_twins",
    "invariance_only",
    "redundancy_only",
    "feature_normalization",
    "cross_covariance",
    "cross_entropy",
    "auto_correlation",
]


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise SettingsError(sentence)


def _require_positive(section: str, owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        _require(
            math.isfinite(value) and value > 0,
            f"{section}.{name}={value} must be a finite number above 0.",
        )


def _require_probability(section: str, owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        values = value if isinstance(value, tuple) else (value,)
        _require(
            all(0 <= v <= 1 for v in values),
            f"{section}.{name}={value} must lie between 0 and 1.",
        )


def _require_range(section: str, owner: object, *names: str) -> None:
    for name in names:
        low, high = getattr(owner, name)
        _require(
            0 < low <= high < math.inf,
            f"{section}.{name}=({low}, {high}) must be two numbers, 0 < low <= high.",
        )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is learned from, and in what portions."""

    train: str
    """Images to learn from: `digits`, a folder of images, or a folder of shards."""
    test: str | None = None
    """Held-out labelled images for kNN, given like `train`; none: no kNN."""
    global_batch: int = 256
    """Images of one optimizer step, over all workers (N)."""
    rows_per_row_group: int = 256
    """Images of one Parquet row group when shards are written."""
    window_mb: int = 512
    """Encoded images (MB) that one read task holds and shuffles at a time."""
    max_bad_rate: float = 0.001
    """Share of images that may be replaced by others since they cannot be decoded, over as many
    images as may have ten such; beyond it the run ends; 0: the first one ends it."""

    def __post_init__(self) -> None:
        _require_positive("data", self, "rows_per_row_group", "window_mb")
        _require(
            self.global_batch >= 2,
            f"data.global_batch={self.global_batch} must be at least 2: "
            "a correlation needs two images.",
        )
        _require_probability("data", self, "max_bad_rate")


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """The two distorted views of an image (paper, section 2.1; the defaults are BYOL's)."""

    count: Literal[1, 2] = 2
    """Views of an image: the two that pretraining compares; a classifier is trained on one."""
    image_px: int = 224
    """Side of a view."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop, as a share of the image: lowest and highest."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio (width / height) of the random crop: lowest and highest."""
    flip_probability: float = 0.5
    """Probability of the horizontal flip."""
    jitter_probability: float = 0.8
    """Probability of the colour jitter."""
    jitter_brightness: float = 0.4
    """Brightness factor is drawn from 1 ± this."""
    jitter_contrast: float = 0.4
    """Contrast factor is drawn from 1 ± this."""
    jitter_saturation: float = 0.2
    """Saturation factor is drawn from 1 ± this."""
    jitter_hue: float = 0.1
    """Hue shift is drawn from ± this, in turns of the colour wheel (at most 0.5)."""
    grayscale_probability: float = 0.2
    """Probability of dropping the colours."""
    blur_probability: tuple[float, float] = (1.0, 0.1)
    """Probability of the Gaussian blur: first view, second view."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur: lowest and highest."""
    solarize_probability: tuple[float, float] = (0.0, 0.2)
    """Probability of solarization: first view, second view."""
    solarize_threshold: int = 128
    """Pixels at or above this are inverted by solarization."""
    photometry: Literal["loader", "device"] = "loader"
    """Where colour, blur and solarization are applied: image by image beside the decoder, or
    batched on the training device."""

    backend: Literal["fast", "reference"] = "fast"
    """How images are decoded, cropped and, in the loader, coloured: by simplejpeg, torch and
    OpenCV, or by Pillow (the reference), to within a level of 255 on average."""

    def __post_init__(self) -> None:
        _require_positive("views", self, "image_px")
        _require_range("views", self, "crop_area", "crop_ratio", "blur_sigma_px")
        _require(
            self.crop_area[1] <= 1, f"views.crop_area={self.crop_area} must not exceed 1: a share."
        )
        _require_probability(
            "views",
            self,
            "flip_probability",
            "jitter_probability",
            "jitter_brightness",
            "jitter_contrast",
            "jitter_saturation",
            "grayscale_probability",
            "blur_probability",
            "solarize_probability",
        )
        _require(
            0 <= self.jitter_hue <= 0.5,
            f"views.jitter_hue={self.jitter_hue} must lie between 0 and 0.5 turns.",
        )

    def without(self, *transformations: Transformation) -> "ViewSettings":
        """These views with some transformations left out (Fig. 3); the others' draws stay.

        Without `crop` the whole image is resized, or its middle if it is longer than
        `crop_ratio` allows.
        """
        changes: dict[str, Any] = {}
        for transformation in transformations:
            changes |= WITHOUT[transformation]
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Encoder and projector (paper, section 2.2)."""

    encoder: Encoder = "resnet50"
    """A torchvision ResNet, or one of the small convolutional encoders for small images."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """A ResNet's first layers: 7×7 stride 2 and max-pool, or 3×3 stride 1 for small images."""
    projector_widths: tuple[int, ...] = (8192, 8192, 8192)
    """Output units of each linear layer of the projector; the last is D."""
    projector_batch_norm: bool = True
    """Batch norm after each linear layer of the projector but the last (Table 5: "No BN in MLP");
    without it these layers have biases."""
    predictor_widths: tuple[int, ...] | None = None
    """Output units of each linear layer of a predictor on the first view (Table 6: 8192 8192); the
    last must be D; none: no predictor."""
    stop_gradient: bool = False
    """No gradient from the second view, the one without a predictor (Table 6)."""
    start_from: str | None = None
    """A checkpoint, or a run's folder, whose weights a *new* run starts from: the encoder's, and
    those of projector and predictor if they are built alike; none: drawn from the seed. (To
    *continue* a run, give its name.)"""

    def __post_init__(self) -> None:
        _require(
            len(self.projector_widths) > 0 and all(width > 0 for width in self.projector_widths),
            f"model.projector_widths={self.projector_widths} must name at least one width above 0.",
        )
        _require(
            self.predictor_widths is None
            or (
                self.predictor_widths[-1:] == self.projector_widths[-1:]
                and all(width > 0 for width in self.predictor_widths)
            ),
            f"model.predictor_widths={self.predictor_widths} must be above 0 and end with "
            f"{self.projector_widths[-1]}, as model.projector_widths does.",
        )


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """The loss (paper, Eq. 1), and its ablations (Table 5; docs/ablations.md)."""

    variant: Variant = "barlow_twins"
    """Which loss: that of the paper, one that Table 5 compares it with (invariance_only,
    redundancy_only, feature_normalization, cross_covariance, cross_entropy), or redundancy from
    the auto_correlation of one view."""
    redundancy_weight: float = 5e-3
    """λ of Eq. 1: weight of the redundancy-reduction term."""
    form: Literal["auto", "correlation", "gram"] = "auto"
    """How the loss is computed: by the D×D correlations, by two N×N Gram matrices (the same loss,
    for D above N), or by what is faster."""
    temperature: float = 0.1
    """τ of cross_entropy; the paper does not give its own."""

    def __post_init__(self) -> None:
        _require_positive("objective", self, "redundancy_weight", "temperature")
        _require(
            not (self.variant == "cross_entropy" and self.form == "gram"),
            "objective.form=gram cannot compute objective.variant=cross_entropy, which needs every "
            "correlation; use auto.",
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """LARS with the paper's numbers (section 2.2), and what they mean for the true gradient.

    The published rates were tuned with code whose gradient is 1/W of the true one (its
    all-reduce of the correlation matrix is invisible to autograd, then DDP averages). LARS
    is indifferent to a gradient's scale, so `weight_rate` holds as it is; rates of
    parameters without adaptation must be divided by that W, and the decay, which LARS adds
    to the gradient, multiplied by it. `reference_world_size` is that W.
    """

    weight_rate: float = 0.2
    """Base learning rate of weights, for a batch of 256."""
    bias_rate: float = 0.0048
    """Base learning rate of biases and batch-norm parameters, for a batch of 256, as published."""
    weight_decay: float = 1.5e-6
    """Weight decay as published."""
    reference_world_size: int = 32
    """Workers of the run that the published numbers come from."""
    momentum: float = 0.9
    """Momentum of LARS."""
    trust_coefficient: float = 0.001
    """η of LARS: the share of its weight's norm that a step at rate 1 moves."""

    def __post_init__(self) -> None:
        _require_positive(
            "optimizer", self, "weight_rate", "bias_rate", "trust_coefficient",
            "reference_world_size",
        )  # fmt: skip
        _require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            f"optimizer.weight_decay={self.weight_decay} must be a finite number, 0 or above.",
        )
        _require(0 <= self.momentum < 1, f"optimizer.momentum={self.momentum} must lie in [0, 1).")

    @property
    def true_bias_rate(self) -> float:
        """`bias_rate` for the true gradient of the global loss."""
        return self.bias_rate / self.reference_world_size

    @property
    def true_weight_decay(self) -> float:
        """`weight_decay` for the true gradient of the global loss."""
        return self.weight_decay * self.reference_world_size


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long, and how the learning rate moves (paper, section 2.2)."""

    epochs: int = 300
    """Passes over the training images."""
    warmup_epochs: float = 10
    """Epochs of linear warm-up; a cosine follows."""
    final_factor: float = 1e-3
    """The last learning rate, as a share of the highest."""

    def __post_init__(self) -> None:
        _require_positive("schedule", self, "epochs")
        _require(
            0 <= self.warmup_epochs <= self.epochs,
            f"schedule.warmup_epochs={self.warmup_epochs} must lie between 0 and "
            f"schedule.epochs={self.epochs}.",
        )
        _require_probability("schedule", self, "final_factor")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How the loop runs."""

    seed: int = 0
    """Seed of the initial weights, the order of the images and the views."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of encoder and projector; the objective is always float32 or better."""
    channels_last: bool = True
    """Lay images out channels-last, which convolutions prefer."""
    log_every_steps: int = 10
    """Steps between two lines of metrics."""
    checkpoint_every_epochs: float = 1
    """Epochs between two checkpoints; one is always written at the end."""
    probe_every_epochs: float = 5
    """Epochs between two probes (RankMe, alignment, uniformity, kNN); one is always made before
    and after."""

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"training.seed={self.seed} must be 0 or above.")
        _require_positive(
            "training", self, "log_every_steps", "checkpoint_every_epochs", "probe_every_epochs"
        )


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """What is measured of the encoder while it trains; kNN needs labels, the rest does not."""

    neighbors: int = 200
    """k of the weighted k-nearest-neighbour classifier."""
    temperature: float = 0.1
    """Temperature of its weights, exp(cosine / temperature)."""
    bank_images: int = 50_000
    """Training images whose features are searched, at most, to a whole row group."""
    query_images: int = 10_000
    """Held-out images that are classified, at most, to a whole row group."""

    def __post_init__(self) -> None:
        _require_positive("probe", self, "neighbors", "temperature", "bank_images", "query_images")


@dataclass(frozen=True, kw_only=True)
class ScalingSettings:
    """What a run may use of the cluster."""

    workers: int = 1
    """Training workers (W); 0 runs everything in the calling process. Never changes a result."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What a worker computes on; auto: a GPU if the cluster has one for each worker."""
    cpus_per_worker: float = 1
    """Logical CPUs that Ray reserves for each worker."""
    threads_per_worker: int | None = None
    """Threads of a CPU worker's arithmetic; none: the machine's cores over its workers."""
    max_failures: int = 3
    """Times that lost workers are replaced and training goes on from the last checkpoint."""
    max_hours: float | None = None
    """Hours of training after which the run is checkpointed and left; none: no limit. The
    schedule stays that of all `schedule.epochs`: the same command continues where it stopped,
    for as many hours again."""

    def __post_init__(self) -> None:
        _require(self.workers >= 0, f"scaling.workers={self.workers} must be 0 or above.")
        _require_positive("scaling", self, "cpus_per_worker")
        for name in ("threads_per_worker", "max_hours"):
            if getattr(self, name) is not None:
                _require_positive("scaling", self, name)
        _require(
            self.max_failures >= 0,
            f"scaling.max_failures={self.max_failures} must be 0 or above.",
        )


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where a run is recorded."""

    experiment: str = "bt_ray"
    """MLflow experiment that the run is recorded in."""
    registered_model: str | None = None
    """Name in the model registry; none: `barlow-<name of the run>`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything about one run."""

    name: str
    """Name of the run and of its folder; the same name continues the same run."""
    storage: str = "runs"
    """Folder of all runs, written shards and the MLflow store; workers must be able to reach it."""
    data: DataSettings
    views: ViewSettings = field(default_factory=ViewSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    scaling: ScalingSettings = field(default_factory=ScalingSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        _require(
            bool(self.name) and "/" not in self.name and self.name not in (".", ".."),
            f"name={self.name!r} must be a plain folder name.",
        )
        _require(
            self.objective.variant != "cross_entropy" or self.model.projector_widths[-1] > 1,
            "objective.variant=cross_entropy needs two dimensions, and model.projector_widths="
            f"{self.model.projector_widths} end with one.",
        )
        workers, batch = max(1, self.scaling.workers), self.data.global_batch
        if batch % workers:
            below = batch - batch % workers
            near = [n for n in (below, below + workers) if n > 0]
            raise SettingsError(
                f"data.global_batch={batch} must be divisible by scaling.workers={workers}; "
                f"try {' or '.join(map(str, near))}."
            )

    @property
    def rate_scale(self) -> float:
        """Factor from a base learning rate to this batch's (paper, section 2.2)."""
        return self.data.global_batch / 256

    @property
    def registered_model(self) -> str:
        """Name of this run's encoder in the model registry."""
        return self.tracking.registered_model or f"barlow-{self.name}"


def check_pretraining(settings: Settings) -> None:
    """Raises SettingsError for what only a classifier is trained with."""
    _require(
        settings.views.count == 2,
        f"views.count={settings.views.count} serves to train a classifier; pretraining compares 2.",
    )


def to_json(settings: Settings) -> str:
    """`settings` as JSON text that `from_json` reads back to an equal value."""
    return json.dumps(dataclasses.asdict(settings), indent=2, ensure_ascii=False)


def from_json(text: str) -> Settings:
    """The settings written in `text`.

    Raises: SettingsError for text that is not JSON, an unknown or missing key, or a bad value.
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"These settings are not JSON: {error}.") from error
    return _read_section(Settings, tree, "")


def override(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """`settings` with some values replaced.

    Args:
      changes: dotted key → value, such as {"objective.redundancy_weight": 0.01}.
    Raises: SettingsError for an unknown key (the nearest known one is named) or a bad value.
    """
    tree = dataclasses.asdict(settings)
    known = flatten(settings)
    for key, value in changes.items():
        if key not in known:
            raise SettingsError(_unknown(key, list(known)))
        *sections, leaf = key.split(".")
        branch = tree
        for section in sections:
            branch = branch[section]
        branch[leaf] = value
    return _read_section(Settings, tree, "")


def flatten(settings: Settings) -> dict[str, Any]:
    """Every value of `settings` by its dotted key."""
    flat: dict[str, Any] = {}
    for top in dataclasses.fields(settings):
        value = getattr(settings, top.name)
        if dataclasses.is_dataclass(value):
            for leaf in dataclasses.fields(value):
                flat[f"{top.name}.{leaf.name}"] = getattr(value, leaf.name)
        else:
            flat[top.name] = value
    return flat


def differences(one: Settings, other: Settings) -> list[str]:
    """Dotted keys of what shapes a run's result and is not the same in both."""
    theirs = shaping(other)
    return [key for key, value in shaping(one).items() if value != theirs[key]]


def shaping(settings: Settings) -> dict[str, Any]:
    """What shapes a run's result, by dotted key.

    Names, places, workers, tracking and what is tolerated shape none.
    """
    return {
        key: value
        for key, value in flatten(settings).items()
        if key.split(".")[0] not in ("name", "storage", "scaling", "tracking")
        and key != "data.max_bad_rate"
    }


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"There is no setting {key!r}; the nearest is {near[0]!r}."


def _read_section(cls: type[T], tree: Any, prefix: str) -> T:
    if not isinstance(tree, Mapping):
        raise SettingsError(f"{prefix or 'settings'} must be a group of settings, not {tree!r}.")
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in hints:
            raise SettingsError(_unknown(f"{prefix}{key}", [f"{prefix}{h}" for h in hints]))
    values = {key: _read_value(hints[key], value, f"{prefix}{key}") for key, value in tree.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise SettingsError(f"Incomplete settings: {error}.") from error


def _read_value(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read_section(typing.cast(type, hint), value, f"{key}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _read_value(arguments[0], value, key)
    if origin is Literal:
        known = ", ".join(map(str, arguments))
        _require(value in arguments, f"{key}={value!r} must be one of {known}.")
        return value
    if origin is tuple:
        _require(
            isinstance(value, list | tuple)
            and (arguments[-1] is Ellipsis or len(value) == len(arguments)),
            f"{key}={value!r} must be a list of {arguments[0].__name__}, "
            f"{'of any length' if arguments[-1] is Ellipsis else f'{len(arguments)} of them'}.",
        )
        return tuple(_read_value(arguments[0], item, key) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    _require(type(value) is hint, f"{key}={value!r} must be of type {hint.__name__}.")
    return value
