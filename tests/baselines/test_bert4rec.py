"""The Cloze task: what is hidden, what a hidden slot can see, and that serving asks what training taught."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.base import Interactions
from baselines.batches import batches, windows
from baselines.bert4rec import BERT4RecNetwork, BERT4RecSettings, cloze
from baselines.losses import LossSettings
from baselines.training import seeded

SIZES = BERT4RecSettings(dim=8, heads=2, dropout=0.0, loss=LossSettings("full"))
WINDOWS = torch.tensor([[3, 7, 9, 2, 0], [5, 1, 0, 0, 0], [4, 4, 1, 8, 6]])
USERS = torch.zeros(3, dtype=torch.long)


@pytest.fixture
def network():
    with seeded(1):
        network = BERT4RecNetwork(30, SIZES).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return network


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def states(network, window, hidden):
    x, real = network._embed(window, hidden)
    for block in network.blocks:
        x = block(x, real)
    return x


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_a_row_hides_its_share_of_items_and_never_a_pad(lengths, share, seed):
    n = torch.tensor(lengths)
    window = (torch.arange(max(lengths)) < n[:, None]).long() * 5
    hidden = cloze(window, share, 0.0, stream(seed))
    assert not (hidden & (window == 0)).any()
    assert hidden.sum(dim=1).tolist() == [max(1, round(length * np.float32(share))) for length in lengths]
    only_last = cloze(window, share, 1.0, stream(seed))
    assert only_last.sum(dim=1).eq(1).all()
    assert only_last.int().argmax(dim=1).tolist() == [length - 1 for length in lengths]


def test_every_item_is_hidden_about_as_often_and_some_rows_hide_their_last_alone():
    window = torch.ones(4000, 5, dtype=torch.long)
    frequency = cloze(window, 0.4, 0.0, stream()).float().mean(dim=0)
    torch.testing.assert_close(frequency, torch.full((5,), 0.4), atol=0.03, rtol=0)
    alone = cloze(window, 0.8, 0.25, stream()).sum(dim=1) == 1
    assert alone.float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_a_batch_gives_back_the_whole_sequences():
    world = Interactions.from_arrays([0, 0, 0, 1, 1], [4, 9, 2, 7, 3])
    (batch,) = batches(windows(world), 100, np.random.default_rng(0))
    assert sorted(batch.whole().tolist()) == [[4, 9, 2], [7, 3, 0]]


@torch.no_grad()
def test_a_prediction_sees_both_sides_but_not_what_is_hidden(network):
    hidden = cloze(WINDOWS, 0.5, 0.0, stream())
    other = torch.where(hidden, 31 - WINDOWS, WINDOWS)
    before, after = (states(network, window, hidden)[hidden] for window in (WINDOWS, other))
    assert torch.equal(before, after)
    middle = torch.zeros(3, 5, dtype=torch.bool)
    middle[2, 2] = True
    for slot in (0, 1, 3, 4):
        changed = WINDOWS.clone()
        changed[2, slot] = 20
        change = states(network, changed, middle) - states(network, WINDOWS, middle)
        assert change[2, 2].abs().max() > 1e-5


@torch.no_grad()
def test_pads_and_companions_change_nothing(network):
    hidden = cloze(WINDOWS, 0.5, 0.0, stream())
    together = states(network, WINDOWS, hidden)
    for row, n in enumerate((4, 2, 5)):
        alone = states(network, WINDOWS[row : row + 1, :n], hidden[row : row + 1, :n])
        torch.testing.assert_close(together[row, :n], alone[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_serving_asks_for_the_hidden_last_item_of_training(network):
    window = torch.tensor([[3, 7, 9, 2, 11], [5, 1, 12, 0, 0], [13, 0, 0, 0, 0]])
    history = torch.tensor([[3, 7, 9, 2], [5, 1, 0, 0], [0, 0, 0, 0]])
    hidden = cloze(window, 0.5, 1.0, stream())
    trained = network._query(states(network, window, hidden)[hidden])
    torch.testing.assert_close(network.encode(USERS, history), trained, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_scores_are_those_of_the_output_layer_and_the_mask_token_is_none_of_them(network):
    history = WINDOWS[:, :4]
    query = network.encode(USERS, history)
    scores = query @ network.table().T
    assert scores.shape == (3, 31)
    torch.testing.assert_close(scores, query[:, :-1] @ network.items.weight.T + network.bias[:, 0])
    before = network.table().clone()
    network.mask.weight.fill_(9.0)
    assert torch.equal(network.table(), before)


def test_the_loss_is_the_mean_over_hidden_items(network):
    world = Interactions.from_arrays(np.repeat(np.arange(4), 5), np.arange(20) + 1, n_items=30)
    network.next_item_loss._full.dtype = torch.float32
    (batch,) = batches(windows(world), 100, np.random.default_rng(0))
    window = batch.whole()
    hidden = cloze(window, SIZES.mask_share, SIZES.last_share, stream(3))
    logits = network._query(states(network, window, hidden)[hidden]) @ network.table().T
    expected = torch.nn.functional.cross_entropy(logits[:, 1:], window[hidden] - 1)
    torch.testing.assert_close(network.loss(batch, stream(3)), expected)


def test_shares_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"mask_share is 1.0; it must be above 0 and below 1"):
        replace(SIZES, mask_share=1.0)
    with pytest.raises(ValueError, match=r"last_share is -0.1; it must be 0 to 1"):
        replace(SIZES, last_share=-0.1)
