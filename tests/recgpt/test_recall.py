from dataclasses import fields

import numpy as np
import pytest
import torch

from baselines.settings import TrainingSettings
from recgpt.model import DecoderSettings
from recgpt.recall import Split, choose_splits, encode_twice, merge, split_for, split_ranks
from recgpt.recommender import RecGPT
from recgpt.settings import RecGPTSettings

NOTHING = np.zeros((9, 0), np.int64)


def around(decoder, **settings):
    """A model with these weights, as if it had been fitted."""
    config = decoder.config
    network = {field.name: getattr(config, field.name) for field in fields(DecoderSettings)}
    model = RecGPT(RecGPTSettings(**network, **settings), TrainingSettings(threads=1))
    model.n_users, model.n_items = config.n_users, config.n_items
    model._ready(decoder.float())
    return model


def naive_rankings(decoder, user, history, hidden, depth):
    """One user: score, pick, append, score; plain Python sorting."""
    items = [int(i) for i in history if i]
    users = torch.tensor([int(user)])

    def ranking(tokens, segments):
        h = decoder(torch.tensor([tokens]), users, segments=torch.tensor([segments]))[0, -1]
        scores = (decoder.items.weight @ h).tolist()
        return sorted(range(1, len(scores)), key=lambda i: (-scores[i], i))

    first = ranking(items, [0] * len(items))
    pick = next(i for i in first if i not in items)
    second = ranking([*items, pick], [0] * len(items) + [1])
    lists = [[i for i in order if i not in hidden][:depth] for order in (first, second)]
    return [row + [0] * (depth - len(row)) for row in lists]


@pytest.fixture
def rankings(make_decoder, histories):
    seen = histories.numpy()
    return around(make_decoder()).rankings(np.arange(9), seen, seen, 30)


def test_both_rankings_equal_a_loop_over_users(make_decoder, histories):
    model = around(make_decoder(user_vectors=True))
    seen = histories.numpy()
    first, second = model.rankings(np.arange(9), seen, seen, 30)
    for row, history in enumerate(seen):
        expected = naive_rankings(model.network, row, history, set(history.tolist()), 30)
        assert [first[row].tolist(), second[row].tolist()] == expected


def test_excluded_items_are_in_no_list_and_change_no_state(make_decoder, histories):
    model, users, seen = around(make_decoder()), np.arange(9), histories.numpy()
    free = model.rankings(users, seen, NOTHING, 40)
    hidden = free[0][:, :5]
    for ranking, all_items in zip(model.rankings(users, seen, hidden, 40), free, strict=True):
        for row in range(9):
            rest = [i for i in all_items[row].tolist() if i not in hidden[row]]
            assert ranking[row].tolist() == rest + [0] * 5


def test_the_authors_rank_by_items_and_pick_by_their_output_layer(
    make_decoder, authors_sizes, window_states, histories
):
    decoder = make_decoder(**authors_sizes)
    full = torch.arange(50)[None] % 40 + 1
    padded = torch.cat([torch.nn.functional.pad(histories, (0, 41)), full])
    users = torch.tensor([0, 1, 2, -1, 4, 5, 6, 7, 8, 3])
    first, second = encode_twice(decoder, users, padded, repeats=True)
    with torch.no_grad():
        for row, user in enumerate(users.tolist()):
            tokens = [item for item in padded[row].tolist() if item]
            before = window_states(decoder, user, tokens)[-1]
            pick = int(decoder.output(before)[1:].argmax()) + 1
            after = window_states(decoder, user, [*tokens, pick][-50:], 1)[-1]
            torch.testing.assert_close(first[row], before)
            torch.testing.assert_close(second[row], after)
    model = around(decoder, prompts="last", prompt_repeats=True)
    rankings = model.rankings(users.numpy(), padded.numpy(), np.zeros((10, 0), np.int64), 40)
    for ranking, states in zip(rankings, (first, second), strict=True):
        scores = states @ decoder.table()[1:].detach().double().T
        assert np.array_equal(ranking, 1 + (-scores).argsort(1).numpy())


@pytest.mark.parametrize("size", [1, 64, 100])
@pytest.mark.parametrize("authors", [False, True])
def test_a_row_does_not_depend_on_its_company(make_decoder, authors_sizes, size, authors):
    sizes = {"n_items": 500, "dim": 64, **(authors_sizes if authors else {})}
    model = around(make_decoder(**sizes), **({"prompts": "last"} if authors else {}), second_share=0.2)
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 51, 200)
    histories = generator.integers(1, 501, (200, 50)) * (np.arange(50) < lengths[:, None])
    users = np.arange(200)
    together = model.encode(users, histories, histories)
    for start in (0, 63, 77, 99):
        rows = slice(start, start + size)
        apart = model.encode(users[rows], histories[rows], histories[rows])
        for one, other in zip(apart, together, strict=True):
            assert np.array_equal(one, other[rows])


