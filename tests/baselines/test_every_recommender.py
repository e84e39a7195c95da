"""What every registered model must do, one suite for all."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import MODELS
from baselines.base import Interactions, RanksTargets, StatefulRecommender
from baselines.evaluate import list_ranks

PERSONAL = "poprec"  # the one model that does not look at histories


def nothing(n):
    return np.zeros((n, 0), np.int64)


def lists(model, histories, k=10, exclude=None, users=None):
    n = len(histories)
    users = np.arange(n) if users is None else users
    return model.recommend(users, histories, k, nothing(n) if exclude is None else exclude)


def test_a_model_is_a_stateful_recommender(model):
    assert isinstance(model, StatefulRecommender)


def test_a_trained_model_solves_the_checkerboard(model, name, world):
    if name == PERSONAL:
        pytest.skip("not personal")
    histories = world.histories()
    recommended = lists(model, histories, 5, exclude=histories)
    assert (recommended % 2 == histories[:, :1] % 2).mean() > 0.95


def test_lists_have_no_padding_and_no_repeats_while_items_are_left(model, make_histories):
    recommended = lists(model, make_histories(130), 25)
    assert recommended.shape == (130, 25)
    assert recommended.dtype == np.int64
    assert recommended.min() >= 1
    assert recommended.max() <= 40
    assert all(len(np.unique(row)) == 25 for row in recommended)


def test_excluded_items_are_not_recommended(model, make_histories):
    histories = make_histories(70)
    recommended = lists(model, histories, 8, exclude=make_histories(70, seed=1, width=30))
    excluded = make_histories(70, seed=1, width=30)
    assert not (recommended[:, :, None] == excluded[:, None, :])[recommended > 0].any()


def test_told_ranks_are_the_places_in_the_list_of_all_items(model, make_histories):
    if not isinstance(model, RanksTargets):
        pytest.skip("makes lists only")
    histories, excluded = make_histories(300), make_histories(300, seed=1, width=30)
    histories[:3] = 0
    users = np.arange(300) % 150 - 1  # some of them unknown
    targets = np.random.default_rng(3).integers(0, 44, 300)  # some of them no item
    told = model.target_ranks(users, histories, targets, excluded)
    if told is None:
        assert model.name == "recgpt"
        return
    made = list_ranks(model.recommend(users, histories, 40, excluded), targets)
    assert told.tolist() == np.where((targets > 0) & (targets <= 40), made, 0).tolist()
    assert 100 < (told > 0).sum() < 300
    shown = model.target_ranks(users, histories, targets, nothing(300))
    assert (shown > 0).tolist() == ((targets > 0) & (targets <= 40)).tolist()


def test_a_list_longer_than_the_catalogue_ends_in_zeros(model, make_histories):
    histories = make_histories(5)
    recommended = lists(model, histories, 60, exclude=np.full((5, 1), 7))
    assert (recommended[:, 39:] == 0).all()
    assert all(sorted(row[:39]) == [i for i in range(1, 41) if i != 7] for row in recommended)


def test_a_longer_list_begins_with_the_shorter_one_or_is_the_models_own_mixture(model, name, make_histories):
    if name == "recgpt":
        pytest.skip("its two steps divide each length of list anew")
    histories = make_histories(20)
    assert np.array_equal(lists(model, histories, 20)[:, :6], lists(model, histories, 6))


def test_nobody_gets_no_list_and_who_was_shown_everything_an_empty_one(model, make_histories):
    assert lists(model, np.zeros((0, 50), np.int64), 10).shape == (0, 10)
    everything = np.tile(np.arange(1, 41), (5, 1))
    assert not lists(model, make_histories(5), 10, exclude=everything).any()


def test_a_history_of_one_item_is_enough(model):
    alone = np.arange(1, 41)[:, None]
    recommended = lists(model, alone, 1, exclude=alone)
    assert recommended.shape == (40, 1)
    assert recommended.min() >= 1
    assert (recommended != alone).all()


def test_what_is_given_is_not_written_to(model, make_histories):
    users, histories, exclude = np.arange(30), make_histories(30), make_histories(30, seed=1, width=5)
    given = [array.copy() for array in (users, histories, exclude)]
    for array in (users, histories, exclude):
        array.flags.writeable = False
    model.recommend(users, histories, 10, exclude)
    model.retrieve(model.encode(users, histories, exclude), 10, exclude)
    assert all(np.array_equal(a, b) for a, b in zip(given, (users, histories, exclude), strict=True))


def test_a_user_and_an_item_that_nobody_met_in_training_can_be_served(name, make_model, world):
    """Both have a number, and a vector where the model has vectors, but no interaction."""
    data = Interactions(world.users, world.items, world.times, world.n_users + 1, world.n_items + 1)
    model = make_model(name, epochs=1)
    if hasattr(model, "training"):
        model.training = replace(model.training, max_targets=300)
    model.fit(data)
    new = np.full((2, 1), world.n_items + 1)
    recommended = lists(model, new, 41, users=np.full(2, world.n_users))
    assert all(sorted(row) == list(range(1, 42)) for row in recommended)


def test_unknown_users_and_empty_histories_get_full_lists(model):
    recommended = lists(model, np.zeros((3, 50), np.int64), 10, users=np.array([-1, 10**6, 3]))
    assert recommended.min() >= 1


def test_items_that_came_after_the_fit_are_ignored(model, make_histories):
    known = make_histories(30, width=40)
    mixed = np.zeros((30, 50), np.int64)
    for old, new in zip(known, mixed, strict=True):
        n = np.count_nonzero(old)
        new[:n] = old[:n]
        new[: n + 1] = np.insert(new[:n], n // 2, 999)
    assert np.array_equal(lists(model, known), lists(model, mixed))
    assert np.array_equal(lists(model, known), lists(model, known, exclude=np.full((30, 1), 999)))


def test_only_the_last_fifty_items_count_and_zeros_after_the_end_do_not(model, make_histories):
    histories = make_histories(30, width=80)
    last = np.zeros((30, 50), np.int64)
    for long, short in zip(histories, last, strict=True):
        kept = long[long > 0][-50:]
        short[: len(kept)] = kept
    assert np.array_equal(lists(model, histories), lists(model, last))


def test_a_list_does_not_depend_on_who_shares_the_batch(model, make_histories):
    histories, exclude = make_histories(200), make_histories(200, seed=1, width=6)
    together = lists(model, histories, exclude=exclude)
    order = np.random.default_rng(0).permutation(200)
    assert np.array_equal(lists(model, histories[order], 10, exclude[order], order), together[order])
    for row in range(0, 200, 37):
        one = slice(row, row + 1)
        alone = lists(model, histories[one], 10, exclude[one], np.arange(row, row + 1))
        assert np.array_equal(alone, together[one])


@settings(max_examples=10)
@given(st.integers(1, 50), st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_a_state_answers_as_recommend_would(model, make_histories, k, n_since, seed):
    generator = np.random.default_rng(seed)
    histories, exclude = make_histories(9, seed=seed), make_histories(9, seed=seed + 1, width=5)
    since = generator.integers(0, 41, (9, n_since))
    state = model.encode(np.arange(9), histories, exclude)
    assert all(len(part) == 9 for part in state)
    expected = lists(model, histories, k, np.concatenate((exclude, since), axis=1))
    assert np.array_equal(model.retrieve(state, k, since), expected)


def test_rows_of_a_state_can_be_taken_apart(model, make_histories):
    histories = make_histories(12)
    state = model.encode(np.arange(12), histories, nothing(12))
    rows = np.array([7, 2, 9])
    part = model.retrieve(tuple(array[rows] for array in state), 5, nothing(3))
    assert np.array_equal(part, model.retrieve(state, 5, nothing(12))[rows])


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_streams_alone(
    name, world, make_model, make_histories
):
    before = np.random.get_state()[1].copy()
    histories = make_histories(40)
    first, second, other = (
        lists(make_model(name, epochs=2, seed=seed).fit(world), histories, 20) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, second)
    assert np.array_equal(first, other) == (name == PERSONAL), "another seed is another model"
    assert np.array_equal(np.random.get_state()[1], before)


def test_saved_and_loaded_is_the_same_model(model, tmp_path, make_histories):
    model.save(tmp_path / "model.safetensors")
    loaded = type(model).load(tmp_path / "model.safetensors")
    histories, exclude = make_histories(30), make_histories(30, seed=1, width=5)
    assert np.array_equal(lists(model, histories, 20, exclude), lists(loaded, histories, 20, exclude))


def test_a_checkpoint_of_another_model_is_refused_by_name(model, name, tmp_path, make_model):
    model.save(tmp_path / "model.safetensors")
    other = type(make_model("gru4rec" if name == "sasrec" else "sasrec"))
    with pytest.raises(ValueError, match=f"holds a '{name}', not a '{other.name}'"):
        other.load(tmp_path / "model.safetensors")


def test_a_trainable_model_has_the_published_settings_and_the_best_ones(name, make_model):
    if name == PERSONAL or name not in MODELS:
        pytest.skip("no settings, or stages with settings of their own")
    cls = type(make_model(name))
    for preset in ("paper", "best"):
        model = cls.preset(preset, seed=5, threads=2)
        assert model.training.max_targets is None
        assert (model.training.seed, model.training.threads) == (5, 2)
        assert cls.presets[preset].source
    with pytest.raises(LookupError, match="unknown preset 'thorough'"):
        cls.preset("thorough")


def test_asking_before_learning_is_refused_by_name(name, make_model):
    with pytest.raises(ValueError, match=f"{name} has not learned anything"):
        lists(make_model(name), np.ones((1, 1), np.int64))


def test_nothing_to_learn_from_is_refused(name, make_model):
    if name == PERSONAL:
        pytest.skip("a single interaction is enough")
    lonely = Interactions.from_arrays([0, 1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="no user has two interactions"):
        make_model(name).fit(lonely)


def test_a_fit_reports_its_progress_up_to_the_end(name, world, make_model):
    seen = []
    make_model(name, epochs=2).fit(world, lambda stage, fraction: seen.append((stage, fraction)))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert all(name in stage for stage, _ in seen)


def test_lists_at_default_sizes_do_not_depend_on_the_batch_with_two_threads(name, make_model, make_histories):
    """Larger products take other code paths: default dimension, a catalogue of thousands, two threads."""
    if name == PERSONAL:
        pytest.skip("no floats")
    cls = type(make_model(name))
    generator = np.random.default_rng(3)
    n_items = 3000
    data = Interactions.from_arrays(
        np.repeat(np.arange(40), 8), generator.integers(1, n_items + 1, 320), n_items=n_items
    )
    training = replace(make_model(name).training, epochs=2, validation_users=0, batch_targets=1536)
    model = cls(training=training).fit(data)
    model.training = replace(training, threads=2)
    histories = make_histories(96, n_items)
    together = model.encode(np.arange(96), histories, nothing(96))
    order = generator.permutation(96)
    shuffled = model.encode(order, histories[order], nothing(96))
    alone = model.encode(np.array([77]), histories[77:78], nothing(1))
    for part, other, single in zip(together, shuffled, alone, strict=True):
        assert np.array_equal(part[order], other)
        assert np.array_equal(part[77:78], single)
