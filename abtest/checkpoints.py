"""Train a model, or take it from the checkpoint of the same settings, code and data."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from abtest.arms import build_recommender, known_models
from abtest.manifest import code_hash
from abtest.settings import RunSettings

if TYPE_CHECKING:
    from baselines.base import Interactions, Progress, Recommender


def fit_model(
    model: str, interactions: "Interactions", settings: RunSettings, folder: Path, report: "Progress"
) -> "Recommender":
    """A trained model: from the checkpoint of the same settings, code and data where there is one.

    The user's own model is trained anew each time: its code is not part of what a checkpoint is known by.
    """
    recommender = build_recommender(
        model,
        seed=settings.seed,
        epochs=settings.epochs,
        max_targets=settings.max_targets,
        device=settings.device,
        threads=settings.threads,
    )
    if model not in known_models() or not hasattr(recommender, "save"):
        recommender.fit(interactions, report)
        return recommender
    home = Path(settings.checkpoints) if settings.checkpoints else folder / "checkpoints"
    data = hashlib.blake2b(digest_size=16)
    for column in (interactions.users, interactions.items, interactions.times):
        data.update(np.ascontiguousarray(column).data)
    made_of = (model, settings.seed, settings.epochs, settings.max_targets, settings.device, settings.threads)
    key = hashlib.blake2b(repr((made_of, code_hash(), data.hexdigest())).encode(), digest_size=8).hexdigest()
    path = home / f"{model}-{key}.safetensors"
    if path.exists():
        return type(recommender).load(path)
    home.mkdir(parents=True, exist_ok=True)
    recommender.fit(interactions, report)
    recommender.save(path)
    return recommender
