import math

import pytest
import torch

from crescendo.mixing import (
    ERASED_AREA,
    ERASED_RATIO,
    LOSSES,
    Targets,
    binary_cross_entropy,
    count_correct,
    cross_entropy,
    erase,
    losses_of_each,
    mix,
)

LABELS = torch.arange(64)


def numbered(count, side=16):
    """Images whose pixels are their own number, from 1."""
    return torch.arange(1.0, count + 1)[:, None, None, None].expand(count, 2, side, side).clone()


def pasted_share(mixed, own):
    """The share of each image's pixels that is not its own, by counting."""
    return (mixed != own).float().mean((1, 2, 3))


def test_off_is_the_batch_itself_and_draws_nothing():
    images = torch.randn(4, 3, 8, 8)
    before = torch.get_rng_state()
    mixed, targets = mix(images, LABELS[:4], mixup=0.0, cutmix=0.0)
    assert mixed is images
    assert erase(images, 0.0) is images
    assert targets.labels is not None
    assert (targets.partners, targets.share) == (None, None)
    assert torch.equal(torch.get_rng_state(), before)


def test_mixup_blends_each_image_with_its_partner_by_the_share_of_the_target():
    torch.manual_seed(0)
    images = torch.randn(64, 3, 4, 4)
    mixed, targets = mix(images, LABELS, mixup=0.4, cutmix=0.0)
    share = targets.share[:, None, None, None]
    assert torch.equal(targets.labels, LABELS)
    assert torch.equal(targets.partners, 63 - LABELS)
    assert torch.allclose(mixed, share * images + (1 - share) * images.flip(0), atol=1e-5)
    assert targets.share.min() >= 0.5
    assert targets.share.max() <= 1
    assert targets.share.unique().numel() == 64


@pytest.mark.parametrize(("alpha", "expected"), [(0.2, 0.898), (1.0, 0.75), (100.0, 0.528)])
def test_mixup_draws_from_beta(alpha, expected):
    """E max(l, 1-l): 3/4 for the uniform; 1/2 + sqrt(1/(2 pi 201)) near the normal; 0.898 by quadrature."""
    torch.manual_seed(0)
    _, targets = mix(torch.zeros(20_000, 1, 1, 1), torch.zeros(20_000).long(), mixup=alpha, cutmix=0.0)
    assert targets.share.mean().item() == pytest.approx(expected, abs=0.006)


def test_cutmix_shares_are_those_of_the_pixels():
    torch.manual_seed(0)
    images = numbered(64)
    mixed, targets = mix(images, LABELS, mixup=0.0, cutmix=1.0)
    pasted = mixed != images
    assert torch.equal(torch.where(pasted, images.flip(0), images), mixed)
    assert targets.share == pytest.approx((1 - pasted_share(mixed, images)).numpy(), abs=1e-6)
    for mask in pasted[:, 0]:  # a rectangle: the rows and columns that it touches are full
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
    assert torch.equal(pasted[:, 0], pasted[:, 1])


def test_cutmix_cuts_everywhere_and_of_the_size_that_beta_gives():
    torch.manual_seed(0)
    count = 4000
    images = numbered(count, side=24)
    mixed, targets = mix(images, torch.zeros(count).long(), mixup=0.0, cutmix=1.0)
    touched = (mixed != images)[:, 0].float().mean(0)
    assert touched[12, 12] > touched[0, 0] > 0.05
    assert touched[0, 0].item() == pytest.approx(touched[23, 23].item(), abs=0.03)
    assert touched[0, 23].item() == pytest.approx(touched[23, 0].item(), abs=0.03)
    # of a side s, s (1 - s/4) lies inside on average: E s^2 (1 - s/4)^2 for uniform s^2 is 0.3208
    assert (1 - targets.share).mean().item() == pytest.approx(0.321, abs=0.013)


