import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from milscope.aggregators import ABMILX
from milscope.configs import EndToEndConfig
from milscope.encoders import Encoder, freeze
from milscope.memory import Plan, bytes_of, plan_memory
from milscope.memory._cost import Cost, held_during
from milscope.memory._need import Need
from milscope.memory._plan import Steps
from milscope.types import InputError

CPU, ROWS = torch.device("cpu"), [3000, 100, 500, 2000]
CONFIG = EndToEndConfig(memory="64GB", batch=2)


def networks() -> tuple[Encoder, ABMILX]:
    encoder = Encoder("resnet18", size=32, options={"channels": [8, 8, 16, 16]})
    return encoder, ABMILX(encoder.features, 2, hidden=32)


@pytest.fixture(scope="module")
def planned() -> Callable[..., Plan]:
    encoder, aggregator = networks()

    def plan(memory: float | str, rows: list[int] = ROWS, **changes) -> Plan:
        memory = memory if isinstance(memory, str) else f"{memory:.6f}GB"
        config = dataclasses.replace(CONFIG, memory=memory, **changes)
        return plan_memory(config, encoder, aggregator, side=36, rows=rows, device=CPU)

    return plan


@pytest.mark.parametrize(("said", "number"), [
    ("6GB", 6e9), ("500 mb", 5e8), (" 1.5GiB ", 1.5 * 2**30), ("0.5TB", 5e11), ("64000kB", 64e6),
])
def test_bytes_are_read(said: str, number: float) -> None:
    assert bytes_of(said) == number


@pytest.mark.parametrize("said", ["", "6", "GB", "6 cats", "-1GB", "0GB", "1e3MB", "6GB or so", "nanGB"])
def test_what_is_no_memory_is_refused(said: str) -> None:
    with pytest.raises(InputError, match="`memory` should be a number with"):
        bytes_of(said)


def test_what_a_computation_holds_is_counted_while_it_lives() -> None:
    weights = torch.ones(1000, requires_grad=True)

    def compute(rows: int) -> None:
        whole = torch.ones(rows, 1000)  # 4000 bytes a row
        part = whole[:, :10]  # the same memory
        del whole
        product = part.clone()
        del part
        (product.sum() + weights.exp().sum()).backward()

    cost = Cost.measured(compute, 8)
    assert max(held_during(compute, 3)) == cost.of(3)
    assert cost.of(1000) == held_during(compute, 1000).max() == 1000 * 4040
    assert cost.of(0) == 0


def test_where_steps_differ_with_the_number_of_rows_the_peaks_count() -> None:
    cost = Cost.measured(lambda rows: [torch.ones(100) for _ in range(rows)], 4)
    assert cost.of(50) == 50 * 400


@pytest.mark.parametrize("fixed", [False, True])
def test_a_few_cells_tell_what_many_take(fixed: bool) -> None:
    encoder, _ = networks()
    if fixed:
        freeze(encoder, ["conv1"])

    def learn(rows: int) -> None:
        encoder(torch.rand(rows, 3, 32, 32)).sum().backward()
        encoder.zero_grad()

    learn(2)
    assert Cost.measured(learn, 4).of(100) == pytest.approx(held_during(learn, 100).max(), rel=0.01)


def test_planning_changes_nothing() -> None:
    encoder, aggregator = networks()
    freeze(encoder, ["layer1"])
    encoder.train()
    aggregator.eval()
    aggregator.merge.weight.grad = torch.ones_like(aggregator.merge.weight)
    both = torch.nn.ModuleList([encoder, aggregator])
    tensors = {name: tensor.clone() for name, tensor in both.state_dict().items()}
    modes = [module.training for module in both.modules()]
    chance = torch.random.get_rng_state()
    plan_memory(CONFIG, encoder, aggregator, side=36, rows=ROWS, device=CPU)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in both.state_dict().items())
    assert modes == [module.training for module in both.modules()]
    assert torch.equal(chance, torch.random.get_rng_state())
    assert [name for name, each in aggregator.named_parameters() if each.grad is not None] == ["merge.weight"]
    assert (aggregator.merge.weight.grad == 1).all()
    assert all(each.grad is None for each in encoder.parameters())


