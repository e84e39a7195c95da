"""Every number of the simulated world, with where it comes from.

"Pure" is the KuaiRand-Pure standard log (25 April to 8 May 2022; tab 1 = single-column feed), "27K" the
322-million-row KuaiRand-27K log, "Kwai-2018" a log of active users of 2018 (published aggregates). "solved"
marks what `fitting.solve` found by simulation, "assumed" what no log tells.
"""

from dataclasses import dataclass, replace
from typing import Any

ACTIONS = ("like", "panel", "comment", "share", "profile", "follow_in", "follow_out", "hate")
"""Rows of all per-action tables. `comment` is given that the panel is open; `follow_in` given that the
profile was entered, `follow_out` given that it was not."""

CONDITIONS = ("under 3 s", "3 s to long", "long, unfinished", "finished")
"""Watch states on which the actions depend: columns of `Constants.base`."""


@dataclass(frozen=True)
class Constants:
    """The parameters of one profile of the world."""

    # -- taste: affinity = (taste + short-term) . vector + transition + quality - satiation + follow - centre
    n_tags: int = 47  # Pure, video features
    # share of a tag: (rank + head) ** -zipf; fitted to Pure, videos by first tag (.20 .10 .08 .08 .06 ...)
    tag_zipf: float = 2.43
    tag_head: float = 7.8
    dims: int = 16  # assumed
    # spread of vectors along axis 1, 2, ... falls as its number to this power: a few directions carry most of
    # taste; solved: AUC of co-occurrence, Pure histories
    axis_power: float = 1.0
    taste_sd: float = 1.4  # of taste . vector over random pairs; solved: random slates at .176
    interests: int = 5  # tags mixed into one taste; assumed
    interest_power: float = (
        0.8  # of a tag's share of videos, in its share of interests; solved: tag switching
    )
    item_noise: float = 0.85  # share of a vector that its tag does not explain; solved: same-tag lifts
    quality_sd: float = 0.34  # of affinity; solved: between-video CV and ICC of plays, Pure
    short_term: float = 0.5  # weight of the mean vector of recent plays; assumed
    short_term_memory: float = 0.8  # per request
    transition_sd: float = 0.25  # order signal: last played tag -> tag; solved: pair lift at lag 1
    # weights of the last plays, latest first: Pure histories, pair lifts at lags 1 to 5 beyond that at 20
    recency: tuple[float, ...] = (1.0, 0.62, 0.52, 0.42, 0.33)
    # family "transitions"; solved: pair lift 2.18 at lag 1, same-tag lift 1.50
    successor_boost: float = 0.8  # mean affinity that a successor of the last play gains
    successor_tag: float = 0.5  # share of successors of the video's own tag
    successor_log: float = 1.1  # affinity per log of a counted lift: a play's logit moves by .9 per affinity
    # family "neighbours"; solved: taste_sd and the lifts as above
    radius: float = 0.7  # of an interest, where vectors have length 1
    interest: float = 2.5
    short_interest: float = 0.8
    satiation: float = 0.2  # affinity lost per unit of tag satiation; solved: same-tag lifts, lag 1 over 5
    satiation_memory: float = 0.93  # per request, halved between sessions; assumed
    satiation_step: float = 0.12  # added per impression of the tag; assumed
    follow_bonus: float = 0.5  # affinity of a followed author; assumed
    centre: float = 2.10069  # solved: mean affinity 0 at the exposures of the reference policy
    # solved: plays .494 under the reference policy, .176 under random slates
    reference_noise: float = 0.35942
    reference_candidates: int = 80  # videos that the reference policy compares for a feed; assumed
    # share of what the platform puts forward: (rank / videos + head) ** -slope; solved: exposures of the top
    # 1 to 20 % of videos and their slope, Pure
    reach_slope: float = 1.3
    reach_head: float = 0.003

    # -- watching
    # a valid play: watched more than 7 s (Pure: agrees with the flag on 97 % where shorter)
    play_ms: int = 7_000
    long_ms: int = 18_000
    lean_affinity: float = 1.1  # lean = 1.1 affinity + user offset - 1.25 [repeat], in logits of a valid play
    skip_lean: float = 1.7  # per unit of lean: skips and plays overlap, so more than 1 in logits of a skip
    skip_base: float = -0.31012  # solved
    offset_sd: float = 0.45  # solved: between-user CV, AUC and ICC of plays, Pure
    offset_activity: float = -0.50  # correlation with log activity, 27K
    repeat: float = -1.25  # logits of a repeated video: valid play .450 -> .189, Pure
    # times (log(s) - 4)**2: one-minute videos hold best; this and what follows fitted to Pure, by duration
    # too, and to random slates
    skip_duration: float = 0.130
    skip_log_mean: float = 1.035
    skip_log_lean: float = 0.41  # a disliked video is left sooner
    skip_log_sd_low: float = 0.466  # below the median
    skip_log_sd_high: float = 1.15  # above it
    finish_base: float = -0.47713
    finish_duration: float = -1.04  # per log(duration / 30 s)
    finish_affinity: float = 1.05
    middle_log_mean: float = 0.23
    middle_duration: float = 0.68  # per log(duration in s)
    middle_curve: float = -0.125  # times (log(s) - 4)**2
    middle_log_lean: float = 0.55
    middle_log_sd: float = 0.97
    unfinished_at_most: float = 0.98  # of the duration
    # times |Z|: seconds into the second round before the swipe, Pure: median about 1.5 s
    overshoot_s: float = 1.7
    # P(watched 1.5 times | finished) = replay_s / duration, Pure: .31 .17 .08 .04 .02 by bin
    replay_s: float = 3.9
    replay_most_often: float = 0.33
    replay_tail: float = 0.40  # Pure: 51 % of replays reach twice the duration, 14 % three times
    replay_most: float = 8.0

    # -- actions: rows ACTIONS, columns CONDITIONS (logits); solved: rates of Pure, tab 1
    base: tuple[tuple[float, ...], ...] = (
        (-4.0349, -3.4572, -2.4244, -2.136),
        (-4.942, -4.0713, -2.6226, -2.4055),
        (-2.6524, -4.0137, -3.2752, -3.1833),
        (-7.4277, -7.2513, -6.4949, -6.2659),
        (-4.6996, -4.617, -3.7465, -3.1961),
        (-4.6608, -4.8155, -4.835, -4.6727),
        (-9.4327, -8.3563, -8.0905, -7.5661),
        (-7.4025, -6.9562, -7.3265, -7.2306),
    )
    # per unit of affinity; solved: the actions under random slates, KuaiRand random-exposure log
    action_affinity: tuple[float, ...] = (1.711, 1.645, 1.445, 1.047, 1.055, 0.8, 2.096, -0.6)
    # logits of a like by seconds of the video; solved: Pure, likes by duration
    like_duration: tuple[tuple[float, float], ...] = (
        (10.0, 1.1),
        (22.0, 0.1),
        (42.0, 0.2),
        (88.0, -0.12),
        (170.0, -0.6),
        (300.0, -1.04),
    )
    # loading of the shared N(0, 1) shock
    action_shock: tuple[float, ...] = (1.6, 0.26, 0.25, 0.65, 0.4, 1.1, 1.75, 0.3)
    # Pure between-video CVs
    item_log_sd: tuple[float, ...] = (1.8, 0.55, 0.60, 1.35, 0.60, 0.80, 1.60, 0.70)
    # like, comment, share, follow; Pure between-user CVs
    gamma_shapes: tuple[float, ...] = (0.051, 0.12, 0.24, 0.045)
    panel_log_sd: float = 0.9  # user log-sd of opening the panel (part of the comment propensity)
    profile_log_sd: float = 0.9
    hate_log_sd: float = 1.5
    panel_log_mean: float = 8.75  # panel stay quartiles 3.3 / 6.2 / 11.9 s, Pure
    panel_stay_sd: float = 0.95
    profile_log_mean: float = 9.1  # profile stay quartiles 3.5 / 9.1 / 21.6 s, Pure
    profile_stay_sd: float = 1.36

    # -- time: sessions, requests, days
    satisfaction_memory: float = 0.7  # per request
    stay_base: float = 0.76197  # solved: 90 impressions per active user-day
    stay_satisfaction: float = 1.5
    # what follows to `extra_sessions`, and `sessions_activity`, solved: Kwai-2018 quantiles of plays per
    # active day
    stay_activity: float = 0.378  # per SD of log activity
    stay_mood_sd_low: float = 3.78  # of a session, below the median
    stay_mood_sd_high: float = 1.36  # above it
    leave_midway: float = 0.89  # share of those who would not stay that leave before the feed's end
    stay_elapsed: float = 0.01  # per minute of the session; assumed
    extra_sessions: float = 1.34  # beyond the first of an active day
    sessions_activity: float = 0.574
    candidates: int = 24  # common candidate sessions per user and day
    gap_log_mean: float = 8.2  # ms between a feed's end and the next request: median 4 s; assumed
    gap_log_sd: float = 1.5
    # logit of being active by active days of the last 3; solved: of users that differ by `return_activity`
    # a share of .055 .305 .531 .875 is (Kwai-2018 panel .05 .29 .51 .82) and .25 in all
    return_logits: tuple[float, float, float, float] = (-2.82, -0.86, 0.03, 1.8)
    return_base: float = 0.01003  # solved: 25 % of users active a day
    return_activity: float = 0.25  # per SD of log activity; assumed
    return_satisfaction: float = 0.05  # per SD of daily satisfaction; assumed, to be swept {0, .05, .2}
    satisfaction_sd: float = 0.1
    # what `fitting.glance` measures in a world of this profile that is on target; solved
    glance_volume: float = 23.3116
    glance_play: float = 0.5032
    glance_actions: tuple[float, ...] = (
        0.0163,
        0.04449,
        0.002148,
        0.0008393,
        0.01915,
        0.0003195,
        0.0008077,
        0.0008169,
    )
    drift_return: float = 0.0483  # half-life 14 days; assumed
    drift_consumed: float = 0.02
    drift_sd: float = 0.02
    new_interest: float = 0.01  # chance per day; assumed


