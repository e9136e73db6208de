"""Attention-based learning, beyond the laws."""

import torch

from milscope.aggregators import ABMIL, GatedABMIL
from milscope.store._bags import Bags


def test_an_open_gate_gives_half_the_scores_of_no_gate():
    plain, gated = ABMIL(3, hidden=4, attention=2).eval(), GatedABMIL(3, hidden=4, attention=2).eval()
    gated.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        gated.gate[0].weight.zero_()
        gated.gate[0].bias.zero_()
        gated.weigh.weight.mul_(2)
    bags = Bags(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 5]))
    torch.testing.assert_close(gated(bags).attention, plain(bags).attention)


def test_all_classes_share_the_one_attention():
    bags = Bags(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 5]))
    attention = ABMIL(3, 4).eval()(bags).attention
    assert torch.equal(attention, attention[:, :1].expand(-1, 4))
