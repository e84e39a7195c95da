"""Raw reviews made from sequence files give those back, and any log what plain loops make of it."""

import csv
import functools
import gzip
import hashlib
import itertools
import json
import tracemalloc
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.base import Interactions
from baselines.data import counts_of, read_sequences
from baselines.reviews import (
    Reviews,
    detect_format,
    ids_path,
    period,
    prepare,
    read_reviews,
    sequences_of,
)

DAY_S = 86_400


def iso(second):
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")


def amazon(user, item, second):
    return {"reviewerID": user, "asin": item, "overall": 5.0, "reviewText": "d\u00e9j\u00e0 \"vu\", 'twice'",
            "unixReviewTime": second}  # fmt: skip


WRITERS = {
    "amazon-json": lambda *row: json.dumps(amazon(*row)),
    "amazon-dict": lambda *row: repr(amazon(*row)),
    "amazon-csv": lambda user, item, second: f"{user},{item},5.0,{second}",
    "amazon-csv-2018": lambda user, item, second: f"{item},{user},5.0,{second}",
    "yelp-json": lambda user, item, second: json.dumps(
        {"review_id": "x", "user_id": user, "business_id": item, "stars": 1.0, "date": iso(second)}
    ),
}


@functools.cache
def invented(kind, number):
    """Ids like Amazon's, in no order: A and 13 signs for a user, B and 9 for an item."""
    code = hashlib.sha256(f"{kind} {number}".encode()).hexdigest().upper()
    return "A" + code[:13] if kind == "user" else "B" + code[:9]


def raw_rows(data, *, seed, noise=0):
    """Reviews in a random order in which users first appear by number and equal times stand as in `data`.

    Times are whole days with many ties. Noise: users with six reviews, of which two are of items that nobody
    else has, so that they leave after those; and reviews of unknown items by known users.
    """
    generator = np.random.default_rng(seed)
    n = len(data)
    day = np.cumsum(generator.integers(0, 2, n)) % 300
    day = np.sort(data.users * 1000 + day) % 1000 + 17_700  # in order within each user
    first = np.sort(generator.random(data.n_users))
    key = first[data.users] + (1 - first[data.users]) * generator.random(n)
    offsets, _ = data.sequences()
    key[generator.integers(offsets[:-1], offsets[1:])] = first
    ties = data.users * 100_000 + day
    key = key[np.lexsort((key, ties))]
    rows = [
        (k, invented("user", user), invented("item", item), int(d) * DAY_S)
        for k, user, item, d in zip(key, data.users.tolist(), data.items.tolist(), day, strict=True)
    ]
    for number in range(noise):
        known = generator.integers(1, data.n_items + 1, 4).tolist()
        for item in (*known, f"rare {number}", f"rarer {number}"):
            key_, second = generator.random(), int(generator.integers(17_600, 17_900)) * DAY_S
            rows.append((key_, invented("user", f"noise {number}"), invented("item", item), second))
        user = int(generator.integers(data.n_users))
        rows.append((generator.uniform(first[user], 1), invented("user", user), f"B{number:09}", DAY_S))
    return [row[1:] for row in sorted(rows)]


