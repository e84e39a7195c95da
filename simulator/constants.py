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
    centre: float = 1.7364  # solved: mean affinity 0 at the exposures of the reference policy
    reference_noise: float = (
        0.65698  # solved: plays .490 under the reference policy, .176 under random slates
    )
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
    skip_base: float = -0.45437  # solved
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
    finish_base: float = -0.34128
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
        (-4.1843, -3.5034, -2.4012, -2.019),
        (-4.7129, -3.6825, -2.1631, -1.9544),
        (-2.1083, -3.2831, -2.4879, -2.3285),
        (-7.3219, -7.209, -6.6537, -6.4634),
        (-4.5535, -4.4787, -3.7054, -3.2945),
        (-4.477, -4.7041, -4.599, -4.5806),
        (-8.6769, -7.2606, -7.1816, -6.6335),
        (-7.2814, -6.8584, -7.1646, -6.9014),
    )
    # per unit of affinity; solved: the actions under random slates, KuaiRand random-exposure log
    action_affinity: tuple[float, ...] = (1.5, 1.05, 0.85, 1.1, 1.15, 0.8, 1.6, -0.6)
    like_duration: float = -0.45  # logits of a like per log second of the video: Pure, likes by duration
    # loading of the shared N(0, 1) shock
    action_shock: tuple[float, ...] = (1.6, 0.26, 0.25, 0.65, 0.4, 1.1, 1.75, 0.3)
    # Pure between-video CVs
    item_log_sd: tuple[float, ...] = (1.8, 0.80, 0.93, 1.35, 0.60, 0.80, 1.60, 0.70)
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
    stay_base: float = -0.19457  # solved: 90 impressions per active user-day
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
    glance_volume: float = 23.68
    glance_play: float = 0.6183
    glance_actions: tuple[float, ...] = (
        0.02455,
        0.08429,
        0.004986,
        0.001446,
        0.03514,
        0.0006384,
        0.00144,
        0.0007107,
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


FAMILIES: dict[str, dict[str, Any]] = {"factors": {}, "transitions": {}, "neighbours": {}}
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
