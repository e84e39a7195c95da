"""Small worlds with known answers, and every registered model fitted on them once."""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines import MODELS, load_model
from baselines.base import Interactions

EVERY_MODEL = [*MODELS, *(["recgpt"] if importlib.util.find_spec("recgpt.recommender") else [])]
N_USERS, N_ITEMS, LENGTH = 120, 40, 14
OTHER_SIZES = {"bert4rec": {"dim": 64, "lr": 3e-3}}
"""Of models that learn a toy world too slowly at the common ones."""


def model_class(name: str) -> Any:
    return importlib.import_module("recgpt.recommender").RecGPT if name == "recgpt" else load_model(name)


def small_model(name: str, *, seed: int = 0, epochs: int = 15) -> Any:
    """A model of the kind that learns a toy world in a second."""
    cls = model_class(name)
    if not hasattr(cls, "settings_type"):
        return cls()
    from baselines.losses import LossSettings
    from baselines.settings import TrainingSettings

    loss = LossSettings("sampled", 30)
    other = OTHER_SIZES.get(name, {})
    sizes = replace(cls.settings_type(), dim=other.get("dim", 16), dropout=0.1, loss=loss)
    lr = other.get("lr", 1e-2)
    training = TrainingSettings(
        epochs=epochs, batch_targets=256, lr=lr, patience=100, validation_users=20, seed=seed, threads=1
    )
    return cls(sizes, training)


def checkerboard() -> Interactions:
    """Even users know even items only, odd users odd ones."""
    generator = np.random.default_rng(5)
    users = np.repeat(np.arange(N_USERS), LENGTH)
    halves = [generator.permutation(N_ITEMS // 2)[:LENGTH] for _ in range(N_USERS)]
    items = 2 * np.concatenate(halves) + 1 + (users % 2 == 0)
    return Interactions.from_arrays(users, items, n_users=N_USERS, n_items=N_ITEMS)


@functools.cache
def fitted(name: str) -> Any:
    return small_model(name).fit(checkerboard())


@pytest.fixture(scope="session", params=EVERY_MODEL)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def model(name: str) -> Any:
    """Fitted on the checkerboard. Tests must not change it."""
    return fitted(name)


@pytest.fixture(scope="session")
def world() -> Interactions:
    return checkerboard()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    return small_model


@pytest.fixture(scope="session")
def make_histories() -> Callable[..., np.ndarray]:
    def random_histories(n: int, n_items: int = N_ITEMS, *, seed: int = 0, width: int = 50) -> np.ndarray:
        """Left-aligned histories of 0 to `width` items."""
        generator = np.random.default_rng(seed)
        histories = generator.integers(1, n_items + 1, (n, width))
        return np.where(np.arange(width) < generator.integers(0, width + 1, n)[:, None], histories, 0)

    return random_histories


@pytest.fixture(scope="session")
def beauty() -> Path:
    path = Path(__file__).parents[2] / "../shared/data/sequential/Beauty.txt"
    if not path.exists():
        pytest.skip("needs ../shared/data")
    return path
