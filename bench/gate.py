"""The gate of a world: random slates < popularity < a trained model < the oracle, by twins.

    python bench/gate.py --families factors --seeds 1,2,3 --users 4000 --days 1 --out bench/gate.json

Warm-up, ranker and training are those of `abtest run`; then the same users live the same days with the same
luck once under each policy. Popularity and models retrieve 50 candidates for the shared ranker. Differences
are of plays a user over all users, each with its 99 % interval; what falls between neighbouring policies must
be above 0. The oracle serves what the user would enjoy most of the whole catalogue.
"""

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abtest.arms import ArmFeed
from abtest.checkpoints import fit_model
from abtest.days import Recorder
from abtest.run import fit_ranker
from abtest.serving import as_interactions
from abtest.settings import RunSettings
from simulator.feed import Feed
from simulator.platform import Platform
from simulator.policies import LoggingPolicy, OraclePolicy, RandomPolicy
from simulator.state import State
from simulator.world import World
from warehouse.events import DAY_MS, Kind
from warehouse.store import Warehouse

LADDER = ("random", "poprec", "MODEL", "oracle")
Z99 = 2.5758


class Tally:
    """A record of events that only counts: impressions and plays of each user."""

    def __init__(self, n_users: int) -> None:
        self.impressions, self.plays = np.zeros(n_users, np.int64), np.zeros(n_users, np.int64)

    def __call__(self, **tables: Any) -> None:
        if "events" not in tables:
            return
        users, kinds = (tables["events"][name].to_numpy() for name in ("user", "kind"))
        for kind, counts in ((Kind.impression, self.impressions), (Kind.play, self.plays)):
            counts += np.bincount(users[kinds == int(kind)], minlength=len(counts))


def everyone(users: NDArray[np.int64]) -> NDArray[np.int64]:
    """All in the one life."""
    return np.zeros(len(users), np.int64)


def lives(world: World, settings: RunSettings, models: list[str]) -> dict[str, Tally]:
    """What happened in each of the twin lives after one warm-up."""
    with tempfile.TemporaryDirectory() as folder, Warehouse.open(Path(folder) / "events.duckdb") as warehouse:
        warehouse.record("world", items=world.items_table(), users=world.users_table())
        incumbent = Platform(world, [LoggingPolicy(world)], everyone, Recorder(warehouse, "warm-up"))
        start = incumbent.run(settings.warmup_days)
        start_ts = settings.warmup_days * DAY_MS
        interactions = as_interactions(warehouse.interactions(start_ts), world, settings.warmup_days)
        ranker = fit_ranker(world, warehouse, start_ts)
        feeds: dict[str, Feed] = {"random": RandomPolicy(world), "logging": LoggingPolicy(world)}
        for model in ("poprec", *models):
            fitted = fit_model(model, interactions, settings, Path(folder), lambda detail, fraction: None)
            feeds[model] = ArmFeed(fitted.recommender, ranker)
        feeds["oracle"] = OraclePolicy(world)
        return {name: live(world, feed, start, settings) for name, feed in feeds.items()}


def live(world: World, feed: Feed, start: State, settings: RunSettings) -> Tally:
    """The days after the warm-up under one feed."""
    tally = Tally(world.n_users)
    platform = Platform(world, [feed], everyone, tally, state=start.copy(), start_day=settings.warmup_days)
    platform.run(settings.days)
    return tally


def step(lower: Tally, upper: Tally) -> dict[str, float]:
    """Plays a user more under the upper policy, with the ends of the 99 % interval."""
    more = upper.plays - lower.plays
    half = Z99 * float(more.std(ddof=1)) / np.sqrt(len(more))
    mean = float(more.mean())
    return {"plays_a_user": mean, "low": mean - half, "high": mean + half}


def measure(family: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One world: plays an impression of each policy, and the steps of each model's ladder."""
    world = World.synthetic(options.users, seed=seed, family=family)
    settings = RunSettings(
        users=options.users,
        days=options.days,
        warmup_days=options.warmup_days,
        seed=seed,
        family=family,
        threads=1,
    )
    models = options.models.split(",")
    found = lives(world, settings, models)
    ladders = {}
    for model in models:
        names = [model if name == "MODEL" else name for name in LADDER]
        ladders[model] = {f"{a} < {b}": step(found[a], found[b]) for a, b in pairwise(names)}
    return {
        "family": family,
        "seed": seed,
        "users": options.users,
        "warmup_days": options.warmup_days,
        "days": options.days,
        "plays_an_impression": {
            name: float(t.plays.sum() / t.impressions.sum()) for name, t in found.items()
        },
        "impressions": {name: int(t.impressions.sum()) for name, t in found.items()},
        "ladders": ladders,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", default="factors")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--models", default="recgpt")
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--warmup-days", type=int, default=5)
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    worlds = []
    for family in options.families.split(","):
        for seed in map(int, options.seeds.split(",")):
            started = time.process_time()
            worlds.append(measure(family, seed, options))
            rates = {name: round(float(rate), 3) for name, rate in worlds[-1]["plays_an_impression"].items()}
            steps = [s for ladder in worlds[-1]["ladders"].values() for s in ladder.values()]
            held = "holds" if all(s["low"] > 0 for s in steps) else "FAILS"
            seconds = time.process_time() - started
            print(f"{family} {seed}: {held} {rates}, {seconds:.0f} CPU s", file=sys.stderr)
            options.out.write_text(json.dumps(worlds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
