"""Event logs from outside as Arrow tables, under their source's own ids.

So far KuaiRand (Gao et al., CIKM 2022): real logs of a short-video feed, as a folder of Parquet files. Real
logs are dirty: a row that says nothing usable is left out and counted, so that it shows how many there were.
A file that lacks a column, holds text for numbers or contradicts itself is an error.
"""

from collections.abc import Sequence
from itertools import pairwise
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
_EXPOSURE_COLUMNS = {"n_exposures": "exposures", "n_plays": "clicks"}
_FLAGS = ("play", "long_view", "like", "comment", "share", "follow", "hate", "profile_enter")


class Dropped(NamedTuple):
    """What `read_kuairand` left out, in rows (plays for the histories)."""

    repeated_impressions: int  # equal to another row in every column
    impressions_without_duration: int
    videos_without_duration: int
    history_plays_without_duration: int  # of those videos, or of unknown ones
    malformed_impressions: int = 0  # a value is missing, no whole number or below 0, or a flag not 0 or 1
    impressions_of_unknown_videos: int = 0
    other_rows: int = 0  # malformed or repeated rows of users, videos, histories and exposures


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
    files = {
        name: _read(folder / file, columns)
        for name, file, columns in (
            ("videos", VIDEOS_FILE, _VIDEO_COLUMNS),
            ("impressions", IMPRESSIONS_FILE, _IMPRESSION_COLUMNS.values()),
            ("histories", HISTORIES_FILE, ("user_id", "watch_seq", "last_time_ms")),
            ("users", USERS_FILE, _USER_COLUMNS.values()),
            ("exposures", EXPOSURES_FILE, _EXPOSURE_COLUMNS.values()),
        )
    }
    all_videos = _one_of_each(_videos(files["videos"], folder / VIDEOS_FILE), folder / VIDEOS_FILE)
    videos = all_videos.filter(pc.greater(all_videos["duration_ms"], 0))
    impressions, dropped = _impressions(files["impressions"], videos, folder / IMPRESSIONS_FILE)
    histories = _one_of_each(_histories(files["histories"], folder / HISTORIES_FILE), folder / HISTORIES_FILE)
    users = _integers(files["users"], _USER_COLUMNS, folder / USERS_FILE)
    users = _one_of_each(_usable(users, ("user_id",)), folder / USERS_FILE)
    exposures = _integers(files["exposures"], _EXPOSURE_COLUMNS, folder / EXPOSURES_FILE)
    exposures = _usable(exposures, exposures.column_names)
    known = _of_known_videos(histories, videos["video_id"])
    for table, file in ((videos, VIDEOS_FILE), (impressions, IMPRESSIONS_FILE), (exposures, EXPOSURES_FILE)):
        if not table.num_rows:
            raise ValueError(f"{folder / file} has no usable row; a world needs some")
    kept = {"users": users, "videos": all_videos, "histories": histories, "exposures": exposures}
    return KuaiRand(
        users=users.sort_by("user_id"),
        videos=videos.sort_by("video_id"),
        impressions=_in_full_order(impressions),
        histories=known,
        exposures=exposures,
        dropped=dropped._replace(
            videos_without_duration=all_videos.num_rows - videos.num_rows,
            history_plays_without_duration=_n_plays(histories["videos"]) - _n_plays(known["videos"]),
            other_rows=sum(files[name].num_rows - table.num_rows for name, table in kept.items()),
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


def _impressions(logged: pa.Table, videos: pa.Table, path: Path) -> tuple[pa.Table, Dropped]:
    """The usable impressions, each once, and how many rows were none."""
    distinct = logged.group_by(logged.column_names).aggregate([])
    table = _integers(distinct, _IMPRESSION_COLUMNS, path)
    sound = _usable(table, [name for name in table.column_names if name != "duration_ms"])
    lasting = sound.filter(pc.greater(sound["duration_ms"], 0))
    known = lasting.filter(pc.is_in(lasting["video_id"], value_set=videos["video_id"]))
    rows = [t.num_rows for t in (logged, distinct, sound, lasting, known)]
    repeated, malformed, without_duration, unknown = (a - b for a, b in pairwise(rows))
    return known, Dropped(repeated, without_duration, 0, 0, malformed, unknown)


def _integers(table: pa.Table, sources: dict[str, str], path: Path) -> pa.Table:
    """The columns under our names, as int64; null where a value is missing or no whole number."""
    return pa.table({name: _whole(table[source], source, path) for name, source in sources.items()})


def _whole(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    """The column as int64, null where it holds no whole number. ValueError where it is no column of
    numbers."""
    try:
        if pa.types.is_floating(column.type):
            whole = pc.and_(pc.is_finite(column), pc.equal(pc.floor(column), column))
            column = pc.if_else(whole, column, None)
        return column.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(
            f"column {name!r} of {path} holds {column.type}, not whole numbers: {str(error).splitlines()[0]}"
        ) from error


def _usable(table: pa.Table, needed: Sequence[str]) -> pa.Table:
    """The rows whose needed columns all have a value: 0 or more, and 0 or 1 for a flag."""
    good = pa.array(np.ones(table.num_rows, np.bool_))
    for name in needed:
        fits = pc.greater_equal(table[name], 0)
        if name in _FLAGS:
            fits = pc.and_(fits, pc.less_equal(table[name], 1))
        good = pc.and_(good, pc.fill_null(fits, False))
    return table.filter(good)


def _one_of_each(table: pa.Table, path: Path) -> pa.Table:
    """Each row once. ValueError where two rows with one id, the first column, say different things."""
    name = table.column_names[0]
    ids = table[name].to_numpy()
    order = np.argsort(ids, kind="stable")
    again = ids[order][1:] == ids[order][:-1]
    for first, second in zip(order[:-1][again], order[1:][again], strict=True):
        if repr(table.slice(first, 1).to_pylist()) != repr(table.slice(second, 1).to_pylist()):
            raise ValueError(f"{path} has two rows of {name} {ids[first]} that differ; keep one of them")
    return table.take(np.sort(order[np.concatenate(([True], ~again))[: len(order)]]))


def _videos(table: pa.Table, path: Path) -> pa.Table:
    """The videos with an id, an author and a day of upload; without a duration it is 0."""
    first_tag = pc.struct_field(
        pc.extract_regex(table["tag"], r"^(?P<tag>[0-9]+)"), "tag"
    )  # null of "unknown"
    day = table["upload_date"].cast(pa.string())
    upload = pc.strptime(day, format="%Y%m%d", unit="s", error_is_null=True)
    columns = _integers(table, {"video_id": "video_id", "author_id": "author_id"}, path)
    columns = columns.append_column("tag", first_tag.fill_null("-1").cast(pa.int64()))
    duration = _whole(table["video_duration"], "video_duration", path).fill_null(0)
    columns = columns.append_column("duration_ms", duration)
    columns = columns.append_column("upload_day", upload.cast(pa.date32()).cast(pa.int32()).cast(pa.int64()))
    for name in table.column_names:
        if name.endswith("_cnt"):
            columns = columns.append_column(name, table[name].cast(pa.float64()))
    return _usable(columns, ("video_id", "author_id")).filter(pc.is_valid(pc.field("upload_day")))


def _histories(table: pa.Table, path: Path) -> pa.Table:
    """The sequences of users with an id and a time, by user; what is no video is -1 in them."""
    lists = table["watch_seq"].combine_chunks()
    if not pa.types.is_list(lists.type):
        raise ValueError(f"column 'watch_seq' of {path} holds {lists.type}; it needs lists of video ids")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    plays = _whole(pa.chunked_array([lists.flatten()]), "watch_seq", path).fill_null(-1).combine_chunks()
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = _integers(table, {"user_id": "user_id", "last_ts": "last_time_ms"}, path)
    columns = columns.add_column(1, "videos", pa.ListArray.from_arrays(ends, plays))
    return _usable(columns, ("user_id", "last_ts")).sort_by("user_id")


def _of_known_videos(histories: pa.Table, known_videos: pa.ChunkedArray) -> pa.Table:
    """The sequences with known videos only; users that keep none stay, with an empty list."""
    lists = histories["videos"].combine_chunks()
    plays = lists.flatten().to_numpy()
    known = np.isin(plays, known_videos.to_numpy())
    ends = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())])
    known_before = np.concatenate([[0], np.cumsum(known)])
    videos = pa.ListArray.from_arrays(known_before[ends].astype(np.int32), plays[known])
    return histories.set_column(1, "videos", videos)


def _in_full_order(table: pa.Table) -> pa.Table:
    first = ("user_id", "ts", "video_id")
    rest = [name for name in table.column_names if name not in first]
    return table.sort_by([(name, "ascending") for name in (*first, *rest)])


def _n_plays(lists: pa.ChunkedArray) -> int:
    return pc.sum(pc.list_value_length(lists)).as_py() or 0
