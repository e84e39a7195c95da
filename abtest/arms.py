"""From the names on the command line to arms that serve feeds.

An arm is `recgpt`, `comirec`, ... (a name in `known_models()`), `name=recgpt`, or the user's own model as
`name=package.module:Class`. `ArmFeed` puts the model where it stands on a real service: its 50 candidates go
through the ranker that all arms share (stage `retrieval`), or fill the feed as they come (stage `feed`).
"""

import difflib
import importlib
import inspect
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from baselines import MODELS
from baselines.base import Ids, Recommender, State, StatefulRecommender, known_items

N_CANDIDATES = 50
DROPOUT = 0.2
"""Of all arms alike; on a log of this size .2 was better on validation than .5 (baselines) or equal."""

STAGES = ("retrieval", "feed")
BLOCK_ROWS = 64
"""Models without `encode` are called with this many rows, padded: float sums may depend on the batch size."""


@dataclass(frozen=True)
class ArmSpec:
    """An arm as asked for: its name in reports, and a known model or package.module:Class."""

    name: str
    model: str


def known_models() -> dict[str, str]:
    """Every model that an arm can name: name -> "module:Class"."""
    return dict(sorted({**MODELS, "recgpt": "recgpt.recommender:RecGPT"}.items()))


def is_deterministic(model: str) -> bool:
    """Whether the model always gives the same list in the same situation. Models of this project do; of
    somebody's own class it is not known."""
    return model in known_models()


def parse_arms(text: str) -> list[ArmSpec]:
    """Arms from "comirec,recgpt", "comirec,comirec" or "mine=package.module:Class,recgpt".

    A model named twice becomes NAME and NAME-2; a name that was given explicitly must be unique.

    >>> [arm.name for arm in parse_arms("comirec,comirec,mine=poprec")]
    ['comirec', 'comirec-2', 'mine']
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not all(parts):
        raise ValueError(
            f"an experiment needs two arms or more, got {text!r}; name them with commas, e.g. comirec,recgpt"
        )
    explicit = [part.split("=", 1)[0].strip() for part in parts if "=" in part]
    repeated = [name for name, count in Counter(explicit).items() if count > 1]
    if repeated:
        raise ValueError(f"arm name {repeated[0]!r} is given twice; each NAME=MODEL needs a name of its own")
    arms: list[ArmSpec] = []
    taken = Counter(explicit)
    for part in parts:
        name, _, model = part.partition("=") if "=" in part else ("", "", part)
        model = _check_model(model.strip())
        if "=" in part:
            arms.append(ArmSpec(_check_name(name.strip()), model))
            continue
        base = model.rpartition(":")[2].lower() if ":" in model else model
        copies = 1
        name = base
        while taken[name]:
            copies += 1
            name = f"{base}-{copies}"
        taken[name] += 1
        arms.append(ArmSpec(name, model))
    return arms


def model_seed(seed: int, model: str) -> int:
    """The training seed: a function of run seed and model, never of the arm's name, so an A/A is exact."""
    return int.from_bytes(blake2b(f"{seed}\0{model}".encode(), digest_size=4).digest(), "big")


def model_class(model: str) -> type[Any]:
    """The class behind a known name or package.module:Class; ValueError where it cannot be had."""
    target = known_models().get(model, model)
    module_name, _, class_name = target.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # the user's own model lies beside them, as with `python -m`
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"cannot import {module_name!r} of arm {model!r} ({error}); is it installed?"
        ) from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise ValueError(f"module {module_name!r} has no class {class_name!r}; write package.module:Class")
    for verb in ("fit", "recommend"):
        if not callable(getattr(found, verb, None)):
            raise ValueError(
                f"{model!r} has no method {verb!r}; an arm needs fit and recommend (baselines/base.py)"
            )
    return found


def build_recommender(
    model: str, *, seed: int, epochs: int, max_targets: int, device: str, threads: int
) -> Any:
    """An untrained model. Models of this project get the run's training budget; the user's own class is
    called with `seed=` if it takes one, else with nothing."""
    found = model_class(model)
    parameters = inspect.signature(found).parameters
    if "training" in parameters and model in known_models():
        from baselines.settings import TrainingSettings

        return found(
            found.settings_type(dropout=DROPOUT),
            TrainingSettings(
                seed=model_seed(seed, model),
                epochs=epochs,
                max_targets=max_targets,
                device=device,
                threads=threads,
            ),
        )
    return found(seed=model_seed(seed, model)) if "seed" in parameters else found()


