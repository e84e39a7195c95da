"""Metrics that need the values of single users: caps, quantiles, the bootstrap, the permutation test.

They come out as `Measured` like all others, so that looks, correction, margins and reports are the same.
Draws are counter-based under a fixed seed: the same data give the same digits.

Over several phases arms are compared within phases. A capped mean or ratio is put together from those of the
phases by their shares of users, as every mean is (`stats.strata`; the cap is one, over all phases' users). A
quantile is that of users weighed by phase (`stats.quantiles`). Draws are made within phases.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abtest.estimates import (
    NO_COVARIATES,
    NOBODY,
    CapUsed,
    Measured,
    measure_phases,
    plain_estimate,
)
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.sources import Source, Sources, Window
from abtest.stats.bootstrap import Sample, Stratum, stratified_bootstrap
from abtest.stats.clustered import Clustered, over_strata
from abtest.stats.means import Estimate
from abtest.stats.moments import Moments
from abtest.stats.permutation import stratified_permutation
from abtest.stats.quantiles import bootstrap_quantile, quantile_estimate
from abtest.stats.reference import Reference
from abtest.stats.strata import combined

SEED = 0
NO_ADJUSTMENT = "the method does not adjust for the pre-period"
ENGINES = {"bootstrap": stratified_bootstrap, "permutation": stratified_permutation}

Columns = Mapping[str, NDArray[np.generic]]
Caps = Mapping[str, float]
"""Of each capped column, in its own unit."""


@dataclass(frozen=True)
class Part:
    """What the users of a phase did, by arm: `columns` of a value a user, or the `events` of a quantile."""

    columns: Mapping[str, Columns] = field(default_factory=dict)
    events: Mapping[str, Clustered] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Users of each arm."""
        counts = {arm: len(next(iter(columns.values()))) for arm, columns in self.columns.items()}
        return {**counts, **{arm: sample.n for arm, sample in self.events.items()}}

    def of(self, users: Mapping[str, NDArray[np.bool_]]) -> "Part":
        """Only these users of each arm."""
        return Part(
            {
                arm: {name: x[users[arm]] for name, x in columns.items()}
                for arm, columns in self.columns.items()
            },
            {arm: _only(sample, users[arm]) for arm, sample in self.events.items()},
        )


def measure_values(
    sources: Sources | None,
    experiment: Experiment,
    metrics: Sequence[Metric],
    windows: Sequence[Window],
    unusable: Mapping[str, str],
) -> dict[tuple[str, Any], Measured]:
    """Each of these metrics in every window. LookupError where there are some and no source."""
    found = {}
    for metric in metrics:
        if sources is None:
            raise LookupError(f"metric {metric.name!r} needs the values of users, and only moments are given")
        for window in windows:
            usable = not set(metric.columns) & set(unusable)
            key = metric.name, window
            found[key] = _measure(sources, experiment, metric, window) if usable else _absent(experiment)
    return found


def parts_of(sources: Sources, metric: Metric, window: Window) -> tuple[list[Part], Caps]:
    """What the users of each phase did, and the caps of all."""
    caps = _caps(sources.everybody, metric, window)
    return [_part(source, metric, window) for source in sources.phases], {
        name: sources.everybody.cap_of(name, cap)
        for name, cap in zip(metric.columns, caps or (), strict=False)
        if cap is not None
    }


def measure_parts(
    parts: Sequence[Part], experiment: Experiment, metric: Metric, caps: Caps | None = None
) -> Measured:
    """The metric of the users of each phase, put together."""
    if metric.quantile is not None:
        return _quantile(parts, experiment, metric)
    cut = [replace(part, columns=_cut(part.columns, caps or {})) for part in parts]
    used = [
        CapUsed(name, value, sum(_above(part, name, value) for part in parts))
        for name, value in (caps or {}).items()
    ]
    if metric.method is not None:
        return _resampled(cut, experiment, metric).with_caps(used)
    moments = [
        {
            arm.name: _moments(part.columns[arm.name]) if part.sizes.get(arm.name) else NOBODY
            for arm in experiment.arms
        }
        for part in cut
    ]
    return measure_phases(moments, metric).with_caps(used)


def _measure(sources: Sources, experiment: Experiment, metric: Metric, window: Window) -> Measured:
    if metric.quantile is None and metric.method is None and sources.everybody.is_exact(metric):
        with suppress(OverflowError):
            return _summed(sources, experiment, metric, window)
    parts, caps = parts_of(sources, metric, window)
    return measure_parts(parts, experiment, metric, caps)


def _summed(sources: Sources, experiment: Experiment, metric: Metric, window: Window) -> Measured:
    """From moments of what is left below the caps, summed in the database, exactly."""
    caps = _caps(sources.everybody, metric, window)
    assert caps is not None, metric
    moments, used = [], []
    for source in sources.phases:
        of_phase, above = source.capped(metric, window, caps)
        moments.append({arm.name: of_phase.get(arm.name, NOBODY) for arm in experiment.arms})
        used.append(above)
    together = [
        same[0]._replace(n_above=sum(cap.n_above for cap in same)) for same in zip(*used, strict=True)
    ]
    return measure_phases(moments, metric).with_caps(together)