@pytest.mark.parametrize(("changes", "chunk", "budget"), [
    ({"sampler": "random", "budget": 128}, 256, 128), ({"sampler": "random", "budget": 4000}, 5008, 4000),
    ({"sampler": "random", "budget": 0}, 5008, 3000), ({"sampler": "random", "budget": 0, "chunk": 400}, 400, 200),
    ({"sampler": "multi-scale", "scales": ("1", "0.5"), "budget": 100}, 208, 100),
    ({"sampler": "all", "budget": 77}, 5008, 0), ({"sampler": "all", "batch": 1}, 3008, 0),
    ({"sampler": "all", "batch": 9}, 5600, 0),
    ({"sampler": "attention", "budget": 0}, 512, 256), ({"sampler": "attention", "budget": 40}, 512, 40),
    ({"sampler": "all", "chunk": 33}, 33, 0),
])
def test_with_plenty_of_memory_a_step_has_one_graph(planned: Callable[..., Plan], changes: dict, chunk: int,
                                                          budget: int) -> None:
    plan = planned(64, **changes)
    assert (plan.chunk, plan.budget) == (chunk, budget)
    assert plan.expected < 64e9
    assert "\n" not in plan.said
    assert (f"in chunks of {chunk}" in plan.said) == (changes["sampler"] == "attention" or chunk == 33)


@pytest.mark.parametrize("sampler", ["random", "all", "attention"])
def test_more_memory_takes_no_fewer_cells_and_is_not_exceeded(sampler: str) -> None:
    one, nothing = Cost(torch.tensor([1e6, 2e6]).numpy(), torch.tensor([8e6, 0.0]).numpy()), Cost(
        torch.zeros(1).numpy(), torch.zeros(1).numpy())
    need = Need(1e9, 1e7, 100.0, one, nothing, nothing, 1.5)
    config = dataclasses.replace(CONFIG, sampler=sampler)
    steps, before = Steps(need, config, sorted(ROWS, reverse=True), 100, "cpu"), (0, 0)
    for room in (1.0e9, 1.04e9, 1.05e9, 1.1e9, 1.5e9, 2e9, 4e9, 8e9, 16e9, 32e9):
        budget = 0 if sampler == "all" else steps.budget(room)
        chunk = steps.chunk(room, budget) if budget or sampler == "all" else 0
        assert (chunk, budget) >= before
        assert chunk % 16 == 0
        if chunk:
            assert steps.expected(chunk, budget) <= room
            assert steps.expected(chunk, budget) >= 1e9 + 1.5 * min(chunk, sum(steps.seen(budget))) * 2e6
        if sampler == "random" and chunk:  # what was chosen by the memory has one graph
            assert sum(steps.seen(budget)) <= chunk
        before = chunk, budget
    assert steps.chunk(1.0e9, 1) == 0
    assert before == {"random": (5008, 3000), "all": (5008, 0), "attention": (512, 256)}[sampler]


def test_one_graph_is_there_while_the_slide_model_computes_and_chunks_are_not() -> None:
    line = Cost(torch.ones(1).numpy(), torch.zeros(1).numpy())
    need = Need(1000.0, 10.0, 2.0, line, Cost(line.each * 0.01, line.once), line, 3.0)
    assert need.of(50, 50, 50, one_graph=True) == 1000 + 2 * 50 + 3 * (50 + 50)
    assert need.of(20, 50, 40, one_graph=False) == 1000 + 2 * 50 + 3 * 40
    assert need.of(1, 1, 1, one_graph=False) == 1000 + 10


def test_too_little_memory_is_refused_with_what_would_do(planned: Callable[..., Plan]) -> None:
    for changes in ({"sampler": "all"}, {"sampler": "random", "budget": 0}, {"sampler": "all", "chunk": 1000}):
        with pytest.raises(InputError, match=r"`memory` should be [0-9.]+GB or more, for (16|1000) cells") as refusal:
            planned("50MB", **changes)
        least = float(str(refusal.value).split()[3].removesuffix("GB"))
        plan = planned(least + 0.05, **changes)  # what the process itself takes moves a little
        assert plan.chunk >= 16
        assert plan.expected <= (least + 0.05) * 1e9


def test_the_precision_is_that_of_the_settings(planned: Callable[..., Plan]) -> None:
    assert planned(64, precision="bfloat16").precision == torch.bfloat16
    assert planned(64, precision="float64").precision == torch.float32  # of autocast: off
    assert "float64" in planned(64, precision="float64").said


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the most memory that a process took")
@pytest.mark.parametrize(("memory", "sampler", "cells"), [("1.6GB", "random", 5000), ("1.1GB", "all", 250)])
def test_the_memory_holds(memory: str, sampler: str, cells: int) -> None:
    script = Path(__file__).parents[1] / "memory_steps.py"
    run = subprocess.run([sys.executable, str(script), memory, sampler, str(cells)], capture_output=True, text=True, check=True)
    found = SimpleNamespace(**json.loads(run.stdout.splitlines()[-1]))
    assert 0.6 * bytes_of(memory) < found.most <= bytes_of(memory)
    assert found.expected <= bytes_of(memory)
    assert found.chunk < cells
