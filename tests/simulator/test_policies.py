"""The simulator's own policies: exact chances, no repeats, and the order in which users like them."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from simulator.platform import Platform
from simulator.policies import LoggingPolicy, OraclePolicy, PopularityPolicy, RandomPolicy, ReferencePolicy
from simulator.slots import BILLION, SlotMixture, slot_chance
from simulator.state import State
from simulator.world import World

POLICIES = [LoggingPolicy, OraclePolicy, PopularityPolicy, RandomPolicy, ReferencePolicy]
Feed = tuple[np.ndarray, Any]


@pytest.fixture(scope="module")
def world() -> World:
    return World.synthetic(60, n_items=120, seed=2)


def serve(
    policy: Any,
    users: np.ndarray,
    *,
    shown: np.ndarray | None = None,
    sessions: np.ndarray | None = None,
    requests: np.ndarray | None = None,
    since: np.ndarray | None = None,
) -> Feed:
    """One request of each of these users, with nothing shown so far unless said."""
    n = len(users)
    ids = np.zeros((n, 512), np.int64)
    if shown is not None:
        ids[:, : shown.shape[1]] = shown
    nothing = np.zeros(n, np.int64)
    memory = policy.begin(users, np.zeros((n, 50), np.int64), ids, nothing)
    return policy.serve(
        users,
        memory,
        nothing if sessions is None else sessions,
        nothing if requests is None else requests,
        np.zeros((n, 0), np.int64) if since is None else since,
        nothing,
        6,
    )


def ready(policy: Any) -> Any:
    policy.attach(State.start(policy.world))
    return policy


def uneven(world: World) -> np.ndarray:
    """Plays of a day that make some videos far more popular than others."""
    return np.concatenate(([0], (np.arange(world.n_items) % 11) ** 3))


@pytest.mark.parametrize("policy_class", POLICIES)
def test_a_feed_has_no_repeat_and_nothing_lately_shown(world: World, policy_class: Any) -> None:
    users = np.arange(60)
    shown = np.stack([np.roll(np.arange(1, 121), user)[:70] for user in users])
    shown[:, 69] = shown[:, 0]  # a repeated id does no harm
    since = np.stack([np.roll(np.arange(1, 121), user)[70:100] for user in users])
    feed, _ = serve(ready(policy_class(world)), users, shown=shown, since=since)
    assert feed.shape == (60, 6)
    assert feed.dtype == np.int64
    assert feed.min() > 0
    for row, before, then in zip(feed, shown, since, strict=True):
        assert len(set(row)) == 6
        assert not set(row) & (set(before) | set(then))


@pytest.mark.parametrize("policy_class", POLICIES)
def test_with_little_left_the_feed_is_short(world: World, policy_class: Any) -> None:
    shown = np.tile(np.delete(np.arange(1, 121), [3, 50, 119]), (40, 1))
    feed, ppb = serve(ready(policy_class(world)), np.arange(40), shown=shown)
    left = {4, 51, 120}
    assert all(set(row) <= left | {0} for row in feed)
    assert (np.diff((feed > 0).astype(int), axis=1) <= 0).all(), "what there is comes first"
    assert all(set(row[:3]) == left for row in feed)
    if ppb is not None:
        assert ((ppb > 0) == (feed > 0)).all()
        assert (ppb[:, 2] == BILLION).all(), "the last one left is certain"


@pytest.mark.parametrize("policy_class", POLICIES)
def test_an_answer_does_not_depend_on_the_other_rows(world: World, policy_class: Any) -> None:
    policy = ready(policy_class(world))
    users = np.arange(60)
    shown = np.stack([np.roll(np.arange(1, 121), user)[: 40 + user] for user in range(1)] * 60)
    together = serve(policy, users, shown=shown)
    for part in (slice(0, 1), slice(1, 20), slice(20, 60)):
        alone = serve(policy, users[part], shown=shown[part])
        assert (alone[0] == together[0][part]).all()
        assert together[1] is None or (alone[1] == together[1][part]).all()


def test_the_feed_at_once_is_the_feed_slot_by_slot() -> None:
    """The fast path must agree with the plain one, also where slots stand in each other's way."""
    world = World.synthetic(60, n_items=25, seed=2)

    class Plain(LoggingPolicy):
        def _at_once(self, slots: Any) -> Any:
            feed, chance, collides = super()._at_once(slots)
            plain.append(1 - collides.mean())
            return feed, chance, np.ones_like(collides)

    plain: list[float] = []
    users = np.arange(60).repeat(20)
    requests = np.tile(np.arange(20), 60)
    answers = []
    for policy_class in (LoggingPolicy, Plain):
        policy = ready(policy_class(world))
        policy.learn(uneven(world))
        answers.append(serve(policy, users, requests=requests, shown=np.tile([3, 9, 20], (1200, 1))))
    assert 0.05 < plain[0] < 0.95
    assert (answers[0][0] == answers[1][0]).all()
    assert (answers[0][1] == answers[1][1]).all()


