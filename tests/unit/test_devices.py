import pytest
import torch

from milscope.devices import choose_device, choose_precision, mixed_precision
from milscope.types import InputError


def test_auto_finds_a_device() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--device auto"):
        choose_device(name)


def test_precision_by_name() -> None:
    assert choose_precision("float32", torch.device("cpu")) == torch.float32
    assert choose_precision("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert choose_precision("auto", torch.device("cpu")) in {torch.float32, torch.bfloat16}


def test_mixed_precision_computes_in_it() -> None:
    layer, cpu = torch.nn.Linear(2, 2), torch.device("cpu")
    with mixed_precision(cpu, torch.bfloat16):
        assert layer(torch.rand(1, 2)).dtype == torch.bfloat16
    with mixed_precision(cpu, torch.float32):
        assert layer(torch.rand(1, 2)).dtype == torch.float32
