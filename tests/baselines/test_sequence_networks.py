"""What the networks of sequential models have in common: every prefix of a history trains in one pass."""

from dataclasses import replace

import pytest
import torch

from baselines import load_model
from baselines.batches import Batch, uniform_negatives
from baselines.losses import LossSettings, sampled_softmax
from baselines.training import seeded

N_USERS, N_ITEMS, N_NEGATIVES = 4, 30, 20
ITEMS = torch.tensor([[3, 7, 9, 2, 8, 1, 4], [5, 6, 0, 0, 0, 0, 0], [4, 4, 1, 0, 0, 0, 0]])
TARGETS = torch.tensor([[7, 9, 2, 8, 1, 4, 30], [6, 11, 0, 0, 0, 0, 0], [4, 1, 12, 0, 0, 0, 0]])
USERS = torch.tensor([2, 0, 3])


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "narm", "stamp", "caser", "comirec", "comirec-sa"])
def test_the_loss_is_that_of_each_prefix_encoded_alone(name):
    cls = load_model(name)
    settings = replace(cls.settings_type(), dim=8, dropout=0.0, loss=LossSettings("sampled", N_NEGATIVES))
    with seeded(1):
        network = cls(settings).build(N_USERS, N_ITEMS).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    loss = network.loss(Batch(USERS, ITEMS, TARGETS), torch.Generator().manual_seed(7))
    row, slot = torch.nonzero(TARGETS, as_tuple=True)
    prefixes = [ITEMS[r : r + 1, : s + 1] for r, s in zip(row, slot, strict=True)]
    alone = [network.encode(USERS[r : r + 1], prefix) for r, prefix in zip(row, prefixes, strict=True)]
    negatives = uniform_negatives(N_ITEMS, (N_NEGATIVES,), torch.Generator().manual_seed(7))
    expected = sampled_softmax(torch.cat(alone), network.table(), TARGETS[row, slot], negatives)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
