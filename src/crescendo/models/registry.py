"""The names of the nets: a builder function under @register is a net that a user can ask for."""

import inspect
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar, overload

from crescendo.errors import UserError, did_you_mean
from crescendo.models.layers import Net

Arguments = ParamSpec("Arguments")
AnyNet = TypeVar("AnyNet", bound=Net)


class Entry(NamedTuple):
    """What is known of a net before it is built.

    `year` is its paper's first appearance; `num_classes` and `in_channels` are those of the
    paper's data, the defaults of the builder.
    """

    name: str
    family: str
    year: int
    num_classes: int
    in_channels: int
    build: Callable[..., Net]


_entries: dict[str, Entry] = {}


@overload
def register(builder: Callable[Arguments, AnyNet], /) -> Callable[Arguments, AnyNet]: ...


@overload
def register(
    *, family: str = ..., year: int = ...
) -> Callable[[Callable[Arguments, AnyNet]], Callable[Arguments, AnyNet]]: ...


def register(builder: Callable[..., Any] | None = None, /, *, family: str = "", year: int = 0) -> Any:
    """Offer a builder under its function's name, which its nets carry as `net.name`.

    A builder takes num_classes and in_channels, both with the default of its paper's data, and
    beyond them only what its paper turns. Family and year are the FAMILY and YEAR of its file,
    unless they are given: @register(year=2014).
    """

    def enter(builder: Callable[Arguments, AnyNet]) -> Callable[Arguments, AnyNet]:
        name, file = builder.__name__, sys.modules[builder.__module__]
        if name in _entries:
            first = _entries[name].build.__module__
            raise ValueError(f"net {name!r} is registered twice: in {first} and in {builder.__module__}")
        origin = family or getattr(file, "FAMILY", ""), year or getattr(file, "YEAR", 0)
        if not all(origin):
            raise ValueError(f"{builder.__module__} must state FAMILY and YEAR above its net {name!r}")

        @wraps(builder)
        def named(*args: Arguments.args, **kwargs: Arguments.kwargs) -> AnyNet:
            net = builder(*args, **kwargs)
            net.name = name
            return net

        parameters = inspect.signature(builder).parameters
        _entries[name] = Entry(
            name,
            *origin,
            num_classes=parameters["num_classes"].default,
            in_channels=parameters["in_channels"].default,
            build=named,
        )
        return named

    return enter if builder is None else enter(builder)


def find_entry(name: str) -> Entry:
    """What is known of the net `name`; UserError with the nearest names if there is none."""
    if name not in _entries:
        raise UserError(
            f"There is no net {name!r}.{did_you_mean(name, _entries)} "
            f"list_models() names all {len(_entries)}."
        )
    return _entries[name]


def create_model(name: str, num_classes: int = 1000, in_channels: int = 3, **overrides: Any) -> Net:
    """Build the net `name`; overrides are its builder's other arguments (such as width=32).

    Raises UserError for a name or an argument that does not exist, with those that do.
    """
    build = find_entry(name).build
    valid = list(inspect.signature(build).parameters)
    for override in overrides:
        if override not in valid:
            raise UserError(
                f"{name} has no argument {override!r}.{did_you_mean(override, valid)} "
                f"It takes {', '.join(valid)}."
            )
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise UserError(f"{argument}={value} of {name}: it must be 1 or more.")
    return build(num_classes=num_classes, in_channels=in_channels, **overrides)


def list_models(
    pattern: str = "*", *, family: str | None = None, since: int | None = None, until: int | None = None
) -> list[str]:
    """The registered names that match a shell pattern ("resnet*"), by name, numbers by value.

    Only those of a family (in any case) and from the years `since` to `until`, both included.
    Raises UserError for a family that does not exist, with those that do.
    """
    families = list_families()
    if family is not None and family.lower() not in map(str.lower, families):
        raise UserError(
            f"There is no family {family!r}.{did_you_mean(family, families)} There are {', '.join(families)}."
        )
    return sorted(
        (
            entry.name
            for entry in _entries.values()
            if fnmatchcase(entry.name, pattern)
            and (family is None or entry.family.lower() == family.lower())
            and (since is None or entry.year >= since)
            and (until is None or entry.year <= until)
        ),
        key=_by_number,
    )


def list_families() -> list[str]:
    """The families of the registered nets, by the year of their first net."""
    by_year = sorted(_entries.values(), key=lambda entry: (entry.year, entry.family))
    return list(dict.fromkeys(entry.family for entry in by_year))


def _by_number(name: str) -> tuple[str, int, str]:
    """resnet20 before resnet110."""
    family = name.rstrip("0123456789")
    return family, int(name[len(family) :] or 0), name
