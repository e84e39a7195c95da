"""One suite for every place in which a log can lie: the same answers as a loop over its rows in Python."""

from collections.abc import Sequence
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest

from tests.warehouse.logs.conftest import AMOUNT, BUY, NEW, OLD, START, START_TS, Put, Row, random_rows
from warehouse.events import DAY_MS
from warehouse.logs.columns import Column, LogMapping
from warehouse.logs.log import EventLog, Span
from warehouse.logs.totals import Total

NO_COLUMN = Column("", "other")
SPAN = Span(START_TS, 3)
WINDOWS = [(1, 1), (2, 2), (3, 3), (1, 2), (1, 3)]
MAPPING = LogMapping(user="uid", ts="at", arm="variant", event="kind", value=AMOUNT, segments=("country",))
TOTALS = [
    Total("n_buy", "count", BUY),
    Total("amount", "sum", BUY, AMOUNT),
    Total("cents", "sum", None, "cents"),
    Total("price", "sum", None, "price"),
    Total("flags", "sum", None, "flag"),
    Total("active_days", "days"),
    Total("bought", "any", BUY),
]
PAIRS = [(total.name, total.name) for total in TOTALS]
PAIRS += [("amount", "n_buy"), ("cents", "n_buy"), ("price", "amount")]


def ms(row: Row) -> int:
    return round(row["at"].timestamp() * 1000)


def day_of(ts: int) -> int:
    return (ts - START_TS) // DAY_MS + 1


def exposures(rows: Sequence[Row]) -> dict[str, tuple[set[str], int]]:
    """User -> arms and first time, from rows with an arm inside the span."""
    found: dict[str, tuple[set[str], int]] = {}
    for row in rows:
        if row["variant"] is not None and START_TS <= ms(row) < SPAN.end_ts:
            arms, first = found.get(row["uid"], (set(), ms(row)))
            found[row["uid"]] = (arms | {row["variant"]}, min(first, ms(row)))
    return found


def value(rows: Sequence[Row], total: Total) -> Fraction:
    """A user's total over rows."""
    mine = [row for row in rows if total.event in (None, row["kind"])]
    if total.how == "count":
        return Fraction(len(mine))
    if total.how == "any":
        return Fraction(bool(mine))
    if total.how == "days":
        return Fraction(len({day_of(ms(row)) for row in mine}))
    return sum((Fraction(row[total.column or ""] or 0) for row in mine), Fraction(0))


def expected(
    rows: Sequence[Row], exposed: dict[str, tuple[set[str], int]], window: tuple[int, int]
) -> dict[str, dict[str, list[Fraction]]]:
    """Arm -> total -> values of its users who were exposed before the window's end."""
    found: dict[str, dict[str, list[Fraction]]] = {}
    for user, (arms, first) in exposed.items():
        if len(arms) > 1 or day_of(first) > window[1]:
            continue
        inside = [
            row
            for row in rows
            if row["uid"] == user and ms(row) >= first and window[0] <= day_of(ms(row)) <= window[1]
        ]
        of_arm = found.setdefault(min(arms), {total.name: [] for total in TOTALS})
        for total in TOTALS:
            of_arm[total.name].append(value(inside, total))
    return found


def check_moments(
    found: Sequence[Any], rows: Sequence[Row], exposed: dict[str, tuple[set[str], int]], log: EventLog
) -> None:
    """Exact equality, but for floats (a CSV's decimals are floats)."""
    floats = {
        total.name for total in TOTALS if log.columns.get(total.column or "", NO_COLUMN).kind == "float"
    }
    if log.name.startswith("sqlite"):  # squares of cents leave its 64 bits
        floats |= {total.name for total in TOTALS}
    assert [(m.window, m.arm) for m in found] == [(w, arm) for w in WINDOWS for arm in sorted((OLD, NEW))]
    for moments in found:
        users = expected(rows, exposed, moments.window)[moments.arm]
        assert moments.n == len(users["n_buy"])
        for name, values in users.items():
            assert (moments.sums[name] == sum(values)) or name in floats
            assert float(moments.sums[name]) == pytest.approx(float(sum(values)), rel=1e-13)
        for a, b in PAIRS:
            product = sum(x * y for x, y in zip(users[a], users[b], strict=True))
            assert moments.products[a, b] == product or floats & {a, b}
            n = moments.n
            covariance = (n * moments.products[a, b] - moments.sums[a] * moments.sums[b]) / (n * (n - 1))
            exact = (n * product - sum(users[a]) * sum(users[b])) / (n * (n - 1))
            scale = float(max(abs(exact), 1))
            assert float(covariance) == pytest.approx(float(exact), rel=1e-9, abs=1e-9 * scale)


