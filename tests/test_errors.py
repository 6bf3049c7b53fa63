import pytest
from omegaconf import OmegaConf

from crescendo.errors import (
    UserError,
    _unknown_key,
    did_you_mean,
    explain,
    nearest,
    no_directory,
    plain_errors,
)


def test_nearest_is_best_first_and_keeps_case():
    assert nearest("resnt20", ["vgg16", "ResNet20", "resnet32"]) == ["ResNet20", "resnet32"]
    assert nearest("zzz", ["vgg16", "resnet20"]) == []


def test_did_you_mean_is_empty_without_a_match():
    assert did_you_mean("depht", ["depth", "width"]) == " Did you mean depth?"
    assert did_you_mean("zzz", ["depth"]) == ""


def test_a_missing_directory_names_its_neighbours(tmp_path):
    (tmp_path / "photos").mkdir()
    assert str(no_directory(tmp_path / "photo")).endswith("photo is not a directory. Did you mean photos?")


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught, plain_errors():
        raise UserError("seed=-1: should be 0 or more.")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: seed=-1: should be 0 or more.\n"


def test_an_unknown_key_offers_what_there_is():
    config = OmegaConf.create({"seed": 1, "trainer": {"_target_": "x", "max_epochs": 3}, "hydra": {}})
    assert _unknown_key("max_epochs", config) == (
        "max_epochs is not a setting. Did you mean trainer.max_epochs? The configuration has seed, trainer."
    )
    assert _unknown_key("trainer.max_epoch", config.trainer) == (
        "trainer.max_epoch is not a setting. Did you mean max_epochs? trainer has _target_, max_epochs. "
        "Another argument of its target: +trainer.max_epoch=<value>."
    )


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), plain_errors():
        raise ZeroDivisionError
    assert explain(ValueError("a bug")) is None


def test_an_interrupt_is_exit_code_130():
    with pytest.raises(SystemExit) as caught, plain_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130
