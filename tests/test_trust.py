"""A stranger's run, as it may come by mail: data, of which nothing is executed."""

import pickle
import shutil

import pytest
from commands import TINY, command, crescendo, only_run, train
from omegaconf import OmegaConf

from crescendo.config import validate
from crescendo.errors import UserError
from crescendo.targets import check_arguments

QUICK = (*TINY, "logger=csv")


@pytest.fixture
def run(tmp_path, uninterrupted):
    """A run that was not finished."""
    directory = shutil.copytree(uninterrupted(*QUICK), tmp_path / "run")
    (directory / "summary.json").unlink()
    return directory


class Opens:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def verbs(run):
    """Reading a run's configuration and best checkpoint, and going on: what each ended with and said."""
    evaluated = crescendo("evaluate", str(run), cwd=run.parent)
    resumed = train(f"resume={run}", cwd=run.parent)
    return [evaluated, resumed]


def test_a_pickle_in_place_of_a_checkpoint_is_refused(run):
    for name in ("best.ckpt", "last.ckpt", "previous.ckpt"):
        (run / "checkpoints" / name).write_bytes(pickle.dumps({"state_dict": Opens(run / "opened")}))
    for ended, name in zip(verbs(run), ("best.ckpt", "last.ckpt"), strict=True):
        assert ended.returncode == 2
        assert f"{name} is not a checkpoint that can be read" in " ".join(
            (ended.stdout + ended.stderr).split()
        )
        assert "Traceback" not in ended.stderr
    assert not (run / "opened").exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("unknown_package.Net", "torch.os.system", "crescendo.processes.run_process")
        ),
    ],
)
def test_a_target_from_elsewhere_is_refused_by_name(run, target):
    config = OmegaConf.load(run / "config.yaml")
    config.callbacks.mine = {"_target_": target, "command": f"touch {run / 'opened'}"}
    config.trust = True  # a run does not vouch for itself
    OmegaConf.save(config, run / "config.yaml")
    for ended in verbs(run):
        assert ended.returncode == 2
        assert f"callbacks.mine._target_={target}: refused" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not (run / "opened").exists()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("torch.os.system", "It is posix.system"),
        ("torch.load", "It is no class"),
        ("torch.hub.load", "It is no class"),
        ("hydra.utils.call", "It is no class"),
        ("crescendo.processes.run_process", "It is no class"),
    ],
)
def test_what_is_no_class_and_no_factory_is_not_called(configuration, target, why):
    config = configuration(f"+callbacks.mine._target_={target}")
    validate(config)  # its package is trusted
    with pytest.raises(UserError, match=rf"callbacks\.mine\._target_={target}: refused\. {why}"):
        check_arguments(config)


@pytest.mark.slow  # four processes that cannot be forked
def test_what_is_trusted_is_built(tmp_path):
    (tmp_path / "my_callbacks.py").write_text(
        "import lightning as L\n\n\n"
        "class Notes(L.Callback):\n"
        "    def on_train_end(self, trainer, module):\n"
        "        open('notes.txt', 'w').write(str(trainer.global_step))\n"
    )
    mine = (*QUICK, "trainer.max_steps=2", "+callbacks.mine._target_=my_callbacks.Notes")
    refused = train(*mine, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert refused.returncode == 2
    assert "with trust=true" in refused.stderr
    trained = train(*mine, "trust=true", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "notes.txt").read_text() == "2"
    again = ("-m", "crescendo.cli", "evaluate", str(only_run(tmp_path)))
    assert "refused" in command(*again, cwd=tmp_path, PYTHONPATH=str(tmp_path)).stderr
    assert command(*again, "--trust", cwd=tmp_path, PYTHONPATH=str(tmp_path)).returncode == 0
