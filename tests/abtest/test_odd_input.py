"""Odd logs and declarations, each of which once gave a traceback, a wrong figure or a sentence of no help."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from abtest.stats.means import fieller
from tests.abtest.conftest import USERS, Command, analyse_table, metric_toml

N = 300
METRICS = (
    USERS
    + metric_toml("mean", "x", role="goal")
    + metric_toml("capped", "x", cap=0.9, role="goal")
    + metric_toml("boot", "x", method="bootstrap", draws=100)
)


def users(**more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arms = np.array(["a", "b"])[np.arange(N) % 2]
    return {"u": np.arange(N), "arm": arms, "x": rng.poisson(9, N), **more}


@pytest.mark.parametrize("scale", [1e308, 1e-310])
def test_values_too_far_out_to_be_squared_are_absent_with_a_reason(
    abtest: Command, tmp_path: Path, scale: float
) -> None:
    """1e308 ended in a traceback, and 1e-310 was shown as 0."""
    x = np.random.default_rng(1).random(N) * scale
    result = analyse_table(abtest, tmp_path, users(x=x), METRICS, "--json")
    assert result.exit_code == 0, result.output
    for effect in json.loads(result.stdout)["effects"]:
        assert effect["control_mean"] is None
        assert "too far out for floats to be squared; scale the column" in effect["reason"]


@pytest.mark.parametrize("scale", [1e60, 1e-60])
def test_values_far_out_are_computed(abtest: Command, tmp_path: Path, scale: float) -> None:
    x = np.random.default_rng(1).random(N)
    one, other = (
        json.loads(analyse_table(abtest, tmp_path, users(x=v), METRICS, "--json").stdout)["effects"]
        for v in (x, x * scale)
    )
    for plain, scaled in zip(one, other, strict=True):
        assert scaled["p"] == pytest.approx(plain["p"], rel=1e-9)
        assert scaled["lift"] == pytest.approx(plain["lift"], rel=1e-9)


@pytest.mark.parametrize(
    "x",
    [
        np.arange(N).astype(np.uint64) + 2**63,
        pa.array([Decimal(i) * 10**20 for i in range(N)], pa.decimal128(38, 2)),
    ],
    ids=["unsigned", "decimal"],
)
def test_whole_numbers_beyond_64_bits_are_one_sentence(abtest: Command, tmp_path: Path, x: Any) -> None:
    result = analyse_table(abtest, tmp_path, users(x=x), METRICS)
    assert result.exit_code == 2
    assert "sums of 'x' are of 64-bit whole numbers, so cast what is larger to DOUBLE" in result.output


def test_the_largest_whole_numbers_are_capped_and_drawn(abtest: Command, tmp_path: Path) -> None:
    """The cap, as a float, is above the largest of them; and no float tells them apart."""
    result = analyse_table(abtest, tmp_path, users(x=2**63 - 1 - np.arange(N)), METRICS, "--json")
    assert result.exit_code == 0, result.output
    for effect in json.loads(result.stdout)["effects"]:
        assert effect["control_mean"] == pytest.approx(2**63, rel=1e-15)
        assert abs(effect["difference"]) <= 2048
    assert fieller(5.0, 0.0, 0.0, 0.0, 0.0) == (0.0, 0.0)


def test_a_segment_called_none_is_with_the_users_who_have_none(abtest: Command, tmp_path: Path) -> None:
    """One of the two was lost."""
    names = np.array(["x", "(none)", None], object)[np.arange(N) // 2 % 3].tolist()
    result = analyse_table(abtest, tmp_path, users(c=names), METRICS, "--segments", "c", "--json")
    rows = [row for row in json.loads(result.stdout)["segments"] if row["metric"] == "mean"]
    assert {row["segment"]: row["n_control"] for row in rows} == {"(none)": 100, "x": 50}


def test_a_segment_called_others_is_with_the_others(abtest: Command, tmp_path: Path) -> None:
    place = np.arange(N) // 2 % 30
    names = np.where(place < 4, "(others)", place.astype(str))
    result = analyse_table(abtest, tmp_path, users(c=names), METRICS, "--segments", "c", "--json")
    for metric in ("mean", "capped"):
        rows = [row for row in json.loads(result.stdout)["segments"] if row["metric"] == metric]
        assert sum(row["n_control"] + row["n_treatment"] for row in rows) == N
        assert rows[-1]["segment"] == "(others)"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("covariates = [1]", "has covariates = [1]; give a list of columns"),
        ('covariates = "past"', "has covariates = 'past'; give a list of columns"),
        ("prior_sd = 0.1\nprior_mean = nan", "has prior_mean nan; a lift is allowed"),
        ('margin = inf\nmargin_kind = "absolute"', "has margin inf; a difference above 0 is allowed"),
    ],
)
def test_a_metric_that_cannot_be_is_one_sentence(
    abtest: Command, tmp_path: Path, line: str, words: str
) -> None:
    result = analyse_table(abtest, tmp_path, users(), METRICS + line + "\n")
    assert (result.exit_code, words in result.output) == (2, True), result.output


TIMES = USERS + 'ts = "ts"\n'


@pytest.mark.parametrize(
    ("ts", "more", "words"),
    [
        (np.where(np.arange(N) % 3 == 0, np.nan, 1.7e9), "", "column 'ts' holds a time that is none"),
        (np.full(N, 1_772_409_600_000), 'ts_unit = "s"\n', "column 'ts' holds times beyond the year 9999"),
        (np.full(N, 1_772_409_600_000.5), "", "column 'ts' holds times beyond the year 9999"),
    ],
)
def test_times_that_are_none_are_one_sentence(
    abtest: Command, tmp_path: Path, ts: Any, more: str, words: str
) -> None:
    result = analyse_table(abtest, tmp_path, users(ts=ts), TIMES + more)
    assert (result.exit_code, words in result.output) == (2, True), result.output


def test_users_who_are_all_in_two_arms_are_one_sentence(abtest: Command, tmp_path: Path) -> None:
    twice = {name: np.concatenate([x, x]) for name, x in users().items()}
    twice["arm"] = np.repeat(["a", "b"], N)
    result = analyse_table(abtest, tmp_path, twice, METRICS)
    assert result.exit_code == 2
    assert "has no user to analyse: all 300 users were in more than one arm" in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("U,Arm,X\n1,a,2\n2,b,3\n", "no column 'u' in the log", ),
        ("U,Arm,X\n1,a,2\n2,b,3\n", "did you mean 'U'?"),
        ("u,arm,x\n1,a,2\n2,\xe9,3\n3,b,4\n", "CSV Error on Line: 3; Invalid unicode"),
        ("", "log.csv is empty; give a file whose first line names its columns"),
        ("u,arm,x\n1,a,2\n2,b,3\n1,2,3,4,5\n", "other lines have more of them (5)"),
    ],
)  # fmt: skip
def test_a_csv_that_does_not_fit_says_why(abtest: Command, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
    result = abtest("analyze", str(tmp_path / "log.csv"), "--map", "user=u,arm=arm")
    assert (result.exit_code, words in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1", "2", "3", "NA"], "x is text: 74 of its 300 values are no numbers, such as 'NA'"),
        (["1,5"], "x is text, though all its values are written like numbers"),
        ([""], "x holds no values"),
        (["FI", "SE"], None),
    ],
)
def test_a_column_that_is_no_metric_though_it_looks_like_one_is_named(
    abtest: Command, tmp_path: Path, values: list[str], words: str | None
) -> None:
    """It was left out without a word, and the rows were counted instead."""
    lines = [f"{i};{'ab'[i % 2]};{values[i // 2 % len(values)]}" for i in range(N)]
    (tmp_path / "log.csv").write_text("\n".join(["u;arm;x", *lines]) + "\n", encoding="utf-8")
    result = abtest("analyze", str(tmp_path / "log.csv"), "--map", "user=u,arm=arm", "--json")
    assert result.exit_code == 0, result.output
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert ("columns" in found) == (words is not None)
    if words is not None:
        assert found["columns"]["status"] == "warning"
        assert words in found["columns"]["detail"]


def test_a_single_time_far_away_is_one_sentence(abtest: Command, tmp_path: Path) -> None:
    """Nearly three million days were analysed, without end."""
    ts = np.full(N, 1_772_409_600)
    ts[7] = 253_402_214_400
    result = analyse_table(abtest, tmp_path, users(ts=ts), TIMES + 'ts_unit = "s"\n')
    assert result.exit_code == 2
    assert "the experiment would take 2,912,383 days, from 2026-03-02" in result.output
    assert "declare start and days" in result.output
