"""Every generator against a reference that runs the whole prefix anew for each generated item, one user at a
time."""

import pytest
import torch

from recgpt import prompts
from recgpt.model import GENERATED, REAL, Decoder


@torch.no_grad()
def next_item(decoder: Decoder, tokens: list[tuple[int, int, int]], user: int, seen: list[int]) -> int:
    """The best next item after tokens (item, position, segment)."""
    items, positions, segments = (torch.tensor([list(column)]) for column in zip(*tokens, strict=True))
    h = decoder(items, torch.tensor([user]), positions=positions, segments=segments)
    scores = h[0, -1] @ decoder.items.weight.T
    scores[[0, *seen]] = float("-inf")
    return int(scores.argmax())


def naive_sequential(decoder, user, history, n_gaps, K, repeats):
    tokens, generated = [], []
    for j in range(n_gaps):
        tokens.append((history[j], j, REAL))
        own: list[int] = []
        for _ in range(K):
            own.append(next_item(decoder, tokens, user, [] if repeats else [*history[: j + 1], *own]))
            tokens.append((own[-1], j + 1, GENERATED))
        generated.append(own)
    return generated


def naive_parallel(decoder, user, history, n_gaps, K, repeats):
    generated = []
    for j in range(n_gaps):
        tokens = [(item, place, REAL) for place, item in enumerate(history[: j + 1])]
        own: list[int] = []
        for _ in range(K):
            own.append(next_item(decoder, tokens, user, [] if repeats else [*history[: j + 1], *own]))
            tokens.append((own[-1], j + 1, GENERATED))
        generated.append(own)
    return generated


def naive_last(decoder, user, history, K, repeats):
    kept = max(1, len(history) - K)
    tokens = [(item, place, REAL) for place, item in enumerate(history[:kept])]
    own: list[int] = []
    for place in range(kept, len(history)):
        own.append(next_item(decoder, tokens, user, [] if repeats else [*history[:kept], *own]))
        tokens.append((own[-1], place, GENERATED))
    return [0] * kept + own


def rows_of(histories):
    return [[item for item in row if item] for row in histories.tolist()]


@pytest.mark.parametrize("K", range(1, 7))
@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(
    ("generate", "naive"),
    [(prompts.generate_sequential, naive_sequential), (prompts.generate_parallel, naive_parallel)],
)
def test_gap_prompts_equal_the_reference_for_every_length(
    make_decoder, histories, generate, naive, K, repeats
):
    decoder = make_decoder(user_vectors=True)
    users = torch.tensor([0, 1, 2, -1, 4, 5, 6, 7, 100])
    ends = {
        open_end: generate(decoder, users, histories, K, open_end=open_end, repeats=repeats)
        for open_end in (True, False)
    }
    for row, history in enumerate(rows_of(histories)):
        expected = naive(decoder, int(users[row]), history, len(history), K, repeats)
        for open_end, found in ends.items():
            n = len(history) - (not open_end)
            assert found[row, :n].tolist() == expected[:n]
            assert not found[row, n:].any()


@pytest.mark.parametrize("K", range(1, 7))
@pytest.mark.parametrize("repeats", [False, True])
def test_replaced_items_equal_the_reference_for_every_length(make_decoder, histories, K, repeats):
    decoder = make_decoder(user_vectors=True)
    users = torch.arange(9)
    found = prompts.generate_last(decoder, users, histories, K, repeats=repeats)
    for row, history in enumerate(rows_of(histories)):
        assert found[row, : len(history)].tolist() == naive_last(decoder, row, history, K, repeats)
        assert not found[row, len(history) :].any()


def naive_guesses(decoder, states, user, history, K):
    """K guesses of the authors' network after a history that may be empty, unfiltered but for padding."""
    own: list[int] = []
    for k in range(K):
        scores = decoder.output(states(decoder, user, [*history, *own], k)[-1])
        own.append(int(scores[1:].argmax()) + 1)
    return own


@pytest.mark.parametrize("K", [1, 3])
def test_the_authors_network_replaces_items_by_guesses_of_its_output_layer(
    make_decoder, authors_sizes, window_states, histories, K
):
    decoder = make_decoder(**authors_sizes)
    with torch.no_grad():
        found = prompts.generate_last(decoder, torch.arange(9), histories, K, repeats=True)
        for row, history in enumerate(rows_of(histories)):
            n = max(1, len(history) - K)
            own = naive_guesses(decoder, window_states, row, history[:n], len(history) - n)
            assert found[row].tolist() == [0] * n + own + [0] * (9 - len(history))


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("repeats", [False, True])
def test_leaking_guesses_come_from_the_rotated_window(
    make_decoder, authors_sizes, window_states, histories, K, repeats
):
    """Written as the window moves: the last K slots in front, then a slot off and a guess on, K times. The
    loop network fills up with pads by itself, so the window here is full and 0 is a token of it."""
    decoder = make_decoder(**authors_sizes)
    with torch.no_grad():
        found = prompts.generate_leaking(decoder, torch.arange(9), histories, K, repeats=repeats)
        for row, history in enumerate(rows_of(histories)):
            window = [0] * (50 - len(history)) + history
            window = window[-K:] + window[:-K]
            told = {0} if repeats else {0, *history[: max(0, len(history) - K)]}
            for k in range(K):
                scores = decoder.output(window_states(decoder, row, window, k)[-1])
                scores[list(told)] = float("-inf")
                window = [*window[1:], int(scores.argmax())]
                told |= set() if repeats else {window[-1]}
            n_guessed = min(K, len(history))
            expected = [0] * (len(history) - n_guessed) + window[-n_guessed:]
            assert found[row].tolist() == expected + [0] * (9 - len(history))


