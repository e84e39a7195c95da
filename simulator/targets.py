"""What real logs show: the figures that a scorecard holds a world against, with errors and tolerances.

The tables of KuaiRand-Pure were measured by `figures.measure`, `figures.transitions` and
`next_play.foretold` on the files that `abtest world --scorecard --log` reads; their errors are relative
standard errors over users. The others are published aggregates; where their error is not known it is 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.constants import PROFILES


class Target(NamedTuple):
    """A figure of a real log.

    tolerance: how far a simulated one may be off: .05 allows from real / 1.05 to real * 1.05; None is no
    gate. error: relative standard error of the real figure.
    """

    name: str
    real: float
    tolerance: float | None
    source: str
    error: float = 0.0


TAB1 = "KuaiRand-Pure, tab 1 (single-column feed), 170,339 impressions"
HISTORIES = "KuaiRand-Pure, histories of 26,469 users"
RANDOM = "KuaiRand random-exposure log"
PANEL = "Kwai-2018 panel"
FULL = "KuaiRand-27K"

ROWS_PER_USER: NDArray[np.int64] = np.repeat(
    *np.array(
        [
            (1, 28),
            (2, 25),
            (3, 22),
            (4, 18),
            (5, 16),
            (6, 13),
            (7, 11),
            (8, 9),
            (9, 8),
            (10, 7),
            (11, 6),
            (12, 5),
            (13, 4),
            (14, 4),
            (15, 3),
            (16, 3),
            (17, 2),
            (18, 2),
            (19, 1),
            (20, 2),
            (21, 1),
            (22, 1),
            (23, 1),
            (24, 1),
            (25, 1),
            (26, 1),
            (28, 1),
            (30, 1),
            (34, 1),
            (39, 1),
            (53, 1),
        ]
    ).T
)
"""Impressions of a user in the log behind TAB1, as 200 quantiles: (rows, how many of the 200)."""

IMPRESSIONS = (
    ("play", 0.4979, 0.0041),
    ("long view", 0.352, 0.0063),
    ("complete", 0.1545, 0.0059),
    ("like", 0.01904, 0.023),
    ("comment", 0.002882, 0.047),
    ("share", 0.0009804, 0.11),
    ("follow", 0.001391, 0.091),
    ("hate", 0.0008512, 0.14),
    ("panel open", 0.04947, 0.018),
    ("profile enter", 0.02112, 0.018),
    ("watch s, mean", 24.77, 0.006),
    ("watch s, 5 %", 0.971, 0.0044),
    ("watch s, 10 %", 1.231, 0.004),
    ("watch s, 25 %", 2.083, 0.0067),
    ("watch s, 50 %", 6.391, 0.012),
    ("watch s, 75 %", 26.19, 0.012),
    ("watch s, 90 %", 70.24, 0.0065),
    ("watch s, 95 %", 110.7, 0.0077),
    ("watch s, 99 %", 222.6, 0.0047),
    ("watched 1.5 times", 0.02292, 0.02),
    ("watched 2 times", 0.01169, 0.027),
    ("play, videos of 0-15 s", 0.4344, 0.0071),
    ("complete, videos of 0-15 s", 0.3022, 0.011),
    ("watch s, videos of 0-15 s", 7.934, 0.0079),
    ("like, videos of 0-15 s", 0.03042, 0.04),
    ("play, videos of 15-30 s", 0.4698, 0.0081),
    ("complete, videos of 15-30 s", 0.2551, 0.012),
    ("watch s, videos of 15-30 s", 11.75, 0.0097),
    ("like, videos of 15-30 s", 0.02065, 0.067),
    ("play, videos of 30-60 s", 0.5183, 0.0074),
    ("complete, videos of 30-60 s", 0.1874, 0.013),
    ("watch s, videos of 30-60 s", 18.11, 0.0076),
    ("like, videos of 30-60 s", 0.02201, 0.04),
    ("play, videos of 60-120 s", 0.5628, 0.006),
    ("complete, videos of 60-120 s", 0.1345, 0.013),
    ("watch s, videos of 60-120 s", 29.47, 0.0091),
    ("like, videos of 60-120 s", 0.01806, 0.043),
    ("play, videos of 120-240 s", 0.5015, 0.0058),
    ("complete, videos of 120-240 s", 0.06408, 0.022),
    ("watch s, videos of 120-240 s", 35.22, 0.0092),
    ("like, videos of 120-240 s", 0.01417, 0.039),
    ("play, videos of over 240 s", 0.4588, 0.0091),
    ("complete, videos of over 240 s", 0.03117, 0.045),
    ("watch s, videos of over 240 s", 39.87, 0.017),
    ("like, videos of over 240 s", 0.01166, 0.065),
    ("like-follow lift", 24.16, 0.066),
    ("like-share lift", 9.121, 0.2),
    ("like-comment lift", 7.595, 0.13),
    ("comment-share lift", 10.39, 0.37),
    ("follow-share lift", 12.91, 0.54),
    ("comment-follow lift", 4.391, 0.56),
    ("play, given a comment", 0.9939, 0.0033),
    ("long view, given a comment", 0.8859, 0.011),
    ("top 1 % of videos", 0.1709, 0.0066),
    ("top 5 % of videos", 0.4419, 0.0053),
    ("top 10 % of videos", 0.608, 0.0036),
    ("top 20 % of videos", 0.7798, 0.0018),
    ("rank-frequency slope", -0.813, 0.0068),
    ("play, least shown videos", 0.4679, 0.0081),
    ("play, most shown videos", 0.519, 0.013),
    ("play between-user CV", 0.3894, 0.022),
    ("play between-video CV", 0.2754, 0.018),
    ("long view between-user CV", 0.4919, 0.016),
    ("long view between-video CV", 0.3735, 0.022),
    ("like between-user CV", 3.045, 0.052),
    ("like between-video CV", 1.168, 0.066),
    ("comment between-user CV", 3.384, 0.15),
    ("comment between-video CV", 0.9659, 0.25),
    ("share between-user CV", 2.39, 0.27),
    ("share between-video CV", 1.644, 0.4),
    ("follow between-user CV", 3.582, 0.24),
    ("follow between-video CV", 1.789, 0.51),
    ("watch s between-user CV", 0.4919, 0.028),
    ("play ICC of users", 0.1452, 0.013),
    ("play ICC of videos", 0.06771, 0.02),
    ("play AUC of users", 0.6588, 0.0043),
    ("play AUC of videos", 0.629, 0.0037),
    ("play AUC of both", 0.6814, 0.0046),
)
"""(figure, real, relative standard error), TAB1."""

TRANSITIONS = (
    ("pair lift, lag 20", 1.514, 0.0065),
    ("same-tag lift, lag 1", 1.5, 0.0035),
    ("pair lift, lag 1 over 20", 1.438, 0.0093),
    ("same-tag lift, lag 2", 1.451, 0.0032),
    ("pair lift, lag 2 over 20", 1.272, 0.0087),
    ("same-tag lift, lag 3", 1.428, 0.004),
    ("pair lift, lag 3 over 20", 1.226, 0.01),
    ("same-tag lift, lag 4", 1.408, 0.0037),
    ("pair lift, lag 4 over 20", 1.187, 0.012),
    ("same-tag lift, lag 5", 1.395, 0.0038),
    ("pair lift, lag 5 over 20", 1.147, 0.0085),
    ("tag switching", 0.8158, 0.00067),
    ("repeated plays", 0.03378, 0.0054),
)
"""The same of the plays in HISTORIES."""

NEXT_PLAYS = (
    ("next play, hits of popularity", 0.1569, 0.017),
    ("next play, hits of co-occurrence", 0.2365, 0.011),
    ("next play, hits of co-occurrence over popularity", 1.51, 0.013),
    ("next play, AUC of co-occurrence", 0.6802, 0.0038),
)
"""The same by `next_play.foretold`, errors over 14 groups of 1,200 histories. The log's catalogue has 7,344
videos, a world's 20,000: hits are of the best hundredth of either."""

