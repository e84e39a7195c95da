"""Raw review files -> the paper's data sets: Amazon and Yelp reviews, or any table, as k-core sequence text.

In the way of the published files (S3-Rec, CIKM 2020; the paper uses its Beauty, Sports, Toys and Yelp): every
review is a positive action, whatever its stars; users and items with fewer than five actions leave until no
such are left; a user's items stand in time order, equal times in the order of the file. Repeats stay and
count. S3-Rec drops none either: Amazon's 2014 files hold one review of a product by a user, so its sets have
no repeats, and the published Yelp has 7,102 users with repeat visits.
"""

import ast
import codecs
import csv
import gzip
import io
import json
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from baselines.base import Interactions, Progress, silent
from baselines.data import Counts, Renumbered, counts_of, is_table, k_core, read_columns, times_of

EPOCH = datetime(1970, 1, 1)
LAST_SECOND = 253_402_300_799
"""The end of the year 9999. A later time is in milliseconds."""
LINES_BETWEEN_REPORTS = 1 << 16
REPORT_SHARE = 0.05
"""At least so many lines and so much of the file lie between two words of progress."""
BLOCK_BYTES = 1 << 20


class Period(NamedTuple):
    """Reviews to keep: seconds since 1970, both ends included."""

    first: int = 0
    last: int = LAST_SECOND


ALWAYS = Period()


class Reviews(NamedTuple):
    """Reviews in the order of their file, with ids numbered as they came: row r is by user_ids[users[r]]."""

    users: NDArray[np.integer[Any]]
    items: NDArray[np.integer[Any]]
    times: NDArray[np.int64]
    user_ids: list[str]
    item_ids: list[str]


class _WrongFieldError(ValueError):
    """A line of the right form with a value that cannot be."""


class Format(NamedTuple):
    """How a line gives (user, item, seconds since 1970), and what to tell where it does not."""

    parse: Callable[[str], tuple[str, str, int]]
    expected: str


def period(first: str | None = None, last: str | None = None) -> Period:
    """From and to, each YYYY-MM-DD or "YYYY-MM-DD hh:mm:ss"; a last day without a time counts whole.

    S3-Rec kept Yelp's 2019-01-01 00:00:00 to 2019-12-31 00:00:00 of a file that ends on 13 December, which is
    the same as the whole year.

    >>> period("1970-01-02", "1970-01-02")
    Period(first=86400, last=172799)
    """
    start = 0 if first is None else _moment(first)
    end = LAST_SECOND if last is None else _moment(last) + (0 if len(last) > 10 else 86_399)
    if end < start:
        raise ValueError(f"the period from {first} to {last} is empty; the first date comes first")
    return Period(start, end)


