"""CPU seconds and peak memory of the sums behind an analysis, against raw SQL and tea-tasting.

    python bench/analysis.py --work WORK --out bench/analysis.json

Each figure is of a fresh process with one DuckDB thread: the CPU time of the process for the question alone
(imports and the opening of the file are before it), and its peak resident memory. The sides take turns,
`--rounds` times; the median counts. `analysis` is all of `abtest analyze` after the imports: checks, effects,
looks, verdict. tea-tasting is measured where it is installed.
"""

import argparse
import importlib.util
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DAY_MS = 86_400_000
START_MS = 1_772_409_600_000
METRICS = [f"m{i}" for i in range(5)]
TABLES = {
    "users": """
        CREATE TABLE t AS SELECT i AS u, CASE WHEN hash(i) % 2 = 0 THEN 'a' ELSE 'b' END AS arm,
          (hash(i + 1) % 300)::BIGINT AS c, {metrics}
        FROM range({n}) t(i)""",
    "events": """
        CREATE TABLE assignment AS SELECT i AS u, CASE WHEN hash(i) % 2 = 0 THEN 'a' ELSE 'b' END AS arm
        FROM range({n}) t(i);
        CREATE TABLE t AS SELECT (hash(i) % {n})::BIGINT AS u, CASE WHEN hash(i + 1) % 3 = 0 THEN 'play' ELSE
          'impression' END AS kind, (hash(i + 2) % 60000)::BIGINT AS watch FROM range({n} * 20) t(i)""",
    "days": """
        CREATE TABLE t AS SELECT u, CASE WHEN hash(u) % 2 = 0 THEN 'a' ELSE 'b' END AS arm,
          {start} + (d - 1) * {day} + 1000 AS ts, {metrics}
        FROM (SELECT i AS u, d, i * 6 + d AS i FROM range({n}) t(i), range(6) s(d) ORDER BY d, hash(u))""",
}
SIZES = {"users": 1_000_000, "events": 1_000_000, "days": 780_000}
QUESTIONS = {
    "users": "1 M users x 5 metrics, one covariate",
    "users_double": "the same, all columns doubles",
    "events": "20 M events to per-user totals to statistics, 1 M users in an assignment table",
    "days": "five cumulative looks, 5 metrics and their pre-period, 3.9 M user-days",
}
RAW = {
    "users": "SELECT arm, count(*), sum(c), sum(c * c), "
    + ", ".join(f"sum({m}), sum({m} * {m}), sum(c * {m})" for m in METRICS)
    + " FROM t GROUP BY arm",
    "users_double": "SELECT arm, count(*), avg(c), var_samp(c), "
    + ", ".join(f"avg({m}), var_samp({m}), covar_samp(c, {m})" for m in METRICS)
    + " FROM t GROUP BY arm",
    "events": "SELECT arm, count(*), sum(n), sum(n * n), sum(p), sum(p * p), sum(w), sum(w * w) FROM ("
    "SELECT arm, coalesce(n, 0) AS n, coalesce(p, 0) AS p, coalesce(w, 0) AS w FROM assignment LEFT JOIN ("
    "SELECT u, count(*) AS n, count(*) FILTER (WHERE kind = 'play') AS p, sum(watch)::BIGINT AS w FROM t"
    " GROUP BY u) USING (u)) GROUP BY arm",
    "days": "WITH looks AS (SELECT * FROM range(1, 6) t(look)), pre AS (SELECT u, "
    + ", ".join(f"{m} AS p{m}" for m in METRICS)
    + f" FROM t WHERE ts < {START_MS}) SELECT look, arm, count(*), "
    + ", ".join(
        f"sum(s{m}), sum(s{m} * s{m}), sum(p{m}), sum(p{m} * p{m}), sum(p{m} * s{m})" for m in METRICS
    )
    + " FROM (SELECT look, u, any_value(arm) AS arm, "
    + ", ".join(f"sum({m})::BIGINT AS s{m}" for m in METRICS)
    + f" FROM t JOIN looks ON ts >= {START_MS} AND ts < {START_MS} + look * {DAY_MS} GROUP BY look, u)"
    " JOIN pre USING (u) GROUP BY look, arm",
}


def declaration(question: str) -> str:
    """The experiment as `abtest analyze` is told it."""
    table = 'user = "u"\narm = "arm"\n'
    names = METRICS
    if question == "days":
        table += 'ts = "ts"\n'
    if question == "events":
        names = ["n_rows", "n_play", "watch"]
        table += 'event = "kind"\n'
    covariate = 'covariates = ["c"]\n' if question.startswith("users") else ""
    metrics = [f'[[metrics]]\nname = "{m}"\nnumerator = "{m}"\nrole = "goal"\n{covariate}' for m in names]
    days = f"start = {START_MS}\ndays = 5\npre_days = 1\n" if question == "days" else ""
    return f"{days}[map]\n{table}" + "".join(metrics)


