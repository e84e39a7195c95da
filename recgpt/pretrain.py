"""Stage 1: next-item prediction on raw histories.

The paper trains with BCE against one negative. The default here is a softmax over negatives that the whole
batch shares: on Beauty it takes HR@10 of the same network from .0485 to .0861. BCE stays as
LossSettings("bce", 1). Scores are those of the item table, also where the network has an output layer of its
own: that one does not learn here. The authors' code trains on the last 50 items of a user; here the items
before them have windows of their own.
"""

import torch
from torch import Tensor

from baselines.batches import Batch
from baselines.losses import LossSettings, NextItemLoss
from baselines.training import Loss
from recgpt.model import Decoder


def pretraining_loss(decoder: Decoder, settings: LossSettings) -> Loss:
    """The mean loss of a batch over all its targets."""
    ranking = NextItemLoss(settings)

    def loss(batch: Batch, generator: torch.Generator) -> Tensor:
        real = batch.targets > 0
        h = decoder(batch.items, batch.users)[real]  # (N, D)
        value = ranking(h, decoder.table(), batch.targets[real], generator)
        penalty = decoder.user_penalty(batch.users)
        return value if penalty is None else value + penalty

    return loss
