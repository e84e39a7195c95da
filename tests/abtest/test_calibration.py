"""The calibration itself: its vectorised statistics against the real ones, its gates, its command."""

import json

import numpy as np
import pytest
from scipy import stats

from abtest.experiment import Arm, Experiment
from abtest.hashing import SCHEMES
from abtest.stats import replicates
from abtest.stats.calibration import Cell, calibrate, main
from abtest.stats.calibration_views import coverage_cells, strata_cells
from abtest.stats.cuped import adjust
from abtest.stats.means import compare, mean_estimate, ratio_estimate
from abtest.stats.moments import Moments
from abtest.stats.replicates import population, splits

N = 300


def arms_of(seed: int, replicate: int, **columns: np.ndarray) -> tuple[Moments, Moments]:
    treated = next(splits(N, replicate + 1, seed))[replicate] == 1
    return tuple(  # type: ignore[return-value]
        Moments.from_arrays(**{name: values[mask].astype(np.int64) for name, values in columns.items()})
        for mask in (~treated, treated)
    )


@pytest.mark.parametrize("replicate", [0, 3])
def test_the_vectorised_p_is_that_of_the_methods(replicate: int) -> None:
    metrics = population(N, 5)
    plays, rate = metrics["plays"], metrics["play_rate"]
    assert rate.y is not None
    columns = {"x": rate.x[:, -1], "y": rate.y[:, -1], "past": plays.past}
    control, treatment = arms_of(9, replicate, **columns)

    means = compare(mean_estimate(control, "x"), mean_estimate(treatment, "x"))
    found = replicates.mean_arms(plays.x, 4, 9)
    assert replicates.welch_p(found)[replicate, -1] == pytest.approx(means.p, rel=1e-9)
    assert means.lift_ci is not None
    for end in means.lift_ci:
        for inside in (True, False):
            lift = end + (1e-6 if (end == means.lift_ci[0]) == inside else -1e-6)
            assert replicates.fieller_covers(found, lift)[replicate, -1] == inside

    ratios = compare(ratio_estimate(control, "x", "y"), ratio_estimate(treatment, "x", "y"))
    found = replicates.ratio_arms(rate.x, rate.y, 4, 9)
    assert replicates.welch_p(found)[replicate, -1] == pytest.approx(ratios.p, rel=1e-9)

    adjusted = adjust({"c": control, "t": treatment}, "x", covariates=["past"]).estimates
    found = replicates.cuped_arms(plays.x[:, -1:], plays.past, 4, 9)
    oracle = compare(adjusted["c"], adjusted["t"])
    assert replicates.welch_p(found)[replicate, 0] == pytest.approx(oracle.p, rel=1e-9)

    adjusted = adjust({"c": control, "t": treatment}, "x", "y", covariates=["past"]).estimates
    found = replicates.cuped_ratio_arms(rate.x[:, -1:], rate.y[:, -1:], plays.past, 4, 9)
    oracle = compare(adjusted["c"], adjusted["t"])
    assert replicates.welch_p(found)[replicate, 0] == pytest.approx(oracle.p, rel=1e-9)


