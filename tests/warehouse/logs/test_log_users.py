"""Users' values, events' values and caps in every place of a log, against a loop over its rows."""

from fractions import Fraction

import numpy as np
import pytest

from tests.warehouse.logs.conftest import AMOUNT, BUY, NEW, OLD, Put, random_rows
from tests.warehouse.logs.test_log import (
    MAPPING,
    SPAN,
    TOTALS,
    day_of,
    expected,
    exposures,
    ms,
)
from warehouse.logs.log import EventLog, UserTotals
from warehouse.logs.totals import Total

WINDOWS = [(2, 3), (1, 3)]
COUNT, AMOUNTS, CENTS, PRICE, _, DAYS, BOUGHT = TOTALS


def test_values_and_caps_are_those_of_a_loop(put: Put) -> None:
    rows = random_rows(3)
    where = put(rows, None)
    exposed = exposures(rows)
    totals = [COUNT, CENTS, DAYS, BOUGHT, PRICE]
    with EventLog.open(where.places, MAPPING, table=where.table, threads=1) as log:
        users = log.exposed(SPAN)
        for window in WINDOWS:
            oracle = expected(rows, exposed, window)
            values = log.user_values(SPAN, UserTotals(window, [*totals, AMOUNTS]), users)
            caps = log.caps(SPAN, UserTotals(window, totals[:4]), 0.8, users)
            for arm in (OLD, NEW):
                for total in (*totals, AMOUNTS):
                    found = sorted(values[arm].columns[total.name].tolist())
                    assert found == pytest.approx(sorted(map(float, oracle[arm][total.name])), rel=1e-12)
            for total, cap in zip(totals, caps, strict=False):
                everyone = [float(x) for arm in oracle.values() for x in arm[total.name]]
                assert cap == np.quantile(everyone, 0.8, method="inverted_cdf")
            events = log.event_values(SPAN, window, AMOUNTS, users)
            for arm in (OLD, NEW):
                mine = [
                    row[AMOUNT]
                    for row in rows
                    if row["uid"] in exposed
                    and exposed[row["uid"]][0] == {arm}
                    and ms(row) >= exposed[row["uid"]][1]
                    and window[0] <= day_of(ms(row)) <= window[1]
                    and row["kind"] == BUY
                    and row[AMOUNT] is not None
                ]
                assert sorted(events[arm].values.tolist()) == pytest.approx(sorted(mine), rel=1e-12)
                assert events[arm].n_users == len(oracle[arm]["n_buy"])


def test_capped_sums_are_exact(put: Put) -> None:
    """A decimal is counted in units of its last place; CSV has none, and there it is a float."""
    rows = random_rows(4)
    where = put(rows, None)
    past = [Total("pre_n_buy", "count", BUY)]
    with EventLog.open(where.places, MAPPING, table=where.table, threads=1) as log:
        users = log.exposed(SPAN)
        totals = [COUNT, DAYS, *([PRICE] if log.columns["price"].kind == "decimal" else [])]
        caps = [2, None, 200][: len(totals)]
        found, above = log.capped(SPAN, UserTotals((1, 3), totals, past, pre_days=2), caps)
    oracle = expected(rows, exposures(rows), (1, 3))
    for arm, values in oracle.items():
        cut = {
            total.name: [x if cap is None else min(x, Fraction(2)) for x in values[total.name]]
            for total, cap in zip(totals, caps, strict=True)
        }
        assert found[arm].n == len(cut["n_buy"]) == users.by_arm()[arm]
        for name, column in cut.items():
            assert found[arm].sums[name] == sum(column)
            square = sum(x * y for x, y in zip(cut["n_buy"], column, strict=True))
            assert found[arm].products["n_buy", name] == square
        assert found[arm].sums["pre_n_buy"] > 0
    limits = [2, 99, 2][: len(totals)]
    assert above == [
        sum(x > limit for arm in oracle.values() for x in arm[total.name])
        for total, limit in zip(totals, limits, strict=True)
    ]


def test_a_count_of_events_has_no_values_of_events(put: Put) -> None:
    where = put(random_rows(5, n=60), None)
    with (
        EventLog.open(where.places, MAPPING, table=where.table, threads=1) as log,
        pytest.raises(ValueError, match="'n_buy' sums no values"),
    ):
        log.event_values(SPAN, (1, 1), COUNT, log.exposed(SPAN))
