"""Convolutions against explicit loops over filters and places; skipped targets; unknown users."""

from dataclasses import replace

import pytest
import torch

from baselines.batches import Batch
from baselines.caser import CaserNetwork, CaserSettings
from baselines.losses import LossSettings
from baselines.training import seeded

SIZES = CaserSettings(dim=6, window=4, horizontal=3, vertical=2, dropout=0.0, loss=LossSettings("full"))


def network_of(**changes):
    with seeded(1):
        network = CaserNetwork(5, 30, replace(SIZES, **changes)).eval()
        torch.nn.init.normal_(network.output.weight, std=0.5)
    return network


@torch.no_grad()
@pytest.mark.parametrize("history", [[3, 7, 9, 2, 8, 1], [3, 7]])
def test_the_vector_is_that_of_a_loop_over_filters(history):
    network = network_of()
    image = torch.zeros(4, 6)
    image[4 - min(4, len(history)) :] = network.items(torch.tensor(history[-4:]))
    o = []
    for height, convolution in enumerate(network.horizontal, start=1):
        for filter_, bias in zip(convolution.weight.view(3, height, 6), convolution.bias, strict=True):
            values = [(filter_ * image[i : i + height]).sum() + bias for i in range(4 - height + 1)]
            o.append(torch.relu(torch.stack(values)).max())
    by_column = [
        sum(network.vertical.weight[f, row] * image[row, column] for row in range(4))
        + network.vertical.bias[f]
        for column in range(6)
        for f in range(2)
    ]
    z = torch.relu(network.join(torch.stack([*by_column, *o])))
    expected = torch.cat((z, network.users.weight[3], torch.ones(1)))
    padded = torch.tensor([[*history, 0, 0, 0]])
    found = network.encode(torch.tensor([3]), padded)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_slot_trains_on_as_many_items_ahead_as_there_are():
    """With three ahead, four inputs have 4 + 3 + 2 targets: the loss is the mean of nine, slot by slot."""
    items, targets = torch.tensor([[3, 7, 9, 2]]), torch.tensor([[7, 9, 2, 8]])
    network, user = network_of(ahead=3), torch.tensor([1])
    costs = []
    for slot in range(4):
        scores = network.encode(user, items[:, : slot + 1]) @ network.table().T
        log_p = scores[:, 1:].log_softmax(dim=1)[0]
        costs += [-log_p[targets[0, ahead] - 1] for ahead in range(slot, min(4, slot + 3))]
    assert len(costs) == 9
    loss = network.loss(Batch(user, items, targets), torch.Generator())
    torch.testing.assert_close(loss, torch.stack(costs).mean(), atol=0.02, rtol=0.01)  # bfloat16 logits


@torch.no_grad()
def test_an_unknown_user_is_the_mean_user():
    network = network_of()
    history = torch.tensor([[3, 7, 9]])
    known = torch.stack([network.encode(torch.tensor([user]), history)[0] for user in range(5)])
    found = network.encode(torch.tensor([-1]), history)[0]
    torch.testing.assert_close(found, known.mean(dim=0), atol=1e-6, rtol=1e-5)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="ahead is 0; it must be 1 or more"):
        CaserSettings(ahead=0)
