"""MECDS, beyond the laws."""

import pytest
import torch
from tests.laws.slow_mecds import slow_routed

from milscope.aggregators import MECDS, Ensemble, _mecds, aggregator_class, restored
from milscope.store._bags import Bags
from milscope.types import InputError

FORMS = [{}, {"cells": "cells"}, {"cells": "all"}, {"gather": False}, {"routing": False}, {"share": 0.0},
         {"generations": [0, 1, 0]}, {"generations": [2, 1, 1], "cells": "cells"}]


@pytest.mark.parametrize("options", FORMS)
def test_equals_the_slow_loop_in_every_form(options):
    model, bags = build(outputs=[2, 1, 1], **options), some_bags()
    found, alone = model.with_cells_alone(bags)
    for slide in range(bags.n_slides):
        logits, attention, routing, _ = slow_routed(model, list(bags.select([slide]).features))
        close(found.logits[slide], logits)
        close(found.attention[bags.owner == slide], attention)
        if routing is None:
            assert found.routing is None
        else:
            close(found.routing[bags.owner == slide], routing)
    close(alone[3], model(Bags(bags.features[3:4], torch.tensor([0, 1]))).logits[0])


@pytest.mark.parametrize("cells", ["nothing", "cells", "all"])
def test_a_task_says_the_same_whatever_another_tasks_token_is_unless_cells_see_tokens(cells):
    model, bags = build(outputs=[2, 1, 1], cells=cells), some_bags()
    before = model(bags)
    with torch.no_grad():
        model.tokens[1] += torch.randn(8, dtype=torch.float64)
    after = model(bags)
    assert (after.logits[:, 2] != before.logits[:, 2]).all()
    for task in ([0, 1], [3]):
        assert torch.equal(after.logits[:, task], before.logits[:, task]) == (cells != "all")
        assert torch.equal(after.attention[:, task], before.attention[:, task]) == (cells != "all")


@pytest.mark.parametrize("options", [{}, {"cells": "cells"}, {"generations": [0, 0, 1]}])
def test_every_token_router_expert_and_head_learns_from_its_own_task(options):
    model, bags = build(outputs=[2, 1, 1], **options), some_bags()
    for task, column in enumerate([0, 2, 3]):
        model.zero_grad()
        model(bags).logits[:, column].sum().backward()
        own = [model.tokens[task], *model.heads[task].parameters()]
        for block in model.blocks:
            own += [*block.route.routers[task].parameters(), *block.route.experts[task].parameters()]
        assert [parameter.grad.abs().max().item() > 1e-12 for parameter in own] == [True] * len(own)


def test_without_what_experts_make_of_cells_the_last_routers_learn_nothing():
    model = build(gather=False)
    model(some_bags()).logits.sum().backward()
    first, last = (block.route.routers[0][0].weight.grad for block in model.blocks)
    assert first.abs().max() > 0
    assert last is None


def test_routing_is_a_share_of_the_fewest_cells():
    model, bags = build(outputs=[2, 1]), some_bags()
    routing = model(bags).routing
    sums = torch.zeros(bags.n_slides, 3, dtype=torch.float64).index_add(0, bags.owner, routing)
    close(sums, torch.ones_like(sums))
    assert (routing >= 0).all()
    assert (routing == 0).any()
    assert torch.equal(routing[:, 0], routing[:, 1]), "the logits of a task share it"
    assert ((build(share=0.0)(bags).routing > 0).sum(0) == bags.n_slides).all()
    assert (build(share=1.0)(bags).routing > 0).all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"cells": "cells", "blocks": 1}, {"routing": False}])
def test_a_strict_extension_leaves_every_bit_of_the_old_tasks(precision, options):
    model, bags = build(outputs=[2, 1], **options).float(), some_bags(torch.float32)
    model.fit_scale(bags.features)
    steps = [model]
    for outputs, mode in ((1, "strict"), (2, "shared"), (1, "strict")):
        steps.append(learn(steps[-1].extended(outputs, mode=mode), bags))
    assert steps[-1].generations == [0, 0, 1, 1, 2]
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        first, strict, shared, again = (restored("mecds", each.options, each.state_dict())(bags) for each in steps)
    assert again.logits.shape == (bags.n_slides, 7)
    for old, new, columns in ((first, strict, 3), (first, shared, 3), (shared, again, 6)):
        for name in ("logits", "attention", "routing"):
            before, after = getattr(old, name), getattr(new, name)
            assert before is after is None or torch.equal(after[:, :columns], before[:, :columns])