@pytest.mark.parametrize("count", [8, 9])
def test_both_take_half_of_the_batch_each(count):
    torch.manual_seed(1)
    images = numbered(count)
    mixed, targets = mix(images, LABELS[:count], mixup=1.0, cutmix=1.0)
    flat = mixed.flatten(1)
    blended = flat.amin(1) == flat.amax(1)
    half = count // 2
    assert blended[:half].all()
    values = torch.stack((images, images.flip(0)))[:, half:]
    assert ((mixed[half:] == values[0]) | (mixed[half:] == values[1])).all()
    assert ((1 - targets.share[half:]) > 0).any()
    assert (flat[:half, 0] != images[:half, 0, 0, 0]).all()


def test_a_single_image_is_its_own_partner():
    image = torch.randn(1, 3, 4, 4)
    for mixup, cutmix in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        assert torch.allclose(mix(image, LABELS[:1], mixup, cutmix)[0], image)


def erased_boxes(images):
    """Top, left, height and width of what is 0 in images of ones, with the images that have it."""
    holes = (images == 0)[:, 0]
    chosen = holes.flatten(1).any(1)
    rows, columns = holes[chosen].any(2), holes[chosen].any(1)
    assert torch.equal(holes[chosen], rows[:, :, None] & columns[:, None, :])
    return chosen, rows.sum(1), columns.sum(1)


def test_erasing_takes_rectangles_within_the_bounds_of_the_paper():
    torch.manual_seed(0)
    side = 100
    images = torch.ones(1500, 2, side, side)
    erased = erase(images, 0.5)
    chosen, tall, wide = erased_boxes(erased)
    assert torch.equal(erased[:, 0], erased[:, 1])
    assert images.min() == 1
    assert chosen.float().mean().item() == pytest.approx(0.5, abs=0.05)
    area, ratio = tall * wide / side**2, tall / wide
    assert ERASED_AREA[0] - 0.004 < area.min() < 0.04
    assert 0.3 < area.max() < ERASED_AREA[1] + 0.015
    assert ERASED_RATIO[0] * 0.9 < ratio.min() < 0.35
    assert 3.0 < ratio.max() < ERASED_RATIO[1] * 1.1
    assert area.mean().item() == pytest.approx(0.175, abs=0.012)
    assert ratio.log().mean().item() == pytest.approx(math.log(0.3 * 3.3) / 2, abs=0.08)


def test_erasing_reaches_every_place_alike_on_both_sides():
    torch.manual_seed(0)
    holes = (erase(torch.ones(4000, 1, 20, 30), 0.99) == 0).float().mean((0, 1))
    assert holes.min() > 0
    assert torch.allclose(holes, holes.flip(0), atol=0.05)
    assert torch.allclose(holes, holes.flip(1), atol=0.05)


LOGITS = torch.tensor([[0.0, math.log(3), 0.0], [math.log(2), 0.0, 0.0]])
# softmax: 1/5 3/5 1/5 and 1/2 1/4 1/4


@pytest.mark.parametrize(
    ("targets", "smoothing", "expected"),
    [
        (Targets(torch.tensor([1, 0])), 0.0, (math.log(5 / 3) + math.log(2)) / 2),
        (
            Targets(torch.tensor([1, 0])),
            0.3,  # a tenth to every class
            (0.8 * math.log(5 / 3) + 0.2 * math.log(5) + 0.8 * math.log(2) + 0.2 * math.log(4)) / 2,
        ),
        (
            Targets(torch.tensor([1, 0]), torch.tensor([0, 2]), torch.tensor([0.75, 0.5])),
            0.0,
            (0.75 * math.log(5 / 3) + 0.25 * math.log(5) + 0.5 * math.log(2) + 0.5 * math.log(4)) / 2,
        ),
        (
            Targets(torch.tensor([1, 0]), torch.tensor([0, 2]), torch.tensor([0.75, 0.5])),
            0.3,
            # 0.7 of the shares and a tenth for each class
            (
                (0.7 * 0.75 + 0.1) * math.log(5 / 3)
                + (0.7 * 0.25 + 0.2) * math.log(5)
                + (0.7 * 0.5 + 0.1) * math.log(2)
                + (0.7 * 0.5 + 0.2) * math.log(4)
            )
            / 2,
        ),
    ],
    ids=["plain", "smoothed", "mixed", "mixed-smoothed"],
)
def test_cross_entropy_by_hand(targets, smoothing, expected):
    assert cross_entropy(LOGITS, targets, smoothing).item() == pytest.approx(expected, rel=1e-6)