def prepare(
    source: Path,
    out: Path,
    *,
    file_format: str | None = None,
    core: int = 5,
    within: Period = ALWAYS,
    columns: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Counts:
    """Read `source`, keep its k-core, write the sequences to `out` and their ids to `ids_path(out)`.

    The other arguments are those of `read_reviews`. Both files appear whole or not at all.
    """
    _check_out(source, out)
    reviews = read_reviews(source, file_format, within=within, columns=columns, progress=progress)
    sequences = sequences_of(reviews, core)
    if not len(sequences.interactions):
        raise ValueError(
            f"nothing is left of {source} with {core} actions for each user and item ({len(reviews.users):,} "
            f"of {len(reviews.user_ids):,} users on {len(reviews.item_ids):,} items); give a lower --core"
        )
    write_sequences(sequences, out)
    return counts_of(sequences.interactions)


def read_reviews(
    path: Path,
    file_format: str | None = None,
    *,
    within: Period = ALWAYS,
    columns: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Reviews:
    """The reviews of a file, plain or gzip, in one of FORMATS or, with `columns`, a table.

    file_format: a name in FORMATS, "table", or None to find it out. `progress` hears the share of the bytes
    that are read. Raises ValueError that names the line, and what was expected there.
    """
    file_format = file_format or ("table" if columns else detect_format(path))
    if file_format == "table":
        return _read_table(path, columns, within)
    if columns:
        raise ValueError(
            f"columns are for tables, not for the format {file_format}; leave one of the two out"
        )
    if file_format not in FORMATS:
        raise LookupError(f"unknown format {file_format!r}; known formats: {', '.join(FORMATS)}, table")
    return _read_lines(path, FORMATS[file_format], within, progress)


def detect_format(path: Path) -> str:
    """The name in FORMATS that reads the first line of the file, or "table" by the suffix."""
    _check_source(path)
    line = next((line for line in _lines(path, silent) if not line.isspace()), b"")
    for name, format_ in FORMATS.items():
        try:
            user, item, _ = format_.parse(str(line, "utf-8"))
        except _MALFORMED:
            continue
        swapped = name == "amazon-csv" and _PRODUCT.fullmatch(user) and _REVIEWER.fullmatch(item)
        return "amazon-csv-2018" if swapped else name
    if is_table(path):
        return "table"
    known = "; ".join(f"{name}: {format_.expected}" for name, format_ in FORMATS.items())
    raise ValueError(f"line 1 of {path} is in no known format: {_shown(line)}; known formats: {known}; table")


def sequences_of(reviews: Reviews, core: int = 5) -> Renumbered:
    """The k-core of the reviews, numbered as the published files are.

    Users from 0 in the order of their first review in the file (in the published Amazon files 75 to 81 % of
    neighbours share an item, 1 to 2 % of random pairs: their source is sorted by product); items from 1 by
    first appearance when users are read in turn, each in time order.
    """
    log = Interactions.from_arrays(
        reviews.users,
        reviews.items.astype(np.int64) + 1,
        reviews.times,
        len(reviews.user_ids),
        len(reviews.item_ids),
    )
    kept, users, items = k_core(log, core)
    _, first, rank = np.unique(kept.items, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(1, len(first) + 1)
    numbered = Interactions(kept.users, number[rank], kept.times, kept.n_users, kept.n_items)
    user_ids = np.array([reviews.user_ids[user] for user in users], object)
    item_ids = np.array(["", *(reviews.item_ids[item - 1] for item in items[1:][order])], object)
    return Renumbered(numbered, user_ids, item_ids)


def ids_path(out: Path) -> Path:
    """Beauty.txt -> Beauty.ids.csv."""
    return out.with_suffix(".ids.csv")


def write_sequences(sequences: Renumbered, out: Path) -> None:
    """`out`: lines of `user item item ...`, both from 1. `ids_path(out)`: kind (user or item), number, id in
    the source. A crash leaves old files, never half of a new one."""
    texts, ids = (path.with_name(path.name + ".partial") for path in (out, ids_path(out)))
    try:
        with texts.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(_sequence_lines(sequences.interactions))
        with ids.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("kind", "number", "id"))
            rows.writerows(("user", n, id_) for n, id_ in enumerate(sequences.user_ids, start=1))
            rows.writerows(("item", n, id_) for n, id_ in enumerate(sequences.item_ids[1:], start=1))
        ids.replace(ids_path(out))
        texts.replace(out)
    finally:
        texts.unlink(missing_ok=True)
        ids.unlink(missing_ok=True)


def _read_lines(path: Path, format_: Format, within: Period, progress: Progress) -> Reviews:
    """One pass that holds the distinct ids and three numbers a review."""
    parse, (first, last) = format_.parse, within
    user_numbers: dict[str, int] = {}
    item_numbers: dict[str, int] = {}
    users, items, times = array("i"), array("i"), array("q")
    for number, line in enumerate(_lines(path, progress), start=1):
        try:
            user, item, time = parse(str(line, "utf-8"))
            if not (type(user) is type(item) is str and user and item and type(time) is int):
                raise _WrongFieldError(f"user {user!r}, item {item!r}, time {time!r}")
        except _MALFORMED as error:
            if line.isspace():
                continue
            found = _what_is_wrong(error, line)
            raise ValueError(f"line {number} of {path}: {found}; expected {format_.expected}") from error
        if first <= time <= last:
            users.append(user_numbers.setdefault(user, len(user_numbers)))
            items.append(item_numbers.setdefault(item, len(item_numbers)))
            times.append(time)
        elif not 0 <= time <= LAST_SECOND:
            raise ValueError(f"line {number} of {path}: time {time}; expected {format_.expected}")
    if not users:
        raise ValueError(f"{path} has no review{_in_period(within)}")
    columns = np.frombuffer(users, np.intc), np.frombuffer(items, np.intc), np.frombuffer(times, np.int64)
    return Reviews(*columns, list(user_numbers), list(item_numbers))


def _read_table(path: Path, columns: Mapping[str, str] | None, within: Period) -> Reviews:
    """Without a time the order of rows is the order in time. Numbers as times are seconds since 1970."""
    read = read_columns(path, columns)
    times, ticks = np.arange(len(read["user"])), 1
    if columns and "time" in columns:
        times, ticks = times_of(read["time"], columns["time"], path)
    elif within != ALWAYS:
        raise ValueError(f"a period needs the times of {path}: add time=... to --columns")
    if within != ALWAYS:
        keep = (times >= within.first * ticks) & (times < (within.last + 1) * ticks)
        read, times = {role: column.filter(pa.array(keep)) for role, column in read.items()}, times[keep]
    if not len(times):
        raise ValueError(f"{path} has no row{_in_period(within)}")
    user, item = (read[role].combine_chunks().dictionary_encode() for role in ("user", "item"))
    names = [[str(name) for name in codes.dictionary.to_pylist()] for codes in (user, item)]
    return Reviews(user.indices.to_numpy(), item.indices.to_numpy(), times, *names)


def _lines(path: Path, progress: Progress) -> Iterator[bytes]:
    """Lines with their ends, unpacked where the file begins as gzip does, without a byte order mark."""
    _check_source(path)
    size = max(path.stat().st_size, 1)
    with path.open("rb", buffering=0) as raw:
        stream: Any = io.BufferedReader(raw, BLOCK_BYTES)
        if stream.peek(2)[:2] == b"\x1f\x8b":
            stream = io.BufferedReader(gzip.GzipFile(fileobj=stream), BLOCK_BYTES)
        number, due = 0, 0.0
        try:
            if stream.peek(3)[:3] == codecs.BOM_UTF8:
                stream.read(3)
            for number, line in enumerate(stream, start=1):
                if not number % LINES_BETWEEN_REPORTS and raw.tell() / size >= due:
                    progress(f"read {path.name}: {number:,} lines", raw.tell() / size)
                    due = raw.tell() / size + REPORT_SHARE
                yield line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            what = "ends in the middle of its gzip data" if isinstance(error, EOFError) else "is damaged"
            raise ValueError(f"{path} {what}, after line {number:,}; download or copy it again") from error
    progress(f"read {path.name}: {number:,} lines", 1.0)


def _check_source(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"no file {path}; expected a review file or a table")


def _check_out(source: Path, out: Path) -> None:
    if is_table(out):
        raise ValueError(f"{out} would be read as a table; give the sequence text a name like {out.stem}.txt")
    if not out.parent.is_dir():
        raise ValueError(f"no folder {out.parent} to write {out.name} to; create it")
    for written in (out, ids_path(out)):
        if written.is_dir():
            raise ValueError(f"{written} is a folder; give the name of a file to write")
        if written.exists() and source.exists() and written.samefile(source):
            raise ValueError(f"{written} is the source itself; write to another file")


def _sequence_lines(interactions: Interactions) -> Iterator[str]:
    offsets, items = interactions.sequences()
    texts = [str(item) for item in items.tolist()]
    for user, (start, end) in enumerate(
        zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True), start=1
    ):
        yield f"{user} {' '.join(texts[start:end])}\n"


def _amazon_json(line: str) -> tuple[str, str, int]:
    review = _json_object(line)
    return review["reviewerID"], review["asin"], review["unixReviewTime"]


def _yelp_json(line: str) -> tuple[str, str, int]:
    review = _json_object(line)
    return review["user_id"], review["business_id"], _moment(review["date"])


def _json_object(line: str) -> Any:
    """JSON, or the text of a Python dictionary, which older Amazon files have in every line.

    literal_eval reads constants and containers alone; nothing of the line is run. raw_decode is json.loads
    without its search for space at both ends, which took a fifth of the time.
    """
    text = line.strip()
    if text.startswith("{'"):
        return ast.literal_eval(text)
    review, end = _DECODE(text)
    if end < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return review


def _user_first(line: str) -> tuple[str, str, int]:
    user, item, rating, time = line.split(",")
    float(rating)
    return user, item, int(time)


def _item_first(line: str) -> tuple[str, str, int]:
    item, user, time = _user_first(line)
    return user, item, time


def _moment(text: str) -> int:
    """Seconds since 1970 of YYYY-MM-DD, with or without hh:mm:ss, of the clock that wrote it."""
    try:
        since = datetime.fromisoformat(text) - EPOCH
    except (ValueError, TypeError) as error:
        raise _WrongFieldError(
            f"{text!r} is no date of the form YYYY-MM-DD or YYYY-MM-DD hh:mm:ss"
        ) from error
    return since.days * 86_400 + since.seconds


def _what_is_wrong(error: BaseException, line: bytes) -> str:
    if isinstance(error, _WrongFieldError):
        return str(error)
    if isinstance(error, KeyError):
        return f"no field {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON ({error.msg} at character {error.pos + 1}): {_shown(line)}"
    return _shown(line)


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _in_period(within: Period) -> str:
    if within == ALWAYS:
        return ""
    first, last = (str(EPOCH + timedelta(seconds=second)) for second in within)
    return f" from {first} to {last}"


_MALFORMED = (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError)
_DECODE = json.JSONDecoder().raw_decode
_PRODUCT = re.compile(r"[0-9B][0-9A-Z]{9}")
_REVIEWER = re.compile(r"A[0-9A-Z]{8,}")

FORMATS = {
    "amazon-json": Format(
        _amazon_json, "a JSON object with reviewerID, asin and unixReviewTime (whole seconds since 1970)"
    ),
    "amazon-csv": Format(_user_first, "user,item,rating,timestamp (whole seconds since 1970)"),
    "amazon-csv-2018": Format(_item_first, "item,user,rating,timestamp (whole seconds since 1970)"),
    "yelp-json": Format(_yelp_json, "a JSON object with user_id, business_id and date (YYYY-MM-DD hh:mm:ss)"),
}
"""How to read a line. Ratings of Amazon's 2018 edition begin with the item, those of 2014 with the user."""
