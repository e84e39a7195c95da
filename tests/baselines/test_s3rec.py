"""Pre-training: what is hidden, segments, attributes; and that fine-tuning goes on from its weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.batches import Batch
from baselines.losses import LossSettings
from baselines.s3rec import S3Rec, S3RecNetwork, S3RecSettings, draw_segments, mask_some, segments
from baselines.settings import TrainingSettings
from baselines.training import seeded

SIZES = S3RecSettings(dim=8, dropout=0.0, loss=LossSettings("bce", 1))
TRAINING = TrainingSettings(epochs=2, lr=1e-2, batch_targets=256, threads=1, validation_users=20)
BATCH = Batch(
    torch.zeros(3),
    torch.tensor([[3, 7, 9, 2], [5, 1, 0, 0], [4, 4, 1, 0]]),
    torch.tensor([[7, 9, 2, 8], [1, 6, 0, 0], [4, 1, 10, 0]]),
)
ATTRIBUTES = np.random.default_rng(0).integers(0, 6, (41, 3))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def network_of(attributes=None, **changes):
    with seeded(1):
        network = S3RecNetwork(40, replace(SIZES, **changes), attributes).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return network


lengths_and_seed = (st.lists(st.integers(2, 12), min_size=2, max_size=8), st.integers(0, 2**32))


def numbered(lengths):
    """Windows in which row r has the items 100 r + 1, 100 r + 2, ..."""
    slot, n = torch.arange(max(lengths)), torch.tensor(lengths)
    row = 100 * torch.arange(len(lengths))
    return torch.where(slot < n[:, None], row[:, None] + slot + 1, 0)


@given(*lengths_and_seed)
def test_a_segment_is_up_to_half_of_its_row_and_has_a_foreign_twin_of_its_length(lengths, seed):
    window, generator = numbered(lengths), stream(seed)
    start, length = draw_segments(window, generator)
    own, foreign = segments(window, start, length, generator)
    longest = min(sum(lengths) - n for n in lengths)
    for row, n in enumerate(lengths):
        size = int(length[row])
        assert 1 <= size <= n // 2
        expected = [100 * row + int(start[row]) + 1 + k for k in range(size)]
        assert own[row].tolist() == expected + [0] * (own.shape[1] - size)
        assert expected[-1] <= 100 * row + n
        other = foreign[row, :size]
        assert (other > 0).all()
        assert foreign[row, size:].eq(0).all()
        if size <= longest:
            assert (other // 100 != row).all()


@given(*lengths_and_seed)
def test_the_last_item_is_always_hidden_and_pads_never(lengths, seed):
    window = numbered(lengths)
    hidden = mask_some(window, 0.3, stream(seed))
    assert not (hidden & (window == 0)).any()
    assert hidden[torch.arange(len(lengths)), torch.tensor(lengths) - 1].all()
    assert mask_some(window, 0.0, stream(seed)).sum() == len(lengths)


@torch.no_grad()
def test_a_hidden_slot_does_not_see_its_item_but_both_sides():
    network, window = network_of(), BATCH.whole()
    hidden = mask_some(window, 0.3, stream())
    other = torch.where(hidden, 40 - window, window)
    assert torch.equal(network.both_ways(window, hidden)[hidden], network.both_ways(other, hidden)[hidden])
    first = torch.arange(5) == torch.zeros(3, 1)
    later = window.clone()
    later[0, 3] = 30
    change = network.both_ways(later, first) - network.both_ways(window, first)
    assert change[0, 0].abs().max() > 1e-3


@torch.no_grad()
def test_fine_tuning_does_not_see_the_future():
    network = network_of()
    items = BATCH.items[:1]
    changed = items.clone()
    changed[0, 2:] = 30
    x, y = network._embed(items), network._embed(changed)
    for block in network.blocks:
        x, y = block(x), block(y)
    assert torch.equal(x[:, :2], y[:, :2])


@torch.no_grad()
def test_segment_prediction_follows_the_formula_row_by_row():
    network, window = network_of(), BATCH.whole()
    found = network._segment_loss(window, stream(5))
    generator = stream(5)
    start, length = draw_segments(window, generator)
    own, foreign = segments(window, start, length, generator)
    for row, n in enumerate((5, 3, 4)):
        s, size = int(start[row]), int(length[row])
        hidden = ((torch.arange(n) >= s) & (torch.arange(n) < s + size))[None]
        context = network.segment_head(network.both_ways(window[row : row + 1, :n], hidden)[0, -1])
        shown = torch.zeros(1, size, dtype=torch.bool)
        place = start[row : row + 1]
        near, far = (
            network.both_ways(part[row : row + 1, :size], shown, place)[0, -1] for part in (own, foreign)
        )
        expected = -torch.log(torch.sigmoid(context @ near - context @ far))
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_segments_at_the_end_of_the_longest_windows_have_positions():
    """The pads of a short segment near slot 50 beside a long one once reached past the last position."""
    long = torch.arange(51).expand(6, 51) % 40 + 1
    batch = Batch(torch.zeros(6), long[:, :50], long[:, 1:])
    losses = [network_of().pretraining_loss(batch, stream(seed)) for seed in range(5)]
    assert torch.stack(losses).isfinite().all()


@torch.no_grad()
def test_item_prediction_is_pairwise_under_bce_and_a_softmax_else():
    network = network_of()
    f, targets = torch.randn(6, 8, generator=stream()), torch.arange(6) + 1
    query = network.item_head(f)
    negatives = torch.randint(1, 41, (6,), generator=stream(2))
    difference = (query * (network.items(targets) - network.items(negatives))).sum(dim=1)
    expected = -torch.log(torch.sigmoid(difference)).mean()
    torch.testing.assert_close(network._item_loss(f, targets, stream(2)), expected)
    softmax = network_of(loss=LossSettings("full"))
    softmax.next_item_loss._full.dtype = torch.float32
    expected = torch.nn.functional.cross_entropy(query @ softmax.items.weight[1:].T, targets - 1)
    torch.testing.assert_close(softmax._item_loss(f, targets, stream(2)), expected)


@torch.no_grad()
def test_attributes_are_predicted_for_shown_and_hidden_items():
    network = network_of(ATTRIBUTES)
    query, items = torch.randn(4, 8, generator=stream()), torch.tensor([3, 9, 9, 40])
    expected = 0.0
    for vector, item in zip(query.double(), items, strict=True):
        for attribute in range(1, 6):
            p = torch.sigmoid(vector @ network.attributes.weight[attribute].double()).item()
            expected -= np.log(p if attribute in ATTRIBUTES[item] else 1 - p)
    assert network._attribute_loss(query, items).item() == pytest.approx(expected, rel=1e-5)
    with_attributes = network.pretraining_loss(BATCH, stream())
    network.settings = replace(network.settings, aap_weight=0.0, map_weight=0.0)
    assert with_attributes > network.pretraining_loss(BATCH, stream())
    assert not [name for name, _ in network_of().named_parameters() if "attribute" in name]


def weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_fine_tuning_goes_on_from_the_pretrained_weights(world):
    """The same end as fine-tuning alone, in a network that was given what pre-training left."""
    model = S3Rec(replace(SIZES, pretrain_share=0.5), TRAINING)
    with seeded(0):
        network = S3RecNetwork(world.n_items, model.settings)
    untrained, after_first = weights(network), {}

    def keep(stage, fraction):
        if "pre-training" in stage:
            after_first.update(weights(network))

    model.learn(network, world, None, keep)
    assert len(model.runs) == 2
    assert not torch.equal(after_first["items.weight"], untrained["items.weight"])
    with seeded(9):
        second = S3RecNetwork(world.n_items, model.settings)
    second.load_state_dict(after_first)
    model.stage(second, world, None, second.loss, lambda *_: None, training=model.stages()[1])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert torch.equal(network.item_head.weight, after_first["item_head.weight"])  # no use any more


@pytest.mark.parametrize(
    ("epochs", "share", "expected"), [(10, 0.3, (3, 7)), (1, 0.3, (0, 1)), (5, 0.0, (0, 5))]
)
def test_epochs_are_divided_and_fine_tuning_has_one_or_more(epochs, share, expected):
    model = S3Rec(replace(SIZES, pretrain_share=share), replace(TRAINING, epochs=epochs))
    first, second = model.stages()
    assert (first.epochs if first else 0, second.epochs) == expected


def test_a_model_with_attributes_is_saved_whole_and_wrong_ones_are_refused(world, tmp_path):
    model = S3Rec(SIZES, TRAINING, ATTRIBUTES).fit(world)
    model.save(tmp_path / "x")
    loaded, histories = S3Rec.load(tmp_path / "x"), world.histories()
    assert np.array_equal(loaded.attributes, ATTRIBUTES)
    nothing = np.zeros((len(histories), 0), np.int64)
    lists = [m.recommend(np.arange(len(histories)), histories, 9, nothing) for m in (model, loaded)]
    assert np.array_equal(*lists)
    with pytest.raises(ValueError, match=r"attributes of shape \(9, 2\) for 40 items; give ids .* \(41, A\)"):
        S3Rec(SIZES, TRAINING, np.zeros((9, 2), np.int64)).fit(world)
