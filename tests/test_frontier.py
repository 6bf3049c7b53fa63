"""What the benchmark of progressive learning makes of its rows."""

from dataclasses import replace

import pytest
from frontier import Result, append, find_match, points_of, read_results, table
from openclipart import prepare
from PIL import Image


def rows(arm, epochs, validation, test, macs, cpu_seconds):
    """A row for each seed, from a pair of values each."""
    return [
        Result("clipart", arm, 1, epochs, seed, validation[seed], test[seed], macs, cpu_seconds[seed], "abc")
        for seed in (0, 1)
    ]


RESULTS = [
    *rows("fixed", 30, (0.900, 0.902), (0.89, 0.89), 3000, (30.0, 30.0)),  # the best, at an overlong cost
    *rows("fixed", 20, (0.899, 0.900), (0.89, 0.90), 2000, (20.0, 20.0)),
    *rows("fixed", 10, (0.880, 0.880), (0.92, 0.92), 1000, (10.0, 10.0)),  # its test accuracy does not count
    *rows("progressive", 30, (0.910, 0.910), (0.91, 0.91), 1800, (19.0, 19.0)),
    *rows("progressive", 20, (0.900, 0.900), (0.91, 0.90), 1200, (13.0, 15.0)),
    *rows("progressive", 10, (0.890, 0.890), (0.91, 0.91), 600, (7.0, 7.0)),
]


def test_the_reference_is_the_cheapest_near_the_best_and_the_match_the_cheapest_not_below_it():
    reference, match = find_match(points_of(RESULTS))
    assert (reference.arm, reference.epochs) == ("fixed", 20)
    assert (match.arm, match.epochs) == ("progressive", 20)


def test_the_saving_is_paired_over_seeds():
    told = table(RESULTS)
    # +2 and 0 points: mean 1, deviation sqrt 2; t of one degree of freedom is 12.706
    assert "match: progressive, 20 epochs, test accuracy +1.00 ± 12.71 points" in told
    assert "share of the MACs 0.600 ± 0.000, of the CPU seconds 0.700 ± 0.635" in told
    assert "| fixed | 20 | 2 | 89.95 ± 0.64 | 89.50 ± 6.35 |" in told


def test_no_match_is_told():
    worse = [result for result in RESULTS if (result.arm, result.epochs) != ("progressive", 30)]
    worse = [result for result in worse if (result.arm, result.epochs) != ("progressive", 20)]
    assert "match: none" in table(worse)


def test_results_read_back(tmp_path):
    path = tmp_path / "results.csv"
    assert read_results(path) == []
    for result in RESULTS:
        append(path, result)
    assert read_results(path) == RESULTS


def test_drawings_become_classes_without_duplicates(tmp_path, monkeypatch):
    monkeypatch.setattr("openclipart.SMALLEST_CLASS", 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # lifted, and here put back
    source = tmp_path / "source"
    drawings = {
        "animals/a.png": Image.new("RGBA", (300, 200), (255, 0, 0, 0)),  # see-through: white
        "animals/sub/b.png": Image.new("RGB", (40, 60), "green"),
        "animals/c.png": Image.new("RGB", (100, 20), "green"),  # too long
        "food/d.png": Image.new("RGB", (40, 60), "green"),  # as in animals
        "food/e.png": Image.new("P", (50, 50), 1),
        "food/f.png": Image.new("RGB", (8000, 7000), "blue"),  # too large
        "special/g.png": Image.new("RGB", (50, 50), "red"),
        "logos/h.png": Image.new("RGB", (50, 50), "red"),  # too few
    }
    for name, drawing in drawings.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        drawing.save(source / name)
    made = tmp_path / "made"
    prepare(made, source)
    sizes = {}
    for path in sorted(made.rglob("*.ppm")):
        with Image.open(path) as image:
            sizes[path.relative_to(made).as_posix()] = image.size
    assert sizes == {
        "animals/00000.ppm": (192, 128),
        "animals/00001.ppm": (40, 60),
        "food/00000.ppm": (50, 50),
    }
    with Image.open(made / "animals/00000.ppm") as first:
        assert first.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["openclipart", "fashion_mnist"])
def test_both_arms_of_each_measurement_compose(name, configuration):
    from progressive import MEASUREMENTS, quick

    for measurement in (MEASUREMENTS[name], quick(MEASUREMENTS[name])):
        stages = {}
        for arm in ("fixed", "progressive"):
            overrides = measurement.overrides(arm, measurement.budgets[0], seed=1)
            stages[arm] = configuration(*overrides).curriculum.stages
        assert stages["fixed"] == 1 < stages["progressive"]


def test_other_settings_have_another_digest():
    from progressive import MEASUREMENTS

    measurement = MEASUREMENTS["openclipart"]
    other = replace(measurement, progressive=[*measurement.progressive, "optimizer.lr=0.1"])
    assert other.digest("fixed") == measurement.digest("fixed") != measurement.digest("progressive")
    assert other.digest("progressive") != measurement.digest("progressive")
