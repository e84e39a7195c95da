"""Metrics that need the values of single users: caps, quantiles, the bootstrap, the permutation test.

They come out as `Measured` like all others, so that looks, correction, margins and reports are the same.
Draws are counter-based under a fixed seed: the same data give the same digits.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abtest.estimates import NO_COVARIATES, NOBODY, CapUsed, Measured, measure, plain_estimate
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.sources import Source
from abtest.stats.bootstrap import Sample, bootstrap_reference
from abtest.stats.means import Estimate
from abtest.stats.moments import Moments
from abtest.stats.permutation import permutation_reference
from abtest.stats.quantiles import Clustered, bootstrap_quantile, quantile_estimate
from abtest.stats.reference import Reference

SEED = 0
OVER_PHASES = "caps, quantiles and draws are not measured over several phases, whose users they would pool"
NO_ADJUSTMENT = "the method does not adjust for the pre-period"
ENGINES = {"bootstrap": bootstrap_reference, "permutation": permutation_reference}

Windows = Sequence[tuple[int, int]]
Columns = Mapping[str, NDArray[np.generic]]


def measure_values(
    source: Source | None,
    experiment: Experiment,
    metrics: Sequence[Metric],
    windows: Windows,
    unusable: Mapping[str, str],
) -> dict[tuple[str, Any], Measured]:
    """Each of these metrics in every window. LookupError where there are some and no source."""
    found = {}
    for metric in metrics:
        if source is None:
            raise LookupError(f"metric {metric.name!r} needs the values of users, and only moments are given")
        for window in windows:
            if len(experiment.phases) > 1:
                found[metric.name, window] = _absent(experiment, OVER_PHASES)
            elif set(metric.columns) & set(unusable):
                found[metric.name, window] = _absent(experiment)
            else:
                found[metric.name, window] = _measure(source, experiment, metric, window)
    return found


def _measure(source: Source, experiment: Experiment, metric: Metric, window: tuple[int, int]) -> Measured:
    if metric.quantile is not None:
        return _quantile(source, experiment, metric, window)
    caps = None if metric.cap is None and metric.cap_value is None else source.cap_values(metric, window)
    if metric.method is None:
        assert caps is not None, metric
        moments, used = _capped(source, metric, window, caps)
        measured = measure({arm.name: moments.get(arm.name, NOBODY) for arm in experiment.arms}, metric)
        return measured.with_caps(used)
    return _resampled(source, experiment, metric, window, caps)


def _capped(
    source: Source, metric: Metric, window: tuple[int, int], caps: Sequence[Any]
) -> tuple[dict[str, Moments], list[CapUsed]]:
    """Moments of what is left below the caps: summed in the database, or here where that is not exact."""
    if source.is_exact(metric):
        with suppress(OverflowError):
            return source.capped(metric, window, caps)
    by_user = source.users(metric, window, with_past=True)
    moments = {arm: _moments(_cut(source, metric, columns, caps)) for arm, columns in by_user.items()}
    return moments, _caps_used(source, metric, by_user, caps)


def _quantile(source: Source, experiment: Experiment, metric: Metric, window: tuple[int, int]) -> Measured:
    assert metric.quantile is not None
    if metric.over == "events":
        samples = source.events(metric, window)
    else:
        by_user = source.users(metric, window)
        samples = {arm: Clustered(columns[metric.numerator]) for arm, columns in by_user.items()}
    nobody = Clustered(np.empty(0), np.empty(0, np.int64), 0)
    estimates, problems = {}, {}
    for i, arm in enumerate(experiment.arms):
        sample = samples.get(arm.name, nobody)
        if metric.method == "bootstrap":
            found = bootstrap_quantile(
                sample, metric.quantile, scale=metric.scale, draws=metric.draws, seed=SEED, arm_index=i
            )
        else:
            found = quantile_estimate(sample, metric.quantile, scale=metric.scale)
        estimates[arm.name] = found.estimate
        if found.reason is not None:
            problems[arm.name] = found.reason
    return Measured(estimates, estimates, {}, (), NO_COVARIATES, method=metric.test_shown, problems=problems)


def _resampled(
    source: Source,
    experiment: Experiment,
    metric: Metric,
    window: tuple[int, int],
    caps: Sequence[Any] | None,
) -> Measured:
    """A mean or ratio whose test statistic is compared with draws of it."""
    by_user = source.users(metric, window)
    values = {arm: _cut(source, metric, columns, caps) for arm, columns in by_user.items()}
    samples = {
        arm: Sample(columns[metric.numerator], columns[metric.denominator] if metric.denominator else None)
        for arm, columns in values.items()
    }
    estimates = {
        arm.name: plain_estimate(_moments(values[arm.name]) if arm.name in values else NOBODY, metric)
        for arm in experiment.arms
    }
    control, engine = samples.get(experiment.control), ENGINES[metric.method or ""]
    references: dict[str, Reference] = {}
    for arm in experiment.treatments:
        if control is not None and arm.name in samples and _varies(estimates, experiment.control, arm.name):
            reference = engine(control, samples[arm.name], draws=metric.draws, seed=SEED)
            if reference is not None:
                references[arm.name] = reference
    measured = Measured(
        estimates, estimates, {}, (), NO_ADJUSTMENT, method=metric.method, references=references
    )
    return measured.with_caps(_caps_used(source, metric, by_user, caps))


def _cut(
    source: Source, metric: Metric, columns: Columns, caps: Sequence[Any] | None
) -> dict[str, NDArray[np.generic]]:
    """An arm's columns, none above its cap."""
    if caps is None:
        return dict(columns)
    limits = dict(zip(metric.columns, caps, strict=True))
    return {
        name: x if limits.get(name) is None else np.minimum(x, _like(x, source.cap_of(name, limits[name])))
        for name, x in columns.items()
    }


def _caps_used(
    source: Source, metric: Metric, by_user: Mapping[str, Columns], caps: Sequence[Any] | None
) -> list[CapUsed]:
    values = {
        name: source.cap_of(name, cap)
        for name, cap in zip(metric.columns, caps or (), strict=False)
        if cap is not None
    }
    return [
        CapUsed(
            name,
            value,
            sum(int((np.asarray(columns[name], float) > value).sum()) for columns in by_user.values()),
        )
        for name, value in values.items()
    ]


def _moments(columns: Columns) -> Moments:
    if all(x.dtype.kind in "iub" for x in columns.values()):
        return Moments.from_arrays(**columns)
    return Moments.from_floats(**columns)


def _varies(estimates: Mapping[str, Estimate], control: str, treatment: str) -> bool:
    """Whether there is a statistic to be drawn."""
    pair = estimates[control].variance, estimates[treatment].variance
    return None not in pair and sum(variance or 0.0 for variance in pair) > 0


def _like(x: NDArray[np.generic], value: float) -> Any:
    return x.dtype.type(value)


def _absent(experiment: Experiment, reason: str | None = None) -> Measured:
    nothing = {arm.name: Estimate(0, None, None) for arm in experiment.arms}
    problems = {} if reason is None else dict.fromkeys(nothing, reason)
    return Measured(nothing, nothing, {}, (), NO_COVARIATES, problems=problems)
