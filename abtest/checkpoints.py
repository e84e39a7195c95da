"""Train a model, or take it from the checkpoint of the same settings, code and data."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from abtest.arms import build_recommender, known_models
from abtest.manifest import code_hash
from abtest.settings import RunSettings

if TYPE_CHECKING:
    from baselines.base import Interactions, Progress, Recommender


class Trained(NamedTuple):
    """A fitted model, a hash of its settings, code, data and of what it went on from, and the highest id of a
    video that it knows."""

    recommender: "Recommender"
    key: str
    n_items: int


def fit_model(
    model: str,
    interactions: "Interactions",
    settings: RunSettings,
    folder: Path,
    report: "Progress",
    start: Trained | None = None,
) -> Trained:
    """A trained model: from the checkpoint of the same settings, code and data where there is one.

    With `start` training goes on from there for `retrain_epochs` (`refit`; a model without that method is
    trained anew). The user's own model is trained each time: a checkpoint does not know its code.
    """
    key = _key(model, interactions, settings, start)
    path = (Path(settings.checkpoints) if settings.checkpoints else folder / "checkpoints") / (
        f"{model}-{key}.safetensors"
    )
    fresh = _untrained(model, settings)
    kept = model in known_models() and hasattr(fresh, "save")
    if kept and path.exists():
        return Trained(type(fresh).load(path), key, interactions.n_items)
    if start is not None and hasattr(start.recommender, "refit"):
        fresh = start.recommender.refit(interactions, report, epochs=settings.retrain_epochs)
    else:
        fresh.fit(interactions, report)
    if kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.save(path)
    return Trained(fresh, key, interactions.n_items)


def _untrained(model: str, settings: RunSettings) -> Any:
    return build_recommender(
        model,
        seed=settings.seed,
        epochs=settings.epochs,
        max_targets=settings.max_targets,
        device=settings.device,
        threads=settings.threads,
    )


def _key(model: str, interactions: "Interactions", settings: RunSettings, start: Trained | None) -> str:
    data = hashlib.blake2b(digest_size=16)
    for column in (interactions.users, interactions.items, interactions.times):
        data.update(np.ascontiguousarray(column).data)
    made_of: tuple[Any, ...] = (
        model,
        settings.seed,
        settings.epochs,
        settings.max_targets,
        settings.device,
        settings.threads,
        interactions.n_items,
    )
    if start is not None:
        made_of += (start.key, settings.retrain_epochs)
    text = repr((made_of, code_hash(), data.hexdigest()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
