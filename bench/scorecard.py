"""Worlds of the three families under the reference policy beside the real logs.

    python bench/scorecard.py --seeds 34 --out bench/scorecard.json

    python bench/scorecard.py --seeds 411,412,413 --users 5000 --days 1 --pooled bench/scorecard-pooled.json

--pooled: the mean of each figure over the worlds of a family, held against the same tolerances, and in how
many of them it fails. Worlds of one family differ (another draw of tags, tastes and heavy users), so one of
them tells little about the family's constants.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from abtest.world import scorecard_document
from simulator.calibration import Score, score, scorecard
from simulator.constants import FAMILIES
from simulator.targets import Target, packaged
from simulator.world import World


def pooled(goals: list[Target], worlds: list[list[Score]]) -> list[Score]:
    """Mean of each figure over worlds; errors are relative standard errors of that mean, between worlds."""
    scores = []
    for goal, of_worlds in zip(goals, zip(*worlds, strict=True), strict=True):
        values = np.array([one.simulated for one in of_worlds])
        mean = float(values.mean())
        error = float(values.std(ddof=1) / np.sqrt(len(values)) / abs(mean)) if mean else float("nan")
        scores.append(score(goal, mean, error))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="34")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=2)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--profile", default="default")
    parser.add_argument("--out", type=Path, help="all worlds")
    parser.add_argument("--pooled", type=Path, help="their means; needs two seeds or more")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if options.out is None and options.pooled is None:
        parser.error("nothing to write: give --out or --pooled")
    if options.pooled is not None and len(seeds) < 2:
        parser.error(f"--pooled with one seed ({options.seeds}): a mean over worlds needs two seeds or more")
    goals = packaged(options.profile)
    worlds, families = [], []
    for family in options.families.split(","):
        of_family: list[list[Score]] = []
        for seed in seeds:
            started = time.process_time()
            world = World.synthetic(options.users, seed=seed, profile=options.profile, family=family)
            scores = scorecard(world, options.days, goals=goals)
            of_family.append(scores)
            seconds = time.process_time() - started
            print(f"{family} {seed}: {_count(scores)}, {seconds:.0f} CPU s", file=sys.stderr)
            worlds.append(
                {
                    "family": family,
                    "profile": options.profile,
                    "seed": seed,
                    "users": options.users,
                    "days": options.days,
                    "scores": scorecard_document(scores),
                }
            )
            _write(options.out, worlds)
        if options.pooled is not None:
            together = pooled(goals, of_family)
            print(f"{family}, {len(seeds)} worlds pooled: {_count(together)}", file=sys.stderr)
            fails = [
                sum(one.status == "fail" for one in of_worlds) for of_worlds in zip(*of_family, strict=True)
            ]
            families.append(
                {
                    "family": family,
                    "profile": options.profile,
                    "seeds": seeds,
                    "users": options.users,
                    "days": options.days,
                    "scores": [
                        {**figure, "worlds_failing": n}
                        for figure, n in zip(scorecard_document(together), fails, strict=True)
                    ],
                }
            )
            _write(options.pooled, families)


def _write(path: Path | None, document: list[dict[str, Any]]) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _count(scores: list[Score]) -> str:
    passed, failed = (sum(s.status == status for s in scores) for status in ("pass", "fail"))
    return f"{passed} pass, {failed} fail"


if __name__ == "__main__":
    main()
