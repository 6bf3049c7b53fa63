"""The workspace as a specification: built and checked without a network, written to a file, or saved in W&B.

The specification is what wandb-workspaces sends to W&B's server when it saves. Its panels' ids follow from
their places, so that the same command writes the same file.
"""

import difflib
import re
from hashlib import blake2b
from importlib.metadata import version

import wandb
import wandb_workspaces.workspaces as ws
from pydantic import ValidationError
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb_workspaces.reports.v2.internal import UnknownPanel
from wandb_workspaces.workspaces.errors import SpecVersionError, UnsupportedViewError
from wandb_workspaces.workspaces.internal import View

from crescendo.dashboard.scope import Scope, in_config
from crescendo.dashboard.sections import ACCURACY, SHOWN, columns, sections
from crescendo.errors import UserError


def specify(entity: str, project: str, name: str, scope: Scope) -> View:
    """The specification of the workspace.

    Raises:
        UserError: no such name can be.
    """
    for option, given, wrong in (("entity", entity, r"[^\w.-]"), ("project", project, r"[/\\#?%:]")):
        found = re.search(wrong, given)
        if not given or found:
            raise UserError(
                f"--{option} {given!r}: " + (f"{found[0]!r} cannot be in it." if found else "empty.")
            )
    shown = [ws.Metric("State").isin(["finished", "running"])]
    if scope.sweep is not None:
        shown.append(ws.Metric("Group") == scope.sweep)
    try:
        workspace = ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=sections({setting: in_config(setting) for setting in scope.axes}),
            settings=ws.WorkspaceSettings(max_runs=SHOWN),
            runset_settings=ws.RunsetSettings(
                filters=ws.And(*shown),
                groupby=[ws.Config(in_config(setting)) for setting in scope.group_by],
                order=[ws.Ordering(ws.Summary(ACCURACY), ascending=False)],
                pinned_columns=columns(),
            ),
        )
    except ValidationError as error:
        raise UserError(f"--name {name!r}: {error.errors()[0]['msg']}") from error
    view = workspace._to_model()
    for section in view.spec.section.panel_bank_config.sections:
        for place, panel in enumerate(section.panels):
            assert not isinstance(panel, UnknownPanel)
            panel.id = blake2b(f"{section.name}/{place}".encode(), digest_size=6).hexdigest()
    return view


def as_json(view: View) -> str:
    """The specification as a file has it."""
    return view.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n"


def check(specification: str) -> int:
    """Read a specification with the library's own models, build the workspace from it, and compare.

    Returns:
        The number of panels.

    Raises:
        UserError: it is not read back as it was written.
    """
    try:
        view = View.model_validate_json(specification)
        again = as_json(ws.Workspace._from_model(view)._to_model())
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"the specification is not one of wandb-workspaces: {error}") from error
    kinds = [
        type(panel) for section in view.spec.section.panel_bank_config.sections for panel in section.panels
    ]
    unknown = kinds.count(UnknownPanel)
    if again != specification or unknown:
        lines = difflib.unified_diff(specification.splitlines(), again.splitlines(), lineterm="", n=0)
        changes = [line for line in lines if line[:2] in ("- ", "+ ")]
        raise UserError(
            f"wandb-workspaces {version('wandb-workspaces')} does not read the specification back as it was "
            f"written, {unknown} panels not at all: {'; '.join(changes[:4])}"
        )
    return len(kinds)


def check_account() -> None:
    """See that a workspace can be saved.

    Raises:
        UserError: no key is configured, or W&B's server does not answer.
    """
    from crescendo.wandb_run.start import why_offline  # Lightning, which the specification does without

    wandb.setup(wandb.Settings(silent=True))
    reason = why_offline(wandb)
    if reason is not None:
        raise UserError(
            f"W&B is out of reach: {reason}. "
            "--dry-run writes the specification alone, and needs neither key nor network."
        )


def save(view: View, url: str | None = None) -> str:
    """Save the workspace in W&B: a new one, or in the place of that at `url`; its address.

    Raises:
        UserError: W&B refuses, or `url` is not a saved workspace of the same project.
    """
    try:
        if url is not None:
            saved = _saved_at(url)
            if (saved.entity, saved.project) != (view.entity, view.project):
                raise UserError(f"--url {url} is of {saved.entity}/{saved.project}.")
            view = view.model_copy(update={"name": saved.name, "id": saved.id})
        return ws.Workspace._from_model(view).save().url
    except (wandb.errors.Error, WandbApiFailedError, OSError) as error:
        raise UserError(f"W&B does not save {view.entity}/{view.project}: {error}") from error


def _saved_at(url: str) -> View:
    try:
        return ws.Workspace.from_url(url)._to_model()
    except (ValueError, SpecVersionError, UnsupportedViewError) as error:
        raise UserError(
            f"--url {url} is no saved workspace, such as https://wandb.ai/team/project?nw=a0b1c2: {error}"
        ) from error