# Of plays per impression, of actions and watch time over users. Users differ little from impressions in that
# log (their plays: median .135, 90 % .385), so all are held against means over users.
RANDOM_RATES = (
    ("play, random slates", 0.1762),
    ("long view, random slates", 0.0850),
    ("complete, random slates", 0.0332),
    ("like, random slates", 0.0047),
    ("comment, random slates", 0.00035),
    ("share, random slates", 0.00028),
    ("follow, random slates", 0.00021),
    ("profile enter, random slates", 0.0056),
    ("watch s, random slates", 6.5),
)

HABITS = (
    ("users active a day", 0.25),
    ("active after 0 of 3 days", 0.05),
    ("active after 1 of 3 days", 0.29),
    ("active after 2 of 3 days", 0.51),
    ("active after 3 of 3 days", 0.82),
    ("active after an active day", 0.671),
    ("active after an idle day", 0.110),
)

DEFAULT_VOLUMES = (
    ("impressions per active user-day", 90.0),
    ("user-day volume, 10 %", 4.0),
    ("user-day volume, 25 %", 12.0),
    ("user-day volume, 50 %", 44.0),
    ("user-day volume, 75 %", 120.0),
    ("user-day volume, 90 %", 241.0),
    ("user-day volume, 99 %", 614.0),
)

