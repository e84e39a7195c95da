from functools import partial

import pytest
import torch

from recgpt.model import Cache, Decoder, RecGPTConfig
from recgpt.settings import RecGPTSettings


def test_later_items_and_padding_do_not_change_earlier_states(make_decoder, histories):
    decoder = make_decoder()
    whole = decoder(histories)
    for row, history in enumerate(histories):
        length = int((history > 0).sum())
        alone = decoder(history[None, :length])[0]
        torch.testing.assert_close(whole[row, :length], alone)


def test_a_cache_gives_the_states_of_one_pass(make_decoder, histories):
    decoder = make_decoder(user_vectors=True)
    users = torch.arange(9)
    cache = Cache(decoder, 9, 9)
    parts = [decoder(histories[:, a:b], users, cache=cache) for a, b in ((0, 1), (1, 4), (4, 9))]
    torch.testing.assert_close(torch.cat(parts, 1), decoder(histories, users))


def test_unknown_users_share_one_vector(make_decoder, histories):
    decoder = make_decoder(user_vectors=True)
    strangers = decoder(histories[:1].expand(3, -1), torch.tensor([-1, 9, 1000]))
    torch.testing.assert_close(strangers[0], strangers[1])
    torch.testing.assert_close(strangers[0], strangers[2])
    torch.testing.assert_close(strangers[:1], decoder(histories[:1]))
    known = decoder(histories[:1], torch.tensor([4]))
    assert not torch.allclose(strangers[:1], known)


def test_every_user_is_unknown_in_training_with_user_dropout_one(make_decoder, histories):
    decoder = make_decoder(user_vectors=True, user_dropout=1.0, dropout=0.0).train()
    torch.testing.assert_close(decoder(histories, torch.arange(9)), decoder(histories))


def test_positions_from_the_end_stand_before_the_end_of_a_full_window(make_decoder, histories):
    decoder = make_decoder(positions="end")
    h = decoder(histories)
    for row, history in enumerate(histories):
        n = int((history > 0).sum())
        places = torch.arange(50 - n, 50)
        alone = decoder(history[None, :n], positions=places)[0]
        torch.testing.assert_close(h[row, :n], alone)
    full = torch.arange(50)[None] % 40 + 1
    torch.testing.assert_close(decoder(full), decoder(full, positions=torch.arange(50)))


def test_without_input_norm_the_first_block_reads_the_plain_sum(make_decoder, histories):
    """In training too: dropout on the sum goes with the norm. Attention weights have a rate of their own."""
    decoder = make_decoder(input_norm=False, dropout=0.9, attention_dropout=0.0, layers=1).train()
    entered = []
    decoder.blocks[0].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    decoder(histories)
    plain = decoder.items(histories) + decoder.positions.weight[:9] + decoder.segments.weight[0]
    torch.testing.assert_close(entered[0], plain)


def test_attention_weights_are_dropped_at_their_own_rate(make_decoder, histories):
    still, noisy = (make_decoder(dropout=0.0, attention_dropout=p).train() for p in (None, 0.5))
    assert torch.equal(still(histories), still(histories))
    assert not torch.equal(noisy(histories), noisy(histories))


def test_an_own_output_layer_changes_no_state_and_guesses_with_a_bias(make_decoder, histories):
    tied, untied = make_decoder(), make_decoder(output="untied")
    untied.load_state_dict({**untied.state_dict(), **tied.state_dict()})
    assert torch.equal(tied(histories), untied(histories))
    assert torch.equal(tied.table(), untied.table())
    assert tied.guessing()[0] is tied.items.weight
    weight, bias = untied.guessing()
    assert weight.shape == (41, 16)
    assert bias.shape == (41,)


def test_small_user_vectors_are_widened_for_strangers_too(make_decoder, histories):
    decoder = make_decoder(user_vectors=True, user_dim=3)
    assert decoder.users.weight.shape == (10, 3)
    strangers = decoder(histories[:1].expand(2, -1), torch.tensor([-1, 9]))
    torch.testing.assert_close(strangers[:1], decoder(histories[:1]))
    torch.testing.assert_close(strangers[0], strangers[1])
    assert not torch.allclose(strangers[0], decoder(histories[:1], torch.tensor([4]))[0])


def test_user_decay_is_a_mean_over_the_users_of_a_batch(make_decoder):
    decoder = make_decoder(user_vectors=True, user_decay=0.5)
    squares = decoder.users.weight[[1, 5, 0]].square().sum()
    torch.testing.assert_close(decoder.user_penalty(torch.tensor([0, 4, -1])), 0.5 * squares / 3)
    assert make_decoder(user_vectors=True).user_penalty(torch.tensor([0])) is None


def test_first_weights_of_the_attention_can_be_those_of_torch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = Decoder(RecGPTConfig(n_items=5, dim=256, attention_init="torch"))
    for layer in (decoder.blocks[0].qkv, decoder.blocks[1].out):
        assert float(layer.weight.detach().abs().max()) == pytest.approx(1 / 16, rel=0.01)
        assert layer.bias.any()
    assert float(decoder.blocks[0].widen.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 10, "heads": 3}, "dim 10 does not divide into 3 heads"),
        ({"dim": 0}, "dim is 0; it must be at least 1"),
        ({"expand": 0}, "expand is 0; it must be at least 1"),
        ({"user_dim": 0}, "user_dim is 0; it must be at least 1"),
        ({"attention": "linear"}, "attention 'linear' is unknown; known: softmax, flow"),
        ({"positions": "middle"}, "positions 'middle' is unknown; known: start, end"),
        ({"output": "both"}, "output 'both' is unknown; known: tied, untied"),
        ({"attention_init": "zero"}, "attention_init 'zero' is unknown; known: normal, torch"),
        ({"attention_dropout": 1.0}, "attention_dropout is 1.0; give 0 to below 1"),
        ({"attention": "flow", "attention_dropout": 0.1}, "flow attention has no weights to drop"),
        ({"user_decay": -1.0}, "user_decay is -1.0; it must be 0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(wrong, message):
    for settings in (RecGPTSettings, partial(RecGPTConfig, n_items=5)):
        with pytest.raises(ValueError, match=message):
            settings(**wrong)
