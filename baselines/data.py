"""Interaction files and splits: sequence text, CSV and Parquet tables, k-core, leave-one-out, hold-out."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from baselines.base import MAX_LENGTH, Ids, Interactions

LARGEST_ID = 50_000_000
"""Above this an id is a key of another system rather than a row of a table."""


class Validation(NamedTuple):
    """One held-out item a user: what a model must find, knowing the history.

    users (n,), histories (n, L) left-aligned, targets (n,). exclude_history: items of the history are masked
    (then a target that is in its own history cannot be found: a miss).
    """

    users: Ids
    histories: Ids
    targets: Ids
    exclude_history: bool = True


class Split(NamedTuple):
    """Leave-one-out: `train` lacks the last two items of each user of `valid` and `test`."""

    train: Interactions
    valid: Validation
    test: Validation


class Counts(NamedTuple):
    """What Table 1 of the paper tells of a data set, and `n_repeats`: actions on an item that the user had
    before. A ranking that masks the history cannot find such a target."""

    n_users: int
    n_items: int
    n_actions: int
    mean_length: float
    sparsity_percent: float
    n_repeats: int


class Renumbered(NamedTuple):
    """Interactions with dense ids, and whose they are: user_ids[u] and item_ids[i] (row 0 is padding) are the
    ids in the source."""

    interactions: Interactions
    user_ids: np.ndarray
    item_ids: np.ndarray


def read_sequences(path: str | Path) -> Interactions:
    """A text file, one user a line: `user item item ...`, oldest first, ids from 1.

    User u of the file is user u - 1 here; items keep their ids. Raises ValueError that names the line.
    """
    users: list[int] = []
    rows: list[list[int]] = []
    known: dict[int, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        words = line.split()
        if not words:
            continue
        user, *row = _ids(words, number, path)
        if user in known:
            raise ValueError(f"line {number} of {path}: user {user} stands already in line {known[user]}")
        known[user] = number
        users.append(user)
        rows.append(row)
    if not users:
        raise ValueError(f"{path} is empty; expected lines of `user item item ...`")
    lengths = [len(row) for row in rows]
    user_of = np.repeat(np.array(users, np.int64) - 1, lengths)
    items = np.array([item for row in rows for item in row], np.int64)
    return Interactions.from_arrays(user_of, items, n_users=max(users))


def is_table(path: str | Path) -> bool:
    """Whether the name is that of a table, .csv, .csv.gz or .parquet; every other file is sequence text."""
    return str(path).lower().endswith((".csv", ".csv.gz", ".parquet"))


def read_interactions(path: str | Path, columns: Mapping[str, str] | None = None) -> Renumbered:
    """Sequence text, or a table with `columns` as `read_table` wants them: the suffix decides."""
    if is_table(path):
        return read_table(path, columns)
    if columns:
        raise ValueError(f"{path} is read as sequence text, which has no columns; leave --columns out")
    interactions = read_sequences(path)
    user_ids, item_ids = np.arange(1, interactions.n_users + 1), np.arange(interactions.n_items + 1)
    return Renumbered(interactions, user_ids, item_ids)


def read_table(path: str | Path, columns: Mapping[str, str] | None) -> Renumbered:
    """A CSV or Parquet file; `columns` says which column is "user", "item" and, optionally, "time".

    Ids of any type are numbered in sorted order; without a time the order of rows is the order in time.
    """
    read = read_columns(path, columns)
    times = None
    if columns and "time" in columns:
        times, _ = times_of(read["time"], columns["time"], path)
    return renumber(read["user"].to_numpy(), read["item"].to_numpy(), times)


def read_columns(path: str | Path, columns: Mapping[str, str] | None) -> dict[str, pa.ChunkedArray]:
    """The columns of a table by their roles: user, item and, where `columns` has it, time.

    Ids of a CSV file stay text unless all of them are plain whole numbers: 0000013714 is not 13714.
    Raises ValueError where a role or a column is missing or a cell is empty.
    """
    known = _column_names(path)
    if not columns:
        raise ValueError(
            f"{path} is a table with the columns {', '.join(known)}; "
            "say which are which: --columns user=...,item=...,time=..."
        )
    for role in ("user", "item"):
        if role not in columns:
            raise ValueError(
                f"columns has no {role!r}: say which column of {path} it is; known: {', '.join(known)}"
            )
    for role, name in columns.items():
        if role not in ("user", "item", "time"):
            raise ValueError(f"columns maps {role!r}; known roles: user, item, time")
        if name not in known:
            raise ValueError(f"{path} has no column {name!r} for {role}; known: {', '.join(known)}")
    if len(set(columns.values())) < len(columns):
        raise ValueError(f"columns gives two roles to a column ({_pairs(columns)}); each has one of its own")
    table = _read_arrow(path, columns)
    for name in columns.values():
        if pa.types.is_nested(table[name].type):
            raise ValueError(f"column {name!r} of {path} holds {table[name].type}, not one value a row")
        if table[name].null_count:
            raise ValueError(f"column {name!r} of {path} has {table[name].null_count} empty cells; fill them")
    return {role: _decoded(table[name]) for role, name in columns.items()}


def times_of(column: pa.ChunkedArray, name: str, path: str | Path) -> tuple[Ids, int]:
    """(times, ticks of a second): dates and timestamps in microseconds; numbers, floored, as seconds."""
    ticks = 1
    try:
        if pa.types.is_temporal(column.type):
            column, ticks = column.cast(pa.timestamp("us")), 1_000_000
        elif pa.types.is_floating(column.type):
            column = pc.floor(column)
        times: Ids = column.cast(pa.int64()).to_numpy()
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} of {path} is no time: {_one_line(error)}") from error
    return times, ticks


def renumber(users: np.ndarray, items: np.ndarray, times: Ids | None = None) -> Renumbered:
    """Dense ids in the sorted order of the given ones: users from 0, items from 1."""
    user_ids, user = np.unique(users, return_inverse=True)
    item_ids, item = np.unique(items, return_inverse=True)
    padded = np.concatenate((np.zeros(1, item_ids.dtype), item_ids))
    interactions = Interactions.from_arrays(user, item + 1, times, len(user_ids), len(item_ids))
    return Renumbered(interactions, user_ids, padded)


def counts_of(interactions: Interactions) -> Counts:
    """Users and items that occur, and how they meet.

    >>> counts_of(Interactions.from_arrays([0, 0, 0, 1], [1, 2, 1, 2]))
    Counts(n_users=2, n_items=2, n_actions=4, mean_length=2.0, sparsity_percent=0.0, n_repeats=1)
    """
    users, items, n = interactions.users, interactions.items, len(interactions)
    n_users, n_items = len(np.unique(users)), len(np.unique(items))
    n_pairs = len(np.unique(users * (interactions.n_items + 1) + items))
    cells = max(n_users * n_items, 1)
    return Counts(n_users, n_items, n, n / max(n_users, 1), 100 * (1 - n / cells), n - n_pairs)


def k_core(interactions: Interactions, k: int) -> Renumbered:
    """The largest part in which every user and every item has k interactions or more, with new dense ids.

    Repeats of a pair count each time, as in the preprocessing of the published sequence files.
    """
    users, items, times = interactions.users, interactions.items, interactions.times
    while True:
        if not len(users):
            break
        keep = (np.bincount(users)[users] >= k) & (np.bincount(items)[items] >= k)
        if keep.all():
            break
        users, items, times = users[keep], items[keep], times[keep]
    return renumber(users, items, times)


def leave_one_out(interactions: Interactions, *, exclude_history: bool = True) -> Split:
    """A user's last item is the test target, the one before it the validation target; the rest trains.

    The validation item belongs to the test history. Users with fewer than three items only train.
    """
    offsets, items = interactions.sequences()
    users = np.flatnonzero(interactions.lengths >= 3)
    train = _drop_last(interactions, users, 2)
    one_less = _drop_last(interactions, users, 1)
    last = offsets[users + 1] - 1
    valid = Validation(users, train.histories(users, None), items[last - 1], exclude_history)
    test = Validation(users, one_less.histories(users, None), items[last], exclude_history)
    return Split(train, valid, test)


def hold_out(interactions: Interactions, n_users: int, seed: int) -> tuple[Interactions, Validation]:
    """Take the last item of a fixed sample of users (with three items or more, at most half of them)."""
    eligible = np.flatnonzero(interactions.lengths >= 3)
    n = min(n_users, len(eligible) // 2)
    chosen = np.sort(np.random.default_rng((seed, 1)).choice(eligible, n, replace=False))
    targets = interactions.items[np.cumsum(interactions.lengths)[chosen] - 1]
    rest = _drop_last(interactions, chosen, 1)
    return rest, Validation(chosen, rest.histories(chosen, MAX_LENGTH), targets)


def _drop_last(interactions: Interactions, users: Ids, n: int) -> Interactions:
    drop = np.zeros(interactions.n_users, np.int64)
    drop[users] = n
    end = np.cumsum(interactions.lengths) - drop
    keep = np.arange(len(interactions)) < end[interactions.users]
    return Interactions(
        interactions.users[keep],
        interactions.items[keep],
        interactions.times[keep],
        interactions.n_users,
        interactions.n_items,
    )


def _lines(path: str | Path) -> list[str]:
    if not Path(path).is_file():
        raise ValueError(f"no file {path}; expected a text file with lines of `user item item ...`")
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file; expected lines of `user item item ...`") from error


def _ids(words: list[str], number: int, path: str | Path) -> list[int]:
    try:
        ids = [int(word) for word in words]
    except ValueError:
        ids = []
    if len(ids) == len(words) > 1 and min(ids) >= 1 and max(ids) <= LARGEST_ID:
        return ids
    for place, word in enumerate(words):
        what = "user" if place == 0 else "item"
        if not word.isdecimal() or not 1 <= int(word) <= LARGEST_ID:
            raise ValueError(
                f"line {number} of {path}: {word!r} is not an {what} id".replace("an user", "a user")
                + f"; ids are whole numbers from 1 to {LARGEST_ID}"
            )
    raise ValueError(f"line {number} of {path}: user {words[0]} has no items")


def _column_names(path: str | Path) -> list[str]:
    if not Path(path).is_file():
        raise ValueError(f"no file {path}; expected a .csv or .parquet file")
    try:
        if _is_parquet(path):
            return list(pa.parquet.read_schema(path).names)
        with pa.csv.open_csv(path) as reader:
            return list(reader.schema.names)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {_one_line(error)}") from error


def _read_arrow(path: str | Path, columns: Mapping[str, str]) -> pa.Table:
    """Only the columns that are wanted."""
    wanted = list(dict.fromkeys(columns.values()))
    try:
        if _is_parquet(path):
            return pa.parquet.read_table(path, columns=wanted)
        ids = {columns[role]: pa.string() for role in ("user", "item")}
        convert = pa.csv.ConvertOptions(
            include_columns=wanted, column_types=ids, null_values=[""], strings_can_be_null=True
        )
        table = pa.csv.read_csv(path, convert_options=convert)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {_one_line(error)}") from error
    for name in ids:
        table = table.set_column(table.column_names.index(name), name, _plain_numbers(table[name]))
    return table


def _is_parquet(path: str | Path) -> bool:
    return str(path).lower().endswith(".parquet")


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _plain_numbers(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        numbers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return texts
    return numbers if numbers.cast(pa.string()).equals(texts) else texts


def _pairs(columns: Mapping[str, str]) -> str:
    return ",".join(f"{role}={name}" for role, name in columns.items())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