def _caps(source: Source, metric: Metric, window: Window) -> Sequence[Any] | None:
    return None if metric.cap is None and metric.cap_value is None else source.cap_values(metric, window)


def _part(source: Source, metric: Metric, window: Window) -> Part:
    if metric.quantile is not None and metric.over == "events":
        return Part(events=source.events(metric, window))
    with_past = metric.quantile is None and metric.method is None
    return Part(source.users(metric, window, with_past=with_past))


def _shares(parts: Sequence[Part]) -> tuple[list[Part], list[float]]:
    """The phases that have users, and the shares of all users that they hold."""
    sizes = [sum(part.sizes.values()) for part in parts]
    seen = [part for part, n in zip(parts, sizes, strict=True) if n] or list(parts[:1])
    return seen, [n / sum(sizes) for n in sizes if n] or [1.0]


def _quantile(parts: Sequence[Part], experiment: Experiment, metric: Metric) -> Measured:
    assert metric.quantile is not None
    seen, shares = _shares(parts)
    estimates, problems = {}, {}
    for i, arm in enumerate(experiment.arms):
        sample = over_strata([_sample(part, arm.name, metric) for part in seen], shares)
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


def _sample(part: Part, arm: str, metric: Metric) -> Clustered:
    if arm in part.columns:
        return Clustered(part.columns[arm][metric.numerator])
    return part.events.get(arm, Clustered(np.empty(0), np.empty(0, np.int64), 0))


def _resampled(parts: Sequence[Part], experiment: Experiment, metric: Metric) -> Measured:
    """A mean or ratio whose test statistic is compared with draws of it."""
    seen, shares = _shares(parts)
    estimates = {
        arm.name: combined([_plain(part, arm.name, metric) for part in seen], shares)
        for arm in experiment.arms
    }
    engine = ENGINES[metric.method or ""]
    references: dict[str, Reference] = {}
    for arm in experiment.treatments:
        pair = experiment.control, arm.name
        if _varies(estimates, *pair):
            strata = [
                Stratum(share, *(_drawn_from(part.columns[name], metric) for name in pair))
                for part, share in zip(seen, shares, strict=True)
            ]
            reference = engine(strata, draws=metric.draws, seed=SEED)
            if reference is not None:
                references[arm.name] = reference
    return Measured(estimates, estimates, {}, (), NO_ADJUSTMENT, method=metric.method, references=references)


def _plain(part: Part, arm: str, metric: Metric) -> Estimate:
    return plain_estimate(_moments(part.columns[arm]) if part.sizes.get(arm) else NOBODY, metric)


def _drawn_from(columns: Columns, metric: Metric) -> Sample:
    return Sample(columns[metric.numerator], columns[metric.denominator] if metric.denominator else None)


def _cut(by_arm: Mapping[str, Columns], caps: Caps) -> dict[str, Columns]:
    """The columns, none above its cap."""
    return {
        arm: {name: np.minimum(x, _like(x, caps[name])) if name in caps else x for name, x in columns.items()}
        for arm, columns in by_arm.items()
    }


def _like(x: NDArray[np.generic], cap: float) -> Any:
    """The cap as a value of the column; the largest whole number where a float had to round it up."""
    if x.dtype.kind == "f":
        return x.dtype.type(cap)
    return x.dtype.type(min(int(cap), np.iinfo(x.dtype).max))  # type: ignore[type-var]


def _above(part: Part, name: str, value: float) -> int:
    return sum(int((np.asarray(columns[name], float) > value).sum()) for columns in part.columns.values())


def _only(sample: Clustered, users: NDArray[np.bool_]) -> Clustered:
    """The events of some of the users, who are numbered anew."""
    assert sample.users is not None, sample
    kept, places = users[sample.users], np.cumsum(users) - 1
    return Clustered(sample.values[kept], places[sample.users[kept]], int(users.sum()))


def _moments(columns: Columns) -> Moments:
    if all(x.dtype.kind in "iub" for x in columns.values()):
        return Moments.from_arrays(**columns)
    return Moments.from_floats(**columns)


def _varies(estimates: Mapping[str, Estimate], control: str, treatment: str) -> bool:
    """Whether there is a statistic to be drawn."""
    pair = estimates[control].variance, estimates[treatment].variance
    return None not in pair and sum(variance or 0.0 for variance in pair) > 0


def _absent(experiment: Experiment) -> Measured:
    nothing = {arm.name: Estimate(0, None, None) for arm in experiment.arms}
    return Measured(nothing, nothing, {}, (), NO_COVARIATES)
