"""`abtest export`: every feed of a run with its context, propensities and rewards, against plain SQL."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from abtest.export import REWARDS
from warehouse.events import DAY_MS, Kind

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def exported(finished_run: Path, abtest: Command, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    out = tmp_path_factory.mktemp("export") / "feeds.parquet"
    result = abtest("export", str(finished_run), "--out", str(out))
    assert result.exit_code == 0, result.output
    table = pq.read_table(out)
    assert f"{table.num_rows:,} feeds" in result.output
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return table


def ask(folder: Path, query: str) -> list[tuple[int, ...]]:
    with duckdb.connect(str(folder / "events.duckdb"), read_only=True) as db:
        return db.execute(query).fetchall()


def test_every_impression_and_reward_is_there_once(finished_run: Path, exported: pa.Table) -> None:
    counts = dict(ask(finished_run, "SELECT kind, count(*) FROM events GROUP BY kind"))
    flat = {name: exported[name].combine_chunks().flatten() for name in ("slate", "watch_s", *REWARDS)}
    assert len(flat["slate"]) == counts[Kind.impression]
    for name in REWARDS:
        assert pa.compute.sum(flat[name]).as_py() == counts.get(Kind[name], 0), name
    ((watched,),) = ask(finished_run, "SELECT sum(value) FROM events WHERE kind = 1")
    assert pa.compute.sum(flat["watch_s"]).as_py() == pytest.approx(watched / 1000)


def test_propensities_are_those_of_the_logging_policy_and_1_of_models(
    finished_run: Path, exported: pa.Table
) -> None:
    warm_up = exported.filter(pa.compute.is_null(exported["arm"]))
    known = warm_up["propensity"].combine_chunks().flatten()
    ((n, total),) = ask(
        finished_run,
        "SELECT count(*), sum(ppb) FROM propensities JOIN events USING "
        "(user, session, request, position) WHERE kind = 1",
    )
    assert (len(known), known.null_count) == (n, 0)
    assert pa.compute.sum(known).as_py() == pytest.approx(total / 1e9)
    live = exported.filter(pa.compute.is_valid(exported["arm"]))
    assert set(live["arm"].to_pylist()) == {"poprec", "comirec"}
    propensity = live["propensity"].combine_chunks().flatten()
    assert propensity.null_count == 0 < len(propensity)
    assert set(propensity.to_pylist()) == {1.0}, "these models choose with certainty"
    assert (live["served_ms"].to_numpy() >= DAY_MS).all()
    assert (exported["day"].to_numpy() == exported["served_ms"].to_numpy() // DAY_MS).all()


def test_histories_are_the_plays_before_the_feed(finished_run: Path, exported: pa.Table) -> None:
    generator = np.random.default_rng(1)
    for row in generator.choice(exported.num_rows, 12, replace=False):
        feed = exported.slice(row, 1).to_pylist()[0]
        query = (
            f"SELECT item FROM events WHERE kind = 2 AND user = {feed['user']} AND ts < {feed['served_ms']} "
            "ORDER BY ts DESC LIMIT 50"
        )
        plays = [item for (item,) in ask(finished_run, query)][::-1]
        assert feed["history"] == [0] * (50 - len(plays)) + plays


def test_bad_places_are_told(finished_run: Path, abtest: Command, tmp_path: Path) -> None:
    there = tmp_path / "there.parquet"
    there.write_text("mine")
    for flags, words in (
        ((str(tmp_path), "--out", str(tmp_path / "x")), "no database"),
        ((str(finished_run), "--out", str(there)), "is there already"),
        ((str(finished_run), "--out", str(tmp_path / "no" / "x")), "create it first"),
    ):
        result = abtest("export", *flags)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert there.read_text() == "mine"
