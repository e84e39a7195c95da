"""Impressions per CPU second here and in RecSim and RecoGym, in one run.

    pip install --no-deps recsim recogym dopamine-rl gym gym_notices cloudpickle gin-config
    pip install numba matplotlib
    python bench/worlds.py --out bench/worlds.json

Each simulator answers random slates: RecSim's `interest_evolution` with slates of six of 50 candidates,
RecoGym's `reco-gym-v1` with one product a step (offers alone count, organic views come on top), ours the
response step (respond and absorb) at 1,000 users a call and the whole platform with logging policy and
events. RecSim and RecoGym answer one user at a time. TensorFlow, which RecSim uses for its agents alone, need
not be there. One thread, CPU seconds; a simulator that is not installed is absent with the reason.
"""

import argparse
import json
import os
import platform
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

SLATE = 6
SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU seconds for each, at least")
    parser.add_argument("--users", type=int, default=10_000, help="of the platform here")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, make in (
        ("response step", _response_step),
        ("platform, logging policy, events", lambda: _platform(options.users)),
        ("RecSim interest_evolution", _recsim),
        ("RecoGym reco-gym-v1", _recogym),
    ):
        try:
            speed = _speed(make(), options.seconds)
            rows.append({"simulator": name, "impressions_per_cpu_s": round(speed)})
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            rows.append({"simulator": name, "impressions_per_cpu_s": None, "reason": f"{error!r}"})
        print(rows[-1], flush=True)
    found = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "users": options.users, "rows": rows}
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _speed(step: Callable[[], int], seconds: float) -> float:
    """Impressions per CPU second; the first step does not count."""
    step()
    shown, started = 0, time.process_time()
    while (spent := time.process_time() - started) < seconds:
        shown += step()
    return shown / spent


def _response_step() -> Callable[[], int]:
    from simulator import behavior
    from simulator.state import State
    from simulator.world import World

    world = World.synthetic(10_000, 20_000, SEED)
    state, generator = State.start(world), np.random.default_rng(0)

    def step() -> int:
        users = np.sort(generator.choice(world.n_users, 1_000, replace=False))
        items = generator.integers(1, 20_001, (1_000, SLATE))
        behavior.absorb(world, state, users, items, behavior.respond(world, state, users, items))
        return items.size

    return step


def _platform(n_users: int) -> Callable[[], int]:
    from simulator.platform import Platform
    from simulator.policies import LoggingPolicy
    from simulator.world import World

    world = World.synthetic(n_users, 20_000, SEED)
    lived = Platform(world, [LoggingPolicy(world)], np.zeros_like, lambda **tables: None)

    def step() -> int:
        before = lived.impressions
        lived.run(1)
        return lived.impressions - before

    return step


def _recsim() -> Callable[[], int]:
    for name in ("tensorflow", "tensorflow.compat", "tensorflow.compat.v1"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules.setdefault("gin.tf", types.ModuleType("gin.tf"))
    from recsim.environments import interest_evolution

    world = interest_evolution.create_environment(
        {"num_candidates": 50, "slate_size": SLATE, "resample_documents": True, "seed": SEED}
    )
    generator = np.random.default_rng(0)
    world.reset()

    def step() -> int:
        slate = generator.choice(50, SLATE, replace=False)
        if world.step(slate)[2]:
            world.reset()
        return SLATE

    return step


def _recogym() -> Callable[[], int]:
    import scipy

    scipy.rand = np.random.rand  # RecoGym asks SciPy for names that it no longer has
    setattr(np, "bool8", np.bool_)  # noqa: B010 - a name that NumPy's types do not know
    import gym
    import recogym

    world = gym.make("reco-gym-v1", disable_env_checker=True).unwrapped
    world.init_gym({**recogym.env_1_args, "random_seed": SEED})
    generator = np.random.default_rng(0)
    user = 0

    def start() -> None:
        world.reset(user)
        world.step(None)  # what the user looks at before the first offer

    def step() -> int:
        nonlocal user
        product = int(generator.integers(recogym.env_1_args["num_products"]))
        if world.step(product)[2]:
            user += 1
            start()
        return 1

    start()
    return step


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
