"""Where the values of single users come from: a recorded run, or a foreign log. Both answer alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from abtest.metrics import Metric
from abtest.stats.clustered import Clustered
from abtest.stats.moments import Moments
from warehouse.events import PRE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from abtest.estimates import CapUsed
    from abtest.study import Study
    from warehouse.logs.log import EventLog, UserCounts
    from warehouse.logs.totals import Total
    from warehouse.store import Cohort, Cuts, Warehouse
    from warehouse.users import UserTotals

Window = tuple[int, ...]
"""A first and a last day, or days since exposure (`warehouse.queries.Since`)."""
NONE = "(none)"
"""The segment of users who have no value in its column."""
OTHERS = "(others)"
"""All segments of a column beyond the largest, which are shown."""


class Source(Protocol):
    """What metrics ask of users' own values. Arms without users may be left out of an answer."""

    def cap_values(self, metric: Metric, window: Window) -> list[Any]:
        """The cap of each of the metric's columns, as the database counts it; None where there is none."""

    def capped(
        self, metric: Metric, window: Window, caps: Sequence[Any]
    ) -> "tuple[dict[str, Moments], list[CapUsed]]":
        """Moments by arm with totals at most their caps, and with the metric's past where there is one."""

    def is_exact(self, metric: Metric) -> bool:
        """Whether its columns are whole numbers or decimals, so that the database can sum them exactly."""

    def users(
        self, metric: Metric, window: Window, *, with_past: bool = False
    ) -> "dict[str, Mapping[str, NDArray[np.generic]]]":
        """By arm and column, a value for each analysed user; on request its past too, where there is one."""

    def events(self, metric: Metric, window: Window) -> dict[str, Clustered]:
        """By arm, the values of the single events that the numerator adds up."""

    def cap_of(self, column: str, cap: Any) -> float:
        """A cap in the unit of the values that `users` gives."""

    def segments(self, window: Window) -> "dict[str, Mapping[str, NDArray[np.generic]]]":
        """By arm and dimension, the segment of each user of `users`, in the same order."""


@dataclass(frozen=True)
class Sources:
    """The values of all users together, from which caps come, and of the users of each phase. `stratify` is
    the dimension of their segments by which metrics are post-stratified."""

    everybody: Source
    phases: tuple[Source, ...]
    stratify: str | None = None


