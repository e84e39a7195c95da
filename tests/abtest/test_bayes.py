"""The posterior against numerical integration; its traps."""

from math import isclose, sqrt

import numpy as np
import pytest
from scipy import integrate, stats

from abtest.stats.bayes import Prior, expected_excess, posterior, posterior_of_lift
from abtest.stats.means import CONTROL_NEAR_ZERO, FEW_USERS, ZERO_VARIANCE, Estimate


@pytest.mark.parametrize("prior", [Prior(), Prior(0.0, 0.05), Prior(0.1, 0.02), Prior(0.0, 1e6)])
@pytest.mark.parametrize("up", [True, False])
def test_the_posterior_is_bayes_rule_by_integration(prior: Prior, up: bool) -> None:
    value, sd = 0.03, 0.04
    found = posterior(value, sd**2, prior, higher_is_better=up)
    grid = np.linspace(-0.6, 0.6, 24_001)
    density = stats.norm.pdf(value, grid, sd)
    if prior.sd is not None:
        density *= stats.norm.pdf(grid, prior.mean, prior.sd)
    density /= integrate.simpson(density, x=grid)
    gain = grid if up else -grid

    def expected(f: np.ndarray) -> float:
        return float(integrate.simpson(f * density, x=grid))

    assert found.mean == pytest.approx(expected(grid), rel=1e-6)
    assert found.chance_to_win == pytest.approx(expected((gain > 0) + 0.5 * (gain == 0)), abs=1e-4)
    assert found.loss_if_shipped == pytest.approx(expected(np.maximum(-gain, 0)), rel=1e-4)
    assert found.loss_if_kept == pytest.approx(expected(np.maximum(gain, 0)), rel=1e-4)


def test_with_a_flat_prior_the_interval_is_that_of_the_delta_method() -> None:
    control, treatment = Estimate(1000, 10.0, 0.04), Estimate(1000, 10.5, 0.05)
    found = posterior_of_lift(control, treatment)
    sd = sqrt(0.05 / 100 + 1.05**2 * 0.04 / 100)
    assert found.mean == pytest.approx(0.05)
    assert found.interval == pytest.approx((0.05 - 1.959964 * sd, 0.05 + 1.959964 * sd), rel=1e-6)


def test_a_chance_to_win_is_one_minus_the_one_sided_p_and_sums_to_1_over_both_directions() -> None:
    up, down = (posterior(0.03, 0.0004, higher_is_better=way) for way in (True, False))
    assert up.chance_to_win == pytest.approx(stats.norm.cdf(1.5))
    assert isclose(up.chance_to_win + down.chance_to_win, 1)  # type: ignore[operator]
    assert (up.loss_if_shipped, up.loss_if_kept) == (down.loss_if_kept, down.loss_if_shipped)
    assert up.loss_if_kept - up.loss_if_shipped == pytest.approx(0.03)  # type: ignore[operator]


@pytest.mark.parametrize("z", [-40.0, -9.0, 0.0, 9.0, 40.0])
def test_a_loss_is_never_negative_and_exact_far_out(z: float) -> None:
    assert expected_excess(z, 1.0) >= 0
    if z <= -9:
        assert expected_excess(z, 1.0) <= stats.norm.pdf(z)
    assert expected_excess(z, 1.0) - expected_excess(-z, 1.0) == pytest.approx(z)


@pytest.mark.parametrize(
    ("control", "treatment", "reason"),
    [
        (Estimate(1, 1.0, None), Estimate(5, 1.0, 0.1), FEW_USERS),
        (Estimate(0, None, None), Estimate(5, 1.0, 0.1), FEW_USERS),
        (Estimate(5, 1.0, 0.0), Estimate(5, 2.0, 0.0), ZERO_VARIANCE),
        (Estimate(5, 0.1, 0.01), Estimate(5, 2.0, 0.1), CONTROL_NEAR_ZERO),
        (Estimate(5, 0.0, 0.0), Estimate(5, 2.0, 0.1), CONTROL_NEAR_ZERO),
    ],
)
def test_what_cannot_be_computed_has_a_reason(control: Estimate, treatment: Estimate, reason: str) -> None:
    found = posterior_of_lift(control, treatment)
    assert found.reason == reason
    assert found[:6] == (None,) * 6


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_values_does_not_matter(scale: float) -> None:
    control, treatment = Estimate(900, 3.0, 0.01), Estimate(900, 3.1, 0.02)
    scaled = [e._replace(value=e.value * scale, variance=e.variance * scale**2) for e in (control, treatment)]  # type: ignore[operator]
    assert posterior_of_lift(*scaled).loss_if_kept == pytest.approx(
        posterior_of_lift(control, treatment).loss_if_kept, rel=1e-12
    )


def test_a_prior_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="prior_sd is 0"):
        posterior(0.1, 0.01, Prior(0.0, 0.0))