@pytest.mark.parametrize("first", [0, 5, 12])
def test_the_chances_of_a_slot_sum_to_one(world: World, first: int) -> None:
    policy = LoggingPolicy(world)
    policy.learn(uneven(world))
    left = np.setdiff1d(np.arange(1, 121), [7, 11, 19])
    shares = policy.shares(np.full(len(left), first > 0))
    chance = slot_chance(
        left, np.full(len(left), first), shares, policy.weight, policy.weight[left].sum(), np.int64(len(left))
    )
    assert chance.sum() == pytest.approx(1, abs=1e-12)
    if first:
        assert chance[left == first][0] > 0.7


def test_slots_follow_the_enumerated_distribution(world: World) -> None:
    """A chi-square of 20,000 draws of the first slot against its enumeration; false alarm 1 in 1,000."""
    policy = ready(SlotMixture(world, reference=0.0, popular=0.6, uniform=0.4))
    policy.learn(uneven(world))
    n = 20_000
    barred = np.array([2, 10, 11, 21, 22, 32, 43, 54, 65, 76])  # most of the popular ones
    feed, ppb = serve(
        policy, np.full(n, 5), shown=np.tile(barred, (n, 1)), sessions=np.arange(n), requests=np.arange(n) % 7
    )
    left = np.setdiff1d(np.arange(1, 121), barred)
    weight = policy.weight[left]
    expected = 0.6 * weight / weight.sum() + 0.4 / len(left)
    counts = np.bincount(feed[:, 0], minlength=121)[left]
    assert counts.sum() == n
    assert stats.chisquare(counts, n * expected).pvalue > 0.001
    told = dict(zip(feed[:, 0], ppb[:, 0], strict=True))
    assert [told[item] for item in left] == pytest.approx(BILLION * expected, abs=1)


def test_propensities_are_calibrated_at_every_slot(world: World) -> None:
    """Mean of f(item) / p = sum of f over what is left, for any f. |z| < 4.5: one false alarm in 10,000."""
    policy = ready(LoggingPolicy(world))
    policy.learn(uneven(world))
    n = 30_000
    users = np.arange(n) % 60
    feed, ppb = serve(policy, users, sessions=np.arange(n), requests=np.arange(n) % 5)
    f = np.sqrt(np.arange(121.0))
    gone = np.hstack((np.zeros((n, 1)), np.cumsum(f[feed], axis=1)[:, :-1]))
    for slot in range(6):
        ratio = f[feed[:, slot]] / (ppb[:, slot] / BILLION) - (f.sum() - gone[:, slot])
        z = ratio.mean() / (ratio.std() / np.sqrt(n))
        assert abs(z) < 4.5, (slot, z)


def test_most_slots_of_the_logging_policy_come_from_the_reference_list(world: World) -> None:
    users = np.arange(60).repeat(50)
    where = {"sessions": np.tile(np.arange(50), 60)}
    logged, ppb = serve(ready(LoggingPolicy(world)), users, **where)
    best, certain = serve(ready(ReferencePolicy(world)), users, **where)
    assert (certain == BILLION).all()
    from_list = (ppb[:, 0] > 0.7 * BILLION).mean()
    assert from_list == pytest.approx(0.7, abs=0.03)
    assert ((logged[:, 0] == best[:, 0]) == (ppb[:, 0] > 0.7 * BILLION)).all()


def test_popularity_changes_at_midnight_alone(world: World) -> None:
    policy = PopularityPolicy(world)
    users, ids = np.arange(60), np.zeros((60, 512), np.int64)
    ids[:, :4] = [1, 2, 3, 4]
    memory = policy.begin(users, ids[:, :50], ids, users)

    def later() -> Feed:
        return policy.serve(users, memory, users, users, np.zeros((60, 0), np.int64), users, 6)

    before = later()
    assert (later()[0] == before[0]).all()
    plays = np.zeros(121, np.int64)
    plays[4], plays[77] = 10**6, 10**9
    policy.learn(plays)
    feed, ppb = later()  # a session across midnight: what is barred now weighs more
    assert (feed[:, 0] == 77).all()
    assert ppb[:, 0] == pytest.approx(BILLION * (10**9 + 1) / (10**9 + 116), abs=1)


def test_shares_that_are_no_distribution_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        SlotMixture(world, reference=0.7, popular=0.2, uniform=0.2)


def test_random_below_popular_below_reference_below_oracle() -> None:
    """Plays per impression of the same users under four lives, three days each."""
    world = World.synthetic(300, n_items=2000, seed=1)
    rates = []
    for policy_class in (RandomPolicy, PopularityPolicy, ReferencePolicy, OraclePolicy):
        shown = played = 0

        def count(events: Any = None, **others: Any) -> None:
            nonlocal shown, played
            kinds = np.bincount(events["kind"].to_numpy(), minlength=3)
            shown, played = shown + kinds[1], played + kinds[2]

        Platform(world, [policy_class(world)], np.zeros_like, count).run(3)
        rates.append(played / shown)
    assert rates == sorted(rates)
    assert np.diff(rates).min() > 0.01, rates