def test_a_leaking_guess_depends_on_the_item_that_it_replaces(make_decoder, authors_sizes):
    """Rarely: it is one slot of fifty in linear attention."""
    decoder = make_decoder(**authors_sizes)
    items = torch.randint(1, 41, (300, 5), generator=torch.Generator().manual_seed(2))
    changed = items.clone()
    changed[:, -1] = changed[:, -1] % 40 + 1
    for generate, leaks in ((prompts.generate_last, False), (prompts.generate_leaking, True)):
        one, other = (generate(decoder, None, rows, 1, repeats=True) for rows in (items, changed))
        assert torch.equal(one, other) != leaks


def test_sequential_and_parallel_agree_on_the_first_gap_and_differ_later(make_decoder, histories):
    decoder = make_decoder()
    one = prompts.generate_sequential(decoder, None, histories, 2)
    other = prompts.generate_parallel(decoder, None, histories, 2)
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.equal(one, other)


def test_generation_ignores_dropout_and_leaves_the_mode_alone(make_decoder, histories):
    decoder = make_decoder()
    expected = prompts.generate_sequential(decoder, None, histories, 1)
    decoder.train()
    assert torch.equal(prompts.generate_sequential(decoder, None, histories, 1), expected)
    assert decoder.training


def augment(name, decoder, items, targets, K, slot_loss, repeats=False):
    generate, weave = prompts.PROMPTERS[name]
    made = generate(decoder, None, items, K, open_end=slot_loss == "next", repeats=repeats)
    return weave(items, targets, made, slot_loss=slot_loss)


ITEMS = torch.tensor([[11, 12, 13], [14, 0, 0]])
TARGETS = torch.tensor([[12, 13, 15], [16, 0, 0]])


@pytest.mark.parametrize(
    ("slot_loss", "expected"),
    [("none", [[12, 0, 13, 0, 15, 0], [16, 0, 0, 0, 0, 0]]),
     ("next", [[12, 12, 13, 13, 15, 15], [16, 16, 0, 0, 0, 0]]),
     ("skip", [[12, 13, 13, 15, 15, 0], [16, 0, 0, 0, 0, 0]])],
)  # fmt: skip
def test_inserted_prompts_stand_at_the_next_position_and_learn_what_was_asked(
    make_decoder, slot_loss, expected
):
    made = augment("sequential", make_decoder(), ITEMS, TARGETS, 1, slot_loss)
    assert made.items[:, ::2].tolist() == ITEMS.tolist()
    assert made.positions.tolist() == [0, 1, 1, 2, 2, 3]
    assert made.segments.tolist() == [0, 1, 0, 1, 0, 1]
    assert made.targets.tolist() == expected


@pytest.mark.parametrize("slot_loss", prompts.SLOT_LOSSES)
def test_parallel_prompts_have_the_targets_of_inserted_ones(make_decoder, slot_loss):
    decoder = make_decoder()
    one = augment("sequential", decoder, ITEMS, TARGETS, 2, slot_loss)
    other = augment("parallel", decoder, ITEMS, TARGETS, 2, slot_loss)
    blocks = other.targets.view(2, 3, 3).transpose(1, 2).reshape(2, -1)
    assert torch.equal(one.targets, blocks)
    assert torch.equal(one.positions, other.positions.view(3, 3).T.reshape(-1))
    assert torch.equal(one.segments, other.segments.view(3, 3).T.reshape(-1))


def test_a_parallel_prompt_slot_has_the_state_of_the_recall_step(make_decoder, histories):
    """What tuning trains is what step 2 of the recall reads: the raw history and one generated item."""
    decoder = make_decoder()
    made = augment("parallel", decoder, histories, histories, 1, "next")
    h = decoder(made.items, positions=made.positions, segments=made.segments, mask=made.mask)
    T = histories.shape[1]
    for row, history in enumerate(rows_of(histories)):
        n = len(history)
        alone = torch.tensor([[*history, int(made.items[row, T + n - 1])]])
        expected = decoder(alone, segments=torch.tensor([0] * n + [1]))[0, -1]
        torch.testing.assert_close(h[row, T + n - 1], expected)


@pytest.mark.parametrize(
    ("slot_loss", "expected"), [("none", [12, 0, 0]), ("next", [12, 12, 13]), ("skip", [12, 13, 15])]
)
def test_replaced_slots_learn_what_was_asked(make_decoder, slot_loss, expected):
    made = augment("last", make_decoder(), ITEMS, TARGETS, 2, slot_loss)
    assert made.items[0, 0] == 11
    assert made.segments.tolist() == [[0, 1, 1], [0, 0, 0]]
    assert made.targets[0].tolist() == expected
    assert made.items[1].tolist() == [14, 0, 0]


@pytest.mark.parametrize("name", prompts.PROMPTERS)
def test_the_future_does_not_leak_into_a_prompt(make_decoder, histories, name):
    """Changing the last item of a history changes no prompt of the gaps before it."""
    decoder = make_decoder()
    changed = histories.clone()
    lengths = (histories > 0).sum(1)
    changed[torch.arange(9), lengths - 1] = changed[torch.arange(9), lengths - 1] % 40 + 1
    one, other = (augment(name, decoder, h, h, 1, "skip", repeats=True) for h in (histories, changed))
    generated = (one.items > 0) & (one.segments == GENERATED)
    assert torch.equal(one.items[generated], other.items[generated])
