"""Segments, pairs of looks and days since exposure of a foreign log in every place, against plain loops."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tests.warehouse.logs.conftest import AMOUNT, BUY, START_TS, Put, Row, random_rows
from tests.warehouse.logs.test_log import MAPPING, SPAN, day_of, exposures, ms, value
from warehouse.events import DAY_MS, LATE, day_name
from warehouse.logs.columns import LogMapping
from warehouse.logs.log import EventLog, Span
from warehouse.logs.totals import Total

TOTALS = [
    Total("n_buy", "count", BUY),
    Total("flags", "sum", None, "flag"),
    Total("active_days", "days"),
    Total("bought", "any", BUY),
    Total("amount", "sum", BUY, AMOUNT),
]
NAMES = [total.name for total in TOTALS]
PAST = [Total("pre_n_buy", "count", BUY), Total("pre_active_days", "days"), Total("pre_bought", "any", BUY)]
PAST_NAMES = [total.name for total in PAST]
PRODUCTS = list(combinations_with_replacement([*PAST_NAMES, *NAMES], 2))


class Loop:
    """The same log as plain rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.exposed = {u: (min(a), t) for u, (a, t) in exposures(rows).items() if len(a) == 1}
        self.rows: dict[str, list[Row]] = {}
        for row in rows:
            self.rows.setdefault(row["uid"], []).append(row)

    def users(self, arm: str, last_cohort: int) -> list[str]:
        return [u for u, (of, ts) in self.exposed.items() if of == arm and day_of(ts) <= last_cohort]

    def cohort(self, user: str) -> int:
        return day_of(self.exposed[user][1])

    def total(self, user: str, total: Total, first: int, last: int) -> Fraction:
        since = self.exposed[user][1]
        mine = [r for r in self.rows[user] if ms(r) >= since and first <= day_of(ms(r)) <= last]
        return value(mine, total)

    def before(self, user: str, total: Total) -> Fraction:
        return value([r for r in self.rows[user] if 0 < START_TS - ms(r) <= 2 * DAY_MS], total)


def check(found: Any, loop: Loop, users: Sequence[str], days: Callable[[str], tuple[int, int]]) -> None:
    """Sums and products of users, each over its own days."""
    columns = {total.name: [loop.before(user, total) for user in users] for total in PAST}
    columns |= {total.name: [loop.total(user, total, *days(user)) for user in users] for total in TOTALS}
    assert found.n == len(users)
    for name, values in columns.items():
        assert float(found.sums[name]) == pytest.approx(float(sum(values)), rel=1e-12)
    for a, b in PRODUCTS:
        exact = sum(x * y for x, y in zip(columns[a], columns[b], strict=True))
        assert float(found.products[a, b]) == pytest.approx(float(exact), rel=1e-12), (a, b)
        assert "amount" in (a, b) or found.products[a, b] == exact


def test_views_are_those_of_a_plain_loop(put: Put) -> None:
    rows = random_rows(11)
    where, loop = put(rows, None), Loop(rows)
    is_sqlite = where.places[0].startswith("sqlite")
    with EventLog.open(where.places, MAPPING, table=where.table, threads=1) as log:
        users = log.exposed(SPAN)
        if is_sqlite:
            with pytest.raises(OverflowError):
                log.panel(SPAN, TOTALS, PRODUCTS, users, past=PAST, pre_days=2, by_segment=True)
            return
        sums = log.panel(SPAN, TOTALS, PRODUCTS, users, past=PAST, pre_days=2, by_segment=True)
    for moments in sums.moments([(1, 1), (2, 2), (1, 2), (1, 3)]):
        window = moments.window
        check(moments, loop, loop.users(moments.arm, window.last_day), lambda user, w=window: w)  # type: ignore[misc]
    for moments in sums.since_exposure():
        first, last = moments.window
        check(
            moments,
            loop,
            loop.users(moments.arm, SPAN.days - last + 1),
            lambda user, a=first, b=last: (loop.cohort(user) + a - 1, loop.cohort(user) + b - 1),  # type: ignore[misc]
        )
    (groups,) = sums.by_group()
    assert set(groups) == {"FI", "日本", ""}
    for country, found in groups.items():
        for moments in found:
            mine = [u for u in loop.users(moments.arm, 3) if (loop.rows[u][0]["country"] or "") == country]
            check(moments, loop, mine, lambda user: (1, 3))
    for pair in sums.pairs([1, 3]):
        of_early = loop.users(pair.arm, pair.early)
        for a, b in product(TOTALS, TOTALS):
            exact = sum(loop.total(u, a, 1, 1) * loop.total(u, b, 1, 3) for u in of_early)
            assert float(pair.products[a.name, LATE + b.name]) == pytest.approx(float(exact), rel=1e-12)
        late = sum(loop.total(u, TOTALS[4], 1, 3) for u in of_early)
        assert float(pair.sums[LATE + "amount"]) == pytest.approx(float(late), rel=1e-12)
    for course in sums.courses(2):
        of_two = loop.users(course.arm, 2)
        for a, b in product(TOTALS, TOTALS):
            days = [(loop.cohort(u), loop.cohort(u) + 1) for u in of_two]
            exact = sum(
                loop.total(u, a, i, i) * loop.total(u, b, j, j)
                for u, (i, j) in zip(of_two, days, strict=True)
            )
            found_product = course.products[day_name(a.name, 1), day_name(b.name, 2)]
            assert float(found_product) == pytest.approx(float(exact), rel=1e-12)


