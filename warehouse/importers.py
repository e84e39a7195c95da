"""Event logs from outside as Arrow tables, under their source's own ids.

So far KuaiRand (Gao et al., CIKM 2022): real logs of a short-video feed, as a folder of Parquet files.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

USERS_FILE = "kuairand_users.parquet"
VIDEOS_FILE = "kuairand_pure_video_features_stats.parquet"
IMPRESSIONS_FILE = "kuairand_pure_log_0425_0508.parquet"
HISTORIES_FILE = "kuairand_pure_user_sequences.parquet"
EXPOSURES_FILE = "kuairand27k_user_exposures.parquet"

_USER_COLUMNS = {
    "user_id": "user_id",
    "follows": "follow_user_num",
    "fans": "fans_user_num",
    "friends": "friend_user_num",
    "register_days": "register_days",
}
_IMPRESSION_COLUMNS = {
    "user_id": "user_id",
    "video_id": "video_id",
    "ts": "time_ms",
    "tab": "tab",
    "watch_ms": "play_time_ms",
    "duration_ms": "duration_ms",
    "play": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "comment": "is_comment",
    "share": "is_forward",
    "follow": "is_follow",
    "hate": "is_hate",
    "panel_ms": "comment_stay_time",
    "profile_ms": "profile_stay_time",
    "profile_enter": "is_profile_enter",
}
_VIDEO_COLUMNS = ("video_id", "author_id", "tag", "video_duration", "upload_date")


class Dropped(NamedTuple):
    """What `read_kuairand` left out, in rows (plays for the histories)."""

    repeated_impressions: int  # equal to another row in every column
    impressions_without_duration: int
    videos_without_duration: int
    history_plays_without_duration: int  # of those videos


class KuaiRand(NamedTuple):
    """All integers are int64; tables are sorted by their ids, impressions by user, time and video.

    users: user_id, follows, fans, friends, register_days.
    videos: video_id, author_id, tag (the first of up to three, -1 without any), duration_ms, upload_day (days
      since 1970-01-01), then as float64 and under the file's names each `*_cnt` column: daily averages of the
      whole platform.
    impressions: user_id, video_id, ts (Unix ms), tab (1 is the single-column feed), watch_ms, duration_ms;
      play, long_view, like, comment, share, follow, hate as 0 or 1; panel_ms, profile_ms (0 = not opened);
      profile_enter as 0 or 1.
    histories: user_id, videos (plays before the log begins, oldest first, at most 50, repeats kept), last_ts.
    exposures: n_exposures, n_plays of each user in the full log; the rows belong to no user_id.
    """

    users: pa.Table
    videos: pa.Table
    impressions: pa.Table
    histories: pa.Table
    exposures: pa.Table
    dropped: Dropped


def read_kuairand(folder: str | Path) -> KuaiRand:
    """The logs in a folder. Videos without a duration are left out with all their rows, which are counted.

    FileNotFoundError where the folder or a file is missing, ValueError where a file lacks a column.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give the folder that holds {IMPRESSIONS_FILE}")
    all_videos = _videos(_read(folder / VIDEOS_FILE, _VIDEO_COLUMNS))
    videos = all_videos.filter(pc.greater(all_videos["duration_ms"], 0))
    logged = _read(folder / IMPRESSIONS_FILE, _IMPRESSION_COLUMNS.values())
    distinct = logged.group_by(logged.column_names).aggregate([])
    impressions = distinct.filter(pc.greater(distinct["duration_ms"], 0))
    sequences = _read(folder / HISTORIES_FILE, ("user_id", "watch_seq", "last_time_ms"))
    histories = _histories(sequences, videos["video_id"])
    exposures = _read(folder / EXPOSURES_FILE, ("exposures", "clicks"))
    return KuaiRand(
        users=_integers(_read(folder / USERS_FILE, _USER_COLUMNS.values()), _USER_COLUMNS).sort_by("user_id"),
        videos=videos,
        impressions=_in_full_order(_integers(impressions, _IMPRESSION_COLUMNS)),
        histories=histories,
        exposures=_integers(exposures, {"n_exposures": "exposures", "n_plays": "clicks"}),
        dropped=Dropped(
            repeated_impressions=logged.num_rows - distinct.num_rows,
            impressions_without_duration=distinct.num_rows - impressions.num_rows,
            videos_without_duration=all_videos.num_rows - videos.num_rows,
            history_plays_without_duration=_n_plays(sequences["watch_seq"]) - _n_plays(histories["videos"]),
        ),
    )


def _read(path: Path, columns: Any) -> pa.Table:
    """A whole Parquet file that has at least these columns."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.name} in {path.parent}; the KuaiRand folder must be complete")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; it has: {', '.join(table.column_names)}")
    return table


def _integers(table: pa.Table, sources: dict[str, str]) -> pa.Table:
    """The columns under our names, as int64."""
    return pa.table({name: table[source].cast(pa.int64()) for name, source in sources.items()})


def _videos(table: pa.Table) -> pa.Table:
    first_tag = pc.struct_field(
        pc.extract_regex(table["tag"], r"^(?P<tag>[0-9]+)"), "tag"
    )  # null of "unknown"
    upload = pc.strptime(table["upload_date"].cast(pa.string()), format="%Y%m%d", unit="s")
    columns = {
        "video_id": table["video_id"].cast(pa.int64()),
        "author_id": table["author_id"].cast(pa.int64()),
        "tag": first_tag.fill_null("-1").cast(pa.int64()),
        "duration_ms": table["video_duration"].fill_null(0).cast(pa.int64()),
        "upload_day": upload.cast(pa.date32()).cast(pa.int32()).cast(pa.int64()),
    }
    averages = {name: table[name].cast(pa.float64()) for name in table.column_names if name.endswith("_cnt")}
    return pa.table({**columns, **averages}).sort_by("video_id")


def _histories(table: pa.Table, known_videos: pa.ChunkedArray) -> pa.Table:
    """The sequences with known videos only; users that keep none stay, with an empty list."""
    table = table.sort_by("user_id")
    lists = table["watch_seq"].combine_chunks()
    plays = lists.flatten().to_numpy()
    known = np.isin(plays, known_videos.to_numpy())
    lengths = pc.list_value_length(lists).to_numpy()
    user_ends = np.concatenate([[0], np.cumsum(lengths)])
    known_before = np.concatenate([[0], np.cumsum(known)])
    videos = pa.ListArray.from_arrays(known_before[user_ends].astype(np.int32), plays[known])
    return pa.table(
        {
            "user_id": table["user_id"].cast(pa.int64()),
            "videos": videos,
            "last_ts": table["last_time_ms"].cast(pa.int64()),
        }
    )


def _in_full_order(table: pa.Table) -> pa.Table:
    first = ("user_id", "ts", "video_id")
    rest = [name for name in table.column_names if name not in first]
    return table.sort_by([(name, "ascending") for name in (*first, *rest)])


def _n_plays(lists: pa.ChunkedArray) -> int:
    return pc.sum(pc.list_value_length(lists)).as_py() or 0
