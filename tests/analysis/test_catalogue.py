import pytest

from crescendo.analysis.catalogue import Row, make_catalogue


def test_rows_are_what_the_papers_print():
    assert make_catalogue(["lenet5", "alexnet_owt", "resnet20"], "name") == [
        Row("lenet5", "LeNet", 1998, 60_000, 325_680, 32, 32),
        Row("alexnet_owt", "AlexNet", 2014, 61_100_840, 714_188_480, 224, 63),
        Row("resnet20", "ResNet", 2015, 269_722, 40_551_040, 32, 4),
    ]


@pytest.mark.parametrize(
    ("order", "sorted_names"),
    [
        ("name", ["mobilenet_v2", "resnet20", "alexnet_owt", "lenet5"]),
        ("year", ["lenet5", "alexnet_owt", "resnet20", "mobilenet_v2"]),
        ("parameters", ["lenet5", "resnet20", "mobilenet_v2", "alexnet_owt"]),
        ("macs", ["lenet5", "resnet20", "mobilenet_v2", "alexnet_owt"]),
        ("resolution", ["resnet20", "lenet5", "mobilenet_v2", "alexnet_owt"]),  # equal ones as given
        ("min_resolution", ["resnet20", "mobilenet_v2", "lenet5", "alexnet_owt"]),
        ("family", ["alexnet_owt", "lenet5", "mobilenet_v2", "resnet20"]),
    ],
)
def test_order(order, sorted_names):
    names = ["mobilenet_v2", "resnet20", "alexnet_owt", "lenet5"]
    assert [row.name for row in make_catalogue(names, order)] == sorted_names
