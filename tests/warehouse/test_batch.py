"""Rows that are refused, and hashes that depend on what rows say alone."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from warehouse.batch import checked, content_hash, packed_rows

Make = Callable[..., pa.Table]


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("events", {"kind": 12}, "kind 12 in events is outside 1 to 11 .*11 session"),
        ("events", {"kind": [1, 0]}, "kind 0 in events"),
        ("events", {"kind": 1, "user": -1}, "user -1 in events is outside 0 to"),
        ("events", {"kind": 1, "item": -7}, "item -7 in events"),
        ("events", {"kind": 1, "value": -7}, "value -7 in events"),
        ("events", {"kind": 1, "session": -2}, "session -2 in events is outside -1 to"),
        ("exposures", {"arm": "", "experiment": "x"}, "column 'arm' of exposures holds an empty name"),
        ("propensities", {"ppb": 10**9 + 1}, "ppb 1000000001 in propensities is outside 0 to 1000000000"),
        ("users", {"user": -1}, "user -1 in users"),
    ],
)
def test_a_value_out_of_range_is_told(
    table: Make, name: str, columns: dict[str, object], message: str
) -> None:
    text = {"experiment": "x", "arm": "a"} if name == "exposures" else {}
    with pytest.raises(ValueError, match=message):
        checked(name, table(name, **{**text, **columns}))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1]}, r"users have columns \['user'\]; they need exactly \['user', 'source_id'\]"),
        ({"user": [1], "source_id": [1], "age": [30]}, "they need exactly"),
        ({"user": [1, None], "source_id": [1, 2]}, "column 'user' of users has 1 nulls"),
        ({"user": [1.0], "source_id": [1]}, "column 'user' of users holds double; it needs int64"),
        ({"user": ["one"], "source_id": [1]}, "column 'user' of users does not fit int64"),
        ({"user": [True], "source_id": [1]}, "holds bool"),
    ],
)
def test_a_table_of_another_shape_is_told(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked("users", pa.table(columns))


def test_a_number_too_wide_for_its_column_is_told(table: Make) -> None:
    wide = table("events", kind=1).set_column(5, "item", pa.array([2**31]))
    with pytest.raises(ValueError, match="column 'item' of events does not fit int32"):
        checked("events", wide)


def test_only_arrow_tables_are_rows() -> None:
    with pytest.raises(ValueError, match="users is a list; give an Arrow table"):
        checked("users", [{"user": 1, "source_id": 1}])  # type: ignore[arg-type]


def test_content_hash_ignores_chunks_and_feels_every_cell(table: Make) -> None:
    exposures = table("exposures", experiment="x", user=[1, 2, 3], arm=["a", "bb", "b"], first_ts=[1, 2, 3])
    chunked = pa.concat_tables([exposures.slice(0, 2), exposures.slice(2)])
    original = content_hash({"exposures": exposures})
    assert content_hash({"exposures": chunked}) == original
    shifted = exposures.set_column(2, exposures.field(2), pa.array(["ab", "b", "b"]))
    assert content_hash({"exposures": shifted}) != original
    assert content_hash({"exposures": exposures.slice(1)}) != original
    assert content_hash({}) != content_hash({"exposures": exposures.slice(0, 0)})


def test_packed_rows_do_not_depend_on_block_borders(table: Make) -> None:
    events = table("events", ts=np.arange(100), user=np.arange(100), kind=1)
    whole = b"".join(map(packed_rows, events.to_batches()))
    blocks = b"".join(map(packed_rows, events.to_batches(max_chunksize=7)))
    assert whole == blocks
    assert len(whole) == 100 * (5 * 8 + 3 * 4 + 2)
