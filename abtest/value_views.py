"""Metrics that need users' own values in the views that explain: by segment, and by day since exposure.

Each metric's values are read once for all segments. A segment's users are cut where all users are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from abtest.estimates import Measured
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.novelty import no_trend
from abtest.sources import OTHERS, Sources, Window
from abtest.stats.moments import Moments
from abtest.values import days_asked, measure_days, measure_parts, moments_of, parts_of
from warehouse.events import day_name


def values_by_segment(
    sources: Sources | None,
    experiment: Experiment,
    metrics: Sequence[Metric],
    segments: Mapping[str, Sequence[str]],
) -> dict[tuple[str, str, str], Measured]:
    """By dimension, segment and metric over all days; `segments` are those shown of each dimension."""
    if sources is None or not metrics or not segments:
        return {}
    found = {}
    labels_of: dict[Window, list[Mapping[str, Mapping[str, NDArray[np.generic]]]]] = {}
    for metric in metrics:
        window = days_asked(metric, (1, experiment.days))
        if window not in labels_of:
            labels_of[window] = [source.segments(window) for source in sources.phases]
        labels = labels_of[window]
        parts, caps = parts_of(sources, metric, window)
        for dimension, names in segments.items():
            for name in names:
                own = [
                    part.of(_users(of_phase, dimension, name, names))
                    for part, of_phase in zip(parts, labels, strict=True)
                ]
                found[dimension, name, metric.name] = measure_parts(own, experiment, metric, caps)
    return found


def values_since_exposure(
    sources: Sources | None, experiment: Experiment, metrics: Sequence[Metric]
) -> dict[tuple[str, tuple[int, int]], Measured]:
    """By metric and days since exposure: a user's k-th day (k, k) and the first k days (1, k), of the users
    who can have had k days."""
    from warehouse.queries import Since

    if sources is None or not metrics:
        return {}
    days = range(1, experiment.days + 1)
    asked: list[tuple[Metric, Window]] = [
        (metric, Since(first, k, experiment.days - k + 1))
        for k in days
        for first in dict.fromkeys((k, 1))
        for metric in metrics
    ]
    found = measure_days(sources, experiment, asked, {})
    return {
        (metric.name, (window[0], window[1])): measured
        for (metric, window), measured in zip(asked, found, strict=True)
    }


def value_courses(
    sources: Sources | None, experiment: Experiment, metrics: Sequence[Metric], n_days: int
) -> dict[str, list[dict[str, Moments]]]:
    """By metric and phase, the moments of each arm's first `n_days` days since exposure, each day's totals
    (`day_name`) cut at that day's caps: of the users who can have had all of them.

    Of capped means and ratios only: others have no trend (`novelty.no_trend`).
    """
    from warehouse.queries import Since

    last_cohort = experiment.days - n_days + 1
    found: dict[str, list[dict[str, Moments]]] = {}
    if sources is None:
        return found
    for metric in (metric for metric in metrics if no_trend(metric) is None):
        arms: list[dict[str, dict[str, NDArray[np.generic]]]] = [{} for _ in sources.phases]
        for k in range(1, n_days + 1):
            parts, caps = parts_of(sources, replace(metric, covariates=()), Since(k, k, last_cohort))
            for of_phase, part in zip(arms, parts, strict=True):
                for arm, columns in part.cut(caps).columns.items():
                    of_phase.setdefault(arm, {}).update({day_name(x, k): y for x, y in columns.items()})
        found[metric.name] = [
            {arm.name: moments_of(of_phase.get(arm.name, {})) for arm in experiment.arms} for of_phase in arms
        ]
    return found


def _users(
    labels: Mapping[str, Mapping[str, NDArray[np.generic]]],
    dimension: str,
    name: str,
    names: Sequence[str],
) -> dict[str, NDArray[np.bool_]]:
    """Which users of each arm are in a segment."""
    if name != OTHERS:
        return {arm: columns[dimension] == name for arm, columns in labels.items()}
    shown = [other for other in names if other != OTHERS]
    return {arm: ~np.isin(columns[dimension], shown) for arm, columns in labels.items()}