def test_right_answers_count_in_their_shares():
    labels, partners = torch.tensor([1, 2]), torch.tensor([0, 0])  # the answers are 1 and 0
    assert count_correct(LOGITS, Targets(labels)).item() == 1
    assert count_correct(LOGITS, Targets(labels, partners, torch.tensor([0.75, 0.9]))).item() == (
        pytest.approx(0.85)
    )
    assert count_correct(LOGITS, Targets(labels, labels, torch.tensor([0.75, 0.9]))).item() == 1


def test_an_alpha_may_be_a_whole_number():
    images, labels = torch.rand(8, 1, 6, 6), torch.arange(8)
    share = mix(images, labels, mixup=1, cutmix=1)[1].share
    assert share.dtype == torch.float32


SOFTPLUS = {value: math.log1p(math.exp(value)) for value in (-2.0, -1.0, 0.0, 1.0, 2.0)}


def test_binary_cross_entropy_asks_every_class():
    """A wanted class costs softplus(-x), another softplus(x): the mean over two images and three classes."""
    logits = torch.tensor([[1.0, 0.0, -2.0], [2.0, -1.0, 0.0]])
    expected = SOFTPLUS[-1] + SOFTPLUS[0] + SOFTPLUS[-2] + SOFTPLUS[2] + SOFTPLUS[1] + SOFTPLUS[0]
    loss = binary_cross_entropy(logits, Targets(torch.tensor([0, 1])), 0.0)
    assert loss.item() == pytest.approx(expected / 6, abs=1e-6)
    each = losses_of_each("binary_cross_entropy", logits, torch.tensor([0, 1]))
    assert each.tolist() == pytest.approx(
        [(SOFTPLUS[-1] + SOFTPLUS[0] + SOFTPLUS[-2]) / 3, (SOFTPLUS[2] + SOFTPLUS[1] + SOFTPLUS[0]) / 3]
    )


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.9, [1, 1, 0]), (0.1, [1, 1, 0]), (1.0, [1, 0, 0]), (0.0, [0, 1, 0])]
)
def test_both_classes_of_a_mixed_image_are_a_yes_while_something_of_them_is_left(share, wanted):
    logits = torch.tensor([[1.0, -1.0, 2.0]])
    targets = Targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([share]))
    costs = [SOFTPLUS[-x] if yes else SOFTPLUS[x] for x, yes in zip((1.0, -1.0, 2.0), wanted, strict=True)]
    assert binary_cross_entropy(logits, targets, 0.0).item() == pytest.approx(sum(costs) / 3, abs=1e-6)


def test_smoothing_moves_the_binary_targets_towards_each_other():
    """By .3 over three classes: a yes is .8, a no .1."""
    logits = torch.tensor([[1.0, 0.0, -2.0]])
    mixed = [(0.8, 1.0), (0.1, 0.0), (0.1, -2.0)]
    expected = sum(yes * SOFTPLUS[-x] + (1 - yes) * SOFTPLUS[x] for yes, x in mixed) / 3
    loss = binary_cross_entropy(logits, Targets(torch.tensor([0])), 0.3)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_evaluation_adds_up_is_the_loss_of_images_as_they_are(loss):
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 5), torch.arange(8) % 5
    mean = LOSSES[loss](logits, Targets(labels), 0.0)
    assert losses_of_each(loss, logits, labels).mean().item() == pytest.approx(mean.item(), abs=1e-6)
