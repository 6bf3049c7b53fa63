"""`crescendo dashboard`."""

from pathlib import Path
from typing import Annotated

import typer

from crescendo.errors import UserError


def dashboard(
    entity: Annotated[
        str | None, typer.Option(envvar="WANDB_ENTITY", help="The W&B user or team that the project is of.")
    ] = None,
    project: Annotated[
        str | None, typer.Option(envvar="WANDB_PROJECT", help="The project: logger.project of the runs.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the workspace; crescendo, or the sweep's.")] = None,
    sweep: Annotated[
        Path | None, typer.Option(help="A sweep directory: its runs alone, by the settings that differ.")
    ] = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option(help="A setting that a group's runs share, such as optimizer.lr; may be repeated."),
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(help="A setting that the parallel coordinates show; may be repeated."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="A saved workspace to overwrite; a new one is made if not given.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the specification and check it; needs no network.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The file of --dry-run; dashboard.json if not given.")
    ] = None,
) -> None:
    """Build the team's workspace in W&B: leaderboard, accuracy against its cost, curriculum, sweep."""
    if not entity:
        raise UserError("--entity is missing: the W&B user or team that the project is of, or WANDB_ENTITY.")
    if not project:
        raise UserError("--project is missing: logger.project of the runs (crescendo), or WANDB_PROJECT.")
    if out is not None and not dry_run:
        raise UserError(
            f"--out {out}: a file is written by --dry-run; without it the workspace is saved in W&B."
        )
    if url is not None and dry_run:
        raise UserError(
            f"--url {url}: --dry-run overwrites no workspace; --out names the file that it writes."
        )
    try:
        from crescendo.dashboard import workspace
        from crescendo.dashboard.scope import scope_of
    except ModuleNotFoundError as error:
        raise UserError(
            f'crescendo dashboard needs the package {error.name}: pip install "crescendo[dashboard]".'
        ) from error
    if not dry_run:
        workspace.check_account()
    scope = scope_of(sweep, group_by, axis)
    default = "crescendo" if sweep is None else f"crescendo {sweep.resolve().name}"
    view = workspace.specify(entity, project, name or default, scope)
    specification = workspace.as_json(view)
    panels = workspace.check(specification)
    if not dry_run:
        print(workspace.save(view, url))
        return
    out = out or Path("dashboard.json")
    try:
        out.write_text(specification, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error}") from error
    print(f"{out}: {panels} panels, read back as they were written")
