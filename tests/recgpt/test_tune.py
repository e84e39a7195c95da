import pytest
import torch

from baselines.batches import Batch
from baselines.losses import LossSettings
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


def test_an_output_layer_is_tuned_by_the_softmax_over_all_items(make_decoder, authors_sizes, batch):
    """Against torch's cross entropy; padding is no class of ours."""
    decoder = make_decoder(**authors_sizes).float()
    settings = PromptSettings("last", 1, "skip", prompt_repeats=True)
    made = PromptSource(decoder, settings).augment(batch)
    assert torch.equal(made.targets, batch.targets)  # all of them, also where a guess stands
    h = decoder(made.items, batch.users, segments=made.segments)[made.targets > 0]
    logits = decoder.output(h)[:, 1:]
    expected = torch.nn.functional.cross_entropy(logits, made.targets[made.targets > 0] - 1)
    expected.backward()
    bias_gradient = decoder.output.bias.grad.clone()
    decoder.zero_grad()
    loss = tuning_loss(decoder, LossSettings("full"), settings)(batch, torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)  # bfloat16 logits
    loss.backward()
    torch.testing.assert_close(decoder.output.bias.grad, bias_gradient, rtol=0.05, atol=2e-3)


def test_pretraining_leaves_the_output_layer_alone(make_decoder, authors_sizes, batch):
    decoder = make_decoder(**authors_sizes)
    pretraining_loss(decoder, LossSettings("bce", 1))(batch, torch.Generator().manual_seed(1)).backward()
    assert decoder.output.weight.grad is None
    assert decoder.items.weight.grad.any()


def test_leaking_prompts_are_woven_in(make_decoder, authors_sizes, batch):
    decoder = make_decoder(**authors_sizes)
    honest, leaking = (
        PromptSource(decoder, PromptSettings("last", 1, prompt_repeats=True, prompt_leak=leak)).augment(batch)
        for leak in (False, True)
    )
    assert not torch.equal(honest.items, leaking.items)
    changed = leaking.items != batch.items
    assert (leaking.segments[changed] == 1).all()


def test_large_user_vectors_cost_in_both_stages(make_decoder, batch):
    light, heavy = (make_decoder(dropout=0.0, user_vectors=True, user_decay=d) for d in (0.0, 2.0))
    penalty = 2 * light.users.weight[1:].square().sum(1).mean()
    settings = LossSettings("sampled", 20)
    for loss in (
        lambda decoder: pretraining_loss(decoder, settings),
        lambda decoder: tuning_loss(decoder, settings, PromptSettings()),
    ):
        without, with_decay = (
            loss(decoder)(batch, torch.Generator().manual_seed(1)) for decoder in (light, heavy)
        )
        torch.testing.assert_close(with_decay, without + penalty)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_prompts": 7}, "K = 7 prompts between two items; K must be 0 to 6"),
        ({"prompts": "random"}, "known prompts: sequential, parallel, last"),
        ({"prompt_slot_loss": "all"}, "known: none, next, skip"),
        ({"prompt_refresh": 0}, "prompt_refresh is 0 steps"),
        ({"prompt_leak": True}, "prompt_leak is of prompts 'last', not 'parallel'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        PromptSettings(**wrong)
