"""Losses of next-item prediction: BCE and BPR with a slot's own negatives, sampled softmax, BPR-max and
TOP1-max with negatives of the batch, full softmax in row chunks; and the choice among them, LossSettings.

All take the hidden vectors h of the slots that have a target, (N, d), and their targets, (N,), and return the
mean over slots. Logits are inner products with rows of the item table, (n_items + 1, d); row 0 is padding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.batches import uniform_negatives


def bce_with_negatives(h: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """-log s(h.e_target) - sum log(1 - s(h.e_negative)); negatives (N, K), the slot's own.

    A negative that is the target by accident does not count.
    """
    rows = F.embedding(torch.cat((targets[:, None], negatives), dim=1), table)  # (N, 1 + K, d)
    logits = torch.einsum("nd,nkd->nk", h, rows)
    push_away = F.softplus(logits[:, 1:]).masked_fill(negatives == targets[:, None], 0.0)
    return (F.softplus(-logits[:, 0]) + push_away.sum(dim=1)).mean()


def bpr(h: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """-log s(h.e_target - h.e_negative), the mean over the slot's own negatives (N, K); Rendle et al., 2009.

    A negative that is the target by accident costs nothing.
    """
    rows = F.embedding(torch.cat((targets[:, None], negatives), dim=1), table)  # (N, 1 + K, d)
    logits = torch.einsum("nd,nkd->nk", h, rows)
    behind = F.softplus(logits[:, 1:] - logits[:, :1])
    return behind.masked_fill(negatives == targets[:, None], 0.0).mean()


def sampled_softmax(h: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Softmax cross-entropy over the target and `negatives` (K,), which all slots share.

    A negative that is a slot's target by accident is left out for that slot. Without a correction for the
    sampling: uniform negatives shift all their logits by the same log(n_items / K). With several vectors a
    slot, h (N, I, d), an item's logit is its largest one.
    """
    rows = F.embedding(torch.cat((targets, negatives)), table)  # one lookup: one dense gradient
    own, shared = rows[: len(targets)], rows[len(targets) :]
    if h.dim() == 2:
        target_logit, logits = (h * own).sum(dim=1), h @ shared.T  # (N,), (N, K)
    else:
        target_logit, logits = (h * own[:, None]).sum(dim=2).amax(dim=1), _LargestLogit.apply(h, shared)
    logits = logits.masked_fill(targets[:, None] == negatives, -torch.inf)
    return F.softplus(torch.logsumexp(logits, dim=1) - target_logit).mean()


def bpr_max(h: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, *, penalty: float = 1.0) -> Tensor:
    """-log sum_j s_j sigmoid(r_target - r_j) + penalty * sum_j s_j r_j^2, where s is the softmax of the
    scores r of `negatives` (K,), which all slots share (Hidasi and Karatzoglou, 2018, arXiv 1706.03847).

    A negative that is a slot's target by accident has s = 0.
    """
    target, scores, log_s = _scores_and_softmax(h, table, targets, negatives)
    ahead = torch.logsumexp(log_s + F.logsigmoid(target[:, None] - scores), dim=1)
    return (penalty * (log_s.exp() * scores * scores).sum(dim=1) - ahead).mean()


