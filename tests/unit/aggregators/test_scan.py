"""The selective scan in chunks, against one cell after the other."""

import pytest
import torch

from milscope.aggregators import _scan
from milscope.aggregators._scan import Selected, scan

CELLS, INNER, STATE = 7, 3, 2


@pytest.fixture(autouse=True, params=[1, 3, 7, 64])
def _chunk(request, monkeypatch):
    monkeypatch.setattr(_scan, "CHUNK", request.param)


def test_is_the_loop_with_its_gradients():
    given = tensors()
    found, expected = call(*given), loop(*given)
    directions = [torch.randn_like(part) for part in found]
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-12, atol=1e-14)
    gradients = torch.autograd.grad(found, given, directions)
    for gradient, other in zip(gradients, torch.autograd.grad(expected, given, directions), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(call, tensors())


def test_two_parts_one_after_the_other_are_the_whole():
    cells, steps, enter, leave, decay, state = tensors()
    whole, last = call(cells, steps, enter, leave, decay, state)
    first, between = call(cells[:4], steps[:4], enter[:4], leave[:4], decay, state)
    second, end = call(cells[4:], steps[4:], enter[4:], leave[4:], decay, between)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, last)


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e4])
def test_no_decay_is_too_strong_or_too_weak(scale):
    cells, steps, enter, leave, decay, state = (tensor.detach().float() for tensor in tensors())
    steps = (steps * scale).requires_grad_()
    found, _ = call(cells, steps, enter, leave, decay, state)
    found.sum().backward()
    assert found.isfinite().all()
    assert steps.grad.isfinite().all()


def call(cells, steps, enter, leave, decay, state):
    return scan(cells, Selected(steps, enter, leave), decay, state)


def loop(cells, steps, enter, leave, decay, state):
    outputs = []
    for cell, step, entering, leaving in zip(cells, steps, enter, leave, strict=True):
        state = (step * decay).exp() * state + torch.outer(entering, step * cell)
        outputs.append(leaving @ state)
    return torch.stack(outputs), state


def tensors():
    cells, enter, leave, state = (torch.randn(shape, dtype=torch.float64) for shape in
                                  [(CELLS, INNER), (CELLS, STATE), (CELLS, STATE), (STATE, INNER)])
    steps, decay = torch.rand(CELLS, INNER, dtype=torch.float64), -torch.rand(STATE, INNER, dtype=torch.float64)
    return tuple(tensor.requires_grad_() for tensor in (cells, steps, enter, leave, decay, state))
