"""What a model gives to be trained and served: a network that turns a history into the user's vectors."""

import torch
from torch import Tensor, nn

from baselines.batches import Batch
from baselines.layers import last_slot
from baselines.losses import NextItemLoss


class SequenceNetwork(nn.Module):
    """What a subclass of SequentialRecommender builds.

    `items` is the item embedding, (n_items + 1, d), row 0 padding; users are scored against it.
    """

    items: nn.Embedding

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The mean loss over the batch's targets."""
        raise NotImplementedError

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        """A user's vectors, (B, d) or (B, I, d), in eval mode. users (B,), -1 = unknown; items (B, L),
        left-aligned, 0 after the end, L up to 50; a row may be empty."""
        raise NotImplementedError

    def table(self) -> Tensor:
        return self.items.weight


class PrefixNetwork(SequenceNetwork):
    """A network that looks back over a whole prefix from its last slot: a subclass gives `prefixes`."""

    next_item_loss: NextItemLoss

    def prefixes(self, items: Tensor, ends: Tensor) -> Tensor:
        """The vectors of the prefixes that end with slots `ends` (B, P): (B, P, d)."""
        raise NotImplementedError

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        slot = torch.arange(batch.items.shape[1], device=batch.items.device)
        h = self.prefixes(batch.items, slot.expand(batch.items.shape))  # (B, T, d)
        real = batch.targets > 0
        return self.next_item_loss(h[real], self.table(), batch.targets[real], generator)

    def encode(self, users: Tensor, items: Tensor) -> Tensor:
        return self.prefixes(items, last_slot(items)[:, None])[:, 0]  # (B, d)
