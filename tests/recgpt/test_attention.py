"""Flow attention with one pad slot for all pads, against the authors' network with 50 slots in a loop."""

import pytest
import torch

from recgpt.attention import flow_attention, slot_counts


@pytest.fixture
def rows():
    """Histories of 1, 3, 49 and 50 items."""
    generator = torch.Generator().manual_seed(8)
    items = torch.randint(1, 41, (4, 50), generator=generator)
    return items * (torch.arange(50) < torch.tensor([1, 3, 49, 50])[:, None])


@pytest.mark.parametrize(("layers", "eps"), [(1, 0.0), (3, 0.0), (2, 1e-6)])
def test_states_are_those_of_a_window_with_all_its_pads(
    make_decoder, authors_sizes, window_states, rows, layers, eps
):
    """The authors' eps, which we leave out, shows in the sixth digit."""
    decoder = make_decoder(**{**authors_sizes, "layers": layers})
    users = torch.tensor([4, -1, 0, 8])
    with torch.no_grad():
        h = decoder(rows, users)
        for row, user, states in zip(rows, users.tolist(), h, strict=True):
            tokens = [item for item in row.tolist() if item]
            expected = window_states(decoder, user, tokens, eps=eps)[-len(tokens) :]
            close = {"rtol": 1e-9, "atol": 1e-9} if not eps else {"rtol": 0, "atol": 1e-5}
            torch.testing.assert_close(states[: len(tokens)], expected, **close)


def test_gradients_are_those_of_a_window_with_all_its_pads(make_decoder, authors_sizes, window_states, rows):
    decoder = make_decoder(**authors_sizes)
    users = torch.tensor([4, -1, 0])
    direction = torch.randn(50, 16, dtype=torch.double, generator=torch.Generator().manual_seed(1))

    def gradients(value):
        decoder.zero_grad()
        value.backward()
        return {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}

    h = decoder(rows[:3], users)
    found = gradients((h * direction)[rows[:3] > 0].sum())
    value = torch.zeros((), dtype=torch.double)
    for row, user in zip(rows[:3], users.tolist(), strict=True):
        tokens = [item for item in row.tolist() if item]
        states = window_states(decoder, user, tokens)[-len(tokens) :]
        value = value + (states * direction[: len(tokens)]).sum()
    expected = gradients(value)
    assert set(found) == set(expected)
    assert "output.weight" not in found
    assert not found["items.weight"][0].any()  # padding does not learn
    assert found["positions.weight"][0].any()  # but its position does
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9, msg=name)


def test_single_precision_is_enough():
    """Wide heads and steep sigmoids; at double precision nothing changes but the last digits."""
    generator = torch.Generator().manual_seed(2)
    q, k, v = (4 * torch.randn(3, 2, 51, 128, generator=generator) for _ in range(3))
    counts = slot_counts(torch.tensor([0, 7, 49]), 50)
    single = flow_attention(q, k, v, counts)
    double = flow_attention(q.double(), k.double(), v.double(), counts)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


def test_later_items_and_company_do_not_change_a_state(make_decoder, authors_sizes, histories):
    """Positions count from the end, so what is cut off here is only in other rows and behind pads."""
    decoder = make_decoder(**{**authors_sizes, "layers": 2, "positions": "start"})
    users = torch.arange(9)
    whole = decoder(histories, users)
    for row, history in enumerate(histories):
        length = int((history > 0).sum())
        alone = decoder(history[None, :length], users[row : row + 1])[0]
        torch.testing.assert_close(whole[row, :length], alone)
        other = history.clone()
        other[length - 1] = other[length - 1] % 40 + 1
        states = decoder(other[None], users[row : row + 1])[0]
        torch.testing.assert_close(states[: length - 1], whole[row, : length - 1])


def test_only_one_state_is_that_of_all(make_decoder, authors_sizes, histories):
    decoder = make_decoder(**{**authors_sizes, "layers": 2})
    users, slots = torch.arange(9), (histories > 0).sum(1) - 1
    whole = decoder(histories, users)[torch.arange(9), slots]
    torch.testing.assert_close(decoder(histories, users, only=slots)[:, 0], whole)
    torch.testing.assert_close(decoder.encode(users, histories), whole)
