"""Cold start: how the arms of a recorded run treated the videos that were uploaded while it was going on.

From the recorded rows alone: the catalogue tells when a video was uploaded, the events who was shown it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from warehouse.events import DAY_MS, Kind

if TYPE_CHECKING:
    from warehouse.store import Warehouse

TIMES = (1, 10, 100)
"""How often a video was shown to an arm's users: its first impression, a first idea of it, a fair trial."""


def new_videos_of(warehouse: "Warehouse", settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """`new_videos` of report.json; None where nothing is uploaded in the world of the run.

    - since_ts: when the experiment began; a video uploaded from then on is new;
    - uploaded: new videos up to the last day; could_be_shown: those uploaded before its midnight;
    - arms: one each, of what its users saw since their exposure: arm, impressions, new_impressions, share
      (of new videos, in the impressions), shown (how many new videos were shown at least 1, 10, 100 times),
      play_rate_new and play_rate_older (plays per impression; null where there was no impression).
    """
    if not settings.get("uploads_share"):
        return None
    start, days = settings["start_ts"], settings["days"]
    end = start + days * DAY_MS
    (uploaded,) = warehouse.sql(
        f"SELECT count(*) AS uploaded, count(*) FILTER (uploaded_ts < {end - DAY_MS}) AS could_be_shown"
        f" FROM items WHERE uploaded_ts >= {start} AND uploaded_ts < {end}"
    ).to_pylist()
    seen = {row["arm"]: row for row in warehouse.sql(_seen(settings["name"], start, end)).to_pylist()}
    arms = [_of_arm(arm["name"], seen.get(arm["name"], {})) for arm in settings["arms"]]
    return {"since_ts": start, **uploaded, "arms": arms}


def _seen(experiment: str, start: int, end: int) -> str:
    """The SELECT of each arm's impressions and plays of new and older videos, and of new videos by how often
    they were shown."""
    shown = ", ".join(f"count(*) FILTER (is_new AND shown >= {n}) AS shown_{n}" for n in TIMES)
    name = experiment.replace("'", "''")
    return f"""
        WITH users AS (
            SELECT "user", min(arm) AS arm, min(first_ts) AS first_ts FROM exposures
            WHERE experiment = '{name}' GROUP BY "user" HAVING count(DISTINCT arm) = 1
        ), videos AS (
            SELECT arm, item, count(*) FILTER (kind = {int(Kind.impression)}) AS shown,
                   count(*) FILTER (kind = {int(Kind.play)}) AS plays
            FROM events JOIN users USING ("user")
            WHERE kind IN ({int(Kind.impression)}, {int(Kind.play)})
              AND ts >= first_ts AND ts >= {start} AND ts < {end}
            GROUP BY arm, item
        ), dated AS (
            SELECT videos.*, uploaded_ts >= {start} AS is_new FROM videos JOIN items USING (item)
        )
        SELECT arm, CAST(sum(shown) AS BIGINT) AS impressions, CAST(sum(plays) AS BIGINT) AS plays,
               CAST(sum(shown) FILTER (is_new) AS BIGINT) AS new_impressions,
               CAST(sum(plays) FILTER (is_new) AS BIGINT) AS new_plays, {shown}
        FROM dated GROUP BY arm
    """


def _of_arm(name: str, row: Mapping[str, int | None]) -> dict[str, Any]:
    shown, new, plays, new_plays = (
        row.get(column) or 0 for column in ("impressions", "new_impressions", "plays", "new_plays")
    )
    return {
        "arm": name,
        "impressions": shown,
        "new_impressions": new,
        "share": _ratio(new, shown),
        "shown": {str(n): row.get(f"shown_{n}", 0) for n in TIMES},
        "play_rate_new": _ratio(new_plays, new),
        "play_rate_older": _ratio(plays - new_plays, shown - new),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
