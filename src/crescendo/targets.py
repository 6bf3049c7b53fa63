"""Building what the `_target_`s of a configuration name, and refusing what must not be built."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from crescendo.errors import UserError, did_you_mean

TRUSTED = ("crescendo", "torch", "torchvision", "torchmetrics", "lightning", "hydra")
# A class is made; a function does whatever it does (torch.load unpickles), so that only ours are called that
# make nets, sources of images and loggers.
FACTORIES = ("crescendo.models", "crescendo.data", "crescendo.tracking", "crescendo.wandb_run")
OURS = ("trainer.find_batch_size",)  # settings beside a target's arguments, which it is not given
TRUST = "What you wrote or read yourself is built with trust=true (crescendo <verb> --trust)."


def resolved(config: DictConfig) -> dict[str, Any]:
    """The plain values of a configuration.

    Raises:
        UserError: a value is missing, or cannot be interpolated.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: {error.full_key}=<value>.") from error
    except InterpolationResolutionError as error:
        raise _user_error_in(error) or UserError(_first_line(error)) from error
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error
    return cast(dict[str, Any], values)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def check_targets(values: object) -> None:
    """Refuse every `_target_` below `values` that lies outside of the trusted packages.

    A configuration that came from elsewhere is data: nothing of it runs before this.

    Raises:
        UserError: names the setting and its target.
    """
    for place, node in _targets(values, ""):
        target = node["_target_"]
        if not isinstance(target, str) or target.split(".")[0] not in TRUSTED:
            raise UserError(
                f"{place}._target_={target}: refused. Only targets of {', '.join(TRUSTED)} are built. {TRUST}"
            )


def check_arguments(config: DictConfig) -> None:
    """Hold every node with a `_target_` against that target's signature: its keys, its plain values.

    This imports the targets, so it comes after `validate`.

    Raises:
        UserError: there is no such target, it is not one to build, or it takes no such argument or value.
    """
    for key, node in _targets(resolved(config), ""):
        target = find_target(node, key)
        if not config.trust:
            _check_what_is_built(target, f"{key}._target_={node['_target_']}")
        _check_arguments(target, node, key)


def _check_what_is_built(target: Callable[..., Any], given: str) -> None:
    """Refuse what another name leads to, such as torch.os.system, and functions that are no factories.

    Raises:
        UserError: names `given`.
    """
    home = getattr(target, "__module__", None) or ""
    if home.split(".")[0] not in TRUSTED:
        raise UserError(f"{given}: refused. It is {home}.{getattr(target, '__qualname__', '')}. {TRUST}")
    if not isinstance(target, type) and not any(f"{home}.".startswith(f"{ours}.") for ours in FACTORIES):
        raise UserError(
            f"{given}: refused. It is no class, and only functions of {', '.join(FACTORIES)} are called. "
            f"{TRUST}"
        )


def build(node: Mapping[str, Any], key: str, **arguments: Any) -> Any:
    """Build what the `_target_` of the setting `key` names, from its values and `arguments`.

    Raises:
        UserError: it cannot be built from these values, or they hold one of `arguments`.
    """
    for argument in arguments:
        if argument in node:
            raise UserError(f"{key}.{argument} cannot be set: crescendo gives it.")
    with users_mistakes(key):
        return build_partial(node, key)(**arguments)


@contextmanager
def users_mistakes(key: str) -> Iterator[None]:
    """What the target of the setting `key` refuses is the user's mistake, not ours."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException":
            raise UserError(f"{key}: {error}") from error
        raise


def build_partial(node: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """The same, as a function that still takes arguments."""
    try:
        return instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise _user_error_in(error) or UserError(f"{key}: {error}") from error


def find_target(node: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """What the `_target_` of the setting `key` names.

    Raises:
        UserError: there is no such thing.
    """
    try:
        return get_object(node["_target_"])
    except (ImportError, ValueError, AttributeError) as error:
        raise _user_error_in(error) or UserError(
            f"{key}._target_={node['_target_']} does not exist: {error}"
        ) from error


def _user_error_in(error: BaseException | None) -> UserError | None:
    """The user's mistake that Hydra or OmegaConf wrapped into an error of theirs."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _check_arguments(target: Callable[..., Any], node: Mapping[str, Any], key: str) -> None:
    """Hold a node's keys and plain values against the signature of its target."""
    parameters = inspect.signature(target).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for argument, value in node.items():
        if argument.startswith("_") or f"{key}.{argument}" in OURS:
            continue
        if argument not in parameters:
            if open_ended:
                continue
            raise UserError(
                f"{key}.{argument} is not an argument of {node['_target_']}."
                f"{did_you_mean(argument, parameters)} It takes {', '.join(parameters)}."
            )
        if isinstance(value, Mapping) and "_target_" in value:
            continue
        try:
            TypeAdapter(parameters[argument].annotation).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise UserError(f"{key}.{argument}={value}: {as_sentence(problem)}") from error
        except PydanticUserError:
            continue  # an annotation of torch's or Lightning's own types: the target itself checks


def _targets(values: object, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node with a `_target_`, with its dotted name, outermost first."""
    if isinstance(values, Mapping):
        if "_target_" in values:
            yield key, values
        for name, value in values.items():
            yield from _targets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _targets(value, f"{key}[{index}]")


def as_sentence(message: str) -> str:
    """pydantic's words without its preamble."""
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message.rstrip(".") + "."
