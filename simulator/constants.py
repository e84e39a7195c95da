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
    taste_sd: float = 1.35  # of taste . vector over random pairs; solved: random slates at .176
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
    centre: float = 2.0364  # solved: mean affinity 0 at the exposures of the reference policy
    # solved: plays .494 under the reference policy, .176 under random slates
    reference_noise: float = 0.63573
    reference_candidates: int = 80  # videos that the reference policy compares for a feed; assumed
    # share of what the platform puts forward: (rank / videos + head) ** -slope; solved: exposures of the top
    # 1 to 20 % of videos and their slope, Pure
    reach_slope: float = 1.2
    reach_head: float = 0.004

    # -- watching
    # a valid play: watched more than 7 s (Pure: agrees with the flag on 97 % where shorter)
    play_ms: int = 7_000
    long_ms: int = 18_000
    lean_affinity: float = 1.1  # lean = 1.1 affinity + user offset - 1.25 [repeat], in logits of a valid play
    skip_lean: float = 1.7  # per unit of lean: skips and plays overlap, so more than 1 in logits of a skip
    skip_base: float = -0.38406  # solved
    offset_sd: float = 0.55  # solved: between-user CV, AUC and ICC of plays, Pure
    offset_activity: float = -0.50  # correlation with log activity, 27K
    repeat: float = -1.25  # logits of a repeated video: valid play .450 -> .189, Pure
    # times (log(s) - 4)**2: one-minute videos hold best; this and what follows fitted to Pure, by duration
    # too, and to random slates
    skip_duration: float = 0.130
    skip_log_mean: float = 1.035
    skip_log_lean: float = 0.41  # a disliked video is left sooner
    skip_log_sd_low: float = 0.466  # below the median
    skip_log_sd_high: float = 1.15  # above it
    finish_base: float = -0.50475
    finish_duration: float = -1.13  # per log(duration / 30 s)
    finish_affinity: float = 0.86
    middle_log_mean: float = 0.23
    middle_duration: float = 0.68  # per log(duration in s)
    middle_curve: float = -0.125  # times (log(s) - 4)**2
    middle_log_lean: float = 0.44
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
        (-3.9635, -3.5415, -2.8457, -2.6908),
        (-4.7293, -4.0359, -2.913, -2.841),
        (-2.4624, -4.2012, -3.6623, -3.7252),
        (-7.1846, -7.0732, -6.6615, -6.6252),
        (-4.4406, -4.517, -3.9248, -3.57),
        (-4.1527, -4.7429, -5.1355, -5.188),
        (-8.324, -7.5158, -7.8535, -7.3596),
        (-7.5358, -6.986, -7.1342, -6.9363),
    )
    # per unit of affinity; solved: the actions under random slates, KuaiRand random-exposure log
    action_affinity: tuple[float, ...] = (1.608, 1.42, 1.22, 0.889, 1.003, 0.8, 1.595, -0.6)
    like_duration: float = -0.45  # logits of a like per log second of the video: Pure, likes by duration
    # loading of the shared N(0, 1) shock
    action_shock: tuple[float, ...] = (1.6, 0.26, 0.25, 0.65, 0.4, 1.1, 1.75, 0.3)
    # Pure between-video CVs
    item_log_sd: tuple[float, ...] = (1.8, 0.55, 0.60, 1.35, 0.60, 0.80, 1.60, 0.70)
    # like, comment, share, follow; Pure between-user CVs
    gamma_shapes: tuple[float, ...] = (0.06, 0.105, 0.20, 0.045)
    panel_log_sd: float = 0.9  # user log-sd of opening the panel (part of the comment propensity)
    profile_log_sd: float = 0.9
    hate_log_sd: float = 1.5
    panel_log_mean: float = 8.75  # panel stay quartiles 3.3 / 6.2 / 11.9 s, Pure
    panel_stay_sd: float = 0.95
    profile_log_mean: float = 9.1  # profile stay quartiles 3.5 / 9.1 / 21.6 s, Pure
    profile_stay_sd: float = 1.36

    # -- time: sessions, requests, days
    satisfaction_memory: float = 0.7  # per request
    stay_base: float = -0.10196  # solved: 90 impressions per active user-day
    stay_satisfaction: float = 1.5
    stay_activity: float = 0.55  # per SD of log activity; solved: Kwai-2018 quantiles of plays per active day
    stay_mood_sd: float = 1.8  # of a session; solved: Kwai-2018 quantiles of plays per active day
    stay_elapsed: float = 0.01  # per minute of the session; assumed
    extra_sessions: float = 1.5  # beyond the first of an active day; solved
    sessions_activity: float = 0.55
    candidates: int = 24  # common candidate sessions per user and day
    gap_log_mean: float = 8.3  # ms between a feed's end and the next request: median 4 s; assumed
    gap_log_sd: float = 1.2
    # logit of being active by active days of the last 3: Kwai-2018 panel .05 .29 .51 .82
    return_logits: tuple[float, float, float, float] = (-2.94, -0.90, 0.04, 1.52)
    return_base: float = 0.10793  # solved: 25 % of users active a day
    return_activity: float = 0.25  # per SD of log activity; assumed
    return_satisfaction: float = 0.05  # per SD of daily satisfaction; assumed, to be swept {0, .05, .2}
    satisfaction_sd: float = 0.1
    # what `fitting.glance` measures in a world of this profile that is on target; solved
    glance_volume: float = 24.819
    glance_play: float = 0.6632
    glance_actions: tuple[float, ...] = (
        0.02627,
        0.09497,
        0.006096,
        0.001351,
        0.03589,
        0.0005946,
        0.00137,
        0.0006797,
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

WEEKDAYS = (0.973, 0.964, 0.960, 0.939, 0.977, 1.087, 1.068)
"""Exposures by weekday, Monday first, 27K."""

DURATION_QUANTILES = ((0.0, 5.0), (0.05, 10.4), (0.10, 13.2), (0.25, 27.5), (0.50, 72.2), (0.75, 158.8),
                      (0.90, 262.0), (0.95, 313.0), (0.99, 482.0), (1.0, 900.0))  # fmt: skip
"""(share, seconds) of video durations, exposure-weighted, Pure; the two ends are assumed."""

PROFILES = {"default": Constants()}
# 381 impressions and 4.84 sessions per user-day, 27K; the last two solved by living two days
PROFILES["heavy"] = replace(PROFILES["default"], extra_sessions=3.84, glance_volume=142.0, glance_play=0.737)


FAMILIES: dict[str, dict[str, Any]] = {
    "factors": {},
    "transitions": {
        "transition_sd": 0.2,
        "reach_head": 0.005,
        "successor_boost": 1.2,
        "successor_tag": 0.25,
        "centre": 2.0528,
        "reference_noise": 0.56615,
        "skip_base": -0.4113,
        "finish_base": -0.49906,
        "base": (
            (-3.8071, -3.4965, -2.8109, -2.7565),
            (-4.6094, -3.7683, -2.5606, -2.5301),
            (-2.2518, -3.8057, -3.289, -3.4905),
            (-7.221, -7.1926, -6.9202, -7.1037),
            (-4.3385, -4.4043, -3.8679, -3.6442),
            (-3.9551, -4.5013, -5.1576, -5.2295),
            (-8.4356, -7.5509, -8.0965, -7.7047),
            (-7.5362, -7.0064, -7.1592, -7.0007),
        ),
        "action_affinity": (1.536, 1.064, 0.864, 0.851, 0.938, 0.8, 1.454, -0.6),
        "glance_play": 0.6697,
        "glance_volume": 24.262,
        "glance_actions": (0.02989, 0.09981, 0.006318, 0.001562, 0.03893, 0.0007075, 0.001475, 0.000678),
    },
    "neighbours": {
        "interests": 2,
        "interest_power": 0.35,
        "item_noise": 0.8,
        "quality_sd": 0.22,
        "offset_sd": 0.4,
        "radius": 0.65,
        "interest": 5.0,
        "short_interest": 1.3,
        "centre": 2.3623,
        "reference_noise": 0.36217,
        "skip_base": -0.31345,
        "finish_base": -0.25711,
        "base": (
            (-4.0484, -3.4856, -2.483, -2.149),
            (-4.8, -3.8969, -2.5024, -2.3084),
            (-2.4908, -4.0194, -3.3165, -3.2023),
            (-7.3117, -7.0329, -6.3362, -6.1139),
            (-4.5128, -4.3659, -3.5301, -2.986),
            (-3.8403, -4.3238, -4.6088, -4.5359),
            (-8.3451, -7.1989, -7.3702, -6.7188),
            (-7.2993, -6.8737, -7.2834, -7.12),
        ),
        "action_affinity": (1.671, 1.441, 1.241, 0.814, 0.886, 0.8, 1.747, -0.6),
        "glance_play": 0.6807,
        "glance_volume": 24.358,
        "glance_actions": (0.03379, 0.1069, 0.006661, 0.001531, 0.04015, 0.0009566, 0.002431, 0.0006999),
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
