"""What a user's mistake looks like: one message, the nearest valid names, no traceback, exit code 2.

Only the standard library is imported here, so that every other module may depend on it.
"""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

EXIT_CODE = 2


class UserError(ValueError):
    """A mistake in what was given. The message names what was given and what would be right."""


class Interrupted(BaseException):
    """A signal ended what was going on. Not an Exception, so that nobody takes it for an error."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")
        self.exit_code = 128 + number


def nearest(name: str, options: Iterable[str], count: int = 3) -> list[str]:
    """The `count` options most like `name`, best first; empty if none is close."""
    options = list(options)
    by_lower_case = {option.lower(): option for option in options}
    matches = get_close_matches(name.lower(), by_lower_case, n=count, cutoff=0.6)
    return [by_lower_case[match] for match in matches]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A sentence with a leading space that offers the nearest options, or an empty string."""
    matches = nearest(name, options)
    return f" Did you mean {', '.join(matches)}?" if matches else ""


def no_directory(path: Path) -> UserError:
    """The error for a directory that is not there, with the names beside it that are like it."""
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return UserError(f"{path} is not a directory.{did_you_mean(path.name, siblings)}")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a user's mistake into one message on standard error and exit code 2.

    Other errors keep their traceback. Hydra's are told apart by type; they arrive here when
    HYDRA_FULL_ERROR=1 keeps Hydra from printing them itself.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(EXIT_CODE)


def _unknown_key(key: str, parent: Any) -> str:
    """For a key that the composed configuration does not have, in a node of it."""
    place, _, name = key.rpartition(".")
    known = [str(other) for other in parent if other != "hydra"] if parent is not None else []
    elsewhere = []
    if parent is not None and not place:
        elsewhere = [f"{group}.{name}" for group in known if name in _keys(parent._get_node(group))]
    offer = f" Did you mean {', '.join(elsewhere)}?" if elsewhere else did_you_mean(name, known)
    message = f"{key} is not a setting.{offer} {place or 'The configuration'} has {', '.join(known)}."
    return message + (f" Another argument of its target: +{key}=<value>." if "_target_" in known else "")


def _keys(node: Any) -> list[str]:
    return [str(key) for key in node] if hasattr(node, "keys") else []


def explain(error: Exception) -> str | None:
    """What to tell a user about an error of theirs; None for an error that is not."""
    if isinstance(error, UserError):
        return str(error)
    from hydra.errors import (
        CompactHydraException,
        ConfigCompositionException,
        MissingConfigException,
        OverrideParseException,
    )
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return (
            f"{group}={name}: there is no such option.{did_you_mean(name, error.options)} "
            f"{group} has {', '.join(error.options)}."
        )
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is not an override. Write key=value, or group=option."
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and isinstance(
        cause, ConfigAttributeError | ConfigKeyError
    ):
        return _unknown_key(cause.full_key or str(cause.key), cause.parent_node)
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return "a group takes the name of one of its options (logger=csv logs nothing but metrics.csv)."
    if isinstance(error, CompactHydraException | OmegaConfBaseException):
        return str(error).splitlines()[0] + (f" ({cause})" if cause else "")
    return None
