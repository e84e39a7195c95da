"""What experiments with these users would have found: their lives are dealt to arms again and again.

The truth is known here, so that what is promised can be counted: how often equal arms look different, how
often the interval of the lift holds the true one, and how often the effect is found.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from abtest.stats.paired import Life
from abtest.stats.replicates import ALPHA, fieller_covers, ratio_arms, welch_p

REPLICATES = 10_000


class Certificate(NamedTuple):
    """Shares of equal splits of the users. All tests are single ones at .05, without covariates.

    false_positives: all users live the control's life, and p < .05. coverage: each user lives their arm's
    life, and the interval of the lift holds the true lift. power: p < .05 then. Of the splits with p < .05,
    wrong_sign is the share whose effect has the other sign than the true one (type S), and exaggeration how
    many times the true effect theirs is on average, whatever its sign (type M; Gelman and Carlin, 2014); None
    where there is no true effect or none was found.
    """

    false_positives: float
    coverage: float
    power: float
    wrong_sign: float | None
    exaggeration: float | None


def certify(
    control: Sequence[Life], treatment: Sequence[Life], lifts: Sequence[float], *, seed: int = 0
) -> list[Certificate]:
    """Count over REPLICATES splits, the same for all metrics: a life under the control, one under the
    treatment and the true lift of each. All lives are of the same users in the same order."""
    own, other = _columns(control), _columns(treatment)
    equal = ratio_arms(*own, REPLICATES, seed)
    split = ratio_arms(*own, REPLICATES, seed, treated=other)
    level = (welch_p(equal) < ALPHA).mean(axis=0)
    holds = fieller_covers(split, np.array(lifts)).mean(axis=0)
    found, differences = welch_p(split) < ALPHA, split.t - split.c
    return [
        Certificate(
            float(level[i]),
            float(holds[i]),
            float(found[:, i].mean()),
            *_errors(differences[found[:, i], i], (treatment[i].value or 0.0) - (control[i].value or 0.0)),
        )
        for i in range(len(lifts))
    ]


def _errors(found: NDArray[np.float64], true: float) -> tuple[float | None, float | None]:
    """Type S and M errors of the differences that were found."""
    if not len(found) or true == 0:
        return None, None
    return float((found * true < 0).mean()), float(np.abs(found).mean() / abs(true))


def _columns(lives: Sequence[Life]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(users, metrics) amounts and bases."""
    return np.column_stack([life.amount for life in lives]), np.column_stack([life.base for life in lives])
