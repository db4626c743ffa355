"""DiffAugment: each augmentation's pixels, its probability, and its gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from services.trainer.data.diffaugment import change_color, cut_out, diffaugment, translate


def uniform(count: int) -> Tensor:
    return torch.rand(count)


def images(count: int, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_color_changes_brightness_then_saturation_then_contrast() -> None:
    image = images(1)
    half = torch.tensor([0.5])
    torch.testing.assert_close(change_color(image, half, half, half), image)
    brighter = change_color(image, torch.tensor([1.0]), half, half)
    torch.testing.assert_close(brighter, image + 0.5)
    grey = change_color(image, half, torch.tensor([0.0]), half)
    torch.testing.assert_close(grey, image.mean(1, keepdim=True).expand_as(image))
    flat = change_color(image, half, half, torch.tensor([0.0]))
    torch.testing.assert_close(flat, image.mean() + (image - image.mean()) / 2)


def test_a_translated_image_continues_with_its_mirror_image() -> None:
    image = images(3, side=8)
    moved = translate(image, torch.tensor([0, 2, -1]), torch.tensor([0, -3, 2]))
    padded = F.pad(image, (3, 3, 3, 3), mode="reflect")
    assert torch.equal(moved[0], image[0])
    assert torch.equal(moved[1], padded[1, :, 1:9, 6:14])
    assert torch.equal(moved[2], padded[2, :, 4:12, 1:9])


def test_cutout_greys_a_square_of_half_the_side_and_no_more() -> None:
    image = torch.ones(3, 3, 32, 32)
    cut = cut_out(
        image, torch.tensor([0.5, 0.0, 0.5]), torch.tensor([0.5, 1.0, 0.5]), torch.tensor([True, True, False])
    )
    assert (cut == 0).sum((1, 2, 3)).tolist() == [3 * 16 * 16, 3 * 8 * 8, 0]
    assert (cut[0, :, 8:24, 8:24] == 0).all()
    assert (cut[1, :, :8, 24:] == 0).all()


def test_each_augmentation_changes_about_its_share_of_the_images_each_differently() -> None:
    torch.manual_seed(0)
    same = images(1).expand(400, 3, 32, 32)
    for name in ("color", "translation", "cutout"):
        changed = diffaugment(same, [name], 0.6, lambda: uniform(400))
        is_changed = (changed != same).flatten(1).any(1)
        assert 0.5 < is_changed.float().mean() < 0.7
        # 9 x 9 translations, of which one moves nothing
        assert len({tuple(one.flatten().tolist()) for one in changed[is_changed]}) > 60
    assert diffaugment(same, [], 0.6, lambda: uniform(400)) is same


def test_translations_reach_an_eighth_of_the_side_both_ways() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(32.0).view(1, 1, 1, 32).expand(500, 1, 32, 32) / 100
    moved = diffaugment(ramp, ["translation"], 1.0, lambda: uniform(500))
    assert sorted({round(float(16 - 100 * image[0, 0, 16])) for image in moved}) == list(range(-4, 5))


def test_gradients_pass_through_all_three() -> None:
    torch.manual_seed(0)
    x = images(20).requires_grad_()
    augmented = diffaugment(x, ["color", "translation", "cutout"], 0.7, lambda: uniform(20))
    torch.autograd.backward(augmented.pow(2).sum())
    assert x.grad is not None
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
