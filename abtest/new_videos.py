"""Cold start: how the arms of a recorded run treated the videos that were uploaded while it was going on.

From the recorded rows alone: the catalogue tells when a video was uploaded, the events who was shown it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from warehouse.events import DAY_MS, Kind

if TYPE_CHECKING:
    from warehouse.store import Warehouse

SUMS = ("n", "x", "y", "xx", "xy", "yy")
"""Of users' plays x and impressions y: what a ratio and its error are made of."""

TIMES = (1, 10, 100)
"""How often a video was shown to an arm's users: its first impression, a first idea of it, a fair trial."""


def new_videos_of(warehouse: "Warehouse", settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """`new_videos` of report.json; None where nothing is uploaded in the world of the run.

    - since_ts: when the experiment began; a video uploaded from then on is new;
    - uploaded: new videos up to the last day; could_be_shown: those uploaded before its midnight;
    - arms: one each, of what its users saw since their exposure: arm, impressions, new_impressions, share
      (of new videos, in the impressions), shown (how many new videos were shown at least 1, 10, 100 times),
      play_rate_new and play_rate_older (plays per impression; null where there was no impression) with
      play_rate_new_ci and play_rate_older_ci, 95 % intervals by the delta method over users (null for one).
    """
    if not settings.get("uploads_share"):
        return None
    start, days = settings["start_ts"], settings["days"]
    end = start + days * DAY_MS
    (uploaded,) = warehouse.sql(
        f"SELECT count(*) AS uploaded, count(*) FILTER (uploaded_ts < {end - DAY_MS}) AS could_be_shown"
        f" FROM items WHERE uploaded_ts >= {start} AND uploaded_ts < {end}"
    ).to_pylist()
    seen = {
        row.pop("arm"): {name: int(value) for name, value in row.items()}
        for row in warehouse.sql(_seen(settings["name"], start, end)).to_pylist()
    }
    arms = [_of_arm(arm["name"], seen.get(arm["name"], {})) for arm in settings["arms"]]
    return {"since_ts": start, **uploaded, "arms": arms}


def _seen(experiment: str, start: int, end: int) -> str:
    """The SELECT of each arm's impressions and plays of new and older videos, and of new videos by how often
    they were shown."""
    shown = ", ".join(f"count(*) FILTER (is_new AND shown >= {n}) AS shown_{n}" for n in TIMES)
    sums = ", ".join(
        f"CAST({sql} AS HUGEINT) AS {videos}_{name}"
        for videos in ("new", "older")
        for name, sql in _moments(f"{videos}_plays", f"{videos}_shown").items()
    )
    impressions, plays = (f"count(*) FILTER (kind = {int(k)})" for k in (Kind.impression, Kind.play))
    name = experiment.replace("'", "''")
    return f"""
        WITH users AS (
            SELECT "user", min(arm) AS arm, min(first_ts) AS first_ts FROM exposures
            WHERE experiment = '{name}' GROUP BY "user" HAVING count(DISTINCT arm) = 1
        ), seen AS (
            SELECT arm, "user", item, uploaded_ts >= {start} AS is_new,
                   {impressions} AS shown, {plays} AS plays
            FROM events JOIN users USING ("user") JOIN items USING (item)
            WHERE kind IN ({int(Kind.impression)}, {int(Kind.play)})
              AND ts >= first_ts AND ts >= {start} AND ts < {end}
            GROUP BY arm, "user", item, uploaded_ts
        ), of_videos AS (
            SELECT arm, {shown}
            FROM (SELECT arm, is_new, sum(shown) AS shown FROM seen GROUP BY arm, item, is_new) GROUP BY arm
        ), by_user AS (
            SELECT arm, coalesce(sum(shown) FILTER (is_new), 0) AS new_shown,
                   coalesce(sum(plays) FILTER (is_new), 0) AS new_plays,
                   coalesce(sum(shown) FILTER (NOT is_new), 0) AS older_shown,
                   coalesce(sum(plays) FILTER (NOT is_new), 0) AS older_plays
            FROM seen GROUP BY arm, "user"
        ), of_users AS (SELECT arm, {sums} FROM by_user GROUP BY arm)
        SELECT * FROM of_videos JOIN of_users USING (arm)
    """


def _moments(x: str, y: str) -> dict[str, str]:
    """SQL of the sums that a ratio needs, over users who were shown any."""
    sums = {"x": x, "y": y, "xx": f"{x} * {x}", "xy": f"{x} * {y}", "yy": f"{y} * {y}"}
    return {"n": f"count(*) FILTER ({y} > 0)", **{name: f"sum({value})" for name, value in sums.items()}}


def _of_arm(name: str, row: Mapping[str, int]) -> dict[str, Any]:
    new, older, new_plays, older_plays = (
        row.get(column, 0) for column in ("new_y", "older_y", "new_x", "older_x")
    )
    return {
        "arm": name,
        "impressions": new + older,
        "new_impressions": new,
        "share": _ratio(new, new + older),
        "shown": {str(n): row.get(f"shown_{n}", 0) for n in TIMES},
        "play_rate_new": _ratio(new_plays, new),
        "play_rate_new_ci": _interval(row, "new"),
        "play_rate_older": _ratio(older_plays, older),
        "play_rate_older_ci": _interval(row, "older"),
    }


def _interval(row: Mapping[str, int], videos: str) -> list[float] | None:
    """The 95 % interval of plays per impression of an arm's new or older videos. Users are the units: the
    plays of one depend on each other."""
    from abtest.stats.means import ratio_estimate, t_quantile
    from abtest.stats.moments import Moments

    n, x, y, xx, xy, yy = (row.get(f"{videos}_{name}", 0) for name in SUMS)
    products = {("x", "x"): xx, ("x", "y"): xy, ("y", "y"): yy}
    rate = ratio_estimate(Moments(n, {"x": x, "y": y}, products), "x", "y")
    if rate.value is None or rate.variance is None:
        return None
    half = t_quantile(0.05, n - 1) * rate.variance**0.5
    return [rate.value - half, rate.value + half]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
