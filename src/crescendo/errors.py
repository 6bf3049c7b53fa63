"""What a user's mistake looks like: one message, the nearest valid names, no traceback, exit code 2.

Only the standard library is imported here, so that every other module may depend on it.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

EXIT_CODE = 2


class UserError(ValueError):
    """A mistake in what was given. The message names what was given and what would be right."""


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
        sys.exit(130)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(EXIT_CODE)


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
        key, parent = cause.full_key or str(cause.key), cause.parent_node
        known = [str(name) for name in parent] if parent is not None else []
        place = key.rpartition(".")[0] or "The configuration"
        return (
            f"{key} is not a setting.{did_you_mean(key.rpartition('.')[2], known)} "
            f"{place} has {', '.join(known)}. Another argument of its target: +{key}=<value>."
        )
    if isinstance(error, CompactHydraException | OmegaConfBaseException):
        return str(error).splitlines()[0] + (f" ({cause})" if cause else "")
    return None
