"""Train a model, or take it from the checkpoint of the same settings, code and data."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from abtest.arms import build_recommender, known_models
from abtest.executor import processes
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
    path = _path(model, key, settings, folder)
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


def fit_side_by_side(
    models: Sequence[str],
    interactions: "Interactions",
    settings: RunSettings,
    folder: Path,
    report: "Progress",
) -> None:
    """Leave checkpoints for `fit_model` to take, of models that have none: trained in as many processes as
    there are workers, and processors for `threads` each. Nothing is done where that is one process.

    The models are those that training one after the other gives, as no training knows of another.
    """
    todo = [
        model
        for model in models
        if model in known_models()
        and hasattr(_untrained(model, settings), "save")
        and not _path(model, _key(model, interactions, settings, None), settings, folder).exists()
    ]
    at_once = min(len(todo), settings.workers, (os.cpu_count() or 1) // settings.threads)
    if at_once < 2 or settings.device != "cpu" or settings.executor != "local":
        return
    from concurrent.futures import FIRST_EXCEPTION, wait
    from multiprocessing import get_context

    told = get_context("spawn").SimpleQueue()
    with processes(at_once, _tell_through, told) as pool:
        running = {pool.submit(_fit_in_process, m, interactions, settings, folder) for m in todo}
        done_share = dict.fromkeys(todo, 0.0)
        while running:
            done, running = wait(running, timeout=0.5, return_when=FIRST_EXCEPTION)
            while not told.empty():
                model, detail, done_share[model] = told.get()
                report(detail, sum(done_share.values()) / len(todo))
            for future in done:
                future.result()  # raises what was raised there


_told: Any = None
"""In a process of `fit_side_by_side`: the queue of its progress."""


def _tell_through(told: Any) -> None:
    global _told
    _told = told


def _fit_in_process(model: str, interactions: "Interactions", settings: RunSettings, folder: Path) -> None:
    def report(detail: str, fraction: float) -> None:
        _told.put((model, detail, fraction))

    fit_model(model, interactions, settings, folder, report)


def _path(model: str, key: str, settings: RunSettings, folder: Path) -> Path:
    home = Path(settings.checkpoints) if settings.checkpoints else folder / "checkpoints"
    return home / f"{model}-{key}.safetensors"


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
