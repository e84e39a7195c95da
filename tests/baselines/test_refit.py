"""Training that goes on from a fitted model, as an arm does at midnight."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
