"""What a configuration may hold. Checked right after composing, before torch is even imported.

The groups of conf/ give values, this module gives their types. A node with a `_target_` may hold
further arguments of that target: crescendo.targets holds them against its signature.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

import crescendo.resolvers  # noqa: F401  # registers them
from crescendo.curriculum.budget import Budget
from crescendo.errors import UserError, did_you_mean
from crescendo.scaling.coefficients import Method, Scaling
from crescendo.targets import as_sentence, check_targets, resolved

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]  # torch's

MONITORS = ("val/accuracy", "val/accuracy_top5", "val/loss")


class Group(BaseModel):
    """A group of settings; any other key is an error."""

    model_config = ConfigDict(extra="forbid", strict=False)


AnyGroup = TypeVar("AnyGroup", bound=Group)


def checked(settings: type[AnyGroup], key: str, values: Mapping[str, Any]) -> AnyGroup:
    """The settings that the values below `key` are, outside of the configuration that `validate` checks.

    Raises:
        UserError: names each setting that is wrong.
    """
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        sentences = [
            f"{'.'.join([key, *map(str, problem['loc'])])}={problem['input']}: {as_sentence(problem['msg'])}"
            for problem in error.errors()
        ]
        raise UserError("\n".join(sentences)) from error


class Target(BaseModel):
    """Something to build: a dotted name, and its arguments."""

    model_config = ConfigDict(extra="allow")
    target: str = Field(alias="_target_")


class Range(Group):
    """From the first curriculum stage to the last."""

    start: float
    end: float


def _number_or_range(value: object) -> object:
    """Tell a user what a knob may be, in one sentence, not once for each member of a union."""
    if isinstance(value, bool) or not isinstance(value, int | float | dict | str):
        raise ValueError("must be a number or a range {start: , end: }")
    if isinstance(value, dict) and set(value) != {"start", "end"}:
        raise ValueError(f"a range has start and end, this one has {', '.join(value) or 'neither'}")
    values = value.values() if isinstance(value, dict) else [value]
    for number in values:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"must be a number or a range {{start: , end: }}, not {number!r}")
    return value


def _published_or_range(value: object) -> object:
    return value if value == "published" else _number_or_range(value)


def _whole_pixels(value: object) -> object:
    if isinstance(value, dict) and value.get("start") == "auto":
        return value | {"end": _whole_pixels(value.get("end"))}
    value = _number_or_range(value)
    for pixels in value.values() if isinstance(value, dict) else [value]:
        if not isinstance(pixels, int) or pixels < 1:
            raise ValueError(f"must be whole pixels, 1 or more, not {pixels!r}")
    return value


Strength = Annotated[Any, BeforeValidator(_number_or_range)]
StrengthOrPublished = Annotated[Any, BeforeValidator(_published_or_range)]
Pixels = Annotated[Any, BeforeValidator(_whole_pixels)]
Share = Annotated[float, Field(gt=0, lt=1)]
ShareOrAll = Annotated[float, Field(gt=0, le=1)]


def _rising_shares(values: list[float]) -> list[float]:
    if len(values) != 2 or not 0 < values[0] <= values[1] <= 1:
        raise ValueError("must be two rising shares of the area, such as [0.08, 1.0]")
    return values


def _number_with_unit(value: object) -> object:
    if value is not None:
        Budget.parse(str(value))
    return value


class AugmentationSettings(Group):
    shift: Annotated[float, Field(ge=0, lt=1)]
    flip: bool
    crop_area: Annotated[list[float], AfterValidator(_rising_shares)] | None
    lighting: NonNegativeFloat


class DataSettings(Group):
    name: str
    root: str | None = None
    download: bool = False
    source: Target
    num_classes: Annotated[int, Field(ge=2)]
    class_names: list[str] | None
    in_channels: Literal[1, 3]
    native_size: PositiveInt
    mean: list[float]
    std: list[PositiveFloat]
    fit: Literal["resize", "pad"]
    eval_crop: ShareOrAll
    augmentation: AugmentationSettings
    batch_size: PositiveInt
    eval_batch_size: PositiveInt
    num_workers: NonNegativeInt
    val_fraction: Share
    fraction: ShareOrAll
    split_seed: NonNegativeInt
    on_error: Literal["raise", "skip"] = "raise"
    max_errors: NonNegativeInt = 100
    tolerance: PositiveFloat | None = None
    sampler: Literal["uniform", "balanced", "repeated"] = "uniform"


class ModelSettings(Target):
    num_classes: Annotated[int, Field(ge=2)]
    in_channels: Literal[1, 3]


class RegularizationSettings(Group):
    dropout: StrengthOrPublished
    drop_path: StrengthOrPublished
    randaugment: Strength = 0.0
    random_erasing: Strength
    mixup: Strength
    cutmix: Strength
    label_smoothing: Strength


class CurriculumSettings(Target):
    stages: PositiveInt | Literal["every_epoch"]
    split: Literal["even"] | list[PositiveInt]
    resolution: Pixels
    multiple_of: PositiveInt
    interpolation: Literal["linear", "geometric"]
    evaluation_resolution: PositiveInt | None
    order: Literal["rising", "random"] = "rising"
    adaptive: bool = True
    max_shapes: PositiveInt | None = None
    fixres: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ScalingSettings(Group):
    method: Method = "none"
    phi: float = 0.0
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    resolution: PositiveInt | None = None


class FinetuningSettings(Group):
    method: Literal["none", "all", "head"] = "none"
    head: Literal["auto", "fresh", "keep"] = "auto"
    layer_decay: ShareOrAll = 1.0
    head_lr_factor: PositiveFloat = 1.0
    head_epochs: NonNegativeInt = 0
    freeze_bn: bool = False
    freeze_affine: bool = False


class OptimizerSettings(Target):
    lr: PositiveFloat
    weight_decay: NonNegativeFloat


Limit = PositiveInt | Annotated[float, Field(gt=0, le=1)]


class TrainerSettings(Target):
    accelerator: str
    devices: PositiveInt | Literal["auto", -1] | list[NonNegativeInt]
    num_nodes: PositiveInt
    strategy: str
    sync_batchnorm: bool = False
    precision: str | int | None = None
    max_epochs: PositiveInt
    max_steps: Annotated[int, Field(ge=-1)]
    accumulate_grad_batches: PositiveInt
    find_batch_size: bool = False
    gradient_clip_val: PositiveFloat | None
    log_every_n_steps: PositiveInt
    check_val_every_n_epoch: PositiveInt
    limit_train_batches: Limit
    limit_val_batches: NonNegativeInt | Annotated[float, Field(ge=0, le=1)]
    limit_test_batches: Limit
    num_sanity_val_steps: NonNegativeInt
    deterministic: bool | Literal["warn"]
    benchmark: bool | None = None
    enable_progress_bar: bool


class Settings(Group):
    """The whole configuration."""

    data: DataSettings
    model: ModelSettings
    regularization: RegularizationSettings
    curriculum: CurriculumSettings
    scaling: ScalingSettings = ScalingSettings()
    finetuning: FinetuningSettings = FinetuningSettings()
    optimizer: OptimizerSettings
    lr_schedule: Target
    trainer: TrainerSettings
    callbacks: dict[str, Target]
    logger: Target | Annotated[dict[str, Any], Field(max_length=0)]
    name: Annotated[str, Field(pattern=r"^[\w.+=,-]+$")]
    runs_dir: str
    seed: NonNegativeInt
    arm: str | None = None
    weights: str | None
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    channels_last: bool
    compile: bool | CompileMode = False
    deterministic: bool | Literal["warn"] = False
    tf32: bool = False
    validate_stage: bool = False
    measure_step: bool = False
    bn_refresh: NonNegativeInt = 0
    bn_refresh_when: Literal["always", "resized"] = "always"
    plan: bool | Literal["probe"]
    budget: Annotated[str | None, BeforeValidator(_number_with_unit)] = None
    on_nonfinite: Literal["stop", "skip"] = "stop"
    stop_seconds: PositiveFloat = 60.0
    resume: str | None = None
    resume_override: bool = False
    trust: bool = False


def validate(config: DictConfig) -> None:
    """Check a composed configuration: every key, type and bound, and where its targets come from.

    Raises:
        UserError: names the setting, what was given, and what would be right.
    """
    values = resolved(config)
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_explanations(error, values))) from error
    for key in ("mean", "std"):
        given = len(values["data"][key])
        if given != values["data"]["in_channels"]:
            raise UserError(
                f"data.{key} has {given} values for data.in_channels={values['data']['in_channels']}."
            )
    for key in ("num_classes", "in_channels"):
        if values["model"][key] != values["data"][key]:
            raise UserError(
                f"model.{key}={values['model'][key]} does not fit data.{key}={values['data'][key]}: "
                f"set data.{key}, the model follows it."
            )
    Scaling(**values.get("scaling", {}))  # names what cannot be
    _check_graphs(values)
    _check_finetuning(values)
    _check_callbacks(values["callbacks"])
    if not values.get("trust"):
        check_targets(values)


def typed_settings(overrides: Sequence[str]) -> set[str]:
    """Their names: of "data.batch_size=64", "data.batch_size"."""
    return {override.split("=")[0].lstrip("+~") for override in overrides}


def _check_graphs(values: dict[str, Any]) -> None:
    """Gradients that a CUDA graph made are written over when it runs again."""
    parts = values["trainer"]["accumulate_grad_batches"]
    if parts > 1 and values.get("compile") in ("reduce-overhead", "max-autotune"):
        raise UserError(
            f"compile={values['compile']} replays CUDA graphs, whose gradients cannot add up over "
            f"trainer.accumulate_grad_batches={parts}: give compile=true or "
            f"compile=max-autotune-no-cudagraphs."
        )


def _check_finetuning(values: dict[str, Any]) -> None:
    """It starts from weights, and nothing else moves what it keeps."""
    finetuning = FinetuningSettings.model_validate(values.get("finetuning", {}))
    if finetuning.method == "none":
        return
    if values["weights"] is None:
        raise UserError(
            "finetuning starts from weights: add weights=<a run, a file, or a torchvision name such "
            "as ResNet50_Weights.IMAGENET1K_V2>, or finetuning=none."
        )
    keeps = "finetuning=linear_probe" if finetuning.method == "head" else "finetuning.freeze_bn=true"
    if finetuning.method == "head" or finetuning.freeze_bn:
        if values.get("bn_refresh", 0) > 0:
            raise UserError(
                f"bn_refresh={values['bn_refresh']} takes the statistics of batch norm anew, and {keeps} "
                f"keeps those of the weights: leave one of them out."
            )
    elif finetuning.freeze_affine:
        keeps = "finetuning.freeze_affine=true"
    else:
        return
    if values["curriculum"].get("fixres", 0) > 0:
        raise UserError(
            f"curriculum.fixres={values['curriculum']['fixres']} ends with training the head and the batch "
            f"norms, which {keeps} keeps as they are: leave one of them out."
        )


def _check_callbacks(callbacks: dict[str, dict[str, Any]]) -> None:
    if "checkpoint" not in callbacks:
        raise UserError("callbacks.checkpoint is missing: a run is tested and used by its checkpoints.")
    for name, callback in callbacks.items():
        monitor = callback.get("monitor")
        if monitor is not None and monitor not in MONITORS:
            raise UserError(
                f"callbacks.{name}.monitor={monitor}: there is no such metric."
                f"{did_you_mean(str(monitor), MONITORS)} It can be {', '.join(MONITORS)}."
            )


def _explanations(error: ValidationError, values: dict[str, Any]) -> list[str]:
    """One sentence for each setting that is wrong; of a union's members the last word counts."""
    sentences: dict[str, str] = {}
    for problem in error.errors():
        path: list[str] = []
        node: Any = values
        for step in problem["loc"]:
            inside = (
                step in node if isinstance(node, dict) else isinstance(node, list) and isinstance(step, int)
            )
            if inside:
                node = node[step]
            elif problem["type"] != "missing" or step != problem["loc"][-1]:
                continue  # the name of a union's member
            path.append(str(step))
        key = ".".join(path)
        if problem["type"] == "extra_forbidden":
            known = _known_keys(path[:-1])
            sentences[key] = (
                f"{key} is not a setting.{did_you_mean(path[-1], known)} "
                f"{'.'.join(path[:-1]) or 'The configuration'} has {', '.join(known)}."
            )
        elif problem["type"] == "missing":
            sentences[key] = f"{key} is missing."
        else:
            given = f"{key}={problem['input']}"
            sentences[key] = f"{given}: {as_sentence(problem['msg'])}"
    return list(sentences.values())


def _known_keys(path: Sequence[str]) -> list[str]:
    model: Any = Settings
    for step in path:
        model = model.model_fields[step].annotation
    return [field.alias or name for name, field in model.model_fields.items()]
