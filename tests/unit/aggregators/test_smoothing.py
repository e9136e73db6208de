"""Attention in blocks, against the whole matrix."""

import pytest
import torch

from milscope.aggregators import _smoothing
from milscope.aggregators._smoothing import smooth


@pytest.fixture(autouse=True, params=[1, 3, 7, 1024, "at once"])
def _block(request, monkeypatch):
    monkeypatch.setattr(_smoothing, "AT_ONCE", 256 if request.param == "at once" else 0)
    monkeypatch.setattr(_smoothing, "BLOCK", 1 if request.param == "at once" else request.param)


def test_is_the_softmax_times_the_scores_with_its_gradients():
    given = tensors()
    found, expected = smooth(*given), whole(*given)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    direction = torch.randn_like(found)
    gradients = torch.autograd.grad(found, given, direction)
    for gradient, other in zip(gradients, torch.autograd.grad(expected, given, direction), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(smooth, tensors())


def test_large_products_overflow_nowhere():
    cells, scores, query, key = tensors()
    found = smooth(cells * 1e4, scores, query, key)
    torch.testing.assert_close(found, whole(cells * 1e4, scores, query, key))
    found.sum().backward()
    assert cells.grad.isfinite().all()


def whole(cells, scores, query, key):
    queries, keys = (cells @ query.T).transpose(0, 1), (cells @ key.T).transpose(0, 1)
    return torch.stack([(q @ k.T).softmax(1) @ score for q, k, score in zip(queries, keys, scores.T, strict=True)], 1)


def tensors():
    shapes = [(7, 2, 3), (7, 2), (3, 3), (3, 3)]
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
