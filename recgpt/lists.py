"""What `recgpt recommend` prints: lists for the users of a file, in the ids of that file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.base import Ids
from baselines.data import Renumbered, is_table, leave_one_out
from recgpt.recommender import RecGPT

GivenIds = NDArray[Any]
"""Ids as they stand in the file: numbers or text."""


def lists(
    model: RecGPT, read: Renumbered, data: Path, *, users: str | None, k: int, repeats: bool
) -> Iterator[tuple[Any, GivenIds]]:
    """(user, its best k items or fewer) after all items of each user, with or without those in the list.

    `users` are ids with commas; None is everybody with an item. Raises ValueError for a user who is not in
    the file, and where the model does not know the file's items.
    """
    item_ids = _item_ids(model, read, data)
    chosen = _user_indices(users, read)
    histories = read.interactions.histories(chosen, None)
    hidden = histories[:, :0] if repeats else histories
    for user, items in zip(chosen, model.recommend(chosen, histories, k, hidden), strict=True):
        yield read.user_ids[user], item_ids[items[np.flatnonzero(items)]]


def _item_ids(model: RecGPT, read: Renumbered, data: Path) -> GivenIds:
    """The id in the file of each item that the model knows. The numbers of a table's items hold for that
    table alone, so another table must not meet the checkpoint."""
    n_items = read.interactions.n_items
    if n_items > model.n_items:
        raise ValueError(
            f"{data} has item {n_items}, but the checkpoint knows items 1 to {model.n_items}; "
            "train it on this file"
        )
    if not is_table(data):
        return np.arange(model.n_items + 1)
    if model.data_hash != leave_one_out(read.interactions).train.content_hash():
        raise ValueError(
            f"the checkpoint was trained on other data than the table {data}, and each table numbers items "
            "anew; turn tables into sequence text with `recgpt prepare` and train on that"
        )
    return read.item_ids


def _user_indices(users: str | None, read: Renumbered) -> Ids:
    if users is None:
        return np.flatnonzero(read.interactions.lengths)
    index = {str(id_): user for user, id_ in enumerate(read.user_ids.tolist())}
    words = [word.strip() for word in users.split(",")]
    for word in words:
        if word not in index:
            raise ValueError(
                f"user {word!r} is not in the data; its users are {read.user_ids[0]} to {read.user_ids[-1]}"
            )
    return np.array([index[word] for word in words], np.int64)