class ArmFeed:
    """A fitted model in front of the shared ranker, as the platform calls it (simulator.platform.Feed).

    `n_items`: the model knows videos 1 to n_items, all if None; of later ones it is told nothing.
    """

    def __init__(
        self, recommender: Any, ranker: Any, *, stage: str = "retrieval", n_items: int | None = None
    ) -> None:
        if stage not in STAGES:
            raise ValueError(f"unknown stage {stage!r}; known stages: {', '.join(STAGES)}")
        self.recommender = recommender
        self.ranker = ranker
        self.stage = stage
        self.n_items = n_items
        self._is_stateful = isinstance(recommender, StatefulRecommender)  # asked at every request, and slow

    def begin(self, users: Ids, histories: Ids, shown: Ids, ts_ms: Ids) -> State:
        """What is kept for the session: the model's own state, or its inputs where it keeps none."""
        if self.n_items is not None:
            histories, shown = known_items(histories, self.n_items), _up_to(shown, self.n_items)
        if self._is_stateful:
            return self.recommender.encode(users, histories, shown)
        return (histories, shown)

    def serve(
        self, users: Ids, memory: State, sessions: Ids, requests: Ids, since: Ids, ts_ms: Ids, k: int = 6
    ) -> tuple[Ids, None]:
        """The feed: (n, k) item ids, 0 where nothing is left. What a model of this project
        shows is certain, so no propensities are written down (`abtest.export` tells them)."""
        wanted = N_CANDIDATES if self.stage == "retrieval" else k
        candidates = self.candidates(users, memory, since, wanted)
        if self.stage == "feed":
            return candidates, None
        scores = self.ranker.score(users, candidates, ts_ms)
        scores = np.where(candidates > 0, scores, -np.inf)
        order = np.lexsort((candidates, -scores), axis=-1)[:, :k]
        return np.take_along_axis(candidates, order, axis=1), None

    def candidates(self, users: Ids, memory: State, since: Ids, k: int) -> Ids:
        """(n, k) candidates of the model, best first."""
        if self.n_items is not None:
            since = _up_to(since, self.n_items)
        if self._is_stateful:
            return self.recommender.retrieve(memory, k, since)
        histories, shown = (rows.astype(np.int64) for rows in memory)
        return _in_blocks(self.recommender, users, histories, np.hstack([shown, since]), k)


def candidate_overlap(
    feeds: Sequence[ArmFeed], users: Ids, histories: Ids, shown: Ids, ts_ms: Ids
) -> list[list[float]]:
    """Mean share of the 50 candidates that two arms have in common for the same users, arm by arm."""
    nothing = np.zeros((len(users), 0), dtype=np.int64)
    lists = [
        feed.candidates(users, feed.begin(users, histories, shown, ts_ms), nothing, N_CANDIDATES)
        for feed in feeds
    ]
    return [[_common(a, b) for b in lists] for a in lists]


def _common(a: Ids, b: Ids) -> float:
    shared = sum(np.intersect1d(x[x > 0], y[y > 0]).size for x, y in zip(a, b, strict=True))
    return shared / max(1, int((a > 0).sum()))


def _in_blocks(recommender: Recommender, users: Ids, histories: Ids, exclude: Ids, k: int) -> Ids:
    lists = []
    for start in range(0, len(users), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        n = len(users[rows])
        pad = ((0, BLOCK_ROWS - n), (0, 0))
        block = recommender.recommend(
            np.pad(users[rows], (0, BLOCK_ROWS - n), constant_values=-1),
            np.pad(histories[rows], pad),
            k,
            np.pad(exclude[rows], pad),
        )
        lists.append(np.asarray(block, dtype=np.int64)[:n])
    return np.vstack(lists) if lists else np.zeros((0, k), dtype=np.int64)


def _up_to(items: Ids, n_items: int) -> Ids:
    return np.where(items <= n_items, items, 0)


def _check_name(name: str) -> str:
    if not name or not all(c.isalnum() or c in "._-" for c in name):
        raise ValueError(f"arm name {name!r} is not usable; use letters, digits, '.', '_' and '-'")
    return name


def _check_model(model: str) -> str:
    known = known_models()
    if model in known:
        return model
    if ":" in model:
        model_class(model)
        return model
    close = difflib.get_close_matches(model, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"unknown arm {model!r}; known arms: {', '.join(known)}, or NAME=package.module:Class.{hint}"
    )
