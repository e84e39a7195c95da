"""A small decoder with random weights, a model around it, and histories of every length."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recgpt.model import Decoder, RecGPTConfig


@pytest.fixture
def make_decoder() -> Callable[..., Decoder]:
    """Random weights, large enough that no two scores nearly tie; doubles, so that orders of summation
    agree."""

    def make(**sizes: int | float | bool) -> Decoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            config = RecGPTConfig(**{"n_items": 40, "n_users": 9, "dim": 16, "heads": 2, **sizes})
            decoder = Decoder(config).double()
            for weight in decoder.parameters():
                if weight.ndim == 2:
                    weight.data.copy_(torch.randn_like(weight) * 0.5)
            return decoder.eval()

    return make


@pytest.fixture
def histories() -> Tensor:
    """(9, 9) histories of 1 .. 9 items, in mixed order of length."""
    generator = torch.Generator().manual_seed(3)
    items = torch.randint(1, 41, (9, 9), generator=generator)
    lengths = torch.tensor([3, 9, 1, 5, 2, 8, 4, 7, 6])
    return items * (torch.arange(9) < lengths[:, None])
