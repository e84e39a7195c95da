"""Encoders and decoder against a plain loop of the paper's formulas."""

import torch

from baselines.narm import NARMNetwork, NARMSettings
from baselines.training import seeded


@torch.no_grad()
def test_the_vector_follows_the_papers_equations():
    with seeded(1):
        network = NARMNetwork(30, NARMSettings(dim=6, hidden=8)).eval()
    padded = torch.tensor([[3, 7, 9, 2, 0, 0]])
    states = network.gru(network.items(padded[:, :4]))[0][0]  # (4, 8)
    local = torch.zeros(8)
    for state in states:
        before_v = network.query.weight @ states[-1] + network.key.weight @ state
        local += (network.weigh * torch.sigmoid(before_v)).sum() * state
    expected = network.decode.weight @ torch.cat((states[-1], local))
    torch.testing.assert_close(network.encode(torch.zeros(1), padded)[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_items_drop_out_half_as_often_as_what_is_decoded():
    network = NARMNetwork(30, NARMSettings(dim=8, dropout=0.5))
    assert (network.drop_items.p, network.drop.p) == (0.25, 0.5)
