"""What a log can be wrong in: one sentence that names the value and what to do, before anything else."""

import statistics
from fractions import Fraction
from pathlib import Path

import duckdb
import pytest

from warehouse.logs.columns import LogMapping, parse_mapping
from warehouse.logs.log import EventLog, Span
from warehouse.logs.totals import Total

HEADER = "uid,at,variant,amount"


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return str(path)


def open_csv(path: str, **keys: str) -> EventLog:
    return EventLog.open([path], LogMapping(**{"user": "uid", "ts": "at", "arm": "variant", **keys}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user", "'user' in --map is not KEY=COLUMN"),
        ("user=uid,,arm=a", "'' in --map is not KEY=COLUMN"),
        ("user=uid,user=id", "user is given twice"),
        ("user=", "'user=' in --map"),
    ],
)
def test_a_malformed_mapping_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_mapping(text)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"user": "uid", "arm": "a", "tz": "x"}, "unknown key 'tz'"),
        ({"user": "uid"}, "lacks arm"),
        ({"user": "uid", "arm": 3}, "arm = 3 in the mapping is no column name"),
        ({"user": "uid", "arm": "a", "ts_unit": "h"}, "ts_unit is 'h'"),
        ({"user": "uid", "arm": "a", "value": "v"}, "value=v and no event"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LogMapping.from_keys(keys)


@pytest.mark.parametrize("key", ["user", "ts", "arm"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "log.csv", "1,2026-03-02 10:00:00,a,1")
    with pytest.raises(LookupError, match=r"no column 'amounts' in the log.*uid, at, variant, amount"):
        open_csv(path, **{key: "amounts"})


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (["2026-03-02T10:00:00Z", "2026-03-02T10:00:00"], r"mix time zones \(\+00:00, none\)"),
        (["2026-03-02 10:00:00+01:00", "2026-03-02 10:00:00+0200"], r"mix time zones \(\+01:00, \+02:00\)"),
        (["2026-03-02 10:00:00", "yesterday"], "'yesterday' in column 'at' is no time"),
        (
            ["2026-03-02 10:00:00Z", "2026-13-02 10:00:00Z"],
            "'2026-13-02 10:00:00Z' in column 'at' is no time",
        ),
        (["2026-03-02 10:00:00 Europe/Helsinki"], "Europe/Helsinki' in column 'at' is no time"),
        (["2026-03-02 10:00:00 EST"], "10:00:00 EST' in column 'at' is no time"),
        (["2026-03-02 10:00:00 PM"], "10:00:00 PM' in column 'at' is no time"),
        (["infinity"], "'infinity' in column 'at' is no time"),
        (["17", "12"], "up to 17, which is no Unix time; say what they are with ts_unit"),
    ],
)
def test_times_that_cannot_be_told_are_refused(tmp_path: Path, times: list[str], words: str) -> None:
    """A zone's name and PM were dropped without a word once."""
    path = write(tmp_path / "log.csv", *(f"{i},{ts},a,1" for i, ts in enumerate(times)))
    with pytest.raises(ValueError, match=words):
        open_csv(path)


@pytest.mark.parametrize(
    ("text", "ts"),
    [
        ("2026-03-02T10:00:00Z", 1772445600000),
        ("2026-03-02 10:00:00+02:00", 1772438400000),
        ("2026-03-02 10:00:00.25", 1772445600250),
        ("2026-03-02", 1772409600000),
        ("2026-03-02 10:00:00 UTC", 1772445600000),
        ("1772445600", 1772445600000),
        ("1772445600250", 1772445600250),
        ("1772445600.25", 1772445600250),
    ],
)
def test_times_of_every_spelling_are_unix_milliseconds(tmp_path: Path, text: str, ts: int) -> None:
    with open_csv(write(tmp_path / "log.csv", f"1,{text},a,1", f"2,{text},b,1")) as log:
        assert log.extent().first_ts == log.extent().last_ts == ts


@pytest.mark.parametrize(
    ("value", "unit"),
    [(1772445600, None), (1772445600000, None), (1772445600000000, None), (1772445600000000000, None),
     (1772445600000, "ms")],
)  # fmt: skip
def test_the_unit_of_whole_number_times_is_told_by_their_size(
    tmp_path: Path, value: int, unit: str | None
) -> None:
    path = tmp_path / "log.parquet"
    duckdb.sql(f"COPY (SELECT 1 AS uid, {value} AS at, 'a' AS variant) TO '{path}'")
    with open_csv(str(path), **({"ts_unit": unit} if unit else {})) as log:
        assert log.extent().first_ts == 1772445600000


def test_a_column_of_words_cannot_be_summed(tmp_path: Path) -> None:
    with (
        open_csv(write(tmp_path / "log.csv", "1,2026-03-02 10:00:00,a,much")) as log,
        pytest.raises(ValueError, match="column 'amount' holds text, no numbers, so 'amount' cannot sum it"),
    ):
        log.total("amount", {})


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["missing.csv"], "no file missing.csv"),
        (["missing.duckdb"], "no database at missing.duckdb"),
        (["log.xlsx"], "log.xlsx has no known form"),
        (["a.csv", "b.parquet"], "of different forms"),
        (["nosuchdb://host/x"], "unknown database"),
        (["sqlite:///missing.sqlite"], "no database at missing.sqlite"),
        (["sqlite://", "x.csv"], "only files can be several"),
    ],
)
def test_a_place_that_is_none_is_refused(places: list[str], words: str) -> None:
    with pytest.raises((ValueError, OSError), match=words):
        EventLog.open(places, LogMapping(user="uid", arm="variant"))


