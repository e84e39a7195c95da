"""The frequency filter against numpy.fft, prefix by prefix, and no look into the future."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.bsarec import BSARecNetwork, BSARecSettings, FilteredBlock, FrequencyFilter, last_slot_low_pass
from baselines.layers import take
from baselines.losses import LossSettings
from baselines.training import seeded

SIZES = BSARecSettings(dim=8, heads=2, dropout=0.0, loss=LossSettings("full"))
HISTORIES = torch.tensor([[3, 7, 9, 2, 0], [5, 0, 0, 0, 0], [4, 4, 1, 8, 6]])


def sample(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_pass_at_the_end(prefix, n_frequencies, window=50):
    """What the authors compute for one sequence: pads on the left, transform, cut, back; its last slot."""
    padded = np.zeros((window, prefix.shape[1]))
    padded[window - len(prefix) :] = prefix
    spectrum = np.fft.rfft(padded, axis=0, norm="ortho")
    spectrum[n_frequencies:] = 0
    return np.fft.irfft(spectrum, n=window, axis=0, norm="ortho")[-1]


@given(st.integers(1, 26), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_each_row_is_the_low_pass_of_its_prefix_at_the_last_slot(n_frequencies, length, seed):
    x = np.random.default_rng(seed).standard_normal((length, 3))
    found = last_slot_low_pass(n_frequencies).numpy()[:length, :length] @ x
    for t in range(0, length, 7):
        np.testing.assert_allclose(found[t], low_pass_at_the_end(x[: t + 1], n_frequencies), atol=1e-5)


def test_the_matrix_is_lower_triangular_and_all_frequencies_are_the_identity():
    for n_frequencies in (1, 3, 10):
        matrix = last_slot_low_pass(n_frequencies)
        assert torch.equal(matrix, matrix.tril())
    torch.testing.assert_close(last_slot_low_pass(26), torch.eye(50), atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_filter_layer_is_the_papers_for_every_prefix():
    with seeded(0):
        layer = FrequencyFilter(4, 5, 0.0).eval()
    x = sample(2, 12, 4)
    found = layer(x).numpy()
    for row in range(2):
        for t in range(12):
            prefix = x[row, : t + 1].double().numpy()
            low = low_pass_at_the_end(prefix, 3)  # c = 5: frequencies 0, 1 and 2
            y = prefix[-1] + low + layer.beta.double().numpy() ** 2 * (prefix[-1] - low)
            expected = (y - y.mean()) / np.sqrt(y.var() + 1e-5)
            np.testing.assert_allclose(found[row, t], expected, atol=1e-4)


@torch.no_grad()
def test_the_one_slot_path_agrees_with_the_whole_block():
    with seeded(0):
        block = FilteredBlock(replace(SIZES, alpha=0.6)).eval()
    x, last = sample(5, 50, 8), torch.tensor([0, 49, 3, 1, 17])
    torch.testing.assert_close(block.at(x, last), take(block(x), last), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@torch.no_grad()
def test_no_future_item_changes_an_earlier_state(alpha):
    with seeded(1):
        network = BSARecNetwork(30, replace(SIZES, alpha=alpha)).eval()
    items = torch.tensor([[3, 7, 9, 2, 5]])
    for t in range(4):
        changed = items.clone()
        changed[:, t + 1 :] = 21
        x, y = network._embed(items), network._embed(changed)
        for block in network.blocks:
            x, y = block(x), block(y)
        assert torch.equal(x[:, : t + 1], y[:, : t + 1])
        assert not torch.equal(x[:, t + 1 :], y[:, t + 1 :])


@torch.no_grad()
def test_training_states_are_those_of_serving_each_prefix():
    with seeded(1):
        network = BSARecNetwork(30, SIZES).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    x = network._embed(HISTORIES)
    for block in network.blocks:
        x = block(x)
    for end in range(5):
        prefix = torch.where(torch.arange(5) <= end, HISTORIES, 0)
        alone = network.encode(torch.zeros(3), prefix)
        real = HISTORIES[:, end] > 0
        torch.testing.assert_close(x[real, end], alone[real], atol=1e-5, rtol=1e-4)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"alpha is 1.5; it must be 0 \(attention only\) to 1"):
        replace(SIZES, alpha=1.5)
    with pytest.raises(ValueError, match=r"cutoff is -1; it must be 0 to 50"):
        replace(SIZES, cutoff=-1)