def test_splits_are_fair_and_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(splits(N, 600, 1)))
    monkeypatch.setattr(replicates, "BLOCK", 7)
    assert (np.concatenate(list(splits(N, 600, 1))) == whole).all()
    assert whole.mean() == pytest.approx(0.5, abs=6 * 0.5 / np.sqrt(whole.size))
    assert len(np.unique(whole, axis=0)) == 600
    assert (np.concatenate(list(splits(N, 600, 2))) != whole).any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_real_salts_split_users_as_the_counter_based_bits_do(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 salts of the assignment's hash against 2,000 splits: p-values of two looks, and users in an arm."""
    metrics = population(2000, 8)
    plays = metrics["plays"].x[:, [0, -1]]
    bits = replicates.mean_arms(plays, 2000, 3)
    halves = (Arm("a"), Arm("b"))
    users = np.arange(2000)
    salted = [
        Experiment(f"salt {i}", halves, days=5, hashing=scheme).assign(users).astype(float)
        for i in range(200)
    ]
    monkeypatch.setattr(replicates, "splits", lambda *_: iter([np.array(salted)]))
    salts = replicates.mean_arms(plays, 200, 3)
    for look in (0, 1):
        p, expected = replicates.welch_p(salts)[:, look], replicates.welch_p(bits)[:, look]
        assert stats.ks_2samp(p, expected).pvalue > 1e-3
        assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert stats.ks_2samp(salts.n_t.ravel(), bits.n_t.ravel()).pvalue > 1e-3
    assert len({tuple(row) for row in salted}) == 200


def test_every_gate_holds_for_1000_splits() -> None:
    cells = calibrate(replicates=1000)
    large = [cell for cell in cells if cell.users >= 4000]  # 1,000 are too few for the gate of small samples
    assert [cell for cell in large if not cell.passed] == []
    intervals = [cell for cell in cells if "covers" in cell.method or "unbounded" in cell.method]
    assert max(cell.rate for cell in cells if cell.users < 4000 and cell not in intervals) < 0.1
    methods = {cell.method for cell in cells}
    assert methods >= {"welch", "delta", "cuped", "obf", "pocock", "always-valid", "holm", "hochberg", "bh"}
    assert methods >= {"chi-square", "bh, false discoveries", "cuped ratio", "equivalence at the margin"}
    assert methods >= {"bayes, flat prior misses 0", "bayes, prior misses the truth"}
    assert methods >= {"quantile of users", "quantile of events", "bootstrap", "permutation"}
    assert methods >= {
        "holm on obf",
        "holm on pocock",
        "capped",
        "post-stratified",
        "cochran's q of segments",
    }
    assert methods >= {
        "fieller covers the lift",
        "log-delta covers the lift",
        "welch at 0.01",
        "welch at 0.10",
    }
    at_margin = next(cell.rate for cell in cells if cell.method == "equivalence at the margin")
    assert at_margin > 0.01  # it has the power to be wrong
    peeking = [cell.rate for cell in cells if cell.method == "peeking daily"]
    assert min(peeking) > 0.06  # what the sequential methods are for


def test_intervals_of_few_users_hold_the_lift_and_the_symmetric_one_less_often() -> None:
    """1,000 replicates: the standard error of a coverage of .95 is .007."""
    found = {(cell.metric, cell.method): cell.rate for cell in coverage_cells(50, 1000, 0)}
    for name in ("watch_s", "comments"):
        symmetric = found[name, "symmetric delta covers the lift"]
        assert symmetric < found[name, "fieller covers the lift"] > 0.93
        assert 0.91 < found[name, "log-delta covers the lift"] > symmetric
    assert 0 < found["comments", "fieller is unbounded"] < 0.2  # the control's mean is not always above 0
    assert found["watch_s", "fieller is unbounded"] == 0


def test_strata_that_explain_a_metric_still_reject_one_in_twenty() -> None:
    plays = population(2000, 3)["plays"]
    pooled, q = strata_cells("plays", plays, 2000, 0)
    assert pooled.rate == pytest.approx(0.05, abs=0.02)  # 4 standard errors
    assert q.rate == pytest.approx(0.05, abs=0.02)


def test_a_rate_outside_its_gate_fails() -> None:
    assert not Cell("plays", "welch", 4000, 0.08, 0.04, 0.06).passed
    assert not Cell("plays", "welch", 4000, 0.03, 0.04, 0.06).passed
    assert Cell("plays", "welch", 4000, 0.05, 0.04, 0.06).passed


def test_the_command_prints_cells_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--json", "--replicates", "300", "--users", "400"])
    document = json.loads(capsys.readouterr().out)
    assert document["replicates"] == 300
    assert code == (0 if document["passed"] else 1)
    assert {"metric", "method", "users", "rate", "low", "high", "passed"} == set(document["cells"][0])
