"""A run's best checkpoint, written for use elsewhere, and checked before it gets its name."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from crescendo.analysis.choices import Format
from crescendo.analysis.costs import check_resolution
from crescendo.analysis.export import (
    BATCH_SIZES,
    Deployed,
    allowed_difference,
    check_extra,
    largest_difference,
    read,
    write,
)
from crescendo.errors import UserError, no_directory
from crescendo.evaluation import TrainedRun, load_run
from crescendo.experiment import build_classifier, plain_values
from crescendo.runs import read_summary


def export_run(
    run: Path,
    form: Format,
    out: Path | None = None,
    *,
    resolution: int | None = None,
    force: bool = False,
    trust: bool = False,
) -> Path:
    """Write a run's net with what one has to know to use it; the file that was written.

    What was written is read back and must give the net's logits, for each of BATCH_SIZES.

    Args:
        out: by default <net> with the format's suffix, in the working directory.
        resolution: in px, of the graph; the run's own of evaluation by default.

    Raises:
        UserError: the file is there already or has another suffix, a package is missing, the net does not
            take the resolution, or what was written answers otherwise.
    """
    check_extra(form)
    if out is not None:
        _check_file(out, form, force=force)
    trained = load_run(run, trust=trust)
    net, data = trained.classifier.net, trained.config.data
    out = out or Path(net.name + form.suffix)
    _check_file(out, form, force=force)
    resolution = resolution or trained.resolution
    reason = check_resolution(net, resolution)
    if reason is not None:
        raise UserError(f"--resolution {resolution}: {reason}.")
    deployed, fresh = (
        Deployed(each, list(data.mean), list(data.std))
        for each in (net, build_classifier(trained.config).net)
    )
    generator = torch.Generator().manual_seed(0)
    shape = (max(BATCH_SIZES), data.in_channels, resolution, resolution)
    images = torch.rand(shape, generator=generator)
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    try:
        write(form, deployed, images, metadata(trained, resolution, form), partial)
        difference = largest_difference(read(form, partial, fresh), deployed, images)
        allowed = allowed_difference(deployed, images)
        if not difference <= allowed:
            raise UserError(
                f"{net.name} as {form} differs from the net by {difference:.1e} of the largest logit, "
                f"more than {allowed:.0e}: it was not written."
            )
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return out


def metadata(trained: TrainedRun, resolution: int, form: Format) -> dict[str, str]:
    """What a file says of itself: text as it is, all else as JSON."""
    data: dict[str, Any] = plain_values(trained.config.data)
    facts: dict[str, Any] = {"net": trained.classifier.net.name, "run": trained.directory.resolve().name}
    revision = read_summary(trained.directory).get("git_revision")
    if revision is not None:
        facts["git_revision"] = revision
    facts["resolution"] = resolution
    facts |= {name: data[name] for name in ("in_channels", "mean", "std", "fit", "eval_crop")}
    facts["normalisation"] = "outside" if form is Format.SAFETENSORS else "inside"
    facts["classes"] = trained.class_names
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in facts.items()
    }


def _check_file(out: Path, form: Format, *, force: bool) -> None:
    if out.suffix != form.suffix:
        raise UserError(f"--out {out}: a file of --format {form} ends in {form.suffix}.")
    if not out.parent.is_dir():
        raise no_directory(out.parent)
    if out.exists() and not force:
        raise UserError(f"{out} is there already: --force overwrites it, --out names another file.")
