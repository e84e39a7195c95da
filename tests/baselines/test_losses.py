"""Losses against torch.nn.functional on dense logits."""

import pytest
import torch
import torch.nn.functional as F

from baselines.losses import (
    FullSoftmax,
    LossSettings,
    NextItemLoss,
    bce_with_negatives,
    bpr,
    bpr_max,
    sampled_softmax,
    top1_max,
)

N, D, N_ITEMS = 37, 8, 50


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(N, D, generator=generator, requires_grad=True)
    table = torch.randn(N_ITEMS + 1, D, generator=generator, requires_grad=True)
    targets = torch.randint(1, N_ITEMS + 1, (N,), generator=generator)
    return h, table, targets, generator


def gradients(value, *leaves):
    return torch.autograd.grad(value, leaves, retain_graph=True)


def test_full_softmax_is_cross_entropy_over_all_items_but_padding(inputs):
    h, table, targets, _ = inputs
    dense = F.cross_entropy((h @ table.T)[:, 1:], targets - 1)
    chunked = FullSoftmax(chunk_rows=10, dtype=torch.float32)(h, table, targets)
    torch.testing.assert_close(chunked, dense)
    for ours, theirs in zip(gradients(2 * chunked, h, table), gradients(2 * dense, h, table), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_full_softmax_in_bfloat16_is_close_and_reuses_its_buffers(inputs):
    h, table, targets, _ = inputs
    softmax = FullSoftmax(chunk_rows=16)
    dense = F.cross_entropy((h @ table.T)[:, 1:], targets - 1)
    for _ in range(2):
        value = softmax(h, table, targets)
        torch.testing.assert_close(value, dense, atol=0.03, rtol=0.01)
        ours, theirs = gradients(value, table)[0], gradients(dense, table)[0]
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
        dense = F.cross_entropy((h @ table.T)[:, 1:], targets - 1)
    kept = [buffer.data_ptr() for buffer in softmax._buffers]
    softmax(h, table, targets)
    assert [buffer.data_ptr() for buffer in softmax._buffers] == kept


def test_sampled_softmax_over_every_item_is_the_full_softmax(inputs):
    h, table, targets, _ = inputs
    everything = torch.arange(1, N_ITEMS + 1)  # each slot's target is among them, and masked there
    dense = F.cross_entropy((h @ table.T)[:, 1:], targets - 1)
    torch.testing.assert_close(sampled_softmax(h, table, targets, everything), dense)


def test_sampled_softmax_masks_accidental_hits(inputs):
    h, table, targets, generator = inputs
    negatives = torch.cat((targets[:5], torch.randint(1, N_ITEMS + 1, (20,), generator=generator)))
    rows = []
    for slot, target in zip(h, targets, strict=True):
        kept = negatives[negatives != target]
        logits = torch.cat((table[target][None], table[kept])) @ slot
        rows.append(F.cross_entropy(logits[None], torch.tensor([0])))
    torch.testing.assert_close(sampled_softmax(h, table, targets, negatives), torch.stack(rows).mean())


def test_with_several_vectors_the_largest_logit_counts(inputs):
    _, table, targets, generator = inputs
    h = torch.randn(N, 3, D, generator=generator, requires_grad=True)
    negatives = torch.randint(1, N_ITEMS + 1, (20,), generator=generator)
    own = (h @ table[targets][:, :, None]).amax(dim=1)
    logits = (h @ table[negatives].T).amax(dim=1).masked_fill(targets[:, None] == negatives, -torch.inf)
    dense = F.cross_entropy(torch.cat((own, logits), dim=1), torch.zeros(N, dtype=torch.long))
    value = sampled_softmax(h, table, targets, negatives)
    torch.testing.assert_close(value, dense)
    for ours, theirs in zip(gradients(value, h, table), gradients(dense, h, table), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)


def test_a_single_vector_is_one_interest(inputs):
    h, table, targets, _ = inputs
    negatives = torch.arange(1, 20)
    torch.testing.assert_close(
        sampled_softmax(h[:, None], table, targets, negatives), sampled_softmax(h, table, targets, negatives)
    )


def test_bce_is_binary_cross_entropy_without_accidental_hits(inputs):
    h, table, targets, generator = inputs
    negatives = torch.randint(1, N_ITEMS + 1, (N, 4), generator=generator)
    negatives[3, 1] = targets[3]
    logits = torch.einsum("nd,nkd->nk", h, table[torch.cat((targets[:, None], negatives), 1)])
    labels = torch.zeros(N, 5)
    labels[:, 0] = 1
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    each = torch.cat((each[:, :1], each[:, 1:] * (negatives != targets[:, None])), 1)
    torch.testing.assert_close(bce_with_negatives(h, table, targets, negatives), each.sum(1).mean())


def test_bpr_compares_each_slot_with_its_own_negatives(inputs):
    h, table, targets, generator = inputs
    negatives = torch.randint(1, N_ITEMS + 1, (N, 4), generator=generator)
    negatives[3, 1] = targets[3]
    costs = []
    for slot, target, row in zip(h, targets, negatives, strict=True):
        pairs = [torch.sigmoid(slot @ (table[target] - table[other])) for other in row if other != target]
        costs.append(sum(-pair.log() for pair in pairs) / 4)
    torch.testing.assert_close(bpr(h, table, targets, negatives), torch.stack(costs).mean())


def test_max_losses_weigh_negatives_by_their_softmax(inputs):
    """Hidasi and Karatzoglou (2018), slot by slot without the accidental hit."""
    h, table, targets, generator = inputs
    negatives = torch.cat((targets[:3], torch.randint(1, N_ITEMS + 1, (20,), generator=generator)))
    by_bpr, by_top1 = [], []
    for slot, target in zip(h, targets, strict=True):
        r, r_target = table[negatives[negatives != target]] @ slot, table[target] @ slot
        s = r.softmax(dim=0)
        by_bpr.append(-(s * torch.sigmoid(r_target - r)).sum().log() + 0.3 * (s * r**2).sum())
        by_top1.append((s * (torch.sigmoid(r - r_target) + torch.sigmoid(r**2))).sum())
    for ours, slots in (
        (bpr_max(h, table, targets, negatives, penalty=0.3), by_bpr),
        (top1_max(h, table, targets, negatives), by_top1),
    ):
        dense = torch.stack(slots).mean()
        torch.testing.assert_close(ours, dense)
        for mine, plain in zip(gradients(ours, h, table), gradients(dense, h, table), strict=True):
            torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["full", "sampled", "bce", "bpr", "bpr-max", "top1-max"])
def test_every_loss_falls_when_its_gradient_is_followed(inputs, kind):
    h, table, targets, _ = inputs
    loss = NextItemLoss(LossSettings(kind, 20))
    before = loss(h, table, targets, torch.Generator().manual_seed(1))
    grad = gradients(before, h)[0]
    after = loss(h - 0.5 * grad, table, targets, torch.Generator().manual_seed(1))
    assert after < before


def test_a_loss_over_no_negatives_is_refused():
    with pytest.raises(ValueError, match="n_negatives is 0; loss 'bce' needs 1 or more"):
        LossSettings("bce", 0)
    assert LossSettings("full", 0).kind == "full", "it has none"


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss 'softmax' is unknown; known losses: full, sampled, bpr-max"):
        LossSettings("softmax")