@pytest.mark.parametrize(("options", "moves"), [({}, True), ({"routing": False}, False), ({"blocks": 1}, False)])
def test_a_shared_extension_moves_old_tasks_by_what_its_experts_add_to_the_cells(options, moves):
    """The last block's cells nobody reads; only its own task gathers them."""
    model, bags = build(outputs=[2, 1], **options), some_bags()
    more = learn(model.extended(1, mode="shared"), bags)
    gap = (more(bags).logits[:, :3] - model(bags).logits).abs().max()
    assert (gap > 1e-6) == moves
    assert moves or gap < 1e-12
    with torch.no_grad():
        for block in more.blocks:
            if block.route is not None:
                block.route.experts[2][2].weight.zero_()
                block.route.experts[2][2].bias.zero_()
    close(more(bags).logits[:, :3], model(bags).logits)


def test_only_what_is_new_can_be_trained_and_it_all_learns():
    model = build(outputs=[2, 1]).extended(1, mode="shared")
    free = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name for name in free if not name.startswith("blocks")} == {"tokens.2", "heads.2.weight", "heads.2.bias"}
    assert {name.rsplit(".", 2)[0] for name in free if name.startswith("blocks")} == {
        f"blocks.{block}.route.{part}.2" for block in (0, 1) for part in ("routers", "experts")}
    model(some_bags()).logits[:, 3].sum().backward()
    for name, parameter in model.named_parameters():
        if name not in free:
            assert parameter.grad is None
        else:
            assert parameter.grad.abs().max() > 0


def test_an_extension_keeps_scale_precision_and_mode():
    model = build()
    model.fit_scale(some_bags().features * 3 + 1)
    more = model.extended(2, mode="strict")
    assert torch.equal(more.mean, model.mean)
    assert torch.equal(more.deviation, model.deviation)
    assert not more.training
    assert model.train().extended(2, mode="strict").training
    assert more.tokens[-1].dtype == torch.float64
    assert all(parameter.requires_grad for parameter in model.parameters()), "the old model is as it was"


def test_a_step_that_spares_memory_is_the_same_step(monkeypatch):
    bags, found = some_bags(), {}
    for lean in (1000, 4):
        monkeypatch.setattr(_mecds, "LEAN", lean)
        model = build(dropout=0.5).train()
        torch.manual_seed(3)
        model(bags).logits[:, 0].sum().backward()
        found[lean] = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found[4].keys() == found[1000].keys()
    for name, gradient in found[1000].items():
        close(found[4][name], gradient)


def test_attention_is_finite_where_a_token_looks_at_nothing_but_itself():
    model, bags = build(blocks=1), some_bags()
    with torch.no_grad():
        model.blocks[0].second.query.weight *= 1e6
    attention = model(bags).attention
    sums = torch.zeros(bags.n_slides, 2, dtype=torch.float64).index_add(0, bags.owner, attention)
    close(sums, torch.ones_like(sums))


def test_an_ensemble_says_where_its_members_route():
    members = [("mecds", build().options), ("mecds", build(blocks=1).options), ("mean", {"features": 5, "classes": 2})]
    bags = some_bags()
    model = Ensemble(5, 2, members=members[:2], find=aggregator_class).double().eval()
    close(model(bags).routing, (model.members[0](bags).routing + model.members[1](bags).routing) / 2)
    assert Ensemble(5, 2, members=members, find=aggregator_class).double().eval()(bags).routing is None


@pytest.mark.parametrize(("options", "line"), [
    ({"heads": 3}, r"`heads` should be a divisor of `width`, 8\. Found 3"),
    ({"share": 1.5}, "`share` should be from 0 to 1"),
    ({"blocks": 0}, "`blocks` should be at least 1"),
    ({"cells": "tokens"}, "`cells` should be of nothing, cells, all"),
    ({"outputs": [1]}, r"`outputs` should be the tasks' numbers of logits, 2 together\. Found \[1\]"),
    ({"generations": [0]}, "`generations` should be 2 numbers, at least 0"),
    ({"generations": [0, 1], "cells": "all"}, "`cells` should be `nothing` or `cells` where tasks are of several"),
])
def test_options_out_of_range_are_refused(options, line):
    with pytest.raises(InputError, match=line):
        MECDS(5, **{"width": 8, "heads": 2, **options})


def test_a_strict_extension_of_cells_that_see_tokens_and_an_unknown_mode_are_refused():
    with pytest.raises(InputError, match="extend with `--mode shared`"):
        build(cells="all").extended(1, mode="strict")
    with pytest.raises(InputError, match="`mode` should be strict or shared"):
        build().extended(1, mode="frozen")


def learn(model, bags):
    """A few steps by which everything moves that may."""
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(bags).logits.square().sum().backward()
        optimizer.step()
    return model.eval()


def build(outputs=(1, 1), **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        options = {"outputs": outputs, "width": 8, "heads": 2, "feedforward": 1} | options
        return MECDS(5, sum(outputs), **options).double().eval()


def some_bags(dtype=torch.float64):
    features = torch.randn(21, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Bags(features.to(dtype), torch.tensor([0, 7, 14, 15, 21]))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
