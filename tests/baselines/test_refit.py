"""Training that goes on from a fitted model, as an arm does at midnight."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from baselines.base import Interactions


@pytest.mark.parametrize("name", ["comirec", "recgpt"])
def test_a_refit_starts_from_the_weights_and_leaves_the_model_alone(
    name: str, make_model: Callable[..., Any], world: Interactions
) -> None:
    first = make_model(name, epochs=2).fit(world)
    before = copy.deepcopy(first.network.state_dict())
    still = copy.copy(first)
    still.training = replace(first.training, lr=1e-12)
    same = still.refit(world, epochs=2)
    for key, weight in same.network.state_dict().items():
        torch.testing.assert_close(weight, before[key], atol=1e-6, rtol=0)
    further = first.refit(world, epochs=2)
    again = first.refit(world, epochs=2)
    assert further.training.epochs == 2
    assert not torch.equal(further.network.table(), before["items.weight"])
    assert torch.equal(further.network.table(), again.network.table())
    assert all(torch.equal(weight, before[key]) for key, weight in first.network.state_dict().items())


@pytest.mark.parametrize("name", ["caser", "recgpt"])
def test_items_that_came_in_since_are_known_after_a_refit(
    name: str, make_model: Callable[..., Any], world: Interactions
) -> None:
    first = make_model(name, epochs=2).fit(world)
    first.training = replace(first.training, lr=1e-12)
    more = first.refit(replace(world, n_items=world.n_items + 5), epochs=2)
    for key, before in first.network.state_dict().items():
        after = more.network.state_dict()[key]
        torch.testing.assert_close(after[: len(before)], before, atol=1e-6, rtol=0)
    assert len(more.network.table()) == len(first.network.table()) + 5
    user, nothing = np.array([0]), np.zeros((1, 0), np.int64)
    history = world.histories(user)
    assert more.recommend(user, history, world.n_items + 5, nothing).max() == world.n_items + 5
    assert first.recommend(user, history, world.n_items, nothing).max() == world.n_items
