import pytest
import torch

from milscope.augment import LUMA, STAINS, Views, centre, colour_matrices, stain_matrices


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
