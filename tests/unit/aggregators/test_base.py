"""The scale of the features is measured once, in double precision, and travels with the model."""

import torch

from milscope.aggregators import MeanPooling


def test_fit_scale_takes_mean_and_deviation_of_all_cells():
    cells = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.01]) + 7
    model = MeanPooling(2)
    model.fit_scale(cells)
    torch.testing.assert_close(model.mean, cells.double().mean(0).float())
    torch.testing.assert_close(model.deviation, cells.double().std(0, correction=0).float())
    assert {"mean", "deviation"} <= model.state_dict().keys()


def test_a_feature_that_does_not_vary_keeps_its_size():
    model = MeanPooling(3)
    model.fit_scale(torch.tensor([[0.1, 0.0, 1.0]]).expand(1000, 3) * torch.tensor([1.0, 1.0, 1e8]))
    assert model.deviation.tolist() == [1.0, 1.0, 1.0]


def test_small_differences_beside_a_large_common_vector_are_brought_out():
    cells = 100 + 1e-2 * torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    model = MeanPooling(4)
    model.fit_scale(cells)
    standardised = (cells - model.mean) / model.deviation
    torch.testing.assert_close(standardised.std(0), torch.ones(4), rtol=0.05, atol=0)
