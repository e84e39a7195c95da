"""Metrics that need the values of single users: caps, quantiles, the bootstrap, the permutation test.

They come out as `Measured` like all others, so that looks, correction, margins and reports are the same.
Draws are counter-based under a fixed seed: the same data give the same digits.

Over several phases arms are compared within phases. A capped mean or ratio is put together from those of the
phases by their shares of users, as every mean is (`stats.strata`; the cap is one, over all phases' users). A
quantile is that of users weighed by phase (`stats.quantiles`). Draws are made within phases.

With strata all that is done within the strata of each phase: capped means and ratios as those of whole
totals (`stats.poststratify`), quantiles of users weighed by stratum, draws within strata. Draws of a ratio
would be of ratios within strata, whose weighed sum is another quantity, so they are not post-stratified.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from abtest.estimates import (
    FEW_STRATA,
    NO_COVARIATES,
    NOBODY,
    CapUsed,
    Measured,
    measure_phases,
    plain_estimate,
)
from abtest.experiment import Experiment
from abtest.metrics import Metric
from abtest.parts import Caps, Columns, Part, Piece, Strata, pieces_of
from abtest.sources import NONE, Source, Sources, Window
from abtest.stats.bootstrap import Sample, Stratum, stratified_bootstrap
from abtest.stats.clustered import Clustered, over_strata
from abtest.stats.means import Estimate
from abtest.stats.moments import Moments
from abtest.stats.permutation import stratified_permutation
from abtest.stats.poststratify import PostStratified
from abtest.stats.quantiles import bootstrap_quantile, quantile_estimate
from abtest.stats.reference import Reference
from abtest.stats.strata import combined
from abtest.totals import windows_of

SEED = 0
NO_ADJUSTMENT = "the method does not adjust for the pre-period"
NO_DRAWS = "draws of a ratio would be of ratios within strata, which is another quantity"
ENGINES = {"bootstrap": stratified_bootstrap, "permutation": stratified_permutation}
Measure = Callable[[Sequence[Piece], Experiment, Metric], Measured]


def measure_values(
    sources: Sources | None,
    experiment: Experiment,
    metrics: Sequence[Metric],
    unusable: Mapping[str, str],
) -> dict[tuple[str, Any], Measured]:
    """Each of these metrics in each of its windows. LookupError where there are some and no source."""
    asked = {
        (metric.name, window): (metric, days_asked(metric, window))
        for metric in metrics
        for window in windows_of(metric, experiment.days)
    }
    return {
        key: measured.within(metric.first_days)
        for (key, (metric, _)), measured in zip(
            asked.items(), measure_days(sources, experiment, asked.values(), unusable), strict=True
        )
    }


def measure_days(
    sources: Sources | None,
    experiment: Experiment,
    asked: Iterable[tuple[Metric, Window]],
    unusable: Mapping[str, str],
) -> Iterator[Measured]:
    """Metrics of these days, of the experiment or since exposure. LookupError without a source."""
    strata: dict[Window, list[Strata]] = {}
    for metric, window in asked:
        reasons = [unusable[column] for column in metric.columns if column in unusable]
        if sources is None:
            raise LookupError(f"metric {metric.name!r} needs the values of users, and only moments are given")
        if window not in strata:
            strata[window] = strata_of(sources, window)
        yield (
            _absent(experiment, reasons[0])
            if reasons
            else _measure(sources, experiment, metric, window, strata[window])
        )


def days_asked(metric: Metric, window: Window) -> Window:
    """The days that a metric is of in a window: its own, or users' first ones since exposure."""
    from warehouse.queries import Since

    k = metric.first_days
    return window if k is None else Since(1, k, window[1] - k + 1)


def strata_of(sources: Sources, window: Window) -> list[Strata]:
    """The strata of each phase's users, "" for none; no phases where metrics are not post-stratified."""
    if sources.stratify is None:
        return []
    labels = [source.segments(window) for source in sources.phases]
    return [
        Strata.of_labels(
            {
                arm: np.where(columns[sources.stratify] == NONE, "", columns[sources.stratify])
                for arm, columns in of_phase.items()
            }
        )
        for of_phase in labels
    ]


def parts_of(sources: Sources, metric: Metric, window: Window) -> tuple[list[Part], Caps]:
    """What the users of each phase did, and the caps of all."""
    caps = _caps(sources.everybody, metric, window)
    return [_part(source, metric, window) for source in sources.phases], {
        name: sources.everybody.cap_of(name, cap)
        for name, cap in zip(metric.columns, caps or (), strict=False)
        if cap is not None
    }


def measure_parts(
    parts: Sequence[Part],
    experiment: Experiment,
    metric: Metric,
    caps: Caps | None = None,
    strata: Sequence[Strata] = (),
) -> Measured:
    """The metric of the users of each phase, put together; with their `strata` post-stratified."""
    if metric.quantile is not None:
        return _by_pieces(_quantile, parts, experiment, metric, strata)
    cut = [part.cut(caps or {}) for part in parts]
    used = [
        CapUsed(name, value, sum(part.n_above(name, value) for part in parts))
        for name, value in (caps or {}).items()
    ]
    if metric.method is not None:
        return _resampled(cut, experiment, metric, strata).with_caps(used)
    by_stratum = [
        {name: _arms(own, experiment) for name, own in of_phase.parts(part).items()}
        for part, of_phase in zip(cut, strata, strict=False)
    ]
    return measure_phases([_arms(part, experiment) for part in cut], metric, by_stratum).with_caps(used)


