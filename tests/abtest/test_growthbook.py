"""GrowthBook's scheme against its published vectors, and against JavaScript for text beyond ASCII."""

import pytest

from abtest.growthbook import assign, bucket, choose, fnv1a_32, in_namespace, ranges


@pytest.mark.parametrize(
    ("seed", "value", "version", "n"),
    [("", "a", 1, 0.22), ("b", "a", 1, 0.946), ("seed", "a", 2, 0.0505), ("foo", "ab", 2, 0.2575)],
)
def test_published_vectors(seed: str, value: str, version: int, n: float) -> None:
    assert bucket(seed, value, version) == n


@pytest.mark.parametrize(
    ("value", "fnv", "version_1", "version_2"),
    [
        ("", 2166136261, 0.564, 0.4286),
        ("a", 3826002220, 0.913, 0.0505),
        ("用户7", 1453073909, 0.548, 0.2072),
        ("😀-1", 3846368538, 0.323, 0.4142),
        ("ünïcode", 2672779317, 0.004, 0.2343),
    ],
)
def test_text_beyond_ascii_is_hashed_as_in_javascript(
    value: str, fnv: int, version_1: float, version_2: float
) -> None:
    """From a JavaScript engine, whose charCodeAt gives UTF-16 units; hashes of UTF-8 bytes would differ."""
    assert (fnv1a_32(value), bucket("seed", value, 1), bucket("seed", value, 2)) == (
        fnv,
        version_1,
        version_2,
    )


@pytest.mark.parametrize(
    ("n_arms", "coverage", "weights", "expected"),
    [
        (2, 1.0, None, [(0, 0.5), (0.5, 1)]),
        (2, 0.5, None, [(0, 0.25), (0.5, 0.75)]),
        (2, 0.0, None, [(0, 0), (0.5, 0.5)]),
        (2, 1.0, [0.4, 0.6], [(0, 0.4), (0.4, 1)]),
        (3, 0.2, [0.2, 0.3, 0.5], [(0, 0.04), (0.2, 0.26), (0.5, 0.6)]),
        (2, -0.2, None, [(0, 0), (0.5, 0.5)]),
        (2, 1.2, None, [(0, 0.5), (0.5, 1)]),
        (2, 1.0, [0.4, 0.1], [(0, 0.5), (0.5, 1)]),
        (2, 1.0, [0.7, 0.6], [(0, 0.5), (0.5, 1)]),
        (2, 1.0, [1.0], [(0, 0.5), (0.5, 1)]),
        (2, 1.0, [0.4, 0.5999], [(0, 0.4), (0.4, 0.9999)]),
    ],
)
def test_ranges_come_from_weights_and_coverage(
    n_arms: int, coverage: float, weights: list[float] | None, expected: list[tuple[float, float]]
) -> None:
    found = ranges(n_arms, coverage=coverage, weights=weights)
    assert [end for pair in found for end in pair] == pytest.approx(
        [end for pair in expected for end in pair]
    )


def test_the_first_range_that_holds_the_number_wins() -> None:
    assert [choose(n, [(0, 0.3), (0.2, 0.6)]) for n in (0, 0.2, 0.3, 0.6)] == [0, 0, 1, None]


def test_an_empty_value_and_a_user_outside_the_coverage_have_no_arm() -> None:
    assert assign("seed", "", 2) is None
    assert assign("seed", "a", 2) == 0
    assert assign("seed", "a", 2, coverage=0.1) is None


def test_a_namespace_is_half_open() -> None:
    n = bucket("__feed", "user-1", 1)
    assert in_namespace("user-1", "feed", n, 1)
    assert not in_namespace("user-1", "feed", 0, n)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="hash version is 3"):
        bucket("seed", "a", 3)
