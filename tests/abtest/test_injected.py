"""Effects of a known size, put into the events of a finished run, come out of its analysis."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import Result

from warehouse.events import Kind

Command = Callable[..., Result]

EXTRA = """
    INSERT INTO events
    SELECT e.* REPLACE ({kind} AS kind, 1 AS value, 1000 + row_number() OVER () AS request)
    FROM events e JOIN exposures x ON e.user = x.user AND x.arm = 'comirec' AND {which}
"""
"""One more event, of a kind, for each of some rows of treated users."""

FIRST_SHOWN = f"""
    e.kind = {int(Kind.impression)} AND e.ts >= x.first_ts AND (e.user, e.ts) IN
    (SELECT (i.user, min(i.ts)) FROM events i JOIN exposures y ON i.user = y.user AND i.ts >= y.first_ts
     WHERE i.kind = {int(Kind.impression)} GROUP BY i.user)
"""
"""The first impression of each exposed user."""


@pytest.fixture
def injected(finished_run: Path, abtest: Command, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """The effects of days 1 to 2 by metric, after some SQL has changed the events of the treatment."""

    def analysed(sql: str) -> dict[str, Any]:
        database = tmp_path / "events.duckdb"
        shutil.copy(finished_run / "events.duckdb", database)
        with duckdb.connect(str(database)) as connection:
            connection.execute(sql)
        document = json.loads(abtest("analyze", str(database), "--json").output)
        whole = {"from": 1, "to": 2}
        return {e["metric"]: e for e in document["effects"] if e["window"] == whole}

    return analysed


def ask(finished_run: Path, sql: str) -> float:
    with duckdb.connect(str(finished_run / "events.duckdb"), read_only=True) as connection:
        (value,) = connection.execute(sql).fetchone() or (0,)
    return float(value)


def test_one_like_more_for_every_treated_user_is_a_difference_of_exactly_one(
    injected: Callable[[str], dict[str, Any]],
) -> None:
    before, after = injected("SELECT 1"), injected(EXTRA.format(kind=int(Kind.like), which=FIRST_SHOWN))
    gained = after["likes"]["treatment_mean"] - before["likes"]["treatment_mean"]
    assert gained == pytest.approx(1, abs=1e-12)
    assert after["likes"]["control_mean"] == before["likes"]["control_mean"]
    assert after["likes"]["p"] < before["likes"]["p"]
    low, high = after["likes"]["difference_ci"]
    assert low < 1 < high


def test_one_share_more_for_a_half_keyed_by_user_is_its_share(
    injected: Callable[[str], dict[str, Any]], finished_run: Path
) -> None:
    half = "hash(e.user) % 2 = 0"
    before = injected("SELECT 1")["shares"]
    after = injected(EXTRA.format(kind=int(Kind.share), which=f"{half} AND {FIRST_SHOWN}"))["shares"]
    treated = "FROM exposures e WHERE arm = 'comirec'"
    expected = ask(finished_run, f"SELECT count(*) FILTER ({half}) / count(*) {treated}")
    assert 0.3 < expected < 0.7
    assert after["treatment_mean"] - before["treatment_mean"] == pytest.approx(expected, abs=1e-12)
    assert after["difference_ci"][0] < expected < after["difference_ci"][1]
    assert after["p"] < 0.001


def test_a_rate_times_1_05_is_a_lift_of_5_percent(
    injected: Callable[[str], dict[str, Any]], finished_run: Path
) -> None:
    """Every twentieth play, by a hash, counts twice: as near to 5 % as the hash is to a twentieth."""
    some = f"e.kind = {int(Kind.play)} AND e.ts >= x.first_ts AND hash(e.user, e.ts, e.item) % 20 = 0"
    before = injected("SELECT 1")["plays"]
    after = injected(EXTRA.format(kind=int(Kind.play), which=some))["plays"]
    share = ask(
        finished_run,
        f"SELECT count(*) FILTER (hash(e.user, e.ts, e.item) % 20 = 0) / count(*) FROM events e"
        f" JOIN exposures x ON e.user = x.user AND x.arm = 'comirec' AND e.ts >= x.first_ts"
        f" AND e.kind = {int(Kind.play)}",
    )
    assert share == pytest.approx(0.05, abs=0.01)
    assert after["treatment_mean"] == pytest.approx(before["treatment_mean"] * (1 + share), rel=1e-12)


def test_a_heavy_tailed_factor_is_recovered_with_its_wider_interval(
    injected: Callable[[str], dict[str, Any]], finished_run: Path
) -> None:
    """Watch times times a Pareto factor of the user (shape 2.1), in whole milliseconds."""
    factor = "least(pow(1 - (hash(e.user) % 100000) / 100000.0, -1 / 2.1), 60)"
    treated = "(SELECT user FROM exposures WHERE arm = 'comirec')"
    is_shown = f"e.kind = {int(Kind.impression)}"
    before = injected("SELECT 1")["watch_s"]
    after = injected(
        f"UPDATE events e SET value = round(e.value * {factor})::BIGINT"
        f" WHERE {is_shown} AND e.user IN {treated}"
    )["watch_s"]
    expected = ask(
        finished_run,
        f"SELECT sum(round(e.value * {factor})) FILTER ({is_shown} AND e.ts >= x.first_ts) / 1000.0"
        f" / count(DISTINCT e.user) FROM events e JOIN exposures x ON e.user = x.user AND x.arm = 'comirec'",
    )
    assert after["treatment_mean"] == pytest.approx(expected, rel=1e-9)
    assert after["treatment_mean"] > 1.5 * before["treatment_mean"]
    wide = [ci[1] - ci[0] for ci in (before["difference_ci"], after["difference_ci"])]
    assert wide[1] > 1.5 * wide[0]
