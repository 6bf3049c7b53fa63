"""ImageNet's layouts, three classes small."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from crescendo.data.imagenet import imagenet, is_imagenet
from crescendo.errors import UserError

# number in the devkit, synset, words; the last is no class but a group of classes
CLASSES = (
    (2, "n01440764", "tench, Tinca tinca", 0),
    (3, "n02012849", "crane", 0),
    (1, "n03126707", "crane", 0),
    (4, "n00001740", "entity", 2),
)
NAMES = ["tench", "crane (n02012849)", "crane (n03126707)"]
VALIDATION = ["n03126707", "n01440764", "n01440764", "n02012849"]  # images 1 to 4


@pytest.fixture
def root(tmp_path):
    for _, synset, _, children in CLASSES:
        for number in range(0 if children else 4):
            write(tmp_path / "train" / synset / f"{synset}_{number}.JPEG")
    return tmp_path


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9)).save(path, "jpeg")


def flat(root):
    for number in range(1, 5):
        write(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG")


def devkit(root):
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    savemat(data / "meta.mat", {"synsets": np.array(list(CLASSES), dtype=kind)})
    number_of = {synset: number for number, synset, *_ in CLASSES}
    lines = "".join(f"{number_of[synset]}\n" for synset in VALIDATION)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)


def labels_by_name(images):
    return {images.name(index).split("/")[-1]: label for index, label in enumerate(images.labels.tolist())}


EXPECTED = {
    f"ILSVRC2012_val_0000000{number}.JPEG": label for number, label in ((1, 2), (2, 0), (3, 0), (4, 1))
}


def test_a_flat_validation_is_labelled_by_the_devkit(root):
    flat(root)
    devkit(root)
    sets = imagenet(str(root))
    assert sets.class_names == NAMES
    assert np.bincount(sets.training.labels).tolist() == [4, 4, 4]
    assert labels_by_name(sets.training)["n02012849_3.JPEG"] == 1
    assert labels_by_name(sets.test) == EXPECTED
    assert sets.validation is None


def test_a_flat_validation_is_labelled_by_the_challenge_csv(root):
    flat(root)
    lines = [f"ILSVRC2012_val_{number:08},{synset} 1 2 3 4" for number, synset in enumerate(VALIDATION, 1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    (root / "LOC_synset_mapping.txt").write_text("\n".join(f"{row[1]} {row[2]}" for row in CLASSES))
    sets = imagenet(str(root))
    assert sets.class_names == NAMES
    assert labels_by_name(sets.test) == EXPECTED


def test_a_validation_in_directories_needs_nothing_else(root):
    for number, synset in enumerate(VALIDATION, 1):
        write(root / "val" / synset / f"ILSVRC2012_val_{number:08}.JPEG")
    sets = imagenet(str(root))
    assert sets.class_names == ["n01440764", "n02012849", "n03126707"]
    assert labels_by_name(sets.test) == EXPECTED


def test_what_is_missing_is_said(root):
    with pytest.raises(UserError, match="val is not a directory"):
        imagenet(str(root))
    flat(root)
    with pytest.raises(UserError, match=r"val is flat.*unpack ILSVRC2012_devkit_t12\.tar\.gz"):
        imagenet(str(root))
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nanother,n01440764 1 2 3 4\n")
    with pytest.raises(UserError, match="holds no image of the 3 classes"):
        imagenet(str(root))


def test_synsets_below_train_and_val_are_imagenets(tmp_path):
    for part in ("train", "val"):
        for synset in ("n01440764", "n01443537"):
            (tmp_path / part / synset).mkdir(parents=True)
    assert is_imagenet(tmp_path)
    (tmp_path / "val" / "cat").mkdir()
    assert not is_imagenet(tmp_path)
