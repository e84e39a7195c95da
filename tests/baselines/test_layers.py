"""The decoder block: causal, and its one-slot fast path."""

import pytest
import torch

from baselines.layers import Block, CausalAttention, last_slot, take


@pytest.fixture
def block():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Block(16, 2, 0.3, 0.3).eval()


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_the_one_slot_path_agrees_with_the_whole_block(block):
    x, last = sample(9, 12, 16), torch.tensor([0, 11, 3, 5, 0, 7, 10, 2, 1])
    torch.testing.assert_close(block.at(x, last), take(block(x), last), atol=1e-6, rtol=1e-5)


def test_a_slot_does_not_see_later_ones(block):
    x = sample(2, 6, 16)
    changed = x.clone()
    changed[:, 4:] = 100.0
    torch.testing.assert_close(block(x)[:, :4], block(changed)[:, :4])
    torch.testing.assert_close(block.at(x, torch.tensor([3, 2])), block.at(changed, torch.tensor([3, 2])))


def test_the_last_slot_of_left_aligned_rows():
    assert last_slot(torch.tensor([[4, 5, 0], [0, 0, 0], [1, 2, 3]])).tolist() == [1, 0, 2]


def test_heads_must_divide_the_dimension():
    with pytest.raises(ValueError, match="dim 16 does not divide into 3 heads"):
        CausalAttention(16, 3, 0.0)
