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
    tag_zipf: float = 1.41  # Pure, videos per tag
    dims: int = 16  # assumed
    taste_sd: float = 0.8  # of taste . vector over random pairs; solved: random slates at .176
    interests: int = 5  # tags mixed into one taste; assumed
    item_noise: float = 0.6  # share of a vector that its tag does not explain; assumed
    quality_sd: float = 0.86  # of affinity; solved: see offset_sd
    short_term: float = 0.5  # weight of the mean vector of recent plays; assumed
    short_term_memory: float = 0.8  # per request
    transition_sd: float = 0.3  # order signal: last played tag -> tag; assumed
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
    satiation: float = 0.6  # affinity lost per unit of tag satiation; assumed
    satiation_memory: float = 0.93  # per request, halved between sessions; assumed
    satiation_step: float = 0.12  # added per impression of the tag; assumed
    follow_bonus: float = 0.5  # affinity of a followed author; assumed
    centre: float = 1.7577  # solved: mean affinity 0 at the exposures of the reference policy
    # solved: plays .494 under the reference policy, .176 under random slates
    reference_noise: float = 0.80552
    reference_candidates: int = 80  # videos that the reference policy compares for a feed; assumed
    # solved: the choice among candidates adds to it; exposures -.84, top 20 % .768, Pure pool
    reach_slope: float = 0.72
    reach_quality: float = 0.3  # correlation of log reach and quality; solved: between-video CV of plays

    # -- watching
    # a valid play: watched more than 7 s (Pure: agrees with the flag on 97 % where shorter)
    play_ms: int = 7_000
    long_ms: int = 18_000
    lean_affinity: float = 1.1  # lean = 1.1 affinity + user offset - 1.25 [repeat], in logits of a valid play
    skip_lean: float = 1.4  # per unit of lean: skips and plays overlap, so more than 1 in logits of a skip
    skip_base: float = -0.46773  # solved
    offset_sd: float = (
        0.64  # solved with quality_sd: AUC .655 / .628 / .685 of user, item, both (Pure, tab 1)
    )
    offset_activity: float = -0.50  # correlation with log activity, 27K
    repeat: float = -1.25  # logits of a repeated video: valid play .450 -> .189, Pure
    # times (log(s) - 4)**2: one-minute videos hold best; this and the next fitted to Pure
    skip_duration: float = 0.130
    skip_log_mean: float = 1.05
    skip_log_lean: float = 0.35  # a disliked video is left sooner: mean watch 6.5 s under random exposure
    skip_log_sd_low: float = 0.46  # below the median
    skip_log_sd_high: float = 1.04  # above it
    finish_base: float = -0.4306
    finish_duration: float = -1.15  # per log(duration / 30 s)
    finish_affinity: float = 0.9
    middle_log_mean: float = 0.16
    middle_duration: float = 0.745  # per log(duration in s)
    middle_curve: float = -0.10  # times (log(s) - 4)**2
    middle_log_lean: float = 0.40  # mean watch under random slates
    middle_log_sd: float = 0.72
    unfinished_at_most: float = 0.98  # of the duration
    # times |Z|: seconds into the second round before the swipe, Pure: median about 1.5 s
    overshoot_s: float = 1.7
    # P(watched 1.5 times | finished) = replay_s / duration, Pure: .31 .17 .08 .04 .02 by bin
    replay_s: float = 3.5
    replay_most_often: float = 0.33
    replay_tail: float = 0.40  # Pure: 51 % of replays reach twice the duration, 14 % three times
    replay_most: float = 8.0

    # -- actions: rows ACTIONS, columns CONDITIONS (logits); solved: rates of Pure, tab 1
    base: tuple[tuple[float, ...], ...] = (
        (-3.9668, -3.5051, -2.6781, -2.3795),
        (-4.6107, -3.6979, -2.3021, -2.1461),
        (-2.2381, -3.6411, -2.9701, -2.8839),
        (-7.2424, -7.1607, -6.7165, -6.6614),
        (-4.4613, -4.5131, -3.9344, -3.608),
        (-4.4097, -4.7344, -5.1131, -5.0478),
        (-8.5979, -7.4569, -7.6184, -7.2128),
        (-7.3687, -6.9139, -7.0849, -6.8717),
    )
    # per unit of affinity; solved: the actions under random slates, KuaiRand random-exposure log
    action_affinity: tuple[float, ...] = (1.5, 1.05, 0.85, 1.1, 1.15, 0.8, 1.6, -0.6)
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
    stay_base: float = -0.19089  # solved: 90 impressions per active user-day
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
    return_base: float = 0.10498  # solved: 25 % of users active a day
    return_activity: float = 0.25  # per SD of log activity; assumed
    return_satisfaction: float = 0.05  # per SD of daily satisfaction; assumed, to be swept {0, .05, .2}
    satisfaction_sd: float = 0.1
    # what `fitting.glance` measures in a world of this profile that is on target; solved
    glance_volume: float = 23.752
    glance_play: float = 0.6432
    glance_actions: tuple[float, ...] = (
        0.02779,
        0.09572,
        0.005926,
        0.001512,
        0.04043,
        0.0007479,
        0.001645,
        0.0006462,
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
PROFILES["heavy"] = replace(PROFILES["default"], extra_sessions=3.84, glance_volume=128.3, glance_play=0.70)


FAMILIES: dict[str, dict[str, Any]] = {
    "factors": {},
    "transitions": {
        "quality_sd": 0.62,
        "successor_boost": 1.6,
        "successor_tag": 0.35,
        "centre": 1.706,
        "reference_noise": 1.0104,
        "skip_base": -0.4374,
        "finish_base": -0.5096,
        "base": (
            (-3.7625, -3.5051, -2.8153, -2.7373),
            (-4.6777, -3.786, -2.5342, -2.5421),
            (-2.3616, -3.8037, -3.2707, -3.5608),
            (-7.4793, -7.426, -7.3378, -7.7223),
            (-4.5138, -4.6337, -4.2049, -4.1804),
            (-4.1509, -4.8317, -5.442, -5.555),
            (-8.428, -7.45, -8.1438, -7.9351),
            (-7.6158, -7.1676, -7.3121, -6.9848),
        ),
        "glance_play": 0.6458,
        "glance_actions": (0.02963, 0.09587, 0.006044, 0.001538, 0.04004, 0.0006331, 0.001485, 0.0007149),
    },
    "neighbours": {
        "quality_sd": 0.76,
        "radius": 0.6,
        "interest": 3.4,
        "short_interest": 1.7,
        "centre": 2.2972,
        "reference_noise": 0.5953,
        "skip_base": -0.4108,
        "finish_base": -0.4063,
        "base": (
            (-3.864, -3.3324, -2.5389, -2.3016),
            (-4.7814, -3.7228, -2.2586, -2.052),
            (-2.1008, -3.2748, -2.7139, -2.5386),
            (-7.3327, -7.0649, -6.5615, -6.5523),
            (-4.5367, -4.4763, -3.7666, -3.3616),
            (-4.0357, -4.4341, -4.8189, -4.8313),
            (-8.2246, -7.1231, -7.4143, -6.9505),
            (-7.2216, -6.8518, -7.2153, -7.1153),
        ),
        "glance_play": 0.6612,
        "glance_actions": (0.0294, 0.09871, 0.006249, 0.001602, 0.04024, 0.0006675, 0.001644, 0.0006919),
    },
}
"""What each family of `simulator.affinity` has different; solved for each as the constants above."""


def constants_of(profile: str, family: str) -> Constants:
    """The parameters of a world. LookupError lists the known names."""
    if profile not in PROFILES:
        raise LookupError(f"unknown profile {profile!r}; known profiles: {', '.join(sorted(PROFILES))}")
    if family not in FAMILIES:
        raise LookupError(f"unknown family {family!r}; known families: {', '.join(FAMILIES)}")
    c = replace(PROFILES[profile], **FAMILIES[family])
    busier = PROFILES[profile].glance_play - PROFILES["default"].glance_play
    return replace(c, glance_play=FAMILIES[family].get("glance_play", Constants.glance_play) + busier)