def test_a_file_that_is_no_database_and_one_that_is_no_parquet_are_refused(tmp_path: Path) -> None:
    for name in ("a.duckdb", "a.parquet"):
        (tmp_path / name).write_text("this is not it" * 10)
        with pytest.raises(ValueError, match=name):
            EventLog.open([str(tmp_path / name)], LogMapping(user="uid", arm="variant"))


def test_one_of_several_tables_must_be_named(tmp_path: Path) -> None:
    path = str(tmp_path / "x.duckdb")
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TABLE a (uid INTEGER, variant VARCHAR)")
        connection.execute("CREATE TABLE b (uid INTEGER, variant VARCHAR)")
    mapping = LogMapping(user="uid", arm="variant")
    with pytest.raises(LookupError, match="has 2 tables, so name one by --table: a, b"):
        EventLog.open([path], mapping)
    with pytest.raises(LookupError, match=r"no table 'c' \(--table\).*a, b"):
        EventLog.open([path], mapping, table="c")
    with EventLog.open([path], mapping, table="b") as log:
        assert log.extent().rows == 0


def test_a_password_is_in_no_sentence() -> None:
    with pytest.raises(ValueError, match=r"cannot open postgresql.*\*\*\*") as caught:
        EventLog.open(["postgresql://lab:secret@127.0.0.1:1/none"], LogMapping(user="uid", arm="variant"))
    assert "secret" not in str(caught.value)


# odd numbers


def test_values_that_are_no_numbers_are_counted_and_missing_ones_add_nothing(tmp_path: Path) -> None:
    path = tmp_path / "odd.parquet"
    duckdb.sql(
        "COPY (SELECT * FROM (VALUES (1, 'a', 'NaN'::DOUBLE, 1.0), (1, 'a', 'inf'::DOUBLE, NULL),"
        " (2, 'a', -2.0, -3.5), (3, 'b', NULL, 2.0), (4, 'b', '-inf'::DOUBLE, 4.0))"
        f" t(uid, variant, odd, good)) TO '{path}'"
    )
    with EventLog.open([str(path)], LogMapping(user="uid", arm="variant")) as log:
        assert log.values(["odd"]) == {"odd": (1, 3, 2)}  # -inf is negative too
        assert log.values(["good"])["good"].not_finite == 0
        span = Span(0, 1)
        users = log.exposed(span)
        good = Total("good", "sum", None, "good")
        found = log.moments(span, [(1, 1)], [good], [("good", "good")], users)
        assert {m.arm: (m.n, float(m.sums["good"])) for m in found} == {"a": (2, -2.5), "b": (2, 6.0)}
        with pytest.raises(ValueError, match="too large to be squared and summed"):
            log.moments(span, [(1, 1)], [Total("x", "sum", None, "odd")], [("x", "x")], users)


@pytest.mark.parametrize(("mean", "sd"), [(1e8, 1.0), (1e12, 1.0), (1e-12, 1e-13), (-1e12, 1e3)])
def test_no_digit_of_a_variance_is_lost_far_from_zero(tmp_path: Path, mean: float, sd: float) -> None:
    """Raw float sums of squares lose it all at a mean of 1e8 and a deviation of 1."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    x = np.random.default_rng(0).normal(mean, sd, 5000)
    path = tmp_path / "far.parquet"
    pq.write_table(pa.table({"uid": np.arange(5000), "variant": ["a", "b"] * 2500, "x": x}), path)
    with EventLog.open([str(path)], LogMapping(user="uid", arm="variant")) as log:
        users = log.exposed(Span(0, 1))
        found = log.moments(Span(0, 1), [(1, 1)], [log.total("x", {})], [("x", "x")], users)
    for moments, part in zip(found, (x[::2], x[1::2]), strict=True):
        n = moments.n
        variance = (n * moments.products["x", "x"] - moments.sums["x"] ** 2) / (n * (n - 1))
        assert float(variance) == pytest.approx(float(statistics.variance(map(Fraction, part))), rel=1e-9)
        assert float(moments.sums["x"] / n) == pytest.approx(part.mean(), rel=1e-12)


def test_integers_beyond_64_bits_stay_exact(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    duckdb.sql(
        f"COPY (SELECT i AS uid, 'a' AS variant, 1000000000000 + i AS x FROM range(100) t(i)) TO '{path}'"
    )
    with EventLog.open([str(path)], LogMapping(user="uid", arm="variant")) as log:
        users = log.exposed(Span(0, 1))
        (found,) = log.moments(Span(0, 1), [(1, 1)], [log.total("x", {})], [("x", "x")], users)
    assert found.products["x", "x"] == sum((10**12 + i) ** 2 for i in range(100))


def test_merged_moments_are_those_of_chans_formula() -> None:
    """Chan, Golub and LeVeque (1979), from the textbook form, against the fractions that are added."""
    from warehouse.logs.central import central_moments
    from warehouse.panel.ask import Ask

    def parts(values: list[float]) -> tuple[int, float, float]:
        mean = sum(values) / len(values)
        return len(values), mean, sum((v - mean) ** 2 for v in values)

    a, b = [1e8 + v for v in (0.25, 0.75, 2.0)], [1e8 - v for v in (0.5, 1.5)]  # exact in binary
    (na, ma, sa), (nb, mb, sb) = parts(a), parts(b)
    chan = sa + sb + (mb - ma) ** 2 * na * nb / (na + nb)
    ask = Ask(0, 1, ("x",), (("x", "x"),))
    rows = [
        (1, 1, str(i), n, m, sum(v - m for v in values), s)
        for i, ((n, m, s), values) in enumerate(((parts(a), a), (parts(b), b)))
    ]
    found = central_moments(rows, ask, [0]).values()
    total, squares = sum(m.sums["x"] for m in found), sum(m.products["x", "x"] for m in found)
    assert float(squares - total**2 / (na + nb)) == pytest.approx(chan, rel=1e-12)
