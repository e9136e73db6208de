import math

import pytest
import torch

from milscope.surgery import Conflict
from milscope.telemetry import Telemetry, effective_rank, feature_std, group_cosines


def step(telemetry: Telemetry, contrast: float, cosine: float) -> None:
    losses = {"contrast": torch.tensor(contrast), "similarity": torch.tensor(1.0),
              "contrast_over_chance": torch.tensor(contrast / 4)}
    telemetry.add(losses, Conflict(torch.tensor(cosine), torch.tensor(2.0), torch.tensor(1.0)), learning_rate=0.1, cells=10)


def test_an_epoch_is_the_mean_of_its_steps() -> None:
    telemetry = Telemetry()
    step(telemetry, 2.0, -0.5)
    step(telemetry, 4.0, 0.5)
    row = telemetry.close()
    assert (row["contrast"], row["contrast_over_chance"], row["cosine"], row["conflict_share"]) == (3.0, 0.75, 0.0, 0.5)
    assert row["length_ratio"] == pytest.approx(2.0)


def test_an_interrupted_epoch_goes_on() -> None:
    telemetry = Telemetry()
    step(telemetry, 2.0, -0.5)
    resumed = Telemetry(telemetry.state())
    step(resumed, 4.0, 0.5)
    assert resumed.close()["contrast"] == 3.0


def test_effective_rank_counts_directions() -> None:
    base = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    orthonormal = torch.linalg.qr(base - base.mean(0)).Q
    assert effective_rank(orthonormal) == pytest.approx(3, abs=0.01)
    assert effective_rank(torch.ones(10, 4)) == pytest.approx(1, abs=0.01)


def test_feature_std_from_collapse_to_even_spread() -> None:
    assert feature_std(torch.ones(10, 4)) == pytest.approx(0, abs=1e-6)
    assert feature_std(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(1)
    assert not math.isnan(feature_std(torch.zeros(3, 4)))


def test_conflict_within_the_parts_of_the_networks() -> None:
    names = ["encoder.backbone.conv1.weight", *(f"encoder.backbone.layer1.{each}" for each in ("0.a", "1.b")),
             "projector.0.weight"]
    first = [torch.tensor([[1.0, 0.0]]), torch.tensor([1.0]), torch.tensor([2.0]), torch.zeros(2)]
    second = [torch.tensor([[0.0, 1.0]]), torch.tensor([-1.0]), torch.tensor([0.0]), torch.ones(2)]
    cosines = group_cosines(names, [first, second])
    assert list(cosines) == ["conv1", "layer1", "projector"]
    assert [round(float(each), 6) for each in cosines.values()] == [0.0, round(-1 / 5**0.5, 6), 0.0]
    telemetry = Telemetry()
    for cosine in (-0.5, 0.1):
        step(telemetry, 1.0, cosine)
    telemetry.add_groups({"conv1": torch.tensor(-0.5)})
    telemetry.add_groups({"conv1": torch.tensor(0.1)})
    assert telemetry.close()["cosine.conv1"] == pytest.approx(-0.2)
