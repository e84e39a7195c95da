"""A/A experiments over many seeds: how often equal arms look different.

    python bench/aa.py --seeds 20 --users 2000 --work WORK --out bench/aa.json

A run that is already in --work is not repeated, so it can be stopped and started again. Training has its own
small budget: the arms are equal whatever they learned.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--days", type=int, default=5)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    flags = [
        "--users",
        str(options.users),
        "--days",
        str(options.days),
        "--epochs",
        "2",
        "--max-targets",
        "20000",
        "--threads",
        "1",
    ]
    low: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    runs = []
    for seed in range(options.seeds):
        folder = options.work / str(seed)
        if not (folder / "report.json").exists():
            command = ["abtest", "run", "--arms", "comirec,comirec", *flags, "--seed", str(seed), "--quiet"]
            subprocess.run([*command, "--out", str(folder)], check=False, stdout=subprocess.DEVNULL)
        report = json.loads((folder / "report.json").read_text())
        last = {"from": 1, "to": options.days}
        effects = [effect for effect in report["effects"] if effect["window"] == last]
        low.update(e["metric"] for e in effects if e["p"] is not None and e["p"] < 0.05)
        holm = [e["metric"] for e in effects if e["p_adjusted"] is not None and e["p_adjusted"] < 0.05]
        rejected["runs"] += bool(holm)
        runs.append({"seed": seed, "exposed": report["exposed"], "p": {e["metric"]: e["p"] for e in effects}})
        print(
            f"seed {seed}: p < .05 in {dict(low)}, runs with a Holm rejection {rejected['runs']}",
            file=sys.stderr,
        )
    document = {
        "settings": flags,
        "seeds": options.seeds,
        "raw_p_below_05": dict(sorted(low.items())),
        "runs_with_a_holm_rejection": rejected["runs"],
        "runs": runs,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
