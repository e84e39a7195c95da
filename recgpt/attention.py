"""How slots look at the slots before them: softmax attention, or the authors' causal Flow-Attention.

Flow-Attention (Wu et al., "Flowformer", ICML 2022, section 3.2) is linear attention in which each slot also
competes for what flows out of it. With phi the sigmoid, slots counted from t = 1 and sums over i <= t:

    I_t    = t / <phi(q_t), sum phi(k_i)>              O_t    = t / <phi(k_t), sum phi(q_i)>
    Ihat_t = <phi(q_t), sum phi(k_i) O_i> / t          Ohat_t = <phi(k_t), sum phi(q_i) I_i> / t, at most 1
    c_t    = t exp(Ohat_t) / sum exp(Ohat_i)
    out_t  = sigmoid(Ihat_t) sum <phi(q_t) I_t / t, phi(k_i)> c_i v_i

The authors' code also adds 1e-6 to both sides of each inner product; sigmoids are never 0, so it is left out.

It has no padding mask, so the pads in front of a history are slots like others. But the pads of a history
are all alike, and so is what becomes of them: a pad sees pads only, I_t and O_t are the same for all, Ihat
and Ohat are 1. So one pad slot stands for all of them and counts as many times as there are pads.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """q (B, heads, S, d), k and v (B, heads, slots, d), mask (1 or B, 1, S, slots), True where a slot may
    look, to (B, heads, S, d). dropout: the probability that a weight is dropped, 0 outside training."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, heads, S, slots)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return F.dropout(weights, dropout, dropout > 0) @ v


def flow_attention(q: Tensor, k: Tensor, v: Tensor, counts: Tensor) -> Tensor:
    """q, k and v (B, heads, S, d) to (B, heads, S, d). counts (B, 1, S, S): for how many slots that slot t
    sees the slot i stands, 0 above the diagonal (`slot_counts`).

    All the inner products are entries of phi(q) phi(k)^T, so the cost is that of softmax attention. In
    float32 nothing can overflow: exp(Ohat) lies between 1 and e.
    """
    counts = counts.to(q.dtype)
    flow = q.sigmoid() @ k.sigmoid().transpose(-1, -2)  # (B, heads, S, S): <phi(q_t), phi(k_i)>
    received = flow * counts
    sent = flow.transpose(-1, -2) * counts
    t = counts.sum(-1)  # (B, 1, S)
    incoming, outgoing = t / received.sum(-1), t / sent.sum(-1)  # (B, heads, S), as all below
    conserved_in = _times(received, outgoing) / t
    conserved_out = (_times(sent, incoming) / t).clamp(max=1.0).exp()
    competition = t * conserved_out / _times(counts, conserved_out)
    allocation = conserved_in.sigmoid() * incoming / t
    return allocation[..., None] * (received @ (competition[..., None] * v))


def slot_counts(pads: Tensor, slots: int) -> Tensor:
    """(B, 1, 1 + slots, 1 + slots) counts of a pad slot that stands for pads (B,) of them, and of the slots
    after it. The pad slot itself is computed as the first of the pads: what it sees is one slot."""
    counts = torch.ones(len(pads), 1, 1 + slots, 1 + slots, device=pads.device).tril()
    counts[:, 0, 1:, 0] = pads[:, None]
    return counts


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
