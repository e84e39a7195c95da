"""The recurrence against the gates written out."""

import torch

from baselines.gru4rec import GRU4RecNetwork, GRU4RecSettings
from baselines.training import seeded


@torch.no_grad()
def test_states_follow_the_gates_of_the_paper():
    with seeded(1):
        network = GRU4RecNetwork(30, GRU4RecSettings(dim=8)).eval()
    history = torch.tensor([3, 7, 9, 2])
    w_reset, w_update, w_new = network.gru.weight_ih_l0.chunk(3)
    u_reset, u_update, u_new = network.gru.weight_hh_l0.chunk(3)
    b_reset, b_update, b_new = network.gru.bias_ih_l0.chunk(3)
    c_reset, c_update, c_new = network.gru.bias_hh_l0.chunk(3)
    h = torch.zeros(8)
    for x in network.items(history):
        reset = torch.sigmoid(w_reset @ x + b_reset + u_reset @ h + c_reset)
        update = torch.sigmoid(w_update @ x + b_update + u_update @ h + c_update)
        new = torch.tanh(w_new @ x + b_new + reset * (u_new @ h + c_new))
        h = (1 - update) * new + update * h
    padded = torch.tensor([[3, 7, 9, 2, 0, 0]])
    torch.testing.assert_close(network.encode(torch.zeros(1), padded)[0], h, atol=1e-5, rtol=1e-4)