HOUR_SHARES = (
    3.30, 2.01, 1.28, 0.90, 0.81, 1.15, 2.13, 3.09, 3.58, 4.02, 4.48, 4.79,
    5.28, 5.32, 4.80, 4.89, 5.15, 5.44, 5.85, 6.17, 6.61, 6.86, 6.78, 5.31,
)  # fmt: skip
"""Exposures by hour of the day in per cent, 27K."""

START_SHARES = (
    2.42, 1.45, 0.98, 0.74, 0.79, 1.43, 2.62, 3.47, 3.82, 4.24, 4.65, 5.02,
    5.47, 5.20, 4.66, 4.94, 5.28, 5.61, 6.01, 6.36, 6.80, 7.04, 6.53, 4.48,
)  # fmt: skip
"""Sessions that start by hour in per cent; solved: as long as sessions last, exposures are as above."""

WEEKDAYS = (0.973, 0.964, 0.960, 0.939, 0.977, 1.087, 1.068)
"""Exposures by weekday, Monday first, 27K."""

DURATION_QUANTILES = ((0.0, 5.0), (0.05, 10.4), (0.10, 13.2), (0.25, 27.5), (0.50, 72.2), (0.75, 158.8),
                      (0.90, 262.0), (0.95, 313.0), (0.99, 482.0), (1.0, 900.0))  # fmt: skip
