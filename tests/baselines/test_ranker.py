"""The ranking stage: no label leaks, known effects are found, scores do not depend on the batch."""

import numpy as np
import pytest

from baselines import ranker as ranker_module
from baselines.ranker import ItemFeatures, PairTable, Ranker, _Earlier, logistic_regression, sigmoid

N_USERS, N_ITEMS, N_ROWS = 150, 80, 12_000


@pytest.fixture(scope="module")
def log():
    """Users like half of the tags; items differ; later impressions are the test."""
    g = np.random.default_rng(0)
    features = ItemFeatures(
        tag=np.append(0, g.integers(0, 6, N_ITEMS)),
        author=np.append(0, g.integers(0, 20, N_ITEMS)),
        duration_ms=np.append(0, g.integers(5_000, 90_000, N_ITEMS)),
        uploaded_ts=np.append(0, g.integers(-(10**9), 0, N_ITEMS)),
    )
    taste, quality = g.choice([-1.2, 1.2], (N_USERS, 6)), g.standard_normal(N_ITEMS + 1)
    users, items = g.integers(0, N_USERS, N_ROWS), g.integers(1, N_ITEMS + 1, N_ROWS)
    truth = sigmoid(taste[users, features.tag[items]] + quality[items] - 0.3)
    return users, items, np.arange(N_ROWS) * 60_000, (g.random(N_ROWS) < truth).astype(int), features, truth


def fit(log, rows=slice(None)):
    users, items, times, play, features, _ = log
    return Ranker().fit(users[rows], items[rows], times[rows], play[rows], n_users=N_USERS, features=features)


@pytest.fixture(scope="module")
def fitted(log):
    return fit(log, slice(9000))


def auc(score, label):
    rank = np.argsort(np.argsort(score)) + 1.0
    n = label.sum()
    return (rank[label == 1].sum() - n * (n + 1) / 2) / (n * (len(label) - n))


def test_later_plays_are_predicted_nearly_as_well_as_the_truth_would(log, fitted):
    users, items, times, play, _, truth = (c[9000:] if isinstance(c, np.ndarray) else c for c in log)
    p = fitted.score(users, items[:, None], times)[:, 0]
    assert auc(p, play) > auc(truth, play) - 0.06
    assert p.mean() == pytest.approx(play.mean(), abs=0.03)


def test_a_rows_features_come_from_earlier_rows_only():
    label = np.array([1.0, 0, 1, 1, 0])
    codes = np.array([2, 2, 5, 2, 5])
    rate, views = _Earlier(label).rate(codes, 2.0, 0.5)
    assert views.tolist() == [0, 1, 0, 2, 1]
    assert rate.tolist() == [0.5, 2 / 3, 0.5, 0.5, 2 / 3]


def test_random_labels_teach_nothing(log):
    """Were a row's own label in its features, the in-sample AUC would be far above one half."""
    users, items, times, _, features, truth = log
    noise = np.random.default_rng(1).integers(0, 2, N_ROWS)
    model = fit((users, items, times, noise, features, truth), slice(9000))
    p = model.score(users[9000:], items[9000:, None], times[9000:])[:, 0]
    assert abs(auc(p, noise[9000:]) - 0.5) < 0.04
    assert abs(p.mean() - 0.5) < 0.03


def test_scores_are_batch_invariant_probabilities(log, fitted):
    generator = np.random.default_rng(2)
    users, items = generator.integers(-1, N_USERS + 5, 300), generator.integers(0, N_ITEMS + 1, (300, 7))
    times = generator.integers(0, 10**10, 300)
    together = fitted.score(users, items, times)
    assert together.shape == (300, 7)
    assert ((together > 0) & (together < 1) == (items > 0)).all()
    for row in range(0, 300, 23):
        one = slice(row, row + 1)
        assert np.array_equal(fitted.score(users[one], items[one, 2:5], times[one]), together[one, 2:5])


def test_unknown_users_are_ranked_by_what_is_known_of_the_items(fitted):
    items = np.arange(1, N_ITEMS + 1)[None].repeat(2, axis=0)
    scores = fitted.score(np.array([-1, 10**6]), items, np.array([10**6, 10**6]))
    assert np.array_equal(scores[0], scores[1])
    assert np.ptp(scores[0]) > 0.1


def test_the_order_of_the_log_does_not_matter(log, fitted):
    order = np.random.default_rng(0).permutation(9000)
    users, items, times, play, features, truth = log
    shuffled = fit((users[order], items[order], times[order], play[order], features, truth))
    assert np.array_equal(shuffled.coefficients, fitted.coefficients)


def test_saved_and_loaded_is_the_same_ranker(log, fitted, tmp_path):
    users, items, times, *_ = log
    fitted.save(tmp_path / "ranker")
    loaded = Ranker.load(tmp_path / "ranker")
    assert np.array_equal(
        loaded.score(users, items[:, None], times), fitted.score(users, items[:, None], times)
    )
    (tmp_path / "ranker").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is no readable ranker"):
        Ranker.load(tmp_path / "ranker")
    with pytest.raises(ValueError, match="has not learned anything"):
        Ranker().score(users, items[:, None], times)


def test_the_hash_table_answers_as_the_dense_one(monkeypatch):
    generator = np.random.default_rng(0)
    keys = np.unique(generator.integers(0, 1000 * 400, 5000))
    values = generator.standard_normal(len(keys))
    dense = PairTable(1000, 400, keys, values)
    monkeypatch.setattr(ranker_module, "DENSE_CELLS", 0)
    hashed = PairTable(1000, 400, keys, values)
    rows, columns = generator.integers(0, 1000, (3000, 1)), generator.integers(0, 400, (3000, 40))
    assert np.array_equal(dense.at(rows, columns), hashed.at(rows, columns))
    assert np.array_equal(hashed.at(keys // 400, keys % 400), values)


def test_the_regression_is_at_the_optimum_of_the_penalised_likelihood():
    generator = np.random.default_rng(0)
    x = np.column_stack((np.ones(500), generator.standard_normal((500, 3))))
    y = (generator.random(500) < sigmoid(x @ [0.2, 1, -2, 0])).astype(float)
    b = logistic_regression(x, y, 4.0)
    gradient = x.T @ (y - sigmoid(x @ b)) - np.array([1e-6, 4, 4, 4]) * b
    assert np.abs(gradient).max() < 1e-8
    assert b == pytest.approx([0.2, 1, -2, 0], abs=0.4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": np.array([0, 150])}, r"users 0 .. 150 .* allowed are 0 .. 149"),
        ({"items": np.array([0, 1])}, r"items 0 .. 1; allowed are .* 1 .. 80"),
        ({"play": np.array([0, 2])}, "other values than 0 and 1"),
        ({"times": np.array([0])}, "2 users, 2 items, 1 times"),
    ],
)
def test_bad_logs_are_refused(log, change, message):
    columns = {name: np.array([1, 1]) for name in ("users", "items", "times", "play")} | change
    with pytest.raises(ValueError, match=message):
        Ranker().fit(**columns, n_users=N_USERS, features=log[4])
