"""Assignment by hash, against published vectors, and an experiment's checks of its own settings."""

import subprocess
import sys
import time
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from abtest.experiment import Arm, Experiment
from abtest.hashing import user_hashes

TWO = (Arm("comirec"), Arm("recgpt"))


@pytest.mark.parametrize(
    ("salt", "user", "number"),
    [
        ("lab", 0, 0x9F872F3E54A28D18),
        ("lab", 1, 0x07E5C5CA9BF20DCB),
        ("lab", 7, 0x326F41CD8A05696A),
        ("lab", 123456789, 0x2391D271DE97669B),
        ("experiment-0", 0, 0x969A594413214506),
        ("experiment-0", 999999, 0xA766696884EFACD7),
        ("süß", 7, 0xBA2EE23E92FAF47E),
    ],
)
def test_published_vectors_of_the_hash(salt: str, user: int, number: int) -> None:
    """Anyone can check them: printf 'lab\\0007' | b2sum | cut -c1-16 (\\000 is the NUL)."""
    assert user_hashes(salt, [user]).tolist() == [number]


def test_published_vector_of_an_assignment() -> None:
    experiment = Experiment("x", TWO, salt="lab")
    assert experiment.assign(np.arange(16)).tolist() == [1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 1]


@given(
    st.lists(st.integers(0, 2**62), min_size=1, max_size=20),
    st.text(max_size=9).filter(lambda s: "\0" not in s),
)
def test_the_hash_is_the_one_that_is_documented(users: list[int], salt: str) -> None:
    digests = [blake2b(salt.encode() + b"\0" + str(user).encode()).digest() for user in users]
    assert user_hashes(salt, users).tolist() == [int.from_bytes(digest[:8], "big") for digest in digests]


@given(st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(lambda w: w[0] and sum(map(bool, w)) > 1))
def test_arms_are_the_parts_of_the_64_bit_numbers_by_weight(weights: list[int]) -> None:
    arms = tuple(Arm(name, weight=weight) for name, weight in zip("abc", weights, strict=True))
    found = Experiment("x", arms).assign(range(200))
    for number, arm in zip(user_hashes("x", range(200)).tolist(), found.tolist(), strict=True):
        place = number * sum(weights)
        assert 2**64 * sum(weights[:arm]) - sum(weights) < place < 2**64 * sum(weights[: arm + 1])


def test_an_assignment_does_not_depend_on_who_else_asks() -> None:
    experiment = Experiment("x", (Arm("a"), Arm("b"), Arm("c")))
    together = experiment.assign(range(50))
    assert [int(experiment.assign([user])[0]) for user in range(50)] == together.tolist()


def test_raising_the_weight_of_the_last_arm_moves_no_user_between_the_others() -> None:
    before = Experiment("x", (Arm("a", weight=1), Arm("b", weight=1))).assign(range(2000))
    after = Experiment("x", (Arm("a", weight=1), Arm("b", weight=1), Arm("c", weight=2))).assign(range(2000))
    assert not np.any((before == 0) & (after == 2))  # a held [0, 1/2), c holds [1/2, 1)
    assert np.all(before[after == 2] == 1)


def test_users_fall_into_arms_by_weight_and_salts_are_independent() -> None:
    """Chi-square tests; they fail by chance with probability below 1e-6, and the hash is fixed anyway."""
    one, other = (
        Experiment("x", (Arm("a", weight=0.8), Arm("b", weight=0.2)), salt=salt).assign(range(50_000))
        for salt in ("one", "other")
    )
    table = np.histogram2d(one, other, 2)[0]
    assert stats.chisquare(table.ravel(), 50_000 * np.array([0.64, 0.16, 0.16, 0.04])).pvalue > 1e-6


def test_an_arm_of_weight_0_gets_nobody() -> None:
    for weights in ([0, 1, 1], [1, 0, 1], [1, 1, 0]):
        arms = tuple(Arm(name, weight=weight) for name, weight in zip("abc", weights, strict=True))
        control = "abc"[weights.index(1)]
        assert (
            np.bincount(Experiment("x", arms, control).assign(range(999)), minlength=3)[weights.index(0)] == 0
        )


def test_a_million_users_are_assigned_in_a_few_seconds() -> None:
    start = time.process_time()
    Experiment("x", TWO).assign(np.arange(1_000_000))
    assert time.process_time() - start < 5


def test_no_users_are_no_arms() -> None:
    assert Experiment("x", TWO).assign([]).shape == (0,)


def test_control_salt_and_the_rest_have_defaults() -> None:
    experiment = Experiment("x", TWO)
    assert (experiment.control, experiment.salt, experiment.days) == ("comirec", "x", 5)
    assert [arm.name for arm in Experiment("x", TWO, control="recgpt").treatments] == ["comirec"]


def test_settings_can_be_read_back() -> None:
    experiment = Experiment("x", (Arm("a", "poprec", 0.3), Arm("b", "sasrec", 0.7)), "b", 3, "s", 0.01)
    assert Experiment.from_settings({**experiment.settings(), "start_ts": 0, "seed": 1}) == experiment


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"arms": (Arm("a"),)}, ValueError, "two arms or more"),
        ({"arms": (Arm("a"), Arm("a"))}, ValueError, "'a' is named twice"),
        ({"arms": (Arm("a"), Arm(" "))}, ValueError, "give every arm a name"),
        ({"arms": (Arm("a"), Arm("b", weight=-1))}, ValueError, "'b' has weight -1"),
        ({"arms": (Arm("a"), Arm("b", weight=float("nan")))}, ValueError, "'b' has weight nan"),
        ({"arms": (Arm("a"), Arm("b", weight=0))}, ValueError, "fewer than two arms with users"),
        ({"arms": (Arm("a", weight=0), Arm("b"), Arm("c"))}, ValueError, "control 'a' has weight 0"),
        ({"control": "nobody"}, LookupError, "unknown control 'nobody'; the arms are: comirec, recgpt"),
        ({"days": 0}, ValueError, "days is 0"),
        ({"days": 1.5}, ValueError, "days is 1.5"),
        ({"alpha": 0}, ValueError, "alpha is 0"),
        ({"alpha": 1.0}, ValueError, "alpha is 1.0"),
        ({"unit": "session"}, ValueError, "unit is 'session'"),
        ({"name": " "}, ValueError, "give it a name"),
        ({"salt": "a\0b"}, ValueError, "NUL"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(
    changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as found:
        Experiment(**{"name": "x", "arms": TWO, **changed})
    assert words in str(found.value)
    assert "\n" not in str(found.value)


def test_users_that_are_no_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        user_hashes("x", [1.0])


def test_importing_metrics_and_experiment_is_light() -> None:
    code = (
        "import sys, abtest.metrics, abtest.experiment, abtest.growthbook;"
        "heavy = {'scipy', 'statsmodels', 'torch', 'pyarrow', 'duckdb', 'sqlalchemy'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
