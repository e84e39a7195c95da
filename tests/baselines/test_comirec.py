"""Routing, attention and aggregation against plain loops of the paper's formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.batches import Batch
from baselines.comirec import AttentiveNetwork, ComiRec, ComiRecSettings, RoutingNetwork, aggregate, squash
from baselines.losses import LossSettings
from baselines.settings import TrainingSettings
from baselines.training import seeded

SIZES = ComiRecSettings(dim=8, interests=3, dropout=0.0, loss=LossSettings("sampled", 20))


def network_of(kind, **changes):
    with seeded(1):
        network = kind(30, replace(SIZES, **changes)).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return network


HISTORIES = torch.tensor([[3, 7, 9, 2, 0], [5, 0, 0, 0, 0], [4, 4, 1, 8, 6]])


def embedded(network, items):
    return network.norm(network.items(items) + network.positions(torch.arange(len(items))))


@torch.no_grad()
def test_routing_follows_the_papers_loop():
    network = network_of(RoutingNetwork)
    found = network.encode(torch.zeros(3), HISTORIES)
    for row, history in zip(found, HISTORIES, strict=True):
        items = history[history > 0]
        votes = network.votes(embedded(network, items)).view(len(items), 3, 8)
        votes = votes * network.ages(torch.arange(len(items)).flip(0)).exp()[:, :, None]
        plain = network.votes(embedded(network, items)).view(len(items), 3, 8)
        b = torch.zeros(len(items), 3)
        for step in range(3):
            w = b.softmax(dim=1)
            v = torch.stack([squash((w[:, j, None] * votes[:, j]).sum(0)) for j in range(3)])
            if step < 2:
                b = b + torch.stack([plain[:, j] @ v[j] for j in range(3)], dim=1)
        torch.testing.assert_close(row, v * 8**0.5, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_follows_the_papers_formula():
    network = network_of(AttentiveNetwork)
    found = network.encode(torch.zeros(3), HISTORIES)
    for row, history in zip(found, HISTORIES, strict=True):
        items = history[history > 0]
        x = embedded(network, items)
        logits = network.attention(torch.tanh(network.hidden(x))) + network.ages(
            torch.arange(len(items)).flip(0)
        )
        torch.testing.assert_close(row, logits.softmax(dim=0).T @ x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [RoutingNetwork, AttentiveNetwork])
@torch.no_grad()
def test_the_interests_of_all_prefixes_are_those_of_each_prefix_alone(kind):
    network = network_of(kind)
    together = network.interests(HISTORIES, torch.arange(5).expand(3, 5))
    for end in range(5):
        prefix = torch.where(torch.arange(5) <= end, HISTORIES, 0)
        prefix[1] = HISTORIES[1]
        alone = network.encode(torch.zeros(3), prefix)
        rows = [0, 2] if end < 4 else [2]
        torch.testing.assert_close(together[rows, end], alone[rows], atol=1e-5, rtol=1e-4)


def test_squash_keeps_the_direction_and_bounds_the_length():
    z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 3
    square = z.square().sum(1)
    torch.testing.assert_close(squash(z).norm(dim=1), square / (1 + square))
    torch.testing.assert_close(torch.cosine_similarity(squash(z), z), torch.ones(50))
    assert squash(torch.zeros(2, 3)).eq(0).all()


def test_the_papers_loss_trains_only_the_interest_that_fits_the_target():
    network = network_of(RoutingNetwork, interest_of="target")
    batch = Batch(
        torch.zeros(3), HISTORIES, torch.tensor([[7, 9, 2, 1, 0], [2, 0, 0, 0, 0], [4, 1, 8, 6, 3]])
    )
    value = network.loss(batch, torch.Generator().manual_seed(0))
    with torch.no_grad():
        v = network.interests(HISTORIES, torch.arange(5).expand(3, 5))[batch.targets > 0]
        targets = batch.targets[batch.targets > 0]
        best = (v @ network.items(targets)[:, :, None])[:, :, 0].argmax(dim=1)
        h = v[torch.arange(len(v)), best]
        expected = network.next_item_loss(h, network.table(), targets, torch.Generator().manual_seed(0))
    torch.testing.assert_close(value, expected)
    with pytest.raises(ValueError, match="set interest_of to 'target'"):
        replace(SIZES, loss=LossSettings("full"))


def plain_aggregate(items, scores, categories, diversity, k):
    chosen, left = [], [(s, i) for s, i in zip(scores, items, strict=True) if i > 0]
    while left and len(chosen) < k:
        best = max(
            left, key=lambda c: c[0] + diversity * sum(categories[c[1]] != categories[j] for j in chosen)
        )
        left.remove(best)
        chosen.append(best[1])
    return chosen + [0] * (k - len(chosen))


@pytest.mark.parametrize("diversity", [0.0, 0.3, 5.0])
def test_aggregation_agrees_with_the_papers_greedy_loop(diversity):
    generator = np.random.default_rng(0)
    items = np.array([generator.permutation(30)[:12] + 1 for _ in range(20)])
    scores = -np.sort(-generator.standard_normal((20, 12)), axis=1)
    items[3, 5:], scores[3, 5:] = 0, -np.inf
    categories = generator.integers(0, 4, 31)
    found = aggregate(items, scores, categories, diversity, 8)
    for row in range(20):
        assert found[row].tolist() == plain_aggregate(items[row], scores[row], categories, diversity, 8)
    if diversity == 0:
        assert np.array_equal(found, items[:, :8])


@pytest.fixture(scope="module")
def diverse(world):
    settings = replace(SIZES, diversity=0.5)
    training = TrainingSettings(epochs=2, lr=1e-2, batch_targets=256, threads=1, validation_users=20)
    return ComiRec(settings, training, categories=np.arange(41) % 7).fit(world)


def test_diverse_lists_hold_more_categories_and_keep_the_contract_of_a_state(diverse, world, tmp_path):
    users, histories = np.arange(world.n_users), world.histories()
    shown, since = histories[:, :3], histories[:, 5:12]
    found = diverse.recommend(users, histories, 5, np.concatenate((shown, since), axis=1))
    assert np.array_equal(diverse.retrieve(diverse.encode(users, histories, shown), 5, since), found)
    plain = ComiRec(SIZES, diverse.training).fit(world).recommend(users, histories, 5, shown)
    n_categories = [np.mean([len(set(row % 7)) for row in lists]) for lists in (found, plain)]
    assert n_categories[0] > n_categories[1]
    diverse.save(tmp_path / "x")
    again = ComiRec.load(tmp_path / "x").recommend(
        users, histories, 5, np.concatenate((shown, since), axis=1)
    )
    assert np.array_equal(again, found)


def test_diversity_needs_a_category_for_each_item(world):
    with pytest.raises(ValueError, match=r"diversity is 0.5 without categories"):
        ComiRec(replace(SIZES, diversity=0.5)).fit(world)
    with pytest.raises(ValueError, match="9 categories for 40 items; give n_items"):
        ComiRec(replace(SIZES, diversity=0.5), categories=np.zeros(9)).fit(world)
