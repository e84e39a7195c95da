"""Reading files, numbering, k-core and splits."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.base import Interactions
from baselines.data import (
    hold_out,
    is_table,
    k_core,
    leave_one_out,
    read_interactions,
    read_sequences,
    read_table,
)


def test_a_sequence_file_is_read_in_order(tmp_path):
    path = tmp_path / "toy.txt"
    path.write_text("1 5 3 5\n\n3 2\n")
    data = read_sequences(path)
    assert data.users.tolist() == [0, 0, 0, 2]
    assert data.items.tolist() == [5, 3, 5, 2]
    assert (data.n_users, data.n_items) == (3, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n2 4 abc\n", r"line 2 of .*toy.txt: 'abc' is not an item id"),
        ("x 2 3\n", r"line 1 of .*: 'x' is not a user id"),
        ("1 2 -3\n", r"line 1 of .*: '-3' is not an item id; ids are whole numbers from 1"),
        ("1 2 0\n", "'0' is not an item id"),
        ("1 2 99999999999\n", "'99999999999' is not an item id"),
        ("1 2 3.5\n", "'3.5' is not an item id"),
        ("1 2\n2 3\n1 4\n", "line 3 of .*: user 1 stands already in line 1"),
        ("1\n", "line 1 of .*: user 1 has no items"),
        ("\n\n", "is empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    path = tmp_path / "toy.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_sequences(path)


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*nowhere.txt"):
        read_sequences(tmp_path / "nowhere.txt")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="is no text file"):
        read_sequences(tmp_path / "x.txt")


def test_csv_and_parquet_give_the_same_interactions(tmp_path):
    table = pa.table({"who": ["b", "a", "b"], "what": ["z", "y", "x"], "when": [3, 1, 2], "stars": [1, 2, 3]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    pa.csv.write_csv(table, tmp_path / "t.csv")
    columns = {"user": "who", "item": "what", "time": "when"}
    for name in ("t.parquet", "t.csv"):
        read = read_table(tmp_path / name, columns)
        assert read.user_ids.tolist() == ["a", "b"]
        assert read.item_ids[1:].tolist() == ["x", "y", "z"]
        assert read.interactions.users.tolist() == [0, 1, 1]
        assert read.interactions.items.tolist() == [2, 1, 3]


def test_a_bad_table_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("who,what,when\na,1,x\nb,2,y\n")
    pa.parquet.write_table(pa.table({"who": [["a"], ["b"]], "what": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"'who' of .*t.parquet holds list<.*>, not one value a row"):
        read_table(tmp_path / "t.parquet", {"user": "who", "item": "what"})
    with pytest.raises(ValueError, match="has no column 'user' for user; known: who, what, when"):
        read_table(tmp_path / "t.csv", {"user": "user", "item": "what"})
    with pytest.raises(ValueError, match="columns has no 'item'"):
        read_table(tmp_path / "t.csv", {"user": "who"})
    with pytest.raises(ValueError, match=r"column 'when' of .* is no time"):
        read_table(tmp_path / "t.csv", {"user": "who", "item": "what", "time": "when"})
    with pytest.raises(ValueError, match=r"t.csv is a table with the columns who, what, when; say which"):
        read_table(tmp_path / "t.csv", None)
    (tmp_path / "t.csv").write_text("who,what\na,1\n,2\n")
    with pytest.raises(ValueError, match=r"column 'who' of .* has 1 empty cells; fill them"):
        read_table(tmp_path / "t.csv", {"user": "who", "item": "what"})
    (tmp_path / "t.parquet").write_text("nonsense")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        read_table(tmp_path / "t.parquet", {"user": "who", "item": "what"})


def test_ids_of_a_csv_are_numbers_only_where_no_text_is_lost(tmp_path):
    """Product ids like 0000013714 were read as numbers, and two of them could become one."""
    (tmp_path / "t.csv").write_text("u,i\n10,0012\n9,12\n10,B0\n")
    read = read_interactions(tmp_path / "t.csv", {"user": "u", "item": "i"})
    assert read.user_ids.tolist() == [9, 10]
    assert read.item_ids[1:].tolist() == ["0012", "12", "B0"]


def test_dates_order_a_table_and_categories_are_ids(tmp_path):
    when = pa.array([20000, 19000, 19500]).cast(pa.int32()).cast(pa.date32())
    table = pa.table({"u": pa.array(["b", "b", "a"]).dictionary_encode(), "i": [1, 2, 3], "t": when})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    read = read_interactions(tmp_path / "t.parquet", {"user": "u", "item": "i", "time": "t"})
    assert read.user_ids.tolist() == ["a", "b"]
    assert read.interactions.items.tolist() == [3, 2, 1]


def test_the_suffix_tells_a_table_from_sequence_text(tmp_path):
    for name, table in (("t.csv", True), ("t.CSV.gz", True), ("t.parquet", True), ("t.txt", False)):
        assert is_table(tmp_path / name) == table
    (tmp_path / "t.txt").write_text("1 3 2\n")
    read = read_interactions(tmp_path / "t.txt")
    assert (read.user_ids.tolist(), read.item_ids.tolist()) == ([1], [0, 1, 2, 3])
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write("u,i\na,7\n")
    assert read_interactions(tmp_path / "t.csv.gz", {"user": "u", "item": "i"}).item_ids[1:].tolist() == [7]


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=20)


def interactions_of(lengths):
    users = np.repeat(np.arange(len(lengths)), lengths)
    return Interactions.from_arrays(users, np.arange(len(users)) + 1, n_users=len(lengths))


@given(lengths)
def test_leave_one_out_takes_the_last_two_and_shows_the_test_the_validation_item(lengths):
    data = interactions_of(lengths)
    train, valid, test = leave_one_out(data)
    users = [user for user, n in enumerate(lengths) if n >= 3]
    assert valid.users.tolist() == test.users.tolist() == users
    offsets, items = data.sequences()
    for row, user in enumerate(users):
        sequence = items[offsets[user] : offsets[user + 1]].tolist()
        assert valid.histories[row][valid.histories[row] > 0].tolist() == sequence[:-2]
        assert test.histories[row][test.histories[row] > 0].tolist() == sequence[:-1]
        assert (valid.targets[row], test.targets[row]) == (sequence[-2], sequence[-1])
    assert train.lengths.tolist() == [n - 2 if n >= 3 else n for n in lengths]
    assert (train.n_users, train.n_items) == (data.n_users, data.n_items)


@given(lengths, st.integers(0, 12))
def test_a_hold_out_loses_nothing(lengths, n_users):
    data = interactions_of(lengths)
    rest, validation = hold_out(data, n_users, seed=3)
    assert len(validation.users) == min(n_users, sum(n >= 3 for n in lengths) // 2)
    assert sorted([*rest.items.tolist(), *validation.targets.tolist()]) == data.items.tolist()
    assert hold_out(data, n_users, seed=3)[1].users.tolist() == validation.users.tolist()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), max_size=60), st.integers(1, 4))
def test_k_core_leaves_only_users_and_items_with_k(rows, k):
    data = Interactions.from_arrays([u for u, _ in rows], [i for _, i in rows])
    core, user_ids, item_ids = k_core(data, k)
    if len(core):
        assert core.lengths.min() >= k
        assert np.bincount(core.items)[1:].min() >= k
    kept = set(zip(user_ids[core.users].tolist(), item_ids[core.items].tolist(), strict=True))
    assert kept <= set(rows)
    users = {u for u, _ in rows}
    if all(sum(r[0] == u for r in rows) >= k for u in users) and all(
        sum(r[1] == i for r in rows) >= k for i in {i for _, i in rows}
    ):
        assert len(core) == len(rows)


def test_beauty_has_the_counts_of_its_papers(beauty):
    data = read_sequences(beauty)
    assert (data.n_users, data.n_items, len(data)) == (22363, 12101, 198502)
    split = leave_one_out(data)
    assert len(split.train) - data.n_users == 131413
    trained = np.bincount(split.train.items, minlength=data.n_items + 1)
    assert (trained[split.test.targets] == 0).sum() == 138
