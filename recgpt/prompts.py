"""Personalised prompts: what the model itself would put between two items of a history, in three named ways.

For every gap between an item and the next, K items are generated greedily and marked with segment 1:

- `sequential` is Algorithm 1 of the paper: a gap's prompts see all items and all prompts before them;
- `parallel` sees the items before the gap and the earlier prompts of the same gap, so all gaps are generated
  at once, in K + 1 passes, and stand in the same context as the second step of the recall at serving time;
- `last` inserts nothing: it replaces the last K items by guesses from the items before, as the authors' code
  does. Theirs generates with dropout, from a window in which the items to be replaced stand in front, where
  all can see them (`generate_leaking` has the window), and replaces a history of K items or fewer whole.

Only `last` goes with flow attention or positions from the end: there a slot's state depends on how long the
history is, so the gaps of a history are not one pass.

Prompts of the gap between the j-th item and the next stand at the next item's position. A prompt is never
padding, nor (unless `repeats`) an item of the history before its gap or an earlier prompt of the same gap; it
may happen to be the true next item, which it cannot see. Generation runs without dropout and without
gradients.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recgpt.growing import growing
from recgpt.model import GENERATED, REAL, Cache, Decoder

SLOT_LOSSES = ("none", "next", "skip")
"""What a prompt slot learns: nothing, the item after its gap, or the item after that one."""

MAX_PROMPTS = 6
CHUNK_ROWS = 512


class Augmented(NamedTuple):
    """Sequences with prompts in them, and what each slot has to predict (0: nothing)."""

    items: Tensor  # (B, S)
    positions: Tensor | None  # (S,) or (B, S), None is as the decoder counts them
    segments: Tensor  # (S,) or (B, S)
    targets: Tensor  # (B, S)
    mask: Tensor | None  # (S, S), None is causal


class Prompter(NamedTuple):
    """A named way: `generate` makes prompts from histories, `weave` puts them into training sequences."""

    generate: Callable[..., Tensor]
    weave: Callable[..., Augmented]


@torch.no_grad()
def generate_sequential(
    decoder: Decoder,
    users: Tensor | None,
    items: Tensor,
    K: int,
    *,
    open_end: bool = True,
    repeats: bool = False,
) -> Tensor:
    """(B, T, K) prompts after each item (`open_end`: also after the last), 0 elsewhere. Every token is
    computed once, keys and values are cached, and all users of the batch move along together."""
    with _Evaluating(decoder):
        B, T = items.shape
        gaps = _gaps(items, open_end)
        prompts = items.new_zeros(B, T, K)
        cache = Cache(decoder, B, T * (K + 1))
        for j in range(int(gaps.max()) if B else 0):
            at = torch.tensor([j], device=items.device)
            h = decoder(items[:, j : j + 1], users, positions=at, cache=cache)
            open_rows = torch.nonzero(gaps > j)[:, 0]
            for k in range(K):
                seen = torch.cat([items[open_rows, : j + 1], prompts[open_rows, j, :k]], 1)
                prompts[open_rows, j, k] = best(decoder, h[open_rows, 0], None if repeats else seen)
                h = decoder(
                    prompts[:, j, k : k + 1],
                    users,
                    positions=at + 1,
                    segments=torch.full_like(at, GENERATED),
                    cache=cache,
                )
        return prompts


@torch.no_grad()
def generate_parallel(
    decoder: Decoder,
    users: Tensor | None,
    items: Tensor,
    K: int,
    *,
    open_end: bool = True,
    repeats: bool = False,
) -> Tensor:
    """(B, T, K) prompts after each item (`open_end`: also after the last), 0 elsewhere. Gaps do not see each
    other, so the k-th prompts of all of them are one pass."""
    with _Evaluating(decoder):
        B, T = items.shape
        gaps = _gaps(items, open_end)
        prompts = items.new_zeros(B, T, K)
        cache = Cache(decoder, B, T * (K + 1))
        mask = branch_mask(T, K, items.device)
        position = torch.arange(T, device=items.device)
        rows, ends = torch.nonzero(position < gaps[:, None], as_tuple=True)
        seen = items[rows] * (position <= ends[:, None])
        h = decoder(items, users, cache=cache)
        for k in range(K):
            told = torch.cat([seen, prompts[rows, ends, :k]], 1)
            prompts[rows, ends, k] = best(decoder, h[rows, ends], None if repeats else told)
            if k < K - 1:
                h = decoder(
                    prompts[:, :, k],
                    users,
                    positions=position + 1,
                    segments=torch.full_like(position, GENERATED),
                    mask=mask[(k + 1) * T : (k + 2) * T, : (k + 2) * T],
                    cache=cache,
                )
        return prompts


@torch.no_grad()
def generate_last(
    decoder: Decoder,
    users: Tensor | None,
    items: Tensor,
    K: int,
    *,
    open_end: bool = True,
    repeats: bool = False,
) -> Tensor:
    """(B, T) guesses of the last K items (all but the first, where there are not more) in the slots of those
    items, 0 elsewhere. There is no gap after the last item, so `open_end` changes nothing."""
    with _Evaluating(decoder):
        B, T = items.shape
        lengths = (items > 0).sum(1)
        kept = (lengths - K).clamp(min=1)
        rows = torch.arange(B, device=items.device)
        guesses = torch.zeros_like(items)
        told = items * (torch.arange(T, device=items.device) < kept[:, None])
        histories = growing(decoder, users, items, kept, K)
        for k in range(K):
            pick = best(decoder, histories.state, None if repeats else told)
            within = kept + k < lengths
            guesses[rows[within], (kept + k)[within]] = pick[within]
            told = torch.cat([told, pick[:, None]], 1)
            if k < K - 1:
                histories.append(pick)
        return guesses


@torch.no_grad()
def generate_leaking(
    decoder: Decoder,
    users: Tensor | None,
    items: Tensor,
    K: int,
    *,
    open_end: bool = True,
    repeats: bool = False,
) -> Tensor:
    """As `generate_last`, from the window of the authors' code: the K items to be replaced, then the pads,
    then the items before. Each guess drops the first slot and is appended, so the k-th guess sees the items
    that the k-th and later ones replace. A history of K items or fewer is replaced whole.

    These pads see different items, so every one is a slot of its own: for flow attention only.
    """
    with _Evaluating(decoder):
        B, T = items.shape
        L = decoder.config.max_length
        lengths = (items > 0).sum(1)
        slots = torch.arange(L, device=items.device)
        place = slots[:T] + (L - lengths)[:, None]  # (B, T) of each item in a window that ends with the last
        window = items.new_zeros(B, L + T).scatter(1, place, items)[:, :L].roll(K, 1)
        segments = torch.zeros_like(window)
        for k in range(K):
            h = decoder(
                window,
                users,
                positions=slots * (window > 0),
                segments=segments,
                only=torch.full_like(lengths, L - 1),
                pads=torch.zeros_like(lengths),
            )
            pick = best(decoder, h[:, 0], None if repeats else window[:, K - k :])
            window = torch.cat([window[:, 1:], pick[:, None]], 1)
            segments = torch.cat([segments[:, 1:], torch.full_like(pick, GENERATED)[:, None]], 1)
        replaced = (slots[:T] < lengths[:, None]) & (slots[:T] >= (lengths - K)[:, None])
        return window.gather(1, place.clamp(max=L - 1)) * replaced


def weave_sequential(items: Tensor, targets: Tensor, prompts: Tensor, *, slot_loss: str) -> Augmented:
    """Algorithm 1: items and prompts interleaved, x_1 g_11 .. g_1K x_2 g_21 .., under causal attention."""
    B, T, K = prompts.shape
    place = torch.arange(T, device=items.device)[:, None]
    depth = torch.arange(K + 1, device=items.device)
    return Augmented(
        items=torch.cat([items[:, :, None], prompts], 2).view(B, -1),
        positions=(place + (depth > 0)).view(-1),
        segments=torch.where(depth > 0, GENERATED, REAL).repeat(T),
        targets=_slot_targets(targets, prompts, slot_loss).view(B, -1),
        mask=None,
    )


def weave_parallel(items: Tensor, targets: Tensor, prompts: Tensor, *, slot_loss: str) -> Augmented:
    """Items x_1 x_2 .., then the first prompts of all gaps, then the second ones, under `branch_mask`."""
    B, T, K = prompts.shape
    place = torch.arange(T, device=items.device)
    return Augmented(
        items=torch.cat([items[:, :, None], prompts], 2).transpose(1, 2).reshape(B, -1),
        positions=torch.cat([place] + [place + 1] * K),
        segments=torch.arange(T * (K + 1), device=items.device).ge(T).long(),
        targets=_slot_targets(targets, prompts, slot_loss).transpose(1, 2).reshape(B, -1),
        mask=branch_mask(T, K, items.device),
    )


def weave_last(items: Tensor, targets: Tensor, prompts: Tensor, *, slot_loss: str) -> Augmented:
    """The history with guesses (B, T) in place of its last items."""
    generated = prompts > 0
    if slot_loss == "none":
        targets = targets.masked_fill(generated, 0)
    elif slot_loss == "next":  # the guess in slot j stands in the gap before x_j
        targets = torch.where(generated, items, targets)
    return Augmented(
        items=torch.where(generated, prompts, items),
        positions=None,
        segments=torch.where(generated, GENERATED, REAL),
        targets=targets,
        mask=None,
    )


def branch_mask(T: int, K: int, device: torch.device) -> Tensor:
    """(T + KT, T + KT): an item looks at the items up to itself, the k-th prompt of a gap at the items before
    the gap and at prompts 1 .. k of its own gap."""
    items_before = torch.ones(T, T, dtype=torch.bool, device=device).tril()
    same_gap = torch.eye(T, dtype=torch.bool, device=device)
    mask = torch.zeros(T * (K + 1), T * (K + 1), dtype=torch.bool, device=device)
    for k in range(K + 1):
        mask[k * T : (k + 1) * T, :T] = items_before
        for earlier in range(1, k + 1):
            mask[k * T : (k + 1) * T, earlier * T : (earlier + 1) * T] = same_gap
    return mask


PROMPTERS = {
    "sequential": Prompter(generate_sequential, weave_sequential),
    "parallel": Prompter(generate_parallel, weave_parallel),
    "last": Prompter(generate_last, weave_last),
}


def best(decoder: Decoder, h: Tensor, seen: Tensor | None) -> Tensor:
    """(n,) items that the guessing layer scores highest for hidden states (n, D), never padding nor one of
    `seen` (n, any)."""
    weight, bias = decoder.guessing()  # (V, D), (V,)
    picks = torch.empty(len(h), dtype=torch.long, device=h.device)
    buffer = h.new_empty(min(CHUNK_ROWS, len(h)), len(weight))
    for start in range(0, len(h), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        scores = torch.mm(h[rows], weight.T, out=buffer[: len(h[rows])])
        if bias is not None:
            scores += bias
        scores[:, 0] = float("-inf")
        if seen is not None:
            scores.scatter_(1, seen[rows], float("-inf"))
        picks[rows] = scores.argmax(1)
    return picks


def _gaps(items: Tensor, open_end: bool) -> Tensor:
    """How many gaps of each row are filled: (B,)."""
    lengths = (items > 0).sum(1)
    return lengths if open_end else (lengths - 1).clamp(min=0)


def _slot_targets(targets: Tensor, prompts: Tensor, slot_loss: str) -> Tensor:
    """(B, T, 1 + K) targets of each item and of the prompts after it."""
    K = prompts.shape[2]
    learned = torch.zeros_like(targets)
    if slot_loss == "next":
        learned = targets
    elif slot_loss == "skip":
        learned = torch.cat([targets[:, 1:], learned[:, :1]], 1)
    return torch.cat([targets[:, :, None], learned[:, :, None].expand(-1, -1, K) * (prompts > 0)], 2)


class _Evaluating:
    """Dropout off inside, restored after."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._was = decoder, decoder.training

    def __enter__(self) -> None:
        self._decoder.eval()

    def __exit__(self, *error: object) -> None:
        self._decoder.train(self._was)
