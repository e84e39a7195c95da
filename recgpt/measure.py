"""What is measured of a model: HR and NDCG by full ranking, and every (m, n) of RecGPT's two-step recall."""

from collections.abc import Mapping
from typing import Any

from baselines.base import Ids
from baselines.data import Validation
from baselines.evaluate import evaluate_split, gains, hits
from recgpt.recall import split_ranks
from recgpt.recommender import RecGPT
from recgpt.store import pack

LENGTHS = (5, 10, 20)
DEPTH = max(LENGTHS)


def measure(
    model: Any, held_out: Validation, *, two_steps: Mapping[int, tuple[int, int]] | None = None
) -> dict[str, Any]:
    """Metrics at 5, 10 and 20 by full ranking. For RecGPT also the (m, n) of every list length, and the lists
    of two steps proper: `two_steps`, or what finds most here (meant for validation)."""
    if not isinstance(model, RecGPT):
        ranks = evaluate_split(model, held_out, LENGTHS).ranks
        return {"n_users": len(ranks), "one_step": metrics(ranks), "ranks": {"one_step": pack(ranks)}}
    hidden = held_out.histories if held_out.exclude_history else held_out.histories[:, :0]
    first, second = model.rankings(held_out.users, held_out.histories, hidden, DEPTH)
    found: dict[tuple[int, int], Ids] = {
        (length - n, n): split_ranks(first, second, held_out.targets, length - n, n)
        for length in LENGTHS
        for n in range(length // 2 + 1)
    }
    if two_steps is None:
        two_steps = {length: _best_with_two(found, length) for length in LENGTHS}
    one_step = found[(DEPTH, 0)]
    ranks_of = {f"two_steps@{k}": pack(found[split]) for k, split in two_steps.items()}
    return {
        "n_users": len(one_step),
        "one_step": metrics(one_step),
        "two_steps_metrics": {
            f"{name}@{k}": value(found[split], k)
            for k, split in two_steps.items()
            for name, value in (("hr", _hr), ("ndcg", _ndcg))
        },
        "grid": [_grid_row(split, ranks, one_step) for split, ranks in sorted(found.items())],
        "ranks": {"one_step": pack(one_step), **ranks_of},
        "two_steps": dict(two_steps),
    }


def metrics(ranks: Ids) -> dict[str, float]:
    """hr@k and ndcg@k for the three lengths, from ranks in one list of 20 or more."""
    values = {f"hr@{k}": _hr(ranks, k) for k in LENGTHS}
    return values | {f"ndcg@{k}": _ndcg(ranks, k) for k in LENGTHS}


def _best_with_two(found: Mapping[tuple[int, int], Ids], length: int) -> tuple[int, int]:
    """The (m, n) with n of 1 or more that finds most targets; of equal ones the smallest n."""
    splits = [(length - n, n) for n in range(1, length // 2 + 1)]
    return max(splits, key=lambda split: (int((found[split] > 0).sum()), split[0]))


def _grid_row(split: tuple[int, int], ranks: Ids, one_step: Ids) -> dict[str, Any]:
    k = sum(split)
    here, there = ranks > 0, (one_step > 0) & (one_step <= k)
    moved = {"gained": int((here & ~there).sum()), "lost": int((there & ~here).sum())}
    return {"m": split[0], "n": split[1], "hr": _hr(ranks, k), "ndcg": _ndcg(ranks, k), **moved}


def _hr(ranks: Ids, k: int) -> float:
    return float(hits(ranks, k).mean())


def _ndcg(ranks: Ids, k: int) -> float:
    return float(gains(ranks, k).mean())
