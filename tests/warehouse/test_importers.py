"""The KuaiRand reader: on the real logs where they are, and on small files with every defect."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from warehouse import importers
from warehouse.importers import Dropped, KuaiRand, read_kuairand

KUAIRAND = Path(__file__).parents[2] / "../shared/data/kuairand"


@pytest.fixture(scope="module")
def real() -> KuaiRand:
    if not KUAIRAND.exists():
        pytest.skip("needs ../shared/data")
    return read_kuairand(KUAIRAND)


def test_the_real_logs_have_their_published_sizes(real: KuaiRand) -> None:
    rows = [real.users, real.videos, real.impressions, real.histories, real.exposures]
    assert [table.num_rows for table in rows] == [27_285, 7_344, 219_301, 26_469, 27_285]
    assert real.dropped == Dropped(5_460, 3_568, 239, 17_906)


def test_no_value_of_the_real_logs_is_absent(real: KuaiRand) -> None:
    for table in real[:5]:
        assert all(column.null_count == 0 for column in table.columns)


def test_real_impressions_are_of_known_users_and_videos(real: KuaiRand) -> None:
    assert pc.all(pc.is_in(real.impressions["video_id"], value_set=real.videos["video_id"])).as_py()
    assert pc.all(pc.is_in(real.impressions["user_id"], value_set=real.users["user_id"])).as_py()
    for name in ("play", "long_view", "like", "comment", "share", "follow", "hate", "profile_enter"):
        assert sorted(real.impressions[name].unique().to_pylist()) == [0, 1]
    assert 0.3 < pc.mean(real.impressions["play"]).as_py() < 0.7


def test_real_histories_are_fifty_known_videos_at_most(real: KuaiRand) -> None:
    lengths = pc.list_value_length(real.histories["videos"])
    assert pc.min_max(lengths).as_py() == {"min": 0, "max": 50}
    videos = pc.list_flatten(real.histories["videos"])
    assert pc.all(pc.is_in(videos, value_set=real.videos["video_id"])).as_py()
    assert pc.max(real.histories["last_ts"]).as_py() < pc.min(real.impressions["ts"]).as_py() + 86_400_000


def test_real_sequences_run_from_the_oldest_play_to_the_latest(real: KuaiRand) -> None:
    """The files do not say so. Videos are uploaded over three days, and later plays are of later videos."""
    uploaded = dict(
        zip(real.videos["video_id"].to_pylist(), real.videos["upload_day"].to_pylist(), strict=True)
    )
    ends = [(videos[0], videos[-1]) for videos in real.histories["videos"].to_pylist() if len(videos) >= 20]
    later = sum(uploaded[first] < uploaded[last] for first, last in ends)
    earlier = sum(uploaded[first] > uploaded[last] for first, last in ends)
    assert later > 2 * earlier


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of two users and three videos; files can be changed or left out by name."""
    impression = dict.fromkeys(importers._IMPRESSION_COLUMNS.values(), 0) | {"duration_ms": 9_000}
    files: dict[str, list[dict[str, Any]]] = {
        "users": [
            {
                "user_id": user,
                "follow_user_num": 1,
                "fans_user_num": 2,
                "friend_user_num": 3,
                "register_days": 4,
            }
            for user in (8, 5)
        ],
        "videos": [
            {
                "video_id": 3,
                "author_id": 1,
                "tag": "20,43",
                "video_duration": 9e3,
                "upload_date": 20220410,
                "like_cnt": 0.5,
            },
            {
                "video_id": 1,
                "author_id": 1,
                "tag": "unknown",
                "video_duration": 8e3,
                "upload_date": 19700102,
                "like_cnt": 0.0,
            },
            {
                "video_id": 2,
                "author_id": 2,
                "tag": "7",
                "video_duration": None,
                "upload_date": 20220411,
                "like_cnt": 1.5,
            },
        ],
        "impressions": [
            {
                **impression,
                "user_id": 5,
                "video_id": 3,
                "time_ms": 50,
                "is_forward": 1,
                "comment_stay_time": 7,
            },
            {**impression, "user_id": 5, "video_id": 1, "time_ms": 40},
            {**impression, "user_id": 5, "video_id": 1, "time_ms": 40},
            {**impression, "user_id": 5, "video_id": 1, "time_ms": 40, "play_time_ms": 1},
            {**impression, "user_id": 4, "video_id": 2, "time_ms": 60, "duration_ms": 0},
        ],
        "histories": [
            {"user_id": 8, "watch_seq": [2, 2], "last_time_ms": 30},
            {"user_id": 5, "watch_seq": [3, 2, 1, 3], "last_time_ms": 20},
        ],
        "exposures": [{"exposures": 10, "clicks": 4}],
    }

    def make(**changed: list[dict[str, Any]] | None) -> Path:
        for name, rows in {**files, **changed}.items():
            if rows is not None:
                path = tmp_path / getattr(importers, f"{name.upper()}_FILE")
                pq.write_table(pa.Table.from_pylist(rows), path)
        return tmp_path

    return make