class RunSource:
    """A recorded run, or the users of one of its phases. With `cuts` users have a segment, of these names."""

    def __init__(
        self,
        warehouse: "Warehouse",
        experiment: "str | Cohort",
        *,
        pre_days: int,
        cuts: "Cuts | None" = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._warehouse, self._experiment, self._pre_days = warehouse, experiment, pre_days
        self._cuts, self._names = cuts, names or {}

    def cap_values(self, metric: Metric, window: Window) -> list[Any]:
        if metric.cap_value is not None:
            return _numerator_only(metric, round(metric.cap_value * metric.scale))
        assert metric.cap is not None, metric
        return list(self._warehouse.caps(self._experiment, self._asked(metric, window), metric.cap))

    def capped(
        self, metric: Metric, window: Window, caps: Sequence[Any]
    ) -> "tuple[dict[str, Moments], list[CapUsed]]":
        from abtest.estimates import CapUsed

        asked = self._asked(metric, window, with_past=True)
        rows, above = self._warehouse.capped(self._experiment, asked, caps)
        used = [CapUsed(*cap) for cap in zip(metric.columns, caps, above, strict=True) if cap[1] is not None]
        return {arm: Moments(*row) for arm, row in rows.items()}, used

    def is_exact(self, metric: Metric) -> bool:
        return True

    def users(
        self, metric: Metric, window: Window, *, with_past: bool = False
    ) -> "dict[str, Mapping[str, NDArray[np.generic]]]":
        asked = self._asked(metric, window, with_past=with_past)
        found = self._warehouse.user_values(self._experiment, asked)
        return {arm: values.columns for arm, values in found.items()}

    def events(self, metric: Metric, window: Window) -> dict[str, Clustered]:
        found = self._warehouse.event_values(self._experiment, window, metric.numerator)
        return {arm: Clustered(*values) for arm, values in found.items()}

    def cap_of(self, column: str, cap: Any) -> float:
        return float(cap)

    def segments(self, window: Window) -> "dict[str, Mapping[str, NDArray[np.generic]]]":
        import numpy as np

        if self._cuts is None:
            return {}
        found = self._warehouse.user_activity(self._experiment, window, self._cuts, self._pre_days)
        return {
            arm: {"activity": np.array([self._names[key] for key in keys.tolist()])}
            for arm, keys in found.items()
        }

    def _asked(self, metric: Metric, window: Window, *, with_past: bool = False) -> "UserTotals[str]":
        from warehouse.users import UserTotals

        past = metric.past if with_past and self._pre_days else ()
        return UserTotals(window, metric.columns, past, self._pre_days)


class LogSource:
    """A foreign log, or its view of a phase."""

    def __init__(self, log: "EventLog", study: "Study", exposed: "UserCounts") -> None:
        self._log, self._study, self._exposed = log, study, exposed
        self._totals = {total.name: total for total in study.totals}
        self._before = {total.name: total for total in study.past} if log.has_times else {}

    def cap_values(self, metric: Metric, window: Window) -> list[Any]:
        if metric.cap_value is not None:
            value = metric.cap_value * metric.scale * 10 ** self._log.scale(self._totals[metric.numerator])
            is_whole = not self._log.is_float(self._totals[metric.numerator])
            return _numerator_only(metric, round(value) if is_whole else value)
        assert metric.cap is not None, metric
        asked = self._asked(metric.columns, window)
        return list(self._log.caps(self._study.span, asked, metric.cap, self._exposed))

    def capped(
        self, metric: Metric, window: Window, caps: Sequence[Any]
    ) -> "tuple[dict[str, Moments], list[CapUsed]]":
        from abtest.estimates import CapUsed

        columns = list(dict.fromkeys(metric.columns))
        asked = self._asked(columns, window, self._past(metric))
        rows, above = self._log.capped(self._study.span, asked, caps[: len(columns)])
        used = [
            CapUsed(name, self.cap_of(name, cap), n)
            for name, cap, n in zip(columns, caps, above, strict=False)
            if cap is not None
        ]
        return {arm: Moments(*row) for arm, row in rows.items()}, used

    def is_exact(self, metric: Metric) -> bool:
        totals = [*(self._totals[name] for name in metric.columns), *self._past(metric)]
        return not any(map(self._log.is_float, totals))

    def users(
        self, metric: Metric, window: Window, *, with_past: bool = False
    ) -> "dict[str, Mapping[str, NDArray[np.generic]]]":
        asked = self._asked(metric.columns, window, self._past(metric) if with_past else ())
        found = self._log.user_values(self._study.span, asked, self._exposed)
        return {arm: values.columns for arm, values in found.items()}

    def events(self, metric: Metric, window: Window) -> dict[str, Clustered]:
        total = self._totals[metric.numerator]
        found = self._log.event_values(self._study.span, window, total, self._exposed)
        return {arm: Clustered(*values) for arm, values in found.items()}

    def cap_of(self, column: str, cap: Any) -> float:
        return float(cap) / 10 ** self._log.scale(self._totals[column])

    def segments(self, window: Window) -> "dict[str, Mapping[str, NDArray[np.generic]]]":
        import numpy as np

        found = self._log.user_segments(self._study.span, window, self._exposed)
        return {
            arm: {name: np.where(labels == "", NONE, labels) for name, labels in columns.items()}
            for arm, columns in found.items()
        }

    def _asked(
        self, columns: Sequence[str], window: Window, past: "Sequence[Total]" = ()
    ) -> "UserTotals[Total]":
        from warehouse.users import UserTotals

        return UserTotals(window, [self._totals[name] for name in columns], past, self._study.pre_days)

    def _past(self, metric: Metric) -> "list[Total]":
        """Its covariates; none where the log does not hold them all."""
        names = [PRE + name for name in metric.past]
        return [self._before[name] for name in names] if set(names) <= set(self._before) else []


def _numerator_only(metric: Metric, cap: Any) -> list[Any]:
    return [cap, *(None for _ in metric.columns[1:])]
