import pytest
import torch

from baselines.batches import Batch
from baselines.sequential import LossSettings
from recgpt.pretrain import pretraining_loss
from recgpt.prompts import PROMPTERS
from recgpt.tune import PromptSettings, PromptSource, tuning_loss


@pytest.fixture
def batch(histories):
    targets = torch.cat([histories[:, 1:], torch.zeros(9, 1, dtype=torch.long)], 1)
    return Batch(torch.arange(9), histories, torch.where(histories > 0, targets.clamp(min=1), 0))


@pytest.mark.parametrize("prompts", PROMPTERS)
def test_tuning_without_prompts_is_pretraining(make_decoder, batch, prompts):
    decoder = make_decoder(dropout=0.0)
    settings = LossSettings("sampled", 20)
    plain = pretraining_loss(decoder, settings)(batch, torch.Generator().manual_seed(1))
    tuned = tuning_loss(decoder, settings, PromptSettings(prompts, 0))
    torch.testing.assert_close(tuned(batch, torch.Generator().manual_seed(1)), plain)


def test_parallel_prompts_that_learn_nothing_change_nothing(make_decoder, batch):
    """Real items do not look at parallel prompts, so with slot loss none this is the control of the
    comparison."""
    decoder, settings = make_decoder(dropout=0.0), LossSettings("sampled", 20)
    plain = pretraining_loss(decoder, settings)(batch, torch.Generator().manual_seed(1))
    tuned = tuning_loss(decoder, settings, PromptSettings("parallel", 2, "none"))
    torch.testing.assert_close(tuned(batch, torch.Generator().manual_seed(1)), plain)


@pytest.mark.parametrize("prompts", PROMPTERS)
@pytest.mark.parametrize("slot_loss", ["next", "skip"])
def test_prompt_slots_learn(make_decoder, batch, prompts, slot_loss):
    decoder = make_decoder(dropout=0.0)
    loss = tuning_loss(decoder, LossSettings("sampled", 20), PromptSettings(prompts, 2, slot_loss))
    loss(batch, torch.Generator().manual_seed(1)).backward()
    assert decoder.segments.weight.grad[1].abs().sum() > 0


@pytest.mark.parametrize("prompts", PROMPTERS)
def test_prompts_are_kept_for_refresh_steps_and_follow_the_weights_after(make_decoder, batch, prompts):
    decoder = make_decoder()
    fresh = PromptSource(decoder, PromptSettings(prompts, 2))
    kept = PromptSource(decoder, PromptSettings(prompts, 2, prompt_refresh=2))
    first = kept.augment(batch).items
    assert torch.equal(first, fresh.augment(batch).items)
    decoder.items.weight.data = decoder.items.weight.data.flip(0)
    now = fresh.augment(batch).items
    assert not torch.equal(now, first)
    assert torch.equal(kept.augment(batch).items, first)
    assert torch.equal(kept.augment(batch).items, now)


def test_kept_prompts_follow_their_row_into_another_batch(make_decoder, batch):
    source = PromptSource(make_decoder(), PromptSettings(prompt_refresh=10))
    first = source.augment(batch).items[:, 9:]
    order = torch.tensor([4, 0, 2])  # lengths 2, 3 and 1: the batch is three columns wide
    few = Batch(*(column[order][..., :3] if column.ndim == 2 else column[order] for column in batch))
    assert torch.equal(source.augment(few).items[:, 3:], first[order, :3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_prompts": 7}, "K = 7 prompts between two items; K must be 0 to 6"),
        ({"prompts": "random"}, "known prompts: sequential, parallel, last"),
        ({"prompt_slot_loss": "all"}, "known: none, next, skip"),
        ({"prompt_refresh": 0}, "prompt_refresh is 0 steps"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        PromptSettings(**wrong)
