"""Gated layers and calibrated BCE against their formulas, and no look into the future."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.batches import Batch
from baselines.esasrec import ESASRecNetwork, ESASRecSettings, GatedBlock, calibrated_bce
from baselines.layers import take
from baselines.losses import LossSettings
from baselines.training import seeded

SIZES = ESASRecSettings(dim=8, heads=2, dropout=0.0, loss=LossSettings("bce", 20))


@pytest.fixture
def block():
    with seeded(0):
        block = GatedBlock(8, 2, 0.3, 0.3).eval()
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return block


def sample(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_one_slot_path_agrees_with_the_whole_block(block):
    x, last = sample(5, 6, 8), torch.tensor([0, 5, 3, 1, 4])
    torch.testing.assert_close(block.at(x, last), take(block(x), last), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_layer_is_two_gated_branches(block):
    x = sample(2, 6, 8)
    a = x + torch.sigmoid(block.gate1(x)) * block.attention(block.norm1(x))
    w, v = block.feed_forward.into.weight.chunk(2)
    z = block.norm2(a)
    hidden = (z @ w.T) * torch.sigmoid(z @ w.T) * (z @ v.T)
    expected = a + torch.sigmoid(block.gate2(a)) * (hidden @ block.feed_forward.out.weight.T)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)
    for gate in (block.gate1, block.gate2):
        torch.nn.init.constant_(gate.bias, -1e4)
    torch.testing.assert_close(block(x), x)  # shut gates let nothing through


@torch.no_grad()
def test_no_future_item_changes_an_earlier_state():
    with seeded(1):
        network = ESASRecNetwork(30, SIZES).eval()
    items = torch.tensor([[3, 7, 9, 2, 5]])
    for t in range(4):
        changed = items.clone()
        changed[:, t + 1 :] = 21
        x, y = network._embed(items), network._embed(changed)
        for block in network.blocks:
            x, y = block(x), block(y)
        assert torch.equal(x[:, : t + 1], y[:, : t + 1])
        assert not torch.equal(x[:, t + 1 :], y[:, t + 1 :])


def plain_gbce(h, table, targets, negatives, t):
    """The formula of the gSASRec paper in double precision, slot by slot."""
    k, n_items = len(negatives), len(table) - 1
    alpha = k / (n_items - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    losses = []
    for vector, target in zip(h, targets, strict=True):
        positive = (1 / (1 + np.exp(-vector @ table[target]))) ** beta
        others = [1 / (1 + np.exp(-vector @ table[n])) for n in negatives if n != target]
        losses.append(-(np.log(positive) + np.log(1 - np.array(others)).sum()) / (k + 1))
    return np.mean(losses)


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_calibrated_bce_follows_the_formula(t):
    h, table = sample(9, 8), sample(31, 8, seed=2)
    targets = torch.arange(9) + 3
    negatives = torch.tensor([1, 5, 5, 20, 30])  # two of them are slot 2's target
    found = calibrated_bce(h, table, targets, negatives, t)
    expected = plain_gbce(h.double().numpy(), table.double().numpy(), targets.numpy(), negatives.numpy(), t)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_with_every_item_as_negative_there_is_nothing_to_calibrate():
    h, table, targets = sample(3, 8), sample(31, 8, seed=2), torch.tensor([1, 2, 3])
    negatives = torch.arange(1, 31)
    one, other = (calibrated_bce(h, table, targets, negatives, t) for t in (0.0, 1.0))
    torch.testing.assert_close(one, other)


def test_the_loss_bce_is_the_calibrated_one():
    items, targets = torch.tensor([[3, 7, 9]]), torch.tensor([[7, 9, 2]])
    batch = Batch(torch.zeros(1), items, targets)
    losses = []
    for t in (0.0, 1.0):
        with seeded(1):
            network = ESASRecNetwork(300, replace(SIZES, calibration=t))
        losses.append(network.loss(batch, torch.Generator().manual_seed(0)).item())
    assert losses[0] > losses[1]  # beta < 1 pulls less at the target
    with pytest.raises(ValueError, match=r"calibration is 1.5; it must be 0 \(plain BCE\) to 1"):
        replace(SIZES, calibration=1.5)
