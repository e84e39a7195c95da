"""Worlds of the three families under the reference policy beside the real logs.

python bench/scorecard.py --seeds 34 --out bench/scorecard.json
"""

import argparse
import json
import sys
import time
from pathlib import Path

from abtest.world import scorecard_document
from simulator.calibration import scorecard
from simulator.constants import FAMILIES
from simulator.targets import packaged
from simulator.world import World


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="34")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=2)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--profile", default="default")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    worlds = []
    for family in options.families.split(","):
        for seed in map(int, options.seeds.split(",")):
            started = time.process_time()
            world = World.synthetic(options.users, seed=seed, profile=options.profile, family=family)
            scores = scorecard(world, options.days, goals=packaged(options.profile))
            failed = [s.name for s in scores if s.status == "fail"]
            passed = sum(s.status == "pass" for s in scores)
            seconds = time.process_time() - started
            print(f"{family} {seed}: {passed} pass, {len(failed)} fail, {seconds:.0f} CPU s", file=sys.stderr)
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
            options.out.write_text(json.dumps(worlds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