def write_raw(path, writer, rows):
    lines = [WRITERS[writer](*row) for row in rows]
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text, 1) if path.suffix == ".gz" else text)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A 5-core of 60 users on a ring of 30 items, some of which they meet again, numbered by appearance."""
    generator = np.random.default_rng(0)
    path, number, lines = tmp_path_factory.mktemp("known") / "ring.txt", {}, []
    for user in range(1, 61):
        start, steps = generator.integers(0, 30), generator.integers(5, 41)
        items = [number.setdefault(int(i), len(number) + 1) for i in (start + np.arange(steps)) % 30]
        lines.append(" ".join(map(str, (user, *items))))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("writer", WRITERS)
def test_reviews_made_from_a_sequence_file_give_it_back(known, tmp_path, writer, suffix):
    source, out = tmp_path / f"raw{suffix}", tmp_path / "ring.txt"
    write_raw(source, writer, raw_rows(read_sequences(known), seed=1, noise=20))
    counts = prepare(source, out)
    assert out.read_bytes() == known.read_bytes()
    assert counts == counts_of(read_sequences(known))
    assert counts.n_repeats > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [source.name, "ring.ids.csv", "ring.txt"]
    )


def test_the_ids_file_tells_who_is_who(known, tmp_path):
    data = read_sequences(known)
    write_raw(tmp_path / "raw", "amazon-json", raw_rows(data, seed=2, noise=5))
    prepare(tmp_path / "raw", tmp_path / "ring.txt")
    with ids_path(tmp_path / "ring.txt").open(newline="") as file:
        rows = list(csv.reader(file))
    expected = [["user", str(user + 1), invented("user", user)] for user in range(data.n_users)]
    expected += [["item", str(item), invented("item", item)] for item in range(1, data.n_items + 1)]
    assert rows == [["kind", "number", "id"], *expected]


@pytest.mark.parametrize("name", ["raw.csv", "raw.parquet"])
def test_a_table_gives_the_sequences_that_its_reviews_give(known, tmp_path, name):
    rows = raw_rows(read_sequences(known), seed=3, noise=20)
    users, items, seconds = zip(*rows, strict=True)
    table = pa.table(
        {"stars": [1] * len(rows), "who": users, "what": items, "when": [iso(s) for s in seconds]}
    )
    table = table.set_column(3, "when", table["when"].cast(pa.timestamp("s")))
    write = pa.parquet.write_table if name.endswith("parquet") else pa.csv.write_csv
    write(table, tmp_path / name)
    columns = {"user": "who", "item": "what", "time": "when"}
    prepare(tmp_path / name, tmp_path / "ring.txt", columns=columns)
    assert (tmp_path / "ring.txt").read_bytes() == known.read_bytes()
    year = period("2018-06-20", "2018-12-31")
    write_raw(tmp_path / "raw", "yelp-json", rows)
    for source, which in ((tmp_path / name, columns), (tmp_path / "raw", None)):
        prepare(source, tmp_path / f"{source.name}.txt", within=year, columns=which, core=2)
    assert (tmp_path / f"{name}.txt").read_bytes() == (tmp_path / "raw.txt").read_bytes()


def test_beauty_as_amazon_reviews_comes_back(beauty, tmp_path):
    rows = raw_rows(read_sequences(beauty), seed=4, noise=1000)
    write_raw(tmp_path / "reviews.csv", "amazon-csv", rows)
    assert prepare(tmp_path / "reviews.csv", tmp_path / "Beauty.txt")[:3] == (22363, 12101, 198502)
    assert (tmp_path / "Beauty.txt").read_bytes() == beauty.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "writer"),
    [("Beauty", "amazon-json"), ("Sports_and_Outdoors", "amazon-dict"), ("Toys_and_Games", "amazon-csv-2018"),
     ("Yelp", "yelp-json")],
)  # fmt: skip
def test_the_published_files_come_back(beauty, tmp_path, name, writer):
    published = beauty.with_name(f"{name}.txt")
    write_raw(tmp_path / "raw.gz", writer, raw_rows(read_sequences(published), seed=5, noise=5000))
    prepare(tmp_path / "raw.gz", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_bytes() == published.read_bytes()


def plain_sequences(rows, k):
    """Dictionaries and loops: lines of the sequence text, and the ids of users and items."""
    by_user = {}
    for user, item, time in rows:
        by_user.setdefault(user, []).append((time, item))
    sequences = {
        user: [item for _, item in sorted(pairs, key=lambda pair: pair[0])] for user, pairs in by_user.items()
    }
    while True:
        uses = Counter(item for items in sequences.values() for item in items)
        left = {
            user: [item for item in items if uses[item] >= k]
            for user, items in sequences.items()
            if len(items) >= k
        }
        left = {user: items for user, items in left.items() if items}
        if left == sequences:
            break
        sequences = left
    number = {}
    lines = [[number.setdefault(item, len(number) + 1) for item in items] for items in sequences.values()]
    return lines, list(sequences), list(number)


logs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 5)), min_size=1, max_size=120)


@given(logs, st.integers(1, 5))
def test_sequences_are_what_plain_loops_make_of_the_log(rows, k):
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    user_ids, item_ids = list(dict.fromkeys(users.tolist())), list(dict.fromkeys(items.tolist()))
    reviews = Reviews(
        np.array([user_ids.index(user) for user in users]),
        np.array([item_ids.index(item) for item in items]),
        times,
        [str(user) for user in user_ids],
        [str(item) for item in item_ids],
    )
    data, found_users, found_items = sequences_of(reviews, k)
    offsets, numbers = data.sequences()
    lines, expected_users, expected_items = plain_sequences(rows, k)
    assert [numbers[a:b].tolist() for a, b in itertools.pairwise(offsets)] == lines
    assert found_users.tolist() == [str(user) for user in expected_users]
    assert found_items.tolist() == ["", *(str(item) for item in expected_items)]


def test_published_numbers_are_what_sequences_of_gives(beauty):
    """Items of the published files are numbered by first appearance; numbering them again changes nothing."""
    data = read_sequences(beauty.with_name("Yelp.txt"))
    item_ids, user_ids = ([str(n) for n in range(n_ids)] for n_ids in (data.n_items, data.n_users))
    again = sequences_of(Reviews(data.users, data.items - 1, data.times, user_ids, item_ids)).interactions
    np.testing.assert_array_equal(again.items, data.items)
    np.testing.assert_array_equal(again.users, data.users)
    counts = counts_of(again)  # Table 1
    assert counts[:3] == (30431, 20033, 316354)
    assert counts.mean_length == pytest.approx(10.396, abs=5e-4)
    assert counts.sparsity_percent == pytest.approx(99.948, abs=5e-4)


def test_counts_leave_out_numbers_that_do_not_occur():
    counts = counts_of(Interactions.from_arrays([0, 2, 2, 2], [3, 3, 9, 3]))
    assert counts == (2, 2, 4, 2.0, 0.0, 1)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_format_is_found_out(known, tmp_path, writer):
    write_raw(tmp_path / "raw", writer, raw_rows(read_sequences(known), seed=1)[:3])
    assert detect_format(tmp_path / "raw") == writer.replace("dict", "json")


@pytest.mark.parametrize(
    ("first", "last", "kept"),
    [
        (None, None, [1, 2, 3, 4]),
        ("2019-01-01", None, [2, 3, 4]),
        ("2019-01-01", "2019-12-31", [2, 3]),
        ("2019-01-01 00:00:01", "2019-12-31 00:00:00", []),
        (None, "2019-12-31 23:59:58", [1, 2]),
        ("2019-12-31 23:59:59", "2019-12-31 23:59:59", [3]),
    ],
)
def test_a_period_has_both_its_ends(tmp_path, first, last, kept):
    dates = ["2018-12-31 23:59:59", "2019-01-01 00:00:00", "2019-12-31 23:59:59", "2020-01-01 00:00:00"]
    lines = [
        json.dumps({"user_id": "u", "business_id": str(n), "date": date}) for n, date in enumerate(dates, 1)
    ]
    path = tmp_path / "yelp.json"
    path.write_text("\n".join(lines))
    table = pa.table({"u": ["u"] * 4, "i": range(1, 5), "t": dates})
    for type_ in (pa.timestamp("s"), pa.timestamp("ns"), pa.int64()):
        times = table["t"].cast(pa.timestamp("s")).cast(type_)
        pa.parquet.write_table(table.set_column(2, "t", times), tmp_path / f"{type_}.parquet")
    sources = [
        (path, None),
        *((p, {"user": "u", "item": "i", "time": "t"}) for p in tmp_path.glob("*.parquet")),
    ]
    assert len(sources) == 4
    for source, columns in sources:
        if kept:
            read = read_reviews(source, within=period(first, last), columns=columns)
            assert read.item_ids == [str(n) for n in kept]
        else:
            with pytest.raises(
                ValueError, match=r"has no (review|row) from 2019-01-01 00:00:01 to 2019-12-31 00:00:00"
            ):
                read_reviews(source, within=period(first, last), columns=columns)


def test_blank_lines_windows_ends_and_a_byte_order_mark_do_no_harm(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_bytes(b"\xef\xbb\xbfu1,i1,5.0,10\r\n\r\nu2,i1,3,9\r\n\n")
    read = read_reviews(path)
    (tmp_path / "raw.json").write_text(f"\n  {GOOD.strip()} \r\n\n")
    assert read_reviews(tmp_path / "raw.json").times.tolist() == [5]
    assert (read.user_ids, read.item_ids, read.times.tolist()) == (["u1", "u2"], ["i1"], [10, 9])


def test_numbers_with_zeros_in_front_stay_apart_in_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("u,i\n01,5\n1,6\n")
    read = read_reviews(tmp_path / "t.csv", columns={"user": "u", "item": "i"})
    assert (read.user_ids, read.item_ids) == (["01", "1"], ["5", "6"])


GOOD = '{"reviewerID": "u", "asin": "i", "unixReviewTime": 5}\n'
YELP = '{"user_id": "u", "business_id": "i", "date": "2019-01-01 00:00:00"}\n'


@pytest.mark.parametrize(
    ("file_format", "text", "message"),
    [
        ("amazon-json", GOOD + '{"reviewerID": "u", "asin": "i"}\n', "line 2 of .*raw: no field 'unixRev"),
        ("amazon-json", GOOD + GOOD[:30] + "\n", r"line 2 .*: no JSON \(.* at character \d+\): '{"),
        ("amazon-json", GOOD + GOOD.strip() + ",\n", r"line 2 .*: no JSON \(Extra data at character 54\)"),
        ("amazon-json", GOOD + "{'reviewerID': 'u'\n", "line 2 .*: .*expected a JSON object with reviewerID"),
        ("amazon-json", "{'reviewerID': open('x')}\n", "line 1 .*open"),
        ("amazon-json", GOOD.replace('"u"', "7"), "line 1 .*: user 7, item 'i', time 5; expected"),
        ("amazon-json", GOOD.replace('"i"', '""'), "line 1 .*: user 'u', item '', time 5; expected"),
        ("amazon-json", GOOD.replace("5", "true"), "line 1 .*: user 'u', item 'i', time True"),
        ("amazon-json", GOOD.replace("5", "1577836800000"), "line 1 .*: time 1577836800000; .*seconds since"),
        ("amazon-json", "[1]\n", r"line 1 of .*: '\[1\]'; expected a JSON object"),
        ("amazon-json", "[" * 100_000, r"line 1 of .*: '\[\[.*\.\.\.'; expected a JSON object"),
        ("amazon-csv", "u,i,5.0,10\nu,i,5.0\n", "line 2 of .*: 'u,i,5.0'; expected user,item,rating,time"),
        ("amazon-csv", "user,item,rating,timestamp\n", "line 1 of .*'user,item,rating,timestamp'; expected"),
        ("amazon-csv", "u,i,5.0,10\nu,i,5.0,1.5\n", "line 2 of .*: 'u,i,5.0,1.5'; expected"),
        ("yelp-json", YELP + YELP.replace("01-01", "02-30"), "line 2 of .*: '2019-02-30 .*' is no date"),
        ("yelp-json", YELP.replace("00:00", "00:00+02"), "line 1 of .* is no date of the form YYYY-MM-DD"),
        ("yelp-json", "", "raw has no review$"),
        (None, "hello\n", "line 1 of .*raw is in no known format: 'hello'; known formats: amazon-json: a"),
        (None, "", "line 1 of .*raw is in no known format"),
        ("parquet", GOOD, "unknown format 'parquet'; known formats: amazon-json, .*, table"),
    ],
)
def test_a_bad_line_is_named(tmp_path, file_format, text, message):
    (tmp_path / "raw").write_text(text)
    with pytest.raises((ValueError, LookupError), match=message) as caught:
        prepare(tmp_path / "raw", tmp_path / "out.txt", file_format=file_format, core=1)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "raw").write_bytes(b"u,i,5.0,10\n\xff\xfe,i,5.0,10\n")
    with pytest.raises(ValueError, match=r"line 2 of .*xff"):
        read_reviews(tmp_path / "raw")


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_a_damaged_gzip_file_is_one_sentence(tmp_path, damage):
    whole = bytearray(gzip.compress(GOOD.encode() * 50_000))
    path = tmp_path / "raw.gz"
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
        message = r"raw.gz ends in the middle of its gzip data, after line [\d,]+; download or copy it again"
    elif damage == "flipped":
        whole[-6] ^= 255  # of the check sum
        path.write_bytes(whole)
        message = r"raw.gz is damaged, after line [\d,]+; download or copy it again"
    else:
        path.write_text("nonsense\n")
        message = r"line 1 of .*raw.gz: no JSON"
    with pytest.raises(ValueError, match=message):
        read_reviews(path, "amazon-json")


def test_what_cannot_be_written_is_said_before_the_file_is_read(tmp_path):
    source = tmp_path / "raw.txt"
    source.write_text("u,i,5.0,10\n" * 5)
    (tmp_path / "folder.txt").mkdir()
    for out, message in (
        (tmp_path / "none" / "out.txt", r"no folder .*none to write out.txt to; create it"),
        (source, "raw.txt is the source itself"),
        (tmp_path / "out.csv", r"out.csv would be read as a table; give .* like out.txt"),
        (tmp_path / "folder.txt", "folder.txt is a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(source, out, progress=lambda *_: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"no file .*nowhere"):
        prepare(tmp_path / "nowhere", tmp_path / "out.txt")
    with pytest.raises(ValueError, match="columns are for tables, not for the format amazon-csv"):
        read_reviews(source, "amazon-csv", columns={"user": "u"})
    with pytest.raises(ValueError, match="is empty; the first date comes first"):
        period("2020-01-01", "2019-12-31")


def test_a_core_that_leaves_nothing_keeps_the_old_file(tmp_path):
    source, out = tmp_path / "raw", tmp_path / "out.txt"
    source.write_text("u,i,5.0,10\n" * 5)
    assert prepare(source, out) == (1, 1, 5, 5.0, 100 * (1 - 5), 4)
    with pytest.raises(
        ValueError, match=r"nothing is left of .*raw with 6 actions .*\(5 of 1 users on 1 items\)"
    ):
        prepare(source, out, core=6)
    assert out.read_text() == "1 1 1 1 1 1\n"


def test_a_table_without_columns_is_told_its_columns(tmp_path):
    (tmp_path / "t.csv").write_text("who,what,when\nu,i,5\n")
    with pytest.raises(
        ValueError, match=r"t.csv is a table with the columns who, what, when; .*--columns user="
    ):
        read_reviews(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"a period needs the times of .*t.csv: add time="):
        read_reviews(tmp_path / "t.csv", columns={"user": "who", "item": "what"}, within=period("2019-01-01"))


def test_progress_is_the_share_of_the_bytes(tmp_path):
    path = tmp_path / "raw.gz"
    generator = np.random.default_rng(0)
    lines = [f"u{user},i{item},1.0,10" for user, item in generator.integers(0, 10**9, (150_000, 2))]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), 1))
    heard = []
    read_reviews(path, "amazon-csv", progress=lambda stage, fraction: heard.append((stage, fraction)))
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions)
    assert 0.1 < fractions[0] < 0.7
    assert heard[-1] == ("read raw.gz: 150,000 lines", 1.0)


def test_memory_does_not_grow_with_the_text_of_reviews(tmp_path):
    path = tmp_path / "raw.json"
    review = json.dumps({"reviewText": "x" * 3000, **json.loads(GOOD)}) + "\n"
    path.write_text(review * 10_000)
    assert path.stat().st_size > 30_000_000
    tracemalloc.start()
    read = read_reviews(path, "amazon-json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(read.users) == 10_000
    assert peak < 3_000_000
