"""The attention and the trilinear score against the paper's formulas, item by item."""

import pytest
import torch

from baselines.stamp import STAMPNetwork, STAMPSettings
from baselines.training import seeded


@pytest.fixture
def network():
    with seeded(1):
        network = STAMPNetwork(30, STAMPSettings(dim=8)).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return network


@torch.no_grad()
def test_scores_follow_the_papers_equations(network):
    padded = torch.tensor([[3, 7, 9, 2, 0, 0]])
    x = network.items(padded[0, :4])
    mean, last = x.mean(dim=0), x[-1]
    w2, w3 = network.query.weight.chunk(2, dim=1)
    memory = mean.clone()
    for item in x:
        inner = network.key.weight @ item + w2 @ last + w3 @ mean + network.query.bias
        memory += (network.weigh * torch.sigmoid(inner)).sum() * item
    h_s = torch.tanh(network.general.weight @ memory + network.general.bias)
    h_t = torch.tanh(network.current.weight @ last + network.current.bias)
    scores = torch.stack([(h_s * h_t * item).sum() for item in network.table()])
    found = network.encode(torch.zeros(1), padded)[0] @ network.table().T
    torch.testing.assert_close(found, scores, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_only_the_last_item_has_a_place(network):
    histories = torch.tensor([[3, 7, 9, 2], [9, 3, 7, 2], [3, 7, 2, 9]])
    one, shuffled, another_last = network.encode(torch.zeros(3), histories)
    torch.testing.assert_close(one, shuffled)
    assert (one - another_last).abs().max() > 0.01