def in_rows(moments: Sequence[Any]) -> list[Any]:
    return sorted(moments, key=lambda m: (WINDOWS.index(m.window), m.arm))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_log_with_an_arm_column_gives_the_moments_of_a_plain_loop(put: Put, seed: int) -> None:
    rows = random_rows(seed)
    where = put(rows, None)
    exposed = exposures(rows)
    with EventLog.open(where.places, MAPPING, table=where.table, threads=1) as log:
        users = log.exposed(SPAN)
        found = log.moments(SPAN, WINDOWS, TOTALS, PAIRS, users)
        segments = log.segments(SPAN)["country"]
    assert users.crossed == sum(len(arms) > 1 for arms, _ in exposed.values()) > 0
    by_day: dict[tuple[int, str], int] = {}
    for arms, first in exposed.values():
        if len(arms) == 1:
            key = day_of(first), min(arms)
            by_day[key] = by_day.get(key, 0) + 1
    assert users.by_day == by_day
    check_moments(in_rows(found), rows, exposed, log)
    assert sum(n for counts in segments.values() for n in counts.values()) == sum(by_day.values())
    assert set(segments) == {"FI", "日本", ""}


def test_a_log_in_which_every_row_has_its_users_arm_is_summed_without_a_join(put: Put) -> None:
    """The fast path and the plain one must agree: here no arm is missing and nobody is in two."""
    rows = [row | {"variant": OLD if int(row["uid"][2:-3]) % 2 else NEW} for row in random_rows(3)]
    where = put(rows, None)
    with EventLog.open(where.places, MAPPING, table=where.table, threads=1) as log:
        users = log.exposed(SPAN)
        found = log.moments(SPAN, WINDOWS, TOTALS, PAIRS, users)
    assert users.crossed == 0
    check_moments(in_rows(found), rows, exposures(rows), log)


def test_an_assignment_table_decides_who_is_analysed_and_from_when_on(put: Put) -> None:
    """Users without events count as zeros, events before the assignment do not count, ids join as text."""
    rows = random_rows(4)
    assigned: list[Row] = []
    exposed: dict[str, tuple[set[str], int]] = {}
    for i in range(40):
        user, at = f"u'{i} ü%", START.timestamp() * 1000 + (i % 4) * 20_000_000
        arms = {OLD, NEW} if i % 13 == 5 else {[OLD, NEW][i % 2]}
        exposed[user] = (arms, round(at))
        for arm in sorted(arms):
            moment = START.fromtimestamp(at / 1000, START.tzinfo)
            assigned.append({"uid": user, "variant": arm, "at": moment, "country": "FI"})
    where = put(rows, assigned)
    with EventLog.open(
        where.places, MAPPING, table=where.table, assignment=where.assignment, threads=1
    ) as log:
        users = log.exposed(SPAN)
        found = log.moments(SPAN, WINDOWS, TOTALS, PAIRS, users)
        assert log.assigned(SPAN) == users
    assert users.crossed == 3
    assert sum(users.by_arm().values()) == 37
    check_moments(in_rows(found), rows, exposed, log)


