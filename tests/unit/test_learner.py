import sys

import pytest
import torch

from milscope.configs import PretrainConfig
from milscope.distributed import Team
from milscope.learner import Learner, Said
from milscope.objectives import METHODS, Method, NTXent, Similarity, Task
from milscope.types import InputError

EXACT = {"encoder_options": {"channels": [8, 8, 16, 16]}, "size": 32, "projection": 16, "device": "cpu", "precision": "float64"}


def learner(method: Method | None = None, **changes: object) -> Learner:
    return Learner(PretrainConfig(**{**EXACT, **changes}), Team(), method=method)


def cells(positive: int = 6, negative: int = 10, side: int = 36) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
            for name, count in (("positive", positive), ("negative", negative))}


def taken(network: Learner, rate: float = 0.0) -> Said:
    halves = cells()
    return network.step(halves, {name: len(each) for name, each in halves.items()}, torch.Generator().manual_seed(2), rate)


@pytest.mark.parametrize("statistics", ["joint", "per-task", "per-view"])
def test_gradients_are_those_of_a_plain_loop(statistics: str) -> None:
    """One forward pass a group, losses from the formulas, a backward pass a loss, nothing shared."""
    network = learner(statistics=statistics)
    halves, views = cells(), network.views
    draw = views.draw(32, 36, torch.Generator().manual_seed(2))
    order = [halves["positive"], halves["positive"], halves["negative"], halves["negative"]]
    parts = views.apply(torch.cat(order), draw).double().split([6, 6, 10, 10])
    groups = {"joint": [parts], "per-task": [parts[:2], parts[2:]], "per-view": [[part] for part in parts]}[statistics]
    projections = torch.cat([network.head(network.encoder(torch.cat(list(group)))) for group in groups])
    positive, negative = projections[:12].unflatten(0, (2, 6)), projections[12:].unflatten(0, (2, 10))
    losses = [NTXent(0.07)(positive), Similarity(0.07)(negative)]
    expected = [torch.autograd.grad(loss, network.parameters, retain_graph=True) for loss in losses]
    said = taken(network)
    told = [float(said.losses[name]) for name in ("contrast", "similarity")]
    assert told == pytest.approx([float(each.detach()) for each in losses])
    for ours, plain in zip(said.gradients, expected, strict=True):
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("statistics", ["joint", "per-task"])
def test_tasks_may_share_cells(statistics: str) -> None:
    tasks = (Task("contrast", NTXent(), "all"), Task("similarity", Similarity(), "negative"),
             Task("third", Similarity(), "all"))
    said = taken(learner(Method("three", tasks, "ags", "projector"), statistics=statistics))
    assert list(said.losses) == ["contrast", "similarity", "third", "contrast_over_chance"]
    assert all(torch.isfinite(part).all() for gradient in said.gradients for part in gradient)


def test_only_cells_that_a_task_looks_at_are_encoded() -> None:
    said = taken(learner(METHODS["similarity"](0.07, 0.07)))
    assert said.features.shape[0] == 20
    assert list(said.losses) == ["similarity"]


def test_bfloat16_stays_near_float32() -> None:
    """Losses within 3 %, gradients within 15 degrees: 8 bits of mantissa through 18 layers."""
    exact, rough = (learner(
        precision=precision, contrast_temperature=0.5, similarity_temperature=0.5) for precision in ("float32", "bfloat16"))
    ours, theirs = taken(exact), taken(rough)
    for name, loss in ours.losses.items():
        assert float(theirs.losses[name]) == pytest.approx(float(loss), rel=0.03)
    for a, b in zip(ours.gradients, theirs.gradients, strict=True):
        first, second = (torch.cat([part.flatten().float() for part in gradient]) for gradient in (a, b))
        assert torch.nn.functional.cosine_similarity(first, second, dim=0) > 0.966


def test_the_state_comes_back() -> None:
    first = learner(learning_rate=1e-2)
    taken(first, 1e-2)
    second = learner(learning_rate=1e-2, seed=5)
    second.restore(first.tensors())
    taken(first, 1e-2)
    taken(second, 1e-2)
    for name, value in first.networks.state_dict().items():
        assert torch.equal(value, second.networks.state_dict()[name]), name


def test_a_device_without_float64_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["milscope.learner"]
    monkeypatch.setattr(module, "choose_device", torch.device)
    with pytest.raises(InputError, match="which has no float64"):
        module.own_device("mps")