def top1_max(h: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """sum_j s_j (sigmoid(r_j - r_target) + sigmoid(r_j^2)), s and r as in `bpr_max` (the same paper)."""
    target, scores, log_s = _scores_and_softmax(h, table, targets, negatives)
    behind = torch.sigmoid(scores - target[:, None]) + torch.sigmoid(scores * scores)
    return (log_s.exp() * behind).sum(dim=1).mean()


class FullSoftmax:
    """Softmax cross-entropy over all items, `chunk_rows` slots at a time.

    Value and gradients come from one pass that never holds more than chunk_rows x n_items logits, in a buffer
    that is reused from call to call: fresh memory of that size costs more than the arithmetic. With bfloat16
    logits the gradients are those of the float32 loss to about 1 %, at half the time. Item 0 is no class.
    """

    def __init__(self, chunk_rows: int = 512, dtype: torch.dtype = torch.bfloat16) -> None:
        self.chunk_rows = chunk_rows
        self.dtype = dtype
        self._buffers: list[Tensor] = []

    def __call__(self, h: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = _ChunkedCrossEntropy.apply(h, table, targets, self)
        return loss

    def buffers(self, rows: int, table: Tensor) -> tuple[Tensor, Tensor]:
        size = self.chunk_rows * len(table)
        if not self._buffers or self._buffers[0].numel() != size or self._buffers[0].device != table.device:
            self._buffers = [torch.empty(size, dtype=self.dtype, device=table.device) for _ in range(2)]
        logits, p = (buffer[: rows * len(table)].view(rows, len(table)) for buffer in self._buffers)
        return logits, p


_SHARED = {"sampled": sampled_softmax, "bpr-max": bpr_max, "top1-max": top1_max}
_OWN = {"bce": bce_with_negatives, "bpr": bpr}
"""Losses by whose the negatives are: the batch's, or each slot's own."""


@dataclass(frozen=True)
class LossSettings:
    """The loss that a model is trained with, the same choices for all: "sampled" (softmax over the target and
    n_negatives shared by the batch), "full" (softmax over all items), "bce" or "bpr" (n_negatives for each
    slot), "bpr-max" or "top1-max" (n_negatives shared by the batch)."""

    kind: str = "sampled"
    n_negatives: int = 1024

    def __post_init__(self) -> None:
        if self.kind not in ("full", *_SHARED, *_OWN):
            known = ", ".join(("full", *_SHARED, *_OWN))
            raise ValueError(f"loss {self.kind!r} is unknown; known losses: {known}")
        if self.kind != "full" and self.n_negatives < 1:
            raise ValueError(f"n_negatives is {self.n_negatives}; loss {self.kind!r} needs 1 or more")


class NextItemLoss:
    """The loss of LossSettings: h (N, d), the table, targets (N,) -> mean."""

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings
        self._full = FullSoftmax()

    def __call__(self, h: Tensor, table: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        n_items, k = len(table) - 1, self.settings.n_negatives
        if self.settings.kind == "full":
            return self._full(h, table, targets)
        if loss := _SHARED.get(self.settings.kind):
            return loss(h, table, targets, uniform_negatives(n_items, (k,), generator))
        loss = _OWN[self.settings.kind]
        return loss(h, table, targets, uniform_negatives(n_items, (len(h), k), generator))


def _scores_and_softmax(
    h: Tensor, table: Tensor, targets: Tensor, negatives: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of targets (N,) and negatives (N, K), and the log softmax over the negatives but the target."""
    rows = F.embedding(torch.cat((targets, negatives)), table)
    own, shared = rows[: len(targets)], rows[len(targets) :]
    scores = h @ shared.T
    log_s = scores.masked_fill(targets[:, None] == negatives, -torch.inf).log_softmax(dim=1)
    return (h * own).sum(dim=1), scores, log_s


class _LargestLogit(torch.autograd.Function):
    """(h @ rows.T).amax(dim=1) without ever holding all N x I x K logits: a third of the time.

    h (N, I, d), rows (K, d) -> (N, K). The gradient goes to the first of equal interests.
    """

    @staticmethod
    def forward(ctx, h, rows):  # type: ignore[no-untyped-def]
        best = h[:, 0] @ rows.T
        winner = torch.zeros_like(best)  # a float: torch selects among floats several times faster
        other = torch.empty_like(best)
        for interest in range(1, h.shape[1]):
            torch.mm(h[:, interest], rows.T, out=other)
            winner = torch.where(other > best, float(interest), winner)
            torch.maximum(best, other, out=best)
        ctx.save_for_backward(h, rows, winner)
        return best

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        h, rows, winner = ctx.saved_tensors
        grad_h, grad_rows = torch.empty_like(h), torch.zeros_like(rows)
        for interest in range(h.shape[1]):
            own = torch.where(winner == interest, grad, 0.0)
            grad_h[:, interest] = own @ rows
            grad_rows += own.T @ h[:, interest]
        return grad_h, grad_rows


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The right-hand side of both wide products lies row by row: from a transposed view the one for the
    logits takes up to five times as long, the one for the table's gradient twice."""

    @staticmethod
    def forward(ctx, h, table, targets, softmax):  # type: ignore[no-untyped-def]
        low_h, low_table = h.detach().to(softmax.dtype), table.detach().to(softmax.dtype)
        by_column = low_table.T.contiguous()  # (d, n_items + 1)
        grad_h, grad_by_column = torch.empty_like(h), table.new_zeros(by_column.shape)
        total = h.new_zeros(())
        for start in range(0, len(h), softmax.chunk_rows):
            part = slice(start, start + softmax.chunk_rows)
            h_part, target = low_h[part], targets[part]
            logits, p = softmax.buffers(len(h_part), table)
            torch.mm(h_part, by_column, out=logits)
            logits[:, 0] = -torch.inf
            torch.softmax(logits, dim=1, out=p)
            p_target = p.gather(1, target[:, None]).float()
            total -= p_target.clamp_min(1e-30).log().sum()
            p.scatter_(1, target[:, None], (p_target - 1).to(p.dtype))
            grad_h[part] = p @ low_table
            grad_by_column += h_part.T.contiguous() @ p
        ctx.save_for_backward(grad_h.div_(len(h)), grad_by_column.T.div(len(h)))
        return total / len(h)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        grad_h, grad_table = ctx.saved_tensors
        return grad_h * grad, grad_table * grad, None, None