def moments_of(columns: Columns) -> Moments:
    """The moments of an arm's users, exactly where they are whole numbers."""
    if not columns or not len(next(iter(columns.values()))):
        return NOBODY
    if all(x.dtype.kind in "iub" for x in columns.values()):
        return Moments.from_arrays(**columns)
    return Moments.from_floats(**columns)


def _measure(
    sources: Sources, experiment: Experiment, metric: Metric, window: Window, strata: Sequence[Strata]
) -> Measured:
    is_capped = metric.cap is not None or metric.cap_value is not None
    is_summed = is_capped and metric.quantile is None and metric.method is None and not strata
    if is_summed and sources.everybody.is_exact(metric):
        with suppress(OverflowError):
            return _summed(sources, experiment, metric, window)
    parts, caps = parts_of(sources, metric, window)
    return measure_parts(parts, experiment, metric, caps, strata)


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


def _by_pieces(
    measure: Measure, parts: Sequence[Part], experiment: Experiment, metric: Metric, strata: Sequence[Strata]
) -> Measured:
    """Measured within phases, or within the strata of each: then `plain` is as within phases."""
    whole = pieces_of(parts)
    found = measure(whole, experiment, metric)
    if not strata:
        return found
    pieces = pieces_of(parts, strata)
    cells = tuple(piece.cell for piece in pieces if piece.cell is not None)
    if len(cells) <= len(whole):
        return replace(found, unstratified=FEW_STRATA)
    if metric.method is not None and metric.denominator is not None:
        return replace(found, unstratified=NO_DRAWS)
    within = measure(pieces, experiment, metric)
    shares = tuple(piece.share for piece in pieces)
    return replace(
        within,
        plain=found.plain,
        method=f"post-stratified, {found.method}",
        stratified=PostStratified(within.adjusted, within.adjusted, {}, {}, cells, shares),
        by_phase=_each_phase(measure, parts, experiment, metric, strata) if len(parts) > 1 else {},
    )


def _each_phase(
    measure: Measure, parts: Sequence[Part], experiment: Experiment, metric: Metric, strata: Sequence[Strata]
) -> dict[int, tuple[float, Measured]]:
    """What `Measured.by_phase` holds."""
    n_users = sum(part.n for part in parts)
    return {
        i: (part.n / n_users, _by_pieces(measure, [part], experiment, metric, [of_phase]))
        for i, (part, of_phase) in enumerate(zip(parts, strata, strict=True))
        if part.n
    }


def _quantile(pieces: Sequence[Piece], experiment: Experiment, metric: Metric) -> Measured:
    assert metric.quantile is not None
    shares = [piece.share for piece in pieces]
    estimates, problems = {}, {}
    for i, arm in enumerate(experiment.arms):
        sample = over_strata([_sample(piece.part, arm.name, metric) for piece in pieces], shares)
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


def _resampled(
    parts: Sequence[Part], experiment: Experiment, metric: Metric, strata: Sequence[Strata]
) -> Measured:
    """A mean or ratio whose test statistic is compared with draws of it."""
    found = _by_pieces(_means, parts, experiment, metric, strata)
    pieces = pieces_of(parts, strata if found.stratified else ())
    engine = ENGINES[metric.method or ""]
    references: dict[str, Reference] = {}
    for arm in experiment.treatments:
        pair = experiment.control, arm.name
        if _varies(found.adjusted, *pair):
            drawn = [
                Stratum(piece.share, *(_drawn_from(piece.part.columns[name], metric) for name in pair))
                for piece in pieces
            ]
            reference = engine(drawn, draws=metric.draws, seed=SEED)
            if reference is not None:
                references[arm.name] = reference
    return replace(found, references=references)


def _means(pieces: Sequence[Piece], experiment: Experiment, metric: Metric) -> Measured:
    moments = [_arms(piece.part, experiment) for piece in pieces]
    shares = [piece.share for piece in pieces]
    estimates = {
        arm.name: combined([plain_estimate(of_piece[arm.name], metric) for of_piece in moments], shares)
        for arm in experiment.arms
    }
    return Measured(estimates, estimates, {}, (), NO_ADJUSTMENT, method=metric.method)


def _arms(part: Part, experiment: Experiment) -> dict[str, Moments]:
    return {arm.name: moments_of(part.columns.get(arm.name, {})) for arm in experiment.arms}


def _drawn_from(columns: Columns, metric: Metric) -> Sample:
    return Sample(columns[metric.numerator], columns[metric.denominator] if metric.denominator else None)


def _varies(estimates: Mapping[str, Estimate], control: str, treatment: str) -> bool:
    """Whether there is a statistic to be drawn."""
    pair = estimates[control].variance, estimates[treatment].variance
    return None not in pair and sum(variance or 0.0 for variance in pair) > 0


def _absent(experiment: Experiment, reason: str) -> Measured:
    nothing = {arm.name: Estimate(0, None, None) for arm in experiment.arms}
    return Measured(nothing, nothing, {}, (), NO_COVARIATES, unstratified=reason)