def make(work: Path) -> None:
    """The tables, as DuckDB files."""
    import duckdb

    metrics = ", ".join(
        f"(hash(i * 7 + {k}) % {10 ** (k + 1)})::BIGINT AS {m}" for k, m in enumerate(METRICS)
    )
    for name, text in TABLES.items():
        path = work / f"{name}.duckdb"
        if path.exists():
            continue
        with duckdb.connect(str(path), config={"threads": 1, "memory_limit": "2GB"}) as connection:
            connection.execute(text.format(n=SIZES[name], metrics=metrics, start=START_MS, day=DAY_MS))
    path = work / "users_double.duckdb"
    if not path.exists():
        with duckdb.connect(str(path), config={"threads": 1}) as connection:
            connection.execute(f"ATTACH '{work / 'users.duckdb'}' AS ints (READ_ONLY)")
            columns = ", ".join(f"{name}::DOUBLE / 7 AS {name}" for name in ("c", *METRICS))
            connection.execute(f"CREATE TABLE t AS SELECT u, arm, {columns} FROM ints.t")


def raw_sql(path: Path, question: str) -> Callable[[], Any]:
    """One statement that gives the same moments."""
    import duckdb

    connection = duckdb.connect(str(path), read_only=True, config={"threads": 1})
    return lambda: connection.execute(RAW[question]).fetchall()


def moments(path: Path, question: str) -> Callable[[], Any]:
    """The sums from which an analysis follows, its users known."""
    from abtest.logs import open_log, usable_moments
    from abtest.request import declared
    from abtest.study import study_of

    request, given = _request(path, question)
    log = open_log(request, given)
    study = study_of(log, declared(request), request)
    exposed = log.exposed(study.span)
    looks = [(1, day) for day in range(1, study.experiment.days + 1)]
    return lambda: usable_moments(log, study, looks, exposed)


def analysis(path: Path, question: str) -> Callable[[], Any]:
    """All of `abtest analyze`."""
    import scipy.special  # noqa: F401  (imports are not what is measured)

    import abtest.analysis  # noqa: F401
    from abtest.logs import analyse_log

    request, _ = _request(path, question)
    return lambda: analyse_log(request)


def tea_tasting(path: Path, question: str) -> Callable[[], Any]:
    """tea-tasting over Ibis; it knows tables of one row a user."""
    import ibis
    import tea_tasting as tt

    table = ibis.duckdb.connect(str(path), read_only=True, threads=1).table("t")
    experiment = tt.Experiment({m: tt.Mean(m, covariate="c") for m in METRICS}, variant="arm")
    return lambda: experiment.analyze(table)


SIDES = {"raw SQL": raw_sql, "moments": moments, "analysis": analysis, "tea-tasting": tea_tasting}


def _request(path: Path, question: str) -> Any:
    from abtest.request import LogRequest, declared

    config = path.with_suffix(".toml")
    config.write_text(declaration(question), encoding="utf-8")
    assignment = "assignment" if question == "events" else None
    request = LogRequest((str(path),), config=config, table="t", assignment=assignment, threads=1)
    return request, declared(request)


def measure(question: str, side: str, work: Path) -> dict[str, float]:
    """One side of one question in a process of its own."""
    command = [sys.executable, __file__, "--work", str(work), "--question", question, "--side", side]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def answer(question: str, side: str, work: Path) -> dict[str, float]:
    """CPU seconds and peak memory of this process for the question."""
    ask = SIDES[side](work / f"{question}.duckdb", question)
    before = time.process_time()
    ask()
    seconds = time.process_time() - before
    return {"cpu_s": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the tables (about 700 MB)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--question", choices=QUESTIONS)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--without", choices=SIDES, help="a side that is not to be measured")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(answer(given.question, given.side, given.work)))
        return
    make(given.work)
    measured = given.without != "tea-tasting" and importlib.util.find_spec("tea_tasting") is not None
    results = {}
    for question in [given.question] if given.question else QUESTIONS:
        sides = [s for s in SIDES if s != "tea-tasting" or (measured and question.startswith("users"))]
        sides = [side for side in sides if side != given.without]
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(given.rounds):
            for side in sides:
                found[side].append(measure(question, side, given.work))
        results[question] = {"what": QUESTIONS[question], **_medians(found)}
        print(json.dumps(results[question], indent=1), file=sys.stderr)
    without = ["--without", given.without] if given.without else []
    git = ["git", "rev-parse", "--short", "HEAD"]
    document = {
        "command": f"python bench/analysis.py --work WORK --rounds {' '.join([str(given.rounds), *without])}",
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "settings": {"threads": 1, "rounds": given.rounds, "rows": SIZES},
        "machine": f"{platform.machine()}, Python {platform.python_version()}, shared cores",
        "tea_tasting": "measured" if measured else "not measured",
        "results": results,
    }
    text = json.dumps(document, indent=1)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


def _medians(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    cpu = {side: statistics.median(run["cpu_s"] for run in runs) for side, runs in found.items()}
    memory = {side: statistics.median(run["peak_mb"] for run in runs) for side, runs in found.items()}
    return {
        side: {
            "cpu_s": round(cpu[side], 3),
            "peak_mb": round(memory[side]),
            "ratio_to_raw_sql": round(cpu[side] / cpu["raw SQL"], 2),
        }
        for side in found
    }


if __name__ == "__main__":
    main()
