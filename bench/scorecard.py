"""Worlds under the reference policy beside the real logs.

python bench/scorecard.py --seeds 34,35 --out bench/scorecard.json
"""

import argparse
import json
from pathlib import Path

from simulator.calibration import scorecard
from simulator.world import World


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="34,35")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    worlds = []
    for seed in map(int, options.seeds.split(",")):
        rows = [score._asdict() for score in scorecard(World.synthetic(options.users, seed=seed))]
        worlds.append({"seed": seed, "users": options.users, "scores": rows})
        for row in rows:
            gap = row["simulated"] / row["real"] - 1
            figures = f"{row['real']:10.5g} {row['simulated']:10.5g} {gap:+7.1%}"
            print(f"{seed}  {row['name']:36} {figures} {row['status']}")
    options.out.write_text(json.dumps(worlds, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
