import pytest
import torch

from recgpt.growing import growing


def test_a_grown_item_sees_its_own_history_only(make_decoder, histories):
    decoder = make_decoder()
    lengths = (histories > 0).sum(1)
    picks = torch.arange(1, 10)
    grown = growing(decoder, None, histories, lengths, 2).append(picks)
    for row, history in enumerate(histories):
        n = int(lengths[row])
        alone = torch.cat([history[:n], picks[row : row + 1]])[None]
        segments = torch.tensor([0] * n + [1])
        torch.testing.assert_close(grown[row], decoder(alone, segments=segments)[0, -1])


@pytest.mark.parametrize("positions", ["start", "end"])
def test_rows_grow_one_by_one_and_ignore_what_was_cut_off(make_decoder, histories, positions):
    decoder = make_decoder(positions=positions, user_vectors=True)
    users = torch.arange(9)
    kept = ((histories > 0).sum(1) - 2).clamp(min=1)
    grown = growing(decoder, users, histories, kept, 3)
    picks = torch.arange(1, 10)[:, None] + torch.arange(3) * 7
    states = [grown.state, *(grown.append(picks[:, k]) for k in range(3))]
    for k, state in enumerate(states):
        for row in range(9):
            n = int(kept[row])
            alone = torch.cat([histories[row, :n], picks[row, :k]])[None]
            segments = torch.tensor([0] * n + [1] * k)
            expected = decoder(alone, users[row : row + 1], segments=segments)[0, -1]
            torch.testing.assert_close(state[row], expected)


@pytest.mark.parametrize("width", [9, 50])
def test_the_authors_rows_grow_by_shifting_their_window(
    make_decoder, authors_sizes, histories, window_states, width
):
    """The oldest slot falls off: a pad, or, where there is none, an item."""
    decoder = make_decoder(**authors_sizes)
    items = torch.zeros(9, width, dtype=torch.long)
    items[:, :9] = histories
    lengths = (histories > 0).sum(1)
    if width == 50:
        items[0], lengths[0] = torch.arange(50) % 40 + 1, 50
        items[1, :49], lengths[1] = torch.arange(49) % 40 + 1, 49
    users = torch.arange(9)
    with torch.no_grad():
        grown = growing(decoder, users, items, lengths, 2)
        states = [grown.state, grown.append(users + 3), grown.append(users + 20)]
        for row in (0, 1, 2):
            tokens = items[row, : lengths[row]].tolist()
            for k, state in enumerate(states):
                window = [*tokens, row + 3, row + 20][: len(tokens) + k][-50:]
                torch.testing.assert_close(state[row], window_states(decoder, row, window, k)[-1])