HEAVY_VOLUMES = (
    ("impressions per active user-day", 381.0),
    ("user-day volume, 25 %", 144.0),
    ("user-day volume, 50 %", 277.0),
    ("user-day volume, 75 %", 491.0),
    ("user-day volume, 90 %", 793.0),
    ("user-day volume, 99 %", 1814.0),
    ("sessions per active user-day", 4.84),
    ("requests per session", 13.6),
    ("impressions per session", 78.7),
)

TIMES = (
    ("requests 1-10 s apart", 0.101),
    ("requests 10-60 s apart", 0.345),
    ("requests 60-300 s apart", 0.409),
    ("requests 300-1800 s apart", 0.145),
    ("impressions from 18 to 24 h", 0.376),
    ("impressions from 0 to 6 h", 0.0945),
)

# The first rule whose text is in the name of a figure gives its tolerance
_TOLERANCES: tuple[tuple[str, float | None], ...] = (
    ("pair lift, lag 20", None),  # what everybody watches in the same days is part of it
    ("repeated plays", 0.5),
    ("pair lift", 0.25),
    ("same-tag lift", 0.20),
    ("tag switching", 0.10),
    ("play, random", 0.05),
    ("random", 0.25),  # two digits, means over users
    ("shown videos", 0.10),
    ("next play, hits", 0.25),  # of catalogues of unequal size
    ("next play, AUC", 0.05),
    ("ICC", 0.25),
    ("AUC", 0.03),  # .02 of .68
    ("follow between-user CV", None),
    ("CV", 0.15),
    ("given a comment", 0.10),  # the flag says valid though fewer than 7 s were watched
    ("lift", 0.50),
    ("videos of", 0.15),
    ("watched", 0.20),
    ("watch s, 5 %", 0.20),
    ("watch s, 10 %", 0.20),
    ("watch s", 0.10),
    ("top", 0.10),
    ("slope", 0.15),
    ("hate", 0.20),
    ("panel open", 0.10),
    ("profile enter", 0.10),
    ("apart", 0.25),
    ("active after", 0.10),
    ("volume, 10 %", 0.25),
    ("volume, 25 %", 0.25),
    ("volume", 0.15),
    ("session", 0.15),
    ("from", 0.10),
    ("", 0.05),
)


def packaged(profile: str = "default") -> list[Target]:
    """The targets of a profile, all of them. LookupError lists the known profiles."""
    if profile not in PROFILES:
        raise LookupError(f"unknown profile {profile!r}; known profiles: {', '.join(sorted(PROFILES))}")
    volumes, panel = {
        "default": (DEFAULT_VOLUMES, "KuaiRec and Kwai-2018 panels"),
        "heavy": (HEAVY_VOLUMES, FULL),
    }[profile]
    targets = [target(name, real, TAB1, error) for name, real, error in IMPRESSIONS]
    targets += [target(name, real, RANDOM) for name, real in RANDOM_RATES]
    targets += [target(name, real, HISTORIES, error) for name, real, error in (*TRANSITIONS, *NEXT_PLAYS)]
    targets += [target(name, real, PANEL) for name, real in HABITS]
    targets += [target(name, real, panel) for name, real in volumes]
    return targets + [target(name, real, FULL) for name, real in TIMES]


def target(name: str, real: float, source: str, error: float = 0.0) -> Target:
    """A figure with the tolerance that its name has."""
    tolerance = next(value for part, value in _TOLERANCES if part in name)
    return Target(name, real, tolerance, source, error)