def test_equal_scores_are_ordered_by_item_id(make_decoder, histories):
    decoder = make_decoder()
    decoder.blocks[-1].norm_forward.weight.data.zero_()  # every state is 0, and so is every score
    for ranking in around(decoder).rankings(np.arange(9), histories.numpy(), NOTHING, 7):
        assert (ranking == np.arange(1, 8)).all()


def test_a_full_history_has_room_for_the_pick(make_decoder):
    decoder = make_decoder()
    full = torch.arange(50)[None] % 40 + 1
    first, second = encode_twice(decoder, torch.tensor([0]), full, repeats=True)
    assert first.isfinite().all()
    assert second.isfinite().all()


@pytest.mark.parametrize("m", range(11))
def test_merged_lists_have_no_repeats_and_follow_both_rankings(rankings, m):
    first, second = rankings
    merged = merge(first, second, m, 10 - m, NOTHING)
    for row in range(9):
        assert merged[row, :m].tolist() == first[row, :m].tolist()
        rest = [i for i in second[row].tolist() if i not in merged[row, :m]]
        assert merged[row, m:].tolist() == rest[: 10 - m]
        assert len(set(merged[row].tolist())) == 10


@pytest.mark.parametrize("length", [5, 10, 20])
def test_the_grid_of_splits_equals_lists_that_were_built(rankings, length):
    generator = np.random.default_rng(1)
    for m in range(length + 1):
        merged = merge(*rankings, m, length - m, NOTHING)
        for _ in range(5):
            targets = generator.integers(1, 41, 9)
            expected = [
                [*row].index(t) + 1 if t in row else 0 for row, t in zip(merged, targets, strict=True)
            ]
            assert split_ranks(*rankings, targets, m, length - m).tolist() == expected


def test_a_list_of_ten_has_the_first_five_of_one_step(make_decoder, histories):
    """With m of 5 or more the second step cannot touch HR@5 of a list of ten."""
    seen = histories.numpy()
    one, two = (around(make_decoder(), second_share=share) for share in (0.0, 0.5))
    plain, stepped = (model.recommend(np.arange(9), seen, 10, seen) for model in (one, two))
    assert np.array_equal(plain[:, :5], stepped[:, :5])
    assert not np.array_equal(plain, stepped)


def test_items_shown_since_are_taken_out_of_both_parts():
    first, second = np.array([[1, 2, 3, 4, 5]]), np.array([[4, 1, 6, 7, 8]])
    assert merge(first, second, 2, 2, np.array([[1, 6, 0]])).tolist() == [[2, 3, 4, 7]]


@pytest.mark.parametrize(("k", "n_since"), [(1, 0), (6, 30), (10, 100), (50, 100)])
def test_a_state_answers_as_if_it_were_encoded_anew(make_decoder, k, n_since):
    model = around(make_decoder(n_items=500), second_share=0.2)
    generator = np.random.default_rng(2)
    users = np.arange(9)
    histories, exclude, since = (generator.integers(1, 501, (9, n)) for n in (20, 30, n_since))
    state = model.encode(users, histories, exclude)
    best = model.retrieve(state, 50, np.zeros((9, 0), np.int64))
    since[:, : min(n_since, 40)] = best[:, : min(n_since, 40)]  # what was shown is what was recommended
    anew = model.recommend(users, histories, k, np.concatenate([exclude, since], axis=1))
    assert np.array_equal(model.retrieve(state, k, since), anew)


def test_the_second_step_is_chosen_only_where_it_clearly_finds_more():
    n = 40
    first, second = np.tile(np.arange(1, 11), (n, 1)), np.tile(np.arange(9, 19), (n, 1))
    half = np.arange(n) < n // 2  # a (7, 3) list is 1 .. 7, 9, 10, 11: it has gained 11 and lost 8

    def chosen(targets):
        return choose_splits(first, second, targets, [10])[10]

    assert chosen(np.full(n, 11)) == Split(7, 3, gained=n, lost=0)
    assert chosen(np.full(n, 3)) == Split(10, 0)
    assert chosen(np.where(half, 11, 8)) == Split(10, 0)
    assert chosen(np.where(np.arange(n) < 22, 11, 8)) == Split(10, 0)  # 22 against 18 is luck


def test_a_split_serves_lists_of_other_lengths():
    splits = {5: Split(5, 0), 10: Split(9, 1), 50: Split(40, 10)}
    assert [split_for(k, splits) for k in (1, 5, 10, 30, 50)] == [(1, 0), (5, 0), (9, 1), (27, 3), (40, 10)]
    assert split_for(7, {}) == (7, 0)
