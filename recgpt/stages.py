"""What each stage adds: the same users' ranks after pre-training, after prompt-tuning, and with the second
step.

Two stages differ in few users, so each row counts them: whose target entered the list, and whose left it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from baselines import load_model
from baselines.base import Ids, Progress, silent
from baselines.data import Split, Validation
from baselines.evaluate import evaluate_split, gains, hits, paired_difference
from baselines.sequential import SequentialRecommender
from recgpt.recall import split_ranks
from recgpt.recommender import RecGPT

KS = (5, 10, 20)


@dataclass(frozen=True)
class Row:
    """One line of a comparison. ranks[k] (n,): the rank of each user's target in the list of k items, 0 = not
    in it.

    recall[k]: the (m, n) of that list, where it has two steps. seconds: CPU time of training and ranking.
    """

    model: str
    stage: str
    ranks: dict[int, Ids]
    recall: dict[int, tuple[int, int]]
    seconds: float

    def hr(self, k: int) -> float:
        return float(hits(self.ranks[k], k).mean())

    def ndcg(self, k: int) -> float:
        return float(gains(self.ranks[k], k).mean())

    def discordant(self, before: "Row", k: int) -> tuple[int, int]:
        """Users whose target is in this row's list of k only, and in the other row's only."""
        here, there = self.ranks[k] > 0, before.ranks[k] > 0
        return int((here & ~there).sum()), int((there & ~here).sum())


def document(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """JSON values: a dictionary for each row; `gained_k` and `lost_k` are against the RecGPT stage before
    it, `difference` is this row's NDCG@10 minus that of the first row, paired by user, with its 95 %
    bootstrap interval."""
    found = []
    for row, before in zip(rows, [None, *rows], strict=False):
        line: dict[str, Any] = {"model": row.model, "stage": row.stage}
        for k in KS:
            line |= {f"hr@{k}": row.hr(k), f"ndcg@{k}": row.ndcg(k)}
        line |= {"n_users": len(row.ranks[KS[0]]), "seconds": round(row.seconds, 2)}
        if row.recall:
            line["recall"] = {str(k): {"m": m, "n": n} for k, (m, n) in row.recall.items()}
        if before is not None and row.model.startswith("recgpt") and before.model.startswith("recgpt"):
            for k in KS:
                line[f"gained@{k}"], line[f"lost@{k}"] = row.discordant(before, k)
        if row is not rows[0]:
            difference = paired_difference(gains(row.ranks[10], 10), gains(rows[0].ranks[10], 10))
            line["difference"] = {"of": "ndcg@10", "to": rows[0].model, **difference._asdict()}
        found.append(line)
    return found


def untrained(
    name: str,
    preset: str,
    *,
    training: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """A model by name with the settings of a preset, but for the fields that are given. Raises LookupError
    for an unknown model, preset or field."""
    kind = RecGPT if name == "recgpt" else load_model(name)
    if not issubclass(kind, SequentialRecommender):
        return kind()
    model = kind.preset(preset)
    model.settings = _replaced(model.settings, settings or {}, name)
    model.training = _replaced(model.training, training or {}, name)
    return model


def train_and_measure(
    model: Any, split: Split, held_out: Validation, *, progress: Progress = silent
) -> list[Row]:
    """Rows of an untrained model, trained on split.train and chosen on split.valid. RecGPT has a row for each
    stage."""
    started = time.process_time()
    if isinstance(model, RecGPT):
        model.pretrain(split.train, progress, validation=split.valid)
        rows = measure(model, held_out, already_s=time.process_time() - started)
        if model.stages()[1] is not None:
            model.tune(split.train, progress, validation=split.valid)
            rows += measure(model, held_out, already_s=time.process_time() - started)
        return rows
    if isinstance(model, SequentialRecommender):
        model.fit(split.train, progress, validation=split.valid)
    else:
        model.fit(split.train, progress)
    evaluation = evaluate_split(model, held_out, KS)
    ranks = {k: np.where(evaluation.ranks <= k, evaluation.ranks, 0) for k in KS}
    return [Row(model.name, "fit", ranks, {}, time.process_time() - started)]


def measure(model: RecGPT, held_out: Validation, *, already_s: float = 0.0) -> list[Row]:
    """Rows of a fitted RecGPT: recgpt:pretrain, or, where it is tuned, recgpt:tuned (one step) and recgpt
    (two)."""
    started = time.process_time()
    hidden = held_out.histories if held_out.exclude_history else held_out.histories[:, :0]
    rankings = model.rankings(held_out.users, held_out.histories, hidden, max(KS))
    splits = {k: model.split(k) for k in KS}
    one_step = {k: split_ranks(*rankings, held_out.targets, k, 0) for k in KS}
    two_step = {k: split_ranks(*rankings, held_out.targets, *splits[k]) for k in KS}
    seconds = already_s + time.process_time() - started
    if not model.tuned:
        return [Row("recgpt:pretrain", "pretrain", one_step, {}, seconds)]
    return [
        Row("recgpt:tuned", "tune, one step", one_step, {}, seconds),
        Row("recgpt", "tune, two steps", two_step, splits, seconds),
    ]


def _replaced(settings: Any, changes: Mapping[str, Any], name: str) -> Any:
    known = {field.name for field in fields(settings)}
    for field in changes:
        if field not in known:
            raise LookupError(f"{name} has no setting {field!r}; known: {', '.join(sorted(known))}")
    return replace(settings, **changes)