def test_products_of_before_and_after_are_of_the_same_users(put: Put) -> None:
    """What CUPED needs, in every window: sums before the start of the users exposed by the window's end."""
    rows = random_rows(9)
    where = put(rows, None)
    exposed = exposures(rows)
    now, past = Total("n_buy", "count", BUY), Total("pre_cents", "sum", None, "cents")
    pairs = [("n_buy", "n_buy"), ("pre_cents", "pre_cents"), ("pre_cents", "n_buy")]
    with EventLog.open(where.places, MAPPING, table=where.table, threads=1) as log:
        found = log.moments(SPAN, WINDOWS, [now], pairs, log.exposed(SPAN), past=[past], pre_days=2)
    for moments in found:
        first, last = moments.window
        x, y = [], []
        for user, (arms, since) in exposed.items():
            if arms == {moments.arm} and day_of(since) <= last:
                mine = [row for row in rows if row["uid"] == user]
                inside = [r for r in mine if ms(r) >= since and first <= day_of(ms(r)) <= last]
                x.append(value([r for r in mine if 0 < START_TS - ms(r) <= 2 * DAY_MS], past))
                y.append(value(inside, now))
        assert moments.n == len(x)
        assert float(moments.sums["pre_cents"]) == pytest.approx(float(sum(x)), rel=1e-12)
        assert float(moments.sums["n_buy"]) == pytest.approx(float(sum(y)), rel=1e-12)
        for pair, (a, b) in zip(pairs, ((y, y), (x, x), (x, y)), strict=True):
            product = sum(i * j for i, j in zip(a, b, strict=True))
            assert float(moments.products[pair]) == pytest.approx(float(product), rel=1e-12)


def test_what_a_log_holds_is_counted(put: Put) -> None:
    rows = random_rows(6)
    rows[0]["uid"], rows[1]["at"], rows[2][AMOUNT] = None, None, -3.0
    rows.append(rows[9] | {"at": START})  # a repeated id
    where = put(rows, None)
    mapping = LogMapping(user="uid", ts="at", arm="variant", event="kind", id="event_id")
    with EventLog.open(where.places, mapping, table=where.table, threads=1) as log:
        extent = log.extent()
        values = log.values([AMOUNT, "cents", "flag"])
        kinds = log.kinds()
        repeats = log.duplicates(Span(START_TS - 9 * DAY_MS, 20))
        days = log.days(SPAN)
        arms = log.arms()
    assert (extent.rows, extent.without_user, extent.without_ts) == (401, 1, 1)
    assert extent.without_arm == sum(row["variant"] is None for row in rows)
    times = [ms(row) for row in rows if row["at"] is not None]
    assert (extent.first_ts, extent.last_ts) == (min(times), max(times))
    for name in (AMOUNT, "cents", "flag"):
        column = [row[name] for row in rows]
        assert values[name] == (column.count(None), 0, sum(v is not None and v < 0 for v in column))
    assert kinds == {k: sum(row["kind"] == k for row in rows) for k in (BUY, "view", "leave")}
    assert sum(n for _, n in repeats.values()) == 1
    assert set(days) == {1, 2, 3}
    assert set(arms) == {OLD, NEW}


@pytest.mark.parametrize("assigned", [False, True])
def test_an_id_that_is_not_a_number_is_no_user(put: Put, assigned: bool) -> None:
    """All rows with NaN as their id were those of one user, in one arm or in all of them."""
    rows = random_rows(6)
    ids = {name: float(i) for i, name in enumerate(sorted({row["uid"] for row in rows}))}
    found = []
    for missing in (None, float("nan")):
        named = [row | {AMOUNT: missing if i % 9 == 0 else ids[row["uid"]]} for i, row in enumerate(rows)]
        arms = [{AMOUNT: i, "variant": (OLD, NEW)[int(i) % 2]} for i in ids.values()]
        where = put(named, [*arms, {AMOUNT: missing, "variant": OLD}] if assigned else None)
        mapping = LogMapping(user=AMOUNT, ts="at", arm="variant", event="kind")
        with EventLog.open(
            where.places, mapping, table=where.table, assignment=where.assignment, threads=1
        ) as log:
            users, totals = (
                log.exposed(SPAN),
                [Total("n_buy", "count", BUY), Total("cents", "sum", None, "cents")],
            )
            sums = log.moments(SPAN, WINDOWS, totals, [("n_buy", "cents")], users)
            found.append((log.extent(), users, sums, log.duplicates(SPAN)))
    assert found[0] == found[1]
    assert found[0][0].without_user == 45
    assert sum(found[0][1].by_arm().values()) > 20


