import pytest
import torch

from recgpt.model import Cache, RecGPTConfig


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


def test_a_grown_item_sees_its_own_history_only(make_decoder, histories):
    decoder = make_decoder()
    lengths = (histories > 0).sum(1)
    cache = Cache(decoder, 9, 11)
    decoder(histories, cache=cache)
    picks = torch.arange(1, 10)
    grown = decoder.grow(picks, None, lengths, 0, cache)
    for row, history in enumerate(histories):
        n = int(lengths[row])
        alone = torch.cat([history[:n], picks[row : row + 1]])[None]
        segments = torch.tensor([0] * n + [1])
        torch.testing.assert_close(grown[row], decoder(alone, segments=segments)[0, -1])


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="dim 10 does not divide into 3 heads"):
        RecGPTConfig(n_items=5, dim=10, heads=3)
