import pytest
import torch

from milscope.augment import LUMA, STAINS, Views, centre, colour_matrices, stain_matrices
from milscope.types import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(count: int = 64, side: int = 12) -> torch.Tensor:
    return torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=generator(1))


def test_views_without_colour_are_crops_in_one_of_eight_orientations() -> None:
    images = cells(count=200, side=6)
    views = Views(5, colour=0)(images, generator())
    found = set()
    for image, view in zip(images.permute(0, 3, 1, 2).float() / 255, views, strict=True):
        options = {(top, left, flip, turn): orient(image[:, top:top + 5, left:left + 5], flip, turn)
                   for top in range(2) for left in range(2) for flip in range(2) for turn in range(4)}
        matches = [key for key, option in options.items() if torch.equal(option, view)]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) == 32


def orient(image: torch.Tensor, flip: int, turn: int) -> torch.Tensor:
    return torch.rot90(image.flip(2) if flip else image, turn, (1, 2))


def test_same_generator_same_views() -> None:
    assert torch.equal(Views(8)(cells(), generator()), Views(8)(cells(), generator()))
    assert not torch.equal(Views(8)(cells(), generator()), Views(8)(cells(), generator(5)))


def test_views_of_the_same_cell_differ_from_one_another() -> None:
    views = Views(8)(cells(1).expand(50, -1, -1, -1), generator())
    assert len(views.flatten(1).unique(dim=0)) > 45


def test_colours_stay_between_zero_and_one() -> None:
    views = Views(8, colour=0.5)(cells(), generator())
    assert views.min() >= 0
    assert views.max() <= 1


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.4])
def test_grey_stays_grey(strength: float) -> None:
    matrix = colour_matrices(20, strength, generator())
    grey = torch.full((3,), 0.4)
    changed = matrix[:, :, :3] @ grey + matrix[:, :, 3] * 0.4
    assert torch.allclose(changed, changed[:, :1].expand(-1, 3), atol=1e-6)
    assert (changed[:, 0] / 0.4 - 1).abs().max() <= strength + 1e-6


def test_no_strength_changes_nothing() -> None:
    matrix = colour_matrices(3, 0.0, generator())
    assert torch.allclose(matrix[:, :, :3], torch.eye(3).expand(3, 3, 3), atol=1e-6)
    assert torch.allclose(matrix[:, :, 3], torch.zeros(3, 3), atol=1e-6)


def test_contrast_keeps_the_mean_grey() -> None:
    """With hue, saturation and brightness at rest, contrast moves pixels about the cell's mean grey only."""
    images = cells()
    luma = torch.tensor(LUMA).view(1, 3, 1, 1)
    plain, changed = (Views(12, colour=strength)(images, generator()) for strength in (0, 0.02))
    assert torch.allclose((plain * luma).sum(1).mean((1, 2)), (changed * luma).sum(1).mean((1, 2)), rtol=0.06)
    assert not torch.allclose(plain, changed)


def test_centre_is_the_middle() -> None:
    images = cells(2, side=12)
    assert torch.equal(centre(images, 8), images[:, 2:10, 2:10].permute(0, 3, 1, 2).float() / 255)


def test_views_of_a_part_are_the_part_of_the_views() -> None:
    """What several processes rely on: the chance is drawn for all cells, each process makes its own views."""
    views, images = Views(8, colour=0.2, stain=0.2), cells(10)
    draw = views.draw(10, 12, generator())
    assert torch.equal(views.apply(images, draw)[3:7], views.apply(images[3:7], draw.of(slice(3, 7))))
    assert torch.equal(views(images, generator()), views.apply(images, draw))


def test_stain_jitter_scales_the_amount_of_each_stain() -> None:
    """A pixel of one stain alone keeps its direction in optical density; white stays nearly white."""
    matrix = stain_matrices(50, 0.3, generator())
    for stain in torch.tensor(STAINS):
        direction = stain / stain.norm()
        density = (matrix[:, :, :3] @ direction)
        amount = density @ direction
        assert torch.allclose(density, amount[:, None] * direction, atol=1e-5)
        assert amount.min() >= 0.7 - 1e-5
        assert amount.max() <= 1.3 + 1e-5
    assert stain_matrices(50, 0.3, generator())[:, :, 3].abs().max() <= 0.03 * 3
    plain, jittered = (Views(12, colour=0, stain=strength, orientations=False)(cells(), generator()) for strength in (0, 0.2))
    assert not torch.allclose(plain, jittered)
    assert jittered.min() >= 0
    assert jittered.max() <= 1