"""(share, seconds) of video durations, exposure-weighted, Pure; the two ends are assumed."""

PROFILES = {"default": Constants()}
# 381 impressions and 4.84 sessions per user-day, 27K; solved: its quantiles of exposures per user-day, by
# living two days
PROFILES["heavy"] = replace(
    PROFILES["default"],
    stay_activity=0.542,
    stay_mood_sd_low=2.35,
    stay_mood_sd_high=0.942,
    extra_sessions=3.97,
    sessions_activity=0.193,
    glance_volume=107.0,
    glance_play=0.55,
)


FAMILIES: dict[str, dict[str, Any]] = {
    "factors": {},
    "transitions": {
        "transition_sd": 0.2,
        "reach_head": 0.004,
        "successor_boost": 1.2,
        "successor_tag": 0.25,
        "centre": 2.1276,
        "reference_noise": 0.4753,
        "skip_base": -0.3423,
        "finish_base": -0.5388,
        "base": (
            (-3.9219, -3.372, -2.3423, -2.2354),
            (-4.829, -3.8807, -2.4382, -2.2863),
            (-2.2267, -3.5635, -2.9642, -3.0282),
            (-7.3877, -7.2094, -6.5098, -6.3448),
            (-4.6388, -4.5509, -3.7109, -3.2542),
            (-4.5813, -4.866, -4.9366, -4.8756),
            (-9.311, -8.0834, -8.0897, -7.6268),
            (-7.4281, -6.9373, -7.2488, -7.1122),
        ),
        "action_affinity": (1.629, 1.225, 1.025, 0.954, 0.937, 0.8, 1.912, -0.6),
        "glance_play": 0.4959,
        "glance_volume": 23.216,
        "glance_actions": (0.01666, 0.04721, 0.002609, 0.00086, 0.01983, 0.0003467, 0.0008229, 0.000836),
        "stay_base": 0.75337,
    },
    "neighbours": {
        "interests": 2,
        "interest_power": 0.35,
        "item_noise": 0.84,
        "quality_sd": 0.2,
        "offset_sd": 0.4,
        "finish_affinity": 0.86,
        "middle_log_lean": 0.44,
        "radius": 0.65,
        "interest": 3.8,
        "short_interest": 1.3,
        "centre": 2.71188,
        "reference_noise": 0.42201,
        "skip_base": -0.22568,
        "finish_base": -0.47044,
        "base": (
            (-3.8165, -3.4161, -2.5773, -2.3108),
            (-4.8487, -4.2276, -2.9317, -2.7014),
            (-2.7748, -4.3753, -3.697, -3.5468),
            (-7.3383, -7.1672, -6.4373, -6.1718),
            (-4.5922, -4.5943, -3.7903, -3.2443),
            (-4.4874, -4.7485, -4.8001, -4.7412),
            (-9.4503, -8.4198, -8.5539, -7.9838),
            (-7.4777, -6.9677, -7.2756, -7.1729),
        ),
        "action_affinity": (1.724, 1.818, 1.618, 0.929, 0.951, 0.8, 2.306, -0.6),
        "glance_play": 0.5306,
        "glance_volume": 23.6301,
        "glance_actions": (0.01938, 0.06159, 0.003797, 0.001105, 0.02386, 0.0004413, 0.001036, 0.0008109),
        "stay_base": 0.77291,
    },
}
"""What each family of `simulator.affinity` has different; solved for each as the constants above."""


def constants_of(profile: str, family: str) -> Constants:
    """The parameters of a world. LookupError lists the known names."""
    if profile not in PROFILES:
        raise LookupError(f"unknown profile {profile!r}; known profiles: {', '.join(sorted(PROFILES))}")
    if family not in FAMILIES:
        raise LookupError(f"unknown family {family!r}; known families: {', '.join(FAMILIES)}")
    usual, own = replace(PROFILES["default"], **FAMILIES[family]), PROFILES[profile]
    levels = {
        "glance_volume": usual.glance_volume * own.glance_volume / Constants.glance_volume,
        "glance_play": usual.glance_play + own.glance_play - Constants.glance_play,
    }
    return replace(own, **{**FAMILIES[family], **levels})
