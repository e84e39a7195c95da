"""Who can be in an experiment: parts of layers, holdouts, ramps that only grow."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from abtest import growthbook
from abtest.experiment import OUTSIDE, Arm, Experiment
from abtest.population import Holdout, Layer, Phase, check_disjoint, parse_layer, parse_phases
from warehouse.events import DAY_MS

TWO = (Arm("a"), Arm("b"))
USERS = np.arange(20_000)
RAMP = (Phase(0, 0.1), Phase(DAY_MS, 0.5), Phase(2 * DAY_MS, 1.0))


@given(
    st.lists(st.integers(1, 99_999), min_size=1, max_size=6, unique=True),
    st.sampled_from(["blake2b", "growthbook"]),
)
@settings(max_examples=15, deadline=None)
def test_adjacent_parts_of_a_layer_hold_every_user_exactly_once(cuts: list[int], scheme: str) -> None:
    bounds = [0.0, *(cut / 100_000 for cut in sorted(cuts)), 1.0]
    parts = [Layer("feed", start, end).holds(USERS[:300], scheme) for start, end in pairwise(bounds)]
    assert np.sum(parts, axis=0).tolist() == [1] * 300


def test_experiments_of_one_layer_share_no_user_and_those_of_others_are_independent() -> None:
    """Chi-square of the arms of two layers, at 1e-6; hashes are fixed anyway."""
    one = Experiment("one", TWO, layer=Layer("feed", 0, 0.6)).assign(USERS)
    two = Experiment("two", TWO, layer=Layer("feed", 0.6, 1)).assign(USERS)
    assert ((one == OUTSIDE) != (two == OUTSIDE)).all()
    other = Experiment("three", TWO, layer=Layer("search", 0.2, 0.7)).assign(USERS)
    for mine in (one, two):
        table = np.histogram2d(mine, other, 3)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-6
    assert stats.binomtest(int((one != OUTSIDE).sum()), len(USERS), 0.6).pvalue > 1e-6
    arms = np.bincount(one[one != OUTSIDE])
    assert stats.binomtest(int(arms[0]), int(arms.sum()), 0.5).pvalue > 1e-6


def test_a_layer_is_independent_of_the_arms_even_of_an_experiment_with_its_name_as_salt() -> None:
    part = Layer("feed", 0, 0.5).holds(USERS)
    arms = Experiment("x", TWO, salt="feed").assign(USERS)
    assert stats.chi2_contingency(np.histogram2d(part, arms, 2)[0]).pvalue > 1e-6


def test_the_scheme_of_growthbook_is_that_of_its_sdks() -> None:
    """Hash version 2 for the arms, a namespace for the layer, coverage in place."""
    weights = [0.3, 0.7]
    experiment = Experiment(
        "x",
        (Arm("a", weight=3), Arm("b", weight=7)),
        hashing="growthbook",
        layer=Layer("pricing", 0.2, 0.8),
        phases=(Phase(coverage=0.5),),
    )
    for user, arm in zip(range(2000), experiment.assign(range(2000)).tolist(), strict=True):
        inside = growthbook.in_namespace(str(user), "pricing", 0.2, 0.8)
        expected = growthbook.assign("x", str(user), 2, coverage=0.5, weights=weights) if inside else None
        assert arm == (OUTSIDE if expected is None else expected)


@pytest.mark.parametrize("hashing", ["blake2b", "growthbook"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.9, 0.1)])
def test_a_user_who_is_in_stays_in_and_in_the_same_arm_while_coverage_grows(
    hashing: str, weights: tuple[float, ...]
) -> None:
    arms = (Arm("a", weight=weights[0]), Arm("b", weight=weights[1]))
    experiment = Experiment("x", arms, phases=RAMP, hashing=hashing)
    for phase, coverage in enumerate((0.1, 0.5)):
        now, then = experiment.assign(USERS[:5000], phase), experiment.assign(USERS[:5000], phase + 1)
        inside = now != OUTSIDE
        assert (then[inside] == now[inside]).all()
        assert (then != OUTSIDE).sum() > inside.sum()
        assert stats.binomtest(int(inside.sum()), 5000, coverage).pvalue > 1e-6
    assert (experiment.assign(USERS[:5000], 2) != OUTSIDE).all()


def test_full_coverage_is_the_assignment_without_phases() -> None:
    plain = Experiment("x", TWO, salt="lab")
    assert (
        plain.assign(USERS).tolist()
        == Experiment("x", TWO, salt="lab", phases=RAMP).assign(USERS, 2).tolist()
    )


def test_users_are_assigned_by_the_phase_of_their_first_exposure() -> None:
    phases = (Phase(0, 1.0, (0.9, 0.1)), Phase(DAY_MS, 1.0, (0.5, 0.5)))
    experiment = Experiment("x", TWO, phases=phases)
    after_ms = np.array([0, DAY_MS - 1, DAY_MS, 3 * DAY_MS] * 500)
    arms = experiment.assign_at(USERS[:2000], after_ms)
    early = after_ms < DAY_MS
    assert arms[early].tolist() == experiment.assign(USERS[:2000], 0)[early].tolist()
    assert arms[~early].tolist() == experiment.assign(USERS[:2000], 1)[~early].tolist()
    assert arms[early].mean() < 0.2 < 0.4 < arms[~early].mean()


def test_holdout_users_are_in_no_experiment_and_a_larger_holdout_keeps_them() -> None:
    small, large = Holdout(0.05), Holdout(0.1)
    held = small.holds(USERS)
    assert not (held & ~large.holds(USERS)).any()
    assert stats.binomtest(int(held.sum()), len(USERS), 0.05).pvalue > 1e-6
    for name in ("one", "two"):
        experiment = Experiment(
            name, TWO, holdout=small, layer=Layer(name, 0, 0.5), phases=(Phase(coverage=0.4),)
        )
        arms = experiment.assign(USERS)
        assert (arms[held] == OUTSIDE).all()
        counts = experiment.population(USERS)
        assert counts["holdout"] == held.sum()
        assert counts["in_experiment"] == (arms != OUTSIDE).sum()
        assert sum(counts.values()) == len(USERS)
        assert counts["not_covered"] / (counts["not_covered"] + counts["in_experiment"]) == pytest.approx(
            0.6, abs=0.03
        )
    assert not np.array_equal(held, Holdout(0.05, "other").holds(USERS))


def test_an_experiment_with_all_of_it_can_be_read_back() -> None:
    experiment = Experiment(
        "x", TWO, layer=Layer("feed", 0, 0.5), holdout=Holdout(0.05, "y"), phases=RAMP, hashing="growthbook"
    )
    assert Experiment.from_settings(experiment.settings()) == experiment


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ((Phase(DAY_MS),), "the first phase must start with the experiment"),
        (
            (Phase(), Phase(DAY_MS, 0.5)),
            "the phase of day 2 covers 50 percent, the one before 100; coverage may only",
        ),
        ((Phase(), Phase()), "each must start after the one before"),
        ((Phase(), Phase(5 * DAY_MS)), "a phase starts on day 6 of an experiment of 5 days"),
        ((Phase(coverage=0),), "a phase covers 0 percent"),
        ((Phase(), Phase(DAY_MS, 1, (1.0, 0.0))), "every phase must give users to the same arms"),
        ((Phase(weights=(1.0, float("inf"))),), "weights are finite"),
        ((Phase(weights=(1.0,)),), "every phase must give users to the same arms"),
    ],
)
def test_phases_that_cannot_be_are_refused(phases: tuple[Phase, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Experiment("x", TWO, phases=phases)


def test_overlapping_parts_of_a_layer_are_refused() -> None:
    mine = parse_layer("feed:0-50")
    check_disjoint(mine, {"titles": parse_layer("titles:50-80"), "covers": parse_layer("covers:80-100")}, "x")
    with pytest.raises(ValueError, match=r"'x' \(0-50\) and 'titles' \(49.9-80\) overlap in layer 'feed'"):
        check_disjoint(mine, {"titles": parse_layer("titles:49.9-80")}, "x")
    with pytest.raises(ValueError, match=r"'titles' .* and 'covers' .* overlap"):
        check_disjoint(mine, {"titles": parse_layer("t:50-81"), "covers": parse_layer("c:80-100")}, "x")


def test_phases_are_read_from_text_and_tables() -> None:
    assert parse_phases("1:10,3:50", 2) == (Phase(0, 0.1), Phase(2 * DAY_MS, 0.5))
    assert parse_phases("", 2) == parse_phases([], 2) == (Phase(),)
    assert parse_phases([{"day": 2, "coverage": 30, "split": "90,10"}], 2) == (
        Phase(DAY_MS, 0.3, (0.9, 0.1)),
    )
