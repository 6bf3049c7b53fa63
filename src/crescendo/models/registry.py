"""The names of the nets: a builder function under @register is a net that a user can ask for."""

import inspect
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from crescendo.errors import UserError, did_you_mean
from crescendo.models.layers import Net

Arguments = ParamSpec("Arguments")
AnyNet = TypeVar("AnyNet", bound=Net)

_builders: dict[str, Callable[..., Net]] = {}


def register(builder: Callable[Arguments, AnyNet]) -> Callable[Arguments, AnyNet]:
    """Offer a builder under its function's name, which its nets carry as `net.name`.

    A builder takes num_classes and in_channels, and beyond them only what its paper turns.
    """
    name = builder.__name__
    if name in _builders:
        raise ValueError(
            f"net {name!r} is registered twice: in {_builders[name].__module__} and in {builder.__module__}"
        )

    @wraps(builder)
    def named(*args: Arguments.args, **kwargs: Arguments.kwargs) -> AnyNet:
        net = builder(*args, **kwargs)
        net.name = name
        return net

    _builders[name] = named
    return named


def create_model(name: str, num_classes: int = 1000, in_channels: int = 3, **overrides: Any) -> Net:
    """Build the net `name`; overrides are its builder's other arguments (such as width=32).

    Raises UserError for a name or an argument that does not exist, with those that do.
    """
    if name not in _builders:
        raise UserError(
            f"There is no net {name!r}.{did_you_mean(name, _builders)} "
            f"list_models() names all {len(_builders)}."
        )
    builder = _builders[name]
    valid = list(inspect.signature(builder).parameters)
    for override in overrides:
        if override not in valid:
            raise UserError(
                f"{name} has no argument {override!r}.{did_you_mean(override, valid)} "
                f"It takes {', '.join(valid)}."
            )
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise UserError(f"{argument}={value} of {name}: it must be 1 or more.")
    return builder(num_classes=num_classes, in_channels=in_channels, **overrides)


def list_models(pattern: str = "*") -> list[str]:
    """The registered names that match a shell pattern ("resnet*"), by name, numbers by value."""
    return sorted((name for name in _builders if fnmatchcase(name, pattern)), key=_by_number)


def _by_number(name: str) -> tuple[str, int, str]:
    """resnet20 before resnet110."""
    family = name.rstrip("0123456789")
    return family, int(name[len(family) :] or 0), name
