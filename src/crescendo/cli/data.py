"""Verbs about image files."""

from pathlib import Path
from typing import Annotated

import typer

from crescendo.cli.options import AsJson

Workers = Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores if not given.")]


def pack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="As data.root of data=folder or imagenet.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The pack: a new directory.")],
    levels: Annotated[str, typer.Option(help="Short sides of the copies in px.")] = "112,160,224,288",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the copies' JPEG.")] = 90,
    drop_original: Annotated[bool, typer.Option(help="Leave the files themselves out.")] = False,
    estimate_only: Annotated[bool, typer.Option("--estimate", help="Print the disk use alone.")] = False,
    workers: Workers = None,
) -> None:
    """Make smaller copies of images, so that a low resolution is cheap to load: data=packed."""
    from rich import get_console

    from crescendo.data.listing import printable
    from crescendo.data.packing import build_pack, check_space, estimate, plan_pack, show_estimate
    from crescendo.errors import UserError

    try:
        sides = [int(side) for side in levels.split(",")]
    except ValueError:
        raise UserError(f"--levels {levels}: must be whole numbers of px, such as 112,160,224,288.") from None
    plan = plan_pack(source, sides, quality, originals=not drop_original)
    estimated = estimate(plan)
    get_console().print(show_estimate(plan, estimated))
    if estimate_only:
        return
    check_space(estimated, target)
    faults = build_pack(plan, target, workers, progress=True)
    for fault in faults[:10]:
        print(f"left out: {printable(fault)}")
    if faults:
        print(
            f"{len(faults)} of {len(plan.files)} images cannot be read. crescendo check {source} shows all."
        )
    print(f"python train.py data=packed data.root={target}")


def check(
    directory: Annotated[Path, typer.Argument(metavar="DATA", help="A directory of images, or a pack.")],
    refresh: Annotated[bool, typer.Option(help="Make the index of the files anew.")] = False,
    as_json: AsJson = False,
    workers: Workers = None,
) -> None:
    """Read every image: what is faulty or there twice, how many there are of each class, and how large.

    The exit code is 1 if an image cannot be read.
    """
    import json
    from dataclasses import asdict

    from rich import get_console

    from crescendo.data.checking import check_directory, check_pack, show_findings
    from crescendo.data.packs import is_pack

    find = check_pack if is_pack(directory) else check_directory
    findings = find(directory, workers, refresh_index=refresh, progress=not as_json)
    if as_json:
        print(json.dumps(asdict(findings), indent=2))
    else:
        get_console().print(show_findings(findings), soft_wrap=True)
    if findings.faults or findings.problem:
        raise typer.Exit(1)
