"""Warehouse: the questions that an analysis asks of a recorded run."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement

import pyarrow as pa
import sqlalchemy as sa

from warehouse import capped, queries, run_users
from warehouse.events import DAY_MS, PRE
from warehouse.panel.ask import MEMBERS, Ask, Pair
from warehouse.panel.summed import summed
from warehouse.panel.sums import LookPair, Moments, PanelSums
from warehouse.queries import TOTALS, Cohort, Cuts, Since, Window, days_of
from warehouse.recording import Recording
from warehouse.users import ArmValues, EventValues, UserTotals, Values, of_arm

__all__ = ["Cohort", "Cuts", "LookPair", "Moments", "PanelSums", "Since", "UserTotals", "Warehouse", "Window"]


class Warehouse(Recording):
    """A recording that is asked what an experiment did: exposures, sums by arm, and single users."""

    # What an experiment did

    def exposed(self, experiment: str | Cohort) -> dict[str, int]:
        """Analysed users of each arm: those exposed in exactly one."""
        by_arm: dict[str, int] = {}
        for _, arm, n in self.daily_exposed(experiment):
            by_arm[arm] = by_arm.get(arm, 0) + n
        return dict(sorted(by_arm.items()))

    def daily_exposed(self, experiment: str | Cohort) -> list[tuple[int, str, int]]:
        """(day, arm, users first exposed on that day), analysed users only. Day 1 begins at start_ts."""
        start_ts = self._start_ts(experiment)
        rows = self._database.rows(queries.exposed_by_day(experiment, start_ts))
        return [((day_ts - start_ts) // DAY_MS + 1, arm, n) for day_ts, arm, n in rows]

    def crossovers(self, experiment: str) -> int:
        """Users that were seen in more than one arm: no other question counts them."""
        self._start_ts(experiment)
        return self._scalar(queries.crossovers(experiment))

    def totals(self, experiment: str, window: tuple[int, int]) -> pa.Table:
        """One row for each analysed user exposed before the window's end: user, arm, then `queries.TOTALS` of
        what happened in the window from the user's first exposure on; 0 without events."""
        (checked_window,) = checked_windows([window])
        return self._database.table(queries.totals(experiment, self._start_ts(experiment), checked_window))

    def moments(
        self,
        experiment: str | Cohort,
        windows: Sequence[tuple[int, int]],
        *,
        columns: Sequence[str] | None = None,
    ) -> list[Moments]:
        """Exact sums and sums of products of totals by window and arm, from one pass over the events.

        `columns` restricts them, in the order of TOTALS; fewer columns are much less work. An arm without any
        exposed user has no row.
        """
        asked, names = checked_windows(windows), checked_columns(columns)
        if not asked:
            return []
        found = self.panel(
            experiment,
            max(window.last_day for window in asked),
            columns=names,
            products=list(combinations_with_replacement(names, 2)),
        )
        return found.moments(asked)

    def panel(
        self,
        experiment: str | Cohort,
        days: int,
        *,
        columns: Sequence[str],
        products: Sequence[Pair],
        pre_days: int = 0,
        activity: Cuts | None = None,
    ) -> PanelSums:
        """The sums of days 1 to `days` from which every view of an experiment follows (`PanelSums`).

        `products` are pairs of columns; with `pre_` before its name a column is the total of the last
        `pre_days` days before the start. With `activity` users are also summed by how active they were then.
        """
        start_ts = self._start_ts(experiment)
        past = [name for pair in products for name in pair if name.startswith(PRE)]
        past += [PRE + activity.column] if activity else []
        before = tuple(dict.fromkeys(past))
        checked_columns([*columns, *(name.removeprefix(PRE) for name in before)])
        if before and pre_days < 1:
            raise ValueError(f"pre_days is {pre_days}; covariates need 1 day or more before the experiment")
        ask = Ask(
            start_ts, days, tuple(columns), tuple(products), before, n_groups=0 if activity is None else 1
        )
        statement = queries.panel_members(
            experiment,
            start_ts,
            days,
            pre_days=pre_days,
            before=[name.removeprefix(PRE) for name in before],
            cuts=activity,
        )
        with self._database.kept(MEMBERS, statement) as members:

            def of_days(first: int, last: int) -> sa.Select:
                return queries.panel_days(members, start_ts, Window(first, last), columns)

            try:
                return summed(self._database, members, of_days, ask)
            except OverflowError:  # products in 64 bits are faster and mostly do; wider ones always do
                wide = replace(ask, wide=frozenset((*columns, *before)))
                return summed(self._database, members, of_days, wide)

    def activity_cuts(self, experiment: str, pre_days: int, column: str) -> Cuts | None:
        """Where analysed users, by a total before the start, fall into thirds; None where all have 0."""
        checked_columns([column])
        statement = queries.activity_cuts(experiment, self._start_ts(experiment), pre_days, column)
        ((light, middle),) = self._database.rows(statement)
        return None if light is None else Cuts(column, int(light), int(middle))

    # What single users did

    def caps(self, experiment: str | Cohort, asked: UserTotals[str], share: float) -> list[int]:
        """The value of each column with a share of the analysed users, of all arms, at or below it."""
        users = self._per_user(experiment, asked)
        n_users = self._scalar(sa.select(sa.func.count()).select_from(users.subquery("users")))
        if not n_users:
            return [0] * len(asked.totals)
        rank = capped.rank_of(share, n_users)
        return [
            int(value) for value in self._database.rows(capped.caps_at(users, len(asked.totals), rank))[0]
        ]

    def capped(
        self, experiment: str | Cohort, asked: UserTotals[str], caps: Sequence[int | None]
    ) -> tuple[dict[str, capped.CutMoments], list[int]]:
        """By arm, moments with each user's total at most the cap of its column, and users above each cap.

        Columns of the past stand beside them as `pre_` and the name, not cut.
        """
        users = self._per_user(experiment, asked)
        rows = self._database.rows(capped.capped_sums(users, [*caps, *(None for _ in asked.past)]))
        above = self._database.rows(capped.above(users, caps))[0]
        return capped.read(rows, _names(asked)), [int(n) for n in above]

    def user_values(self, experiment: str | Cohort, asked: UserTotals[str]) -> dict[str, ArmValues]:
        """By arm, each column with a value for every analysed user, 0 without events, by the users' ids;
        columns of the past as `pre_` and the name."""
        users, names = self._per_user(experiment, asked), _names(asked)
        found = {}
        for arm in self.exposed(experiment):
            table = self._database.table(of_arm(users, arm, len(names)))
            arrays = [table[f"c{i}"].to_numpy() for i in range(len(names))]
            found[arm] = ArmValues(dict(zip(names, arrays, strict=True)))
        return found

    def user_activity(
        self, experiment: str | Cohort, window: tuple[int, ...], cuts: Cuts, pre_days: int
    ) -> dict[str, Values]:
        """By arm, how active each analysed user was before (`queries.Activity`), by the users' ids."""
        days = checked_days(window).last_cohort
        members = queries.panel_members(
            experiment,
            self._start_ts(experiment),
            days,
            pre_days=pre_days,
            before=[cuts.column],
            cuts=cuts,
        )
        return {
            arm: self._database.table(of_arm(members, arm, 1, prefix="g"))["g0"].to_numpy()
            for arm in self.exposed(experiment)
        }

    def event_values(
        self, experiment: str | Cohort, window: tuple[int, ...], column: str
    ) -> dict[str, EventValues]:
        """By arm, the values of the events that `column` adds up, and whose they are."""
        days, start_ts = checked_days(window), self._start_ts(experiment)
        counts = self.daily_exposed(experiment)
        found = {}
        for arm in self.exposed(experiment):
            table = self._database.table(run_users.per_event(experiment, start_ts, days, column, arm))
            n = sum(n for day, of_arm, n in counts if of_arm == arm and day <= days.last_cohort)
            found[arm] = EventValues(table["value"].to_numpy(), table["place"].to_numpy(), n)
        return found

    # Steps

    def _per_user(self, experiment: str | Cohort, asked: UserTotals[str]) -> sa.Select:
        checked_days(asked.window)
        checked_columns([*asked.totals, *asked.past])
        return run_users.per_user(experiment, self._start_ts(experiment), asked)

    def _start_ts(self, experiment: str | Cohort) -> int:
        name = experiment.experiment if isinstance(experiment, Cohort) else experiment
        return self.experiment(name)["start_ts"]


def checked_windows(windows: Iterable[tuple[int, int]]) -> list[Window]:
    """The windows as such; ValueError unless 1 <= first_day <= last_day."""
    result = [Window(*window) for window in windows]
    for window in result:
        checked_days(window)
    return result


def checked_days(window: tuple[int, ...]) -> Window | Since:
    """A window of days of the experiment or since exposure; ValueError unless 1 <= first_day <= last_day."""
    days = days_of(window)
    if not 1 <= days.first_day <= days.last_day:
        raise ValueError(f"window {tuple(window)} is no range of days; days count from 1, first day first")
    return days


def checked_columns(columns: Sequence[str] | None) -> tuple[str, ...]:
    """The columns in the order of TOTALS, all of them for None; LookupError names the known ones."""
    if columns is None:
        return TOTALS
    for name in columns:
        if name not in TOTALS:
            raise LookupError(f"unknown column {name!r}; totals have: {', '.join(TOTALS)}")
    return tuple(name for name in TOTALS if name in columns)


def _names(asked: UserTotals[str]) -> list[str]:
    return [*asked.totals, *(PRE + name for name in asked.past)]
