"""The pairwise gradient against the paper's formula, its penalty, and who is served with what."""

import numpy as np
import torch

from baselines.batches import Batch, uniform_negatives
from baselines.bpr import BPRNetwork, BPRSettings
from baselines.training import seeded

BATCH = Batch(torch.tensor([2]), torch.tensor([[7]]), torch.tensor([[4]]))


def network_of(**changes):
    with seeded(1):
        return BPRNetwork(5, 30, BPRSettings(dim=6, dropout=0.0, **changes))


def test_the_gradient_is_the_papers():
    """d/dw_u = -(1 - sigmoid(x)) (h_i - h_j), d/dh_i = -(1 - sigmoid(x)) w_u, d/dh_j = +(...) w_u."""
    network = network_of()
    network.loss(BATCH, torch.Generator().manual_seed(3)).backward()
    others = uniform_negatives(30, (2, 1), torch.Generator().manual_seed(3))[:, 0].tolist()
    assert not set(others) & {7, 4}
    w, table = network.users.weight.detach()[2], network.items.weight.detach()
    grad_w, grad_table = torch.zeros(6), torch.zeros(31, 6)
    for item, other in zip((7, 4), others, strict=True):
        miss = 1 - torch.sigmoid(w @ (table[item] - table[other]))
        grad_w -= miss * (table[item] - table[other]) / 2
        grad_table[item] -= miss * w / 2
        grad_table[other] += miss * w / 2
    torch.testing.assert_close(network.users.weight.grad[2], grad_w)
    torch.testing.assert_close(network.items.weight.grad, grad_table)
    assert not network.users.weight.grad[[0, 1, 3, 4]].any()


def test_the_penalty_is_on_the_user_and_their_items():
    plain, penalised = network_of(), network_of(l2=0.5)
    with torch.no_grad():
        cost = [n.loss(BATCH, torch.Generator().manual_seed(3)) for n in (plain, penalised)]
        user, items = plain.users.weight[2], plain.items.weight[[7, 4]]
    expected = 0.5 * (user @ user + (items * items).sum(dim=1).mean())
    torch.testing.assert_close(cost[1] - cost[0], expected)


def test_unknown_users_get_one_list_and_known_ones_their_own(make_model, world):
    model = make_model("bpr", epochs=3).fit(world)
    histories, nothing = world.histories()[:6], np.zeros((6, 0), np.int64)
    unknown = model.recommend(np.array([-1, 10**6, -1, -1, -1, -1]), histories, 10, nothing)
    assert (unknown == unknown[0]).all()
    mean = model.network.users.weight.mean(dim=0) @ model.network.table().T
    assert unknown[0].tolist() == (mean[1:].argsort(descending=True)[:10] + 1).tolist()
    own = model.recommend(np.arange(6), histories, 10, nothing)
    shuffled = model.recommend(np.arange(6), histories[::-1], 10, nothing)
    assert np.array_equal(own, shuffled)  # whose history it is counts, not what is in it
    assert len(np.unique(own, axis=0)) > 1
