"""How far a log goes: which silence at its end says that the rest of a day is still to come."""

from collections.abc import Mapping

from warehouse.events import DAY_MS

SILENCE_MS = 6 * 3_600_000
SILENCE_GAPS = 20


def last_full_day(
    rows_by_day: Mapping[int, int], last_ts: int | None, start_ts: int, *, fine: bool = True
) -> int:
    """The last day that is over as far as the log goes: its last event lies near enough to the day's end.

    0 where the first day is not over. Of times that are no finer than days (`fine`) the last one counts.
    """
    if last_ts is None or not rows_by_day:
        return 0
    last = max(rows_by_day)
    if not fine:
        return last
    silence = start_ts + last * DAY_MS - 1 - last_ts
    return last if silence <= usual_silence(rows_by_day[last]) else last - 1


def usual_silence(rows: int) -> float:
    """Milliseconds without an event that say nothing on a day with so many rows."""
    return max(SILENCE_MS, SILENCE_GAPS * DAY_MS / max(rows, 1))
