"""A small decoder with random weights, a model around it, histories of every length, and the authors' network
written out slot by slot."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recgpt.model import Decoder, RecGPTConfig


@pytest.fixture
def make_decoder() -> Callable[..., Decoder]:
    """Random weights, large enough that no two scores nearly tie; doubles, so that orders of summation
    agree."""

    def make(**sizes: int | float | bool | str) -> Decoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            config = RecGPTConfig(**{"n_items": 40, "n_users": 9, "dim": 16, "heads": 2, **sizes})
            decoder = Decoder(config).double()
            for weight in decoder.parameters():
                if weight.ndim == 2:
                    weight.data.copy_(torch.randn_like(weight) * 0.5)
            if decoder.output is not None:
                decoder.output.bias.data.copy_(torch.randn_like(decoder.output.bias))
            return decoder.eval()

    return make


@pytest.fixture
def histories() -> Tensor:
    """(9, 9) histories of 1 .. 9 items, in mixed order of length."""
    generator = torch.Generator().manual_seed(3)
    items = torch.randint(1, 41, (9, 9), generator=generator)
    lengths = torch.tensor([3, 9, 1, 5, 2, 8, 4, 7, 6])
    return items * (torch.arange(9) < lengths[:, None])


@pytest.fixture
def authors_sizes() -> dict[str, int | float | bool | str]:
    """Settings of the network in the authors' code, but for its size."""
    return {
        "layers": 1,
        "expand": 2,
        "attention_dropout": 0.0,
        "input_norm": False,
        "attention": "flow",
        "positions": "end",
        "output": "untied",
        "attention_init": "torch",
        "user_vectors": True,
        "user_dropout": 0.0,
    }


@pytest.fixture
def window_states() -> Callable[..., Tensor]:
    """(50, D) states of one window of the authors' network, left-padded to 50 slots with real pads, from the
    formulas as they stand in the papers: a loop over slots, and eps on both sides of each inner product."""

    def states(
        decoder: Decoder, user: int, tokens: list[int], n_generated: int = 0, *, eps: float = 0.0
    ) -> Tensor:
        window = [0] * (50 - len(tokens)) + tokens
        slots = []
        for slot, item in enumerate(window):
            e = decoder.items.weight[item] if item else decoder.items.weight[0].detach()
            place = slot if item else 0
            segment = int(slot >= 50 - n_generated)
            slots.append(e + decoder.positions.weight[place] + decoder.segments.weight[segment])
        x = torch.stack(slots) + decoder.users.weight[user + 1]
        for block in decoder.blocks:
            q, k, v = (part.chunk(decoder.config.heads, 1) for part in block.qkv(x).chunk(3, 1))
            attended = torch.cat([_flow(*head, eps) for head in zip(q, k, v, strict=True)], 1)
            x = block.norm_attention(x + block.out(attended))
            x = block.norm_forward(x + block.narrow(F.gelu(block.widen(x))))
        return x

    return states


def _flow(q: Tensor, k: Tensor, v: Tensor, eps: float) -> Tensor:
    q, k = torch.sigmoid(q), torch.sigmoid(k)
    incoming: list[Tensor] = []
    outgoing: list[Tensor] = []
    sources: list[Tensor] = []
    values: list[Tensor] = []
    out = []
    for t in range(1, len(q) + 1):
        q_t, k_t = q[t - 1], k[t - 1]
        incoming.append(t / ((q_t + eps) @ (k[:t].sum(0) + eps)))
        outgoing.append(t / ((k_t + eps) @ (q[:t].sum(0) + eps)))
        conserved_in = (q_t + eps) @ (torch.stack(outgoing) @ k[:t] + eps) / t
        conserved_out = (k_t + eps) @ (torch.stack(incoming) @ q[:t] + eps) / t
        sources.append(conserved_out.clamp(-1, 1).exp())
        values.append(v[t - 1] * t * sources[-1] / torch.stack(sources).sum())
        flows = k[:t] @ (q_t * incoming[-1] / t)
        out.append(torch.sigmoid(conserved_in) * (flows @ torch.stack(values)))
    return torch.stack(out)