def test_an_exposure_event_is_where_a_user_begins_to_count(put: Put) -> None:
    rows = random_rows(7)
    where = put(rows, None)
    only_views = [row for row in rows if row["kind"] == "view"]
    with EventLog.open(where.places, MAPPING, table=where.table, exposure_event="view", threads=1) as log:
        users = log.exposed(SPAN)
        found = log.moments(SPAN, WINDOWS, TOTALS, PAIRS, users)
    exposed = exposures(only_views)
    assert sum(users.by_arm().values()) == sum(len(arms) == 1 for arms, _ in exposed.values())
    check_moments(in_rows(found), rows, exposed, log)


def test_users_of_an_ignored_arm_are_in_no_count(put: Put) -> None:
    rows = random_rows(8)
    where = put(rows, None)
    with EventLog.open(where.places, MAPPING, table=where.table, ignored_arms=[NEW], threads=1) as log:
        users = log.exposed(SPAN)
        assert set(log.arms()) == set(users.by_arm()) == {OLD}
        inside = [row for row in rows if START_TS <= ms(row) < SPAN.end_ts and row["variant"] == NEW]
        assert log.ignored(SPAN) == {NEW: len({row["uid"] for row in inside})}


def test_a_phase_holds_the_users_who_got_their_arm_in_it(put: Put) -> None:
    rows, cut = random_rows(9, 500, 100), START_TS + DAY_MS // 2
    where = put(rows, None)
    exposed = exposures(rows)
    late = {user: found for user, found in exposed.items() if found[1] >= cut}
    assert 20 < len(late) < len(exposed) - 20
    with EventLog.open(where.places, MAPPING, table=where.table, threads=1) as log:
        early = log.of_phase(START_TS, cut).exposed(SPAN)
        view = log.of_phase(cut, SPAN.end_ts)
        users, everyone = view.exposed(SPAN), log.exposed(SPAN)
        assert early.crossed + users.crossed == everyone.crossed > 0
        assert early.by_day.keys() <= {(1, OLD), (1, NEW)}
        check_moments(in_rows(view.moments(SPAN, WINDOWS, TOTALS, PAIRS, users)), rows, late, view)


@pytest.mark.parametrize("exposure_event", [None, "view"])
def test_the_phase_is_that_of_the_assignment_where_its_time_is_known(
    put: Put, exposure_event: str | None
) -> None:
    """Who was assigned in the first phase and came in the second got the arm by the first one's weights."""
    rows, cut = random_rows(10), START_TS + DAY_MS
    users = sorted({row["uid"] for row in rows})
    assigned: list[Row] = [
        {
            "uid": user,
            "variant": [OLD, NEW][i % 2],
            "at": START + timedelta(minutes=1000 * (i % 3)),
            "country": "FI",
        }
        for i, user in enumerate(users)
    ]
    where = put(rows, assigned)
    with EventLog.open(
        where.places,
        MAPPING,
        table=where.table,
        assignment=where.assignment,
        exposure_event=exposure_event,
        threads=1,
    ) as log:
        early, late, everyone = (
            view.exposed(SPAN) for view in (log.of_phase(START_TS, cut), log.of_phase(cut, SPAN.end_ts), log)
        )
        assert log.knows_draws
    before = {row["uid"] for row in assigned if ms(row) < cut}
    assert sum(early.by_arm().values()) + sum(late.by_arm().values()) == sum(everyone.by_arm().values())
    if exposure_event is None:
        assert sum(early.by_arm().values()) == len(before)
    else:
        assert max(day for day, _ in early.by_day) > 1
