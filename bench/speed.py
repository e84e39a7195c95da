"""How fast the simulated service is: python bench/speed.py --out bench/speed.json --plot bench/speed.png

- the response step (respond and absorb) by users a call, impressions per CPU second;
- the whole platform with a cheap recommender and with the logging policy, by users of the world: the second
  days after the first, with events made but not stored; and the peak of memory.

CPU seconds of one thread, the best of several rounds, so that what else the machine does weighs less. Sizes
run one after the other, each in a process of its own. `--figures` draws what an earlier run wrote.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from simulator import behavior
from simulator.feed import FEED_LENGTH, MEMORY_REQUESTS, Feed, Ids, Rows
from simulator.platform import Platform
from simulator.policies import LoggingPolicy
from simulator.state import State
from simulator.world import World

N_ITEMS = 20_000
SEED = 3


class CheapFeed:
    """Serves from a list that it makes at the start of a session by arithmetic alone."""

    def begin(self, users: Ids, histories: Ids, shown: Ids, ts_ms: Ids) -> Rows:
        start = users * 7919 + ts_ms // 1000
        return ((start[:, None] + np.arange(MEMORY_REQUESTS * FEED_LENGTH) * 131) % N_ITEMS + 1,)

    def serve(
        self, users: Ids, memory: Rows, sessions: Ids, requests: Ids, since: Ids, ts_ms: Ids, k: int = 6
    ) -> tuple[Ids, None]:  # fmt: skip
        """The next of the list."""
        column = (since > 0).sum(1)[:, None] + np.arange(k)
        return np.take_along_axis(memory[0], column, 1), None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", default="1000,3000,10000,30000,100000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=int, help="measure one size in this process and print it")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG of time and memory by users")
    parser.add_argument("--figures", type=Path, help="draw these instead of measuring")
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.rounds)))
        return
    if options.figures:
        found = json.loads(options.figures.read_text(encoding="utf-8"))
    else:
        found = measure_all([int(n) for n in options.users.split(",")], options.rounds)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_bytes(figure(found["platform"]))


def measure_all(sizes: list[int], rounds: int) -> dict[str, Any]:
    """The response step, and every size in a process of its own."""
    response = response_step(rounds)
    print(json.dumps(response), flush=True)
    platform = []
    for n_users in sizes:
        command = [sys.executable, __file__, "--one", str(n_users), "--rounds", str(rounds)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        platform.append(json.loads(text))
        print(text.strip(), flush=True)
    return {"threads": 1, "n_items": N_ITEMS, "response_by_users_a_call": response, "platform": platform}


def figure(sizes: list[dict[str, Any]]) -> bytes:
    """The PNG: CPU seconds of a day and peak of memory by users; dashed: in proportion to the largest."""
    import altair as alt
    import vl_convert

    rows = []
    for size in sizes:
        users = size["users"]
        for feed in ("cheap feed", "logging policy"):
            rows.append(
                {"users": users, "what": feed, "cpu_s": 1e-6 * size[feed]["cpu_us_per_user_day"] * users}
            )
        rows.append({"users": users, "what": "memory", "mib": size["peak_mib"]})
    largest = sizes[-1]["users"]
    for row in [row for row in rows if row["users"] == largest and "cpu_s" in row]:
        rows += [
            {"users": n, "what": f"{row['what']}, in proportion", "cpu_s": row["cpu_s"] * n / largest}
            for n in (sizes[0]["users"], largest)
        ]
    x = alt.X("users:Q", scale=alt.Scale(type="log"), title="users")

    def panel(y: str, title: str, names: list[str]) -> alt.Chart:
        what = alt.Color("what:N", title=None, sort=names, scale=alt.Scale(domain=names))
        dash = alt.StrokeDash("what:N", sort=names, legend=None).scale(
            domain=names, range=[[4, 4] if "proportion" in name else [1, 0] for name in names]
        )
        axis = alt.Y(y, title=title, scale=alt.Scale(type="log"))
        chart = alt.Chart(alt.Data(values=[row for row in rows if row["what"] in names]))
        return chart.mark_line(point=True).encode(x=x, y=axis, color=what, strokeDash=dash)

    feeds = ["cheap feed", "logging policy"]
    time_panel = panel("cpu_s:Q", "CPU s of a day", feeds + [f"{feed}, in proportion" for feed in feeds])
    chart = alt.hconcat(time_panel, panel("mib:Q", "peak, MiB", ["memory"])).resolve_scale(
        color="independent"
    )
    png: bytes = vl_convert.vegalite_to_png(chart.to_json(), scale=1.5)
    return png


def response_step(rounds: int) -> dict[str, float]:
    """Impressions per CPU second of respond and absorb, by users a call."""
    world = World.synthetic(10_000, N_ITEMS, SEED)
    state, generator = State.start(world), np.random.default_rng(0)
    speed: dict[str, float] = {}
    for n in (50, 200, 1_000, 4_000):
        users = np.sort(generator.choice(world.n_users, n, replace=False))
        feeds = [generator.integers(1, N_ITEMS + 1, (n, FEED_LENGTH)) for _ in range(max(3, 12_000 // n))]

        def answer(users: Ids = users, feeds: list[Ids] = feeds) -> None:
            for items in feeds:
                response = behavior.respond(world, state, users, items)
                behavior.absorb(world, state, users, items, response)

        speed[str(n)] = round(n * FEED_LENGTH * len(feeds) / _best(answer, rounds + 2))
    return speed


def measure(n_users: int, rounds: int) -> dict[str, Any]:
    """A world of this size: impressions of a day, CPU seconds and speed of each feed, peak of memory."""
    world = World.synthetic(n_users, N_ITEMS, SEED)
    found: dict[str, Any] = {"users": n_users}
    for name, feed in (("cheap feed", CheapFeed()), ("logging policy", LoggingPolicy(world))):
        found[name] = _day(world, feed, rounds if name == "cheap feed" else 1)
        found.setdefault("peak_mib", round(_peak_mib()))
    return found


def _day(world: World, feed: Feed, rounds: int) -> dict[str, float]:
    platform = Platform(world, [feed], np.zeros_like, lambda **tables: None)
    platform.run(1)  # loads what is imported late
    shown, seconds = 0, 0.0
    for _ in range(rounds):
        before, started = platform.impressions, time.process_time()
        platform.run(1)
        seconds += time.process_time() - started
        shown += platform.impressions - before
    return {
        "impressions": shown,
        "cpu_s": round(seconds, 3),
        "impressions_per_cpu_s": round(shown / seconds),
        "cpu_us_per_user_day": round(1e6 * seconds / (rounds * world.n_users), 1),
    }


def _best(work: Callable[[], None], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