def test_a_table_of_users_is_summed_as_it_stands(tmp_path: Path) -> None:
    """One row a user needs no grouping: the same as with a second row of nothing for one of them."""
    path = tmp_path / "users.duckdb"
    rng = np.random.default_rng(0)
    n = 500
    with duckdb.connect(str(path)) as connection:
        columns = zip(rng.integers(-9, 99, n), rng.normal(1e8, 1, n), rng.exponential(1, n), strict=True)
        rows = [
            (i, "ab"[i % 2], int(x), float(y), float(z), "FS"[i // 2 % 2])
            for i, (x, y, z) in enumerate(columns)
        ]
        rows[7] = (*rows[7][:2], None, None, None, None)
        table = pa.table(dict(zip(("u", "arm", "x", "y", "z", "c"), zip(*rows, strict=True), strict=True)))
        connection.register("rows", table)
        connection.execute("CREATE TABLE one AS FROM rows")
        connection.execute("CREATE TABLE two AS FROM one UNION ALL SELECT 0, 'a', NULL, NULL, NULL, 'F'")
    totals = [Total("x", "sum", None, "x"), Total("y", "sum", None, "y")]
    past = [Total("pre_z", "sum", None, "z")]
    products = list(combinations_with_replacement(("x", "y", "pre_z"), 2))
    span, found = Span(0, 1), []
    for name in ("one", "two"):
        mapping = LogMapping(user="u", arm="arm", segments=("c",))
        with EventLog.open([str(path)], mapping, table=name) as log:
            users = log.exposed(span)
            sums = log.panel(span, totals, products, users, past=past, by_segment=True)
            found.append((sums.moments([(1, 1)]), sums.by_group()))
    assert found[0] == found[1]
    for moments, parity in zip(found[0][0], (0, 1), strict=True):
        mine = [row for row in rows if row[0] % 2 == parity]
        assert moments.n == n / 2
        assert moments.sums["x"] == sum(row[2] or 0 for row in mine)
        exact = sum(Fraction(row[3] or 0) * Fraction(row[4] or 0) for row in mine)
        assert float(moments.products["y", "pre_z"]) == pytest.approx(float(exact), rel=1e-13)
    assert {value: [m.n for m in of_arms] for value, of_arms in found[0][1][0].items()} == {
        "F": [125, 125], "S": [125, 124], "": [1],
    }  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_of_floats_do_not_depend_on_threads_or_the_order_of_rows(tmp_path: Path, threads: int) -> None:
    path = tmp_path / "floats.parquet"
    order = "hash(i)" if threads == 2 else "i"
    duckdb.sql(
        f"COPY (SELECT i % 999 AS u, 'a' AS arm, sqrt(i) * 0.1 AS x FROM range(20000) t(i) ORDER BY {order})"
        f" TO '{path}' (ROW_GROUP_SIZE 2048)"
    )
    with EventLog.open([str(path)], LogMapping(user="u", arm="arm"), threads=threads) as log:
        total = [Total("x", "sum", None, "x")]
        (found,) = log.moments(Span(0, 1), [(1, 1)], total, [("x", "x")], log.exposed(Span(0, 1)))
    x = np.sqrt(np.arange(20000)) * 0.1
    of_user = [sum(map(Fraction, x[u::999])) for u in range(999)]
    assert float(found.sums["x"]) == pytest.approx(float(sum(of_user)), rel=1e-15)
    assert float(found.products["x", "x"]) == pytest.approx(float(sum(v * v for v in of_user)), rel=1e-14)


def test_a_segment_with_too_many_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.parquet"
    duckdb.sql(f"COPY (SELECT i AS u, 'a' AS arm, i AS s FROM range(1001) t(i)) TO '{path}'")
    mapping = LogMapping(user="u", arm="arm", segments=("s",))
    words = "segment 's' has more than 1,000 values"
    with EventLog.open([str(path)], mapping) as log, pytest.raises(ValueError, match=words):
        log.segments(Span(0, 1))