def test_columns_come_under_our_names(write: Callable[..., Path]) -> None:
    log = read_kuairand(write())
    assert log.users.to_pylist()[0] == {
        "user_id": 5,
        "follows": 1,
        "fans": 2,
        "friends": 3,
        "register_days": 4,
    }
    assert log.videos.to_pylist() == [
        {"video_id": 1, "author_id": 1, "tag": -1, "duration_ms": 8_000, "upload_day": 1, "like_cnt": 0.0},
        {
            "video_id": 3,
            "author_id": 1,
            "tag": 20,
            "duration_ms": 9_000,
            "upload_day": 19_092,
            "like_cnt": 0.5,
        },
    ]
    assert log.histories.to_pylist() == [
        {"user_id": 5, "videos": [3, 1, 3], "last_ts": 20},
        {"user_id": 8, "videos": [], "last_ts": 30},
    ]
    assert log.exposures.to_pylist() == [{"n_exposures": 10, "n_plays": 4}]


def test_rows_are_left_out_and_counted(write: Callable[..., Path]) -> None:
    log = read_kuairand(write())
    assert log.dropped == Dropped(1, 1, 1, 3)
    rows = log.impressions.select(["user_id", "video_id", "ts", "watch_ms", "share", "panel_ms"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (5, 1, 40, 0, 0, 0),
        (5, 1, 40, 1, 0, 0),
        (5, 3, 50, 0, 1, 7),
    ]


def test_a_missing_folder_file_or_column_is_told(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_kuairand(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no file kuairand_users\.parquet in"):
        read_kuairand(write(users=None))
    with pytest.raises(ValueError, match="has no column 'author_id'; it has: video_id"):
        read_kuairand(write(videos=[{"video_id": 1}]))
    (write() / importers.USERS_FILE).write_text("user_id\n1\n")
    with pytest.raises(ValueError, match="is not a Parquet file"):
        read_kuairand(tmp_path)


SOUND = dict.fromkeys(importers._IMPRESSION_COLUMNS.values(), 0) | {
    "user_id": 5,
    "video_id": 3,
    "duration_ms": 9_000,
}


@pytest.mark.parametrize(
    ("row", "dropped"),
    [
        ({"user_id": None}, {"malformed_impressions": 1}),
        ({"time_ms": -1}, {"malformed_impressions": 1}),
        ({"play_time_ms": float("nan")}, {"malformed_impressions": 1}),
        ({"play_time_ms": 1.5}, {"malformed_impressions": 1}),
        ({"play_time_ms": -5}, {"malformed_impressions": 1}),
        ({"is_like": 7}, {"malformed_impressions": 1}),
        ({"duration_ms": float("nan")}, {"impressions_without_duration": 1}),
        ({"duration_ms": -7}, {"impressions_without_duration": 1}),
        ({"video_id": 60_000}, {"impressions_of_unknown_videos": 1}),
        ({}, {"repeated_impressions": 1}),
    ],
)
def test_an_impression_that_says_nothing_usable_is_counted(
    row: dict[str, Any], dropped: dict[str, int], write: Callable[..., Path]
) -> None:
    """One such row beside two sound ones changes nothing but the count, wherever it stands."""
    later = {**SOUND, "time_ms": 9}
    for rows in ([SOUND, later, {**SOUND, **row}], [{**SOUND, **row}, later, SOUND]):
        log = read_kuairand(write(impressions=rows))
        assert log.impressions["ts"].to_pylist() == [0, 9]
        assert log.dropped == Dropped(0, 0, 1, 3)._replace(**dropped)


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("videos", {"video_id": None}),
        ("videos", {"author_id": None}),
        ("videos", {"upload_date": None}),
        ("videos", {}),
        ("histories", {"user_id": None}),
        ("histories", {"last_time_ms": None}),
        ("histories", {}),
        ("users", {"user_id": None}),
        ("users", {}),
        ("exposures", {"exposures": -4}),
        ("exposures", {"clicks": None}),
    ],
)
def test_other_malformed_and_repeated_rows_are_counted(
    file: str, row: dict[str, Any], write: Callable[..., Path]
) -> None:
    clean = read_kuairand(write())
    rows = pq.read_table(write() / getattr(importers, f"{file.upper()}_FILE")).to_pylist()
    log = read_kuairand(write(**{file: [*rows, {**rows[0], **row}]}))
    assert log[:5] == clean[:5]
    assert log.dropped == clean.dropped._replace(other_rows=1)


def test_a_history_without_plays_or_with_holes_keeps_what_it_has(write: Callable[..., Path]) -> None:
    log = read_kuairand(
        write(
            histories=[
                {"user_id": 5, "watch_seq": [None, 3, 1], "last_time_ms": 20},
                {"user_id": 8, "watch_seq": None, "last_time_ms": 30},
            ]
        )
    )
    assert log.histories["videos"].to_pylist() == [[3, 1], []]
    assert log.dropped.history_plays_without_duration == 1


def test_a_file_that_cannot_be_meant_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"column 'is_click' of .* holds string, not whole numbers"):
        read_kuairand(write(impressions=[{**SOUND, "is_click": "yes"}]))
    with pytest.raises(ValueError, match=r"column 'watch_seq' of .* holds int64; it needs lists"):
        read_kuairand(write(histories=[{"user_id": 5, "watch_seq": 3, "last_time_ms": 20}]))
    with pytest.raises(ValueError, match=r"_0425_0508\.parquet has no usable row"):
        read_kuairand(write(impressions=[{**SOUND, "user_id": -1}]))
    user = dict.fromkeys(importers._USER_COLUMNS.values(), 1)
    with pytest.raises(ValueError, match=r"two rows of user_id 1 that differ"):
        read_kuairand(write(users=[user, {**user, "fans_user_num": 2}]))
