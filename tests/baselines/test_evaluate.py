"""Metrics against a plain loop, ranks against a full sort."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.data import Validation
from baselines.evaluate import (
    Evaluation,
    _above_at_once,
    _above_by_row,
    evaluate,
    evaluate_split,
    exact_ranks,
    gains,
    hits,
    list_ranks,
    paired_difference,
    validator,
)
from baselines.scores import ItemScores


class Fixed:
    """Recommends 1, 2, 3, ... to everybody."""

    def recommend(self, users, histories, k, exclude):
        return np.array([[i for i in range(1, 100) if i not in row][:k] for row in exclude])


class Lists:
    """A model that can only be asked for lists."""

    def __init__(self, model):
        self.recommend = model.recommend


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 9))
def test_metrics_agree_with_a_plain_loop(targets, block):
    n = len(targets)
    found = evaluate(
        Fixed(), np.arange(n), np.zeros((n, 3), np.int64), np.array(targets), ks=(3, 10, 20), block=block
    )
    for k in (3, 10, 20):
        assert found.hr[k] == pytest.approx(sum(t <= k for t in targets) / n)
        assert found.ndcg[k] == pytest.approx(sum(1 / math.log2(t + 1) for t in targets if t <= k) / n)
    assert found.mrr == pytest.approx(sum(1 / t for t in targets if t <= 20) / n)
    assert found.n_users == n


def test_masking_the_history_moves_targets_up_and_hides_repeats():
    users, histories, targets = np.arange(2), np.array([[1, 2, 0], [5, 0, 0]]), np.array([3, 5])
    assert evaluate(Fixed(), users, histories, targets).ranks.tolist() == [3, 5]
    assert evaluate(Fixed(), users, histories, targets, exclude="history").ranks.tolist() == [1, 0]
    assert evaluate(Fixed(), users, histories, targets, exclude=np.array([[3], [1]])).ranks.tolist() == [0, 4]
    assert evaluate_split(Fixed(), Validation(users, histories, targets)).ranks.tolist() == [1, 0]
    assert evaluate_split(Fixed(), Validation(users, histories, targets, False)).ranks.tolist() == [3, 5]


def test_bad_questions_are_refused():
    with pytest.raises(ValueError, match="0 users, 0 histories and 0 targets"):
        evaluate(Fixed(), np.zeros(0), np.zeros((0, 3)), np.zeros(0))
    with pytest.raises(ValueError, match="exclude is 'seen'; allowed: 'history'"):
        evaluate(Fixed(), np.zeros(1), np.zeros((1, 3)), np.zeros(1), exclude="seen")
    with pytest.raises(ValueError, match="needs the same users"):
        paired_difference(np.zeros(3), np.zeros(4))


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.booleans())
def test_exact_ranks_are_those_of_a_full_sort(seed, n_interests, coarse):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(6, n_interests, 4, generator=generator)
    table = torch.randn(31, 4, generator=generator)
    if coarse:  # many ties
        vectors, table = vectors.round(), table.round()
    targets = torch.randint(1, 31, (6,), generator=generator)
    exclude = torch.randint(0, 31, (6, 5), generator=generator)
    items = ItemScores(table)
    ranks = exact_ranks(vectors, items, targets, exclude)
    scores = (vectors @ table.T).amax(dim=1)
    told = items.of(vectors)[:, :31].clone()
    torch.testing.assert_close(told, scores)
    if n_interests == 1:
        torch.testing.assert_close(items.of(vectors[:, 0])[:, :31], scores)
    compared = told, scores.gather(1, targets[:, None]), targets
    assert _above_by_row(*compared).tolist() == _above_at_once(*compared).tolist()
    for row in range(6):
        hidden = {0, *exclude[row].tolist()}
        order = sorted(set(range(31)) - hidden, key=lambda i: (-float(scores[row, i]), i))
        expected = 0 if int(targets[row]) in hidden else order.index(int(targets[row])) + 1
        assert int(ranks[row]) == expected


def test_the_validator_measures_what_evaluate_measures(model, world):
    if not hasattr(model, "network") or model.name == "recgpt":
        pytest.skip("no list of plain scores")
    users = np.arange(world.n_users)
    histories = world.histories()
    length = world.lengths - 1
    targets = histories[users, length]
    histories[users, length] = 0
    for exclude_history in (True, False):
        validation = Validation(users, histories, targets, exclude_history)
        measure = validator(model.network.encode, model.network.table, validation, block=50)
        assert measure() == pytest.approx(evaluate_split(Lists(model), validation).ndcg[10])


def test_a_large_validation_is_thinned_evenly():
    seen = []

    def encode(users, items):
        seen.extend(users.tolist())
        return torch.ones(len(users), 2)

    n = 1000
    validation = Validation(np.arange(n), np.ones((n, 3), np.int64), np.full(n, 2))
    validator(encode, lambda: torch.ones(5, 2), validation, max_users=10)()
    assert sorted(seen) == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


def test_an_interval_of_a_paired_difference_covers_the_truth_about_as_often_as_it_says():
    """95 % intervals of 200 samples with difference .1: under 180 hits have probability 2e-4 if exact."""
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        common = generator.random(300)
        a, b = (common < 0.4).astype(float), (common < 0.3).astype(float)
        found = paired_difference(a, b, seed=seed, n_draws=400)
        covered += found.low <= 0.1 <= found.high
    assert covered >= 180


def test_a_paired_difference_is_the_bootstrap_over_users():
    generator = np.random.default_rng(0)
    a, b = gains(generator.integers(0, 12, 400), 10), gains(generator.integers(0, 12, 400), 10)
    draws = np.random.default_rng(1).integers(0, 400, (4000, 400))
    low, high = np.quantile((a - b)[draws].mean(axis=1), [0.025, 0.975])
    found = paired_difference(a, b)
    assert found.difference == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)


def test_ranks_hits_and_gains_of_single_lists():
    assert list_ranks(np.array([[3, 1], [2, 0]]), np.array([1, 9])).tolist() == [2, 0]
    assert hits(np.array([0, 1, 5, 6]), 5).tolist() == [0, 1, 1, 0]
    assert Evaluation(np.array([0, 2]), (5,), 0.0).mrr == 0.25