def test_no_strength_of_stain_changes_nothing() -> None:
    matrix = stain_matrices(3, 0.0, generator())
    assert torch.allclose(matrix[:, :, :3], torch.eye(3).expand(3, 3, 3), atol=1e-5)
    assert (matrix[:, :, 3] == 0).all()


def test_without_orientations_cells_stay_upright() -> None:
    images = cells(20, side=8)
    assert torch.equal(Views(8, colour=0, orientations=False)(images, generator()), centre(images, 8))


def test_a_resized_view_shows_a_straight_part_of_its_cell() -> None:
    """Linear ramps are what bilinear reading keeps exactly: the view says itself where its corner lies and how wide it is."""
    side, size, resize = 40, 32, 0.5
    ramp = torch.arange(side, dtype=torch.uint8) * 6
    image = torch.stack([ramp[:, None].expand(-1, side), ramp.expand(side, -1), ramp.new_zeros(side, side)], dim=2)
    views = Views(size, colour=0, orientations=False, resize=resize)(image.expand(4000, -1, -1, -1), generator()) * 255 / 6
    inner = views[:, :, 4:-4, 4:-4]  # at the border of the stored cell there is no neighbour beyond
    steps = inner[:, 0].diff(dim=1)
    share = steps.mean((1, 2))
    assert torch.allclose(steps, share[:, None, None].expand_as(steps), atol=1e-4)
    assert torch.allclose(inner[:, 1].diff(dim=2).mean((1, 2)), share, atol=1e-4)
    assert (inner[:, 0].diff(dim=2).abs().max(), inner[:, 2].max()) == (pytest.approx(0, abs=1e-4), 0)
    assert 1 - resize - 1e-4 <= share.min() < 0.505
    assert 0.995 < share.max() <= 1 + 1e-4
    assert share.mean() == pytest.approx(1 - resize / 2, abs=0.01)
    corner = inner[:, :2, 0, 0] - 4.5 * share[:, None] + 0.5  # 4.5 view pixels from the crop's corner, half one from the cell's
    room = corner / (side - size * share[:, None])
    assert -1e-3 <= room.min() < 0.01
    assert 0.99 < room.max() <= 1.001
    assert room.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_resized_views_come_in_all_eight_orientations() -> None:
    image = cells(1, side=9).expand(300, -1, -1, -1)
    views = Views(9, colour=0, resize=1e-6)(image, generator())
    plain = image[0].permute(2, 0, 1).float() / 255
    options = torch.stack([orient(plain, flip, turn) for flip in range(2) for turn in range(4)])
    distance = (views[:, None] - options).abs().flatten(2).amax(2)
    assert distance.min(1).values.max() < 1e-3
    assert set(distance.argmin(1).tolist()) == set(range(8))


def test_a_whole_crop_resized_is_the_crop() -> None:
    images, views = cells(30, side=12), Views(8, colour=0.2, stain=0.2)
    draw = views.draw(30, 12, generator())
    resized = Views(8, colour=0.2, stain=0.2, resize=0.5).apply(images, draw)
    assert torch.allclose(resized, views.apply(images, draw), atol=1e-3)


def test_the_cells_of_a_resized_part_are_the_part() -> None:
    views, images = Views(8, colour=0.2, resize=0.4), cells(10)
    draw = views.draw(10, 12, generator())
    assert torch.equal(views.apply(images, draw)[3:7], views.apply(images[3:7], draw.of(slice(3, 7))))


def test_nothing_is_drawn_for_sizes_that_stay() -> None:
    """Training without resizing goes on as it did: the same random numbers in the same order."""
    chance, expected = generator(3), generator(3)
    draw = Views(8, resize=0.0).draw(5, 12, chance)
    assert torch.equal(draw.offset, torch.randint(5, (5, 2), generator=expected))
    assert torch.equal(draw.flip, torch.randint(2, (5, 2), generator=expected))
    assert torch.equal(draw.share, torch.ones(5))


@pytest.mark.parametrize("resize", [-0.1, 1.0, float("nan")])
def test_refuses_sizes_that_cannot_be(resize: float) -> None:
    with pytest.raises(InputError, match="`resize` should be from 0 to below 1"):
        Views(8, resize=resize)
