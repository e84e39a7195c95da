"""Videos that come in while a world lives: when they are uploaded, and by whom.

A day brings a Poisson number of them (the same as a Poisson number of each author). All are drawn before the
first day and have the ids after those of the videos that are there at the start, in the order of their
upload. So what can be shown on a day is a prefix of the ids: a video is there from the midnight after its
upload on, and nothing depends on ticks, shards or batches. With more days, earlier ones stay as they are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import pdtr, pdtrik

from simulator.randomness import Purpose, uniform
from warehouse.events import DAY_MS

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def check_uploads(uploads: float) -> None:
    """ValueError unless it is a percentage."""
    if not 0 <= uploads <= 100:
        raise ValueError(f"uploads is {uploads:g}; it is a percentage of the catalogue a day, from 0 to 100")


def upload_times(mean: float, days: int, seed: int) -> Ids:
    """(n,) ms since the first midnight, ascending, of the uploads of so many days; `mean` of them a day."""
    number = poisson(uniform(seed, Purpose.UPLOADS_A_DAY, np.arange(days)), mean)
    day = np.repeat(np.arange(days), number)
    nth = np.arange(len(day)) - np.repeat(np.cumsum(number) - number, number)
    moment = (DAY_MS * uniform(seed, Purpose.UPLOAD_MOMENT, day, nth)).astype(np.int64)
    return np.sort(day * DAY_MS + moment)


def poisson(u: Floats, mean: float) -> Ids:
    """Poisson counts by inverse distribution: the smallest with a distribution function of u or more."""
    if mean == 0:
        return np.zeros(len(u), np.int64)
    count = np.maximum(np.ceil(pdtrik(u, mean)), 0.0)
    one_less = np.maximum(count - 1, 0.0)  # the inverse is rounded, and may be one too large
    return np.where(pdtr(one_less, mean) >= u, one_less, count).astype(np.int64)


def with_uploads(
    at_start: Mapping[str, Any], drawn: Mapping[str, Any], times: Ids, seed: int
) -> dict[str, Any]:
    """The item fields of a world: those of the videos `at_start`, and of one for each of these upload times.

    `drawn`: fields of so many videos in all, of which the first are those at the start. A new video's author
    is that of a random video of the start, so who has more uploads more; what the platform puts forward of
    it is what it does of another random one. `item_reach` is 1 at the end of the start.
    """
    n_at_start, new = len(at_start["item_author"]) - 1, np.arange(len(times))

    def some(draw: int) -> Ids:
        return 1 + (n_at_start * uniform(seed, Purpose.UPLOAD_LIKE, new, draw)).astype(np.int64)

    author, reach = at_start["item_author"], at_start["item_reach"]
    forward = np.diff(reach, prepend=0.0)[some(1)]
    return {
        **drawn,
        "item_author": np.concatenate((author, author[some(0)])),
        "item_uploaded_ts": np.concatenate((at_start["item_uploaded_ts"], times)),
        "item_reach": np.concatenate((reach, reach[-1] + np.cumsum(forward))),
    }
