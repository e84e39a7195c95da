"""PopRec: everybody gets the items with the most interactions. The floor that a model must clear."""

from pathlib import Path
from typing import Self

import numpy as np

from baselines.base import Ids, Interactions, Progress, State, silent, without


class PopRec:
    """Items by their number of training interactions, most first; items without any come last, by id."""

    name = "poprec"
    reach = 150  # 50 items after 100 shown ones

    def __init__(self) -> None:
        self.counts = np.zeros(1, np.int64)

    def fit(self, interactions: Interactions, progress: Progress = silent) -> Self:
        self.counts = np.bincount(interactions.items, minlength=interactions.n_items + 1).astype(np.int64)
        progress(f"fit {self.name}", 1.0)
        return self

    def recommend(self, users: Ids, histories: Ids, k: int, exclude: Ids) -> Ids:
        return without(np.broadcast_to(self._order(), (len(users), len(self.counts) - 1)), exclude, k)

    def encode(self, users: Ids, histories: Ids, exclude: Ids) -> State:
        return (self.recommend(users, histories, self.reach, exclude).astype(np.int32),)

    def retrieve(self, state: State, k: int, since: Ids) -> Ids:
        return without(state[0], since, k)

    def save(self, path: str | Path) -> None:
        import torch

        from baselines.checkpoint import save_checkpoint

        save_checkpoint(path, {"counts": torch.from_numpy(self.counts)}, {"model": self.name})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        from baselines.checkpoint import load_checkpoint

        model = cls()
        model.counts = load_checkpoint(path, cls.name)[0]["counts"].numpy()
        return model

    def _order(self) -> Ids:
        if len(self.counts) == 1:
            raise ValueError(f"{self.name} has not learned anything yet; call fit or load first")
        return np.argsort(-self.counts[1:], kind="stable") + 1
