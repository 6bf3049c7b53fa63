import pytest

from crescendo.errors import UserError, did_you_mean, explain, nearest, no_directory, plain_errors


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


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), plain_errors():
        raise ZeroDivisionError
    assert explain(ValueError("a bug")) is None


def test_an_interrupt_is_exit_code_130():
    with pytest.raises(SystemExit) as caught, plain_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130
