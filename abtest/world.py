"""The story of `abtest world`: build a world, let it live, hold it against real logs."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abtest.progress import Progress
from abtest.report.sections import Section

if TYPE_CHECKING:
    from simulator.calibration import RealLog, Score
    from simulator.world import World
    from warehouse.importers import KuaiRand

SINGLE_COLUMN = 1  # the tab of a KuaiRand log that is a single-column feed, as the world's is
NOTE = (
    "Error: relative standard error over users. Allowed: real and simulated may differ by this factor,"
    " widened to two errors of the real figure; rates also by three of their own. report: no gate."
)


@dataclass(frozen=True)
class WorldRequest:
    """Which world, and how long it is measured."""

    users: int = 10_000
    days: int = 2
    seed: int = 0
    profile: str = "default"
    family: str = "factors"
    log: str | None = None
    sequences: str | None = None


@dataclass(frozen=True)
class Ready:
    """A request that has been checked, and the file it names, read."""

    request: WorldRequest
    source: Any = None  # a KuaiRand log, or interactions


def prepare(request: WorldRequest, plot: Path | None = None) -> Ready:
    """Check the request and read its log. ValueError or LookupError names the first thing that is wrong."""
    from simulator.constants import constants_of

    constants_of(request.profile, request.family)
    for key, least in (("users", 2), ("days", 1)):
        if getattr(request, key) < least:
            raise ValueError(f"{key} is {getattr(request, key)}; it must be {least} or more")
    if not 0 <= request.seed < 2**63:
        raise ValueError(f"seed is {request.seed}; it must be a whole number from 0 to 2^63 - 1")
    if plot is not None and not plot.parent.is_dir():
        raise ValueError(f"no folder {plot.parent} for {plot.name}; make it first")
    return Ready(request, read_source(request.log, request.sequences, request.users))


def read_source(log: str | None, sequences: str | None, users: int) -> Any:
    """The KuaiRand folder or the interaction file that a world is to be built from; None without either."""
    if log is not None and sequences is not None:
        raise ValueError("--log and --sequences are both given; a world is built from one of them")
    source: Any
    if log is not None:
        from simulator.logged import check
        from warehouse.importers import read_kuairand

        source = read_kuairand(log)
        check(source.impressions, source.exposures)
        n_known, what = (
            source.histories.num_rows,
            f"the log has {source.histories.num_rows} users with a history",
        )
    elif sequences is not None:
        from baselines.data import read_interactions

        source = read_interactions(sequences).interactions
        n_known = len(np.unique(source.users))
        what = f"{sequences} has {n_known} users"
    else:
        return None
    if users > n_known:
        raise ValueError(f"users is {users}; {what}")
    return source


def build_world(
    source: Any, *, users: int, seed: int, profile: str, family: str, uploads: float = 0.0, days: int = 0
) -> "World":
    """The synthetic world of the seed, or the world of the log or file that `read_source` returned, whose
    videos are all there from the start."""
    from simulator.world import World

    if source is None:
        return World.synthetic(users, seed=seed, profile=profile, family=family, uploads=uploads, days=days)
    if hasattr(source, "impressions"):
        log = source
        tables = (log.users, log.videos, log.impressions, log.histories, log.exposures)
        return World.from_log(*tables, seed=seed, n_users=users, profile=profile, family=family)
    return World.from_sequences(
        source.users, source.items, seed=seed, n_users=users, profile=profile, family=family
    )


def left_out(source: Any) -> dict[str, int]:
    """What of a log could not be used: how many rows for which reason; empty without a log."""
    return source.dropped._asdict() if hasattr(source, "dropped") else {}


def describe(ready: Ready, progress: Progress) -> None:
    """Print what the world is."""
    from abtest.report.terminal import print_sections

    request = ready.request
    with progress.stage("world"):
        world = build_world(
            ready.source,
            users=request.users,
            seed=request.seed,
            profile=request.profile,
            family=request.family,
        )
    print_sections([*world_sections(world), *left_out_sections(left_out(ready.source))])


def show_scorecard(ready: Ready, progress: Progress, *, as_json: bool, plot: Path | None) -> bool:
    """Print the scorecard and draw it; whether no figure fails."""
    from abtest.report.terminal import print_sections

    scores = score(ready, progress)
    if plot is not None:
        plot.write_bytes(scorecard_figure(scores))
    if as_json:
        print(json.dumps(scorecard_document(scores), indent=2, allow_nan=False))
    else:
        print_sections(scorecard_sections(scores))
    return all(s.status != "fail" for s in scores)


def score(ready: Ready, progress: Progress) -> "list[Score]":
    """The scorecard. With a log, half of its users make the world, the others are what it is held against."""
    from simulator import calibration, targets

    request, source = ready.request, ready.source
    goals, rows = targets.packaged(request.profile), None
    if source is not None and hasattr(source, "impressions"):
        with progress.stage("log"):
            real = real_log(half(source, 1), request.log or "")
            goals, rows = calibration.log_goals(real, request.profile, progress.update), real.rows_per_user
        source = half(source, 0)
    with progress.stage("world"):
        world = build_world(
            source,
            users=min(request.users, source.histories.num_rows) if request.log else request.users,
            seed=request.seed,
            profile=request.profile,
            family=request.family,
        )
    with progress.stage("scorecard"):
        return calibration.scorecard(
            world, request.days, goals=goals, rows_per_user=rows, say=progress.update
        )


def half(log: "KuaiRand", rest: int) -> "KuaiRand":
    """The impressions and histories of the users whose id leaves this rest when divided by two."""
    import pyarrow as pa

    def mine(table: "pa.Table") -> "pa.Table":
        return table.filter(pa.array(table["user_id"].to_numpy() % 2 == rest))

    return log._replace(impressions=mine(log.impressions), histories=mine(log.histories))


def real_log(log: "KuaiRand", source: str) -> "RealLog":
    """The single-column impressions of a KuaiRand log and the plays of its histories, for the figures."""
    from simulator.calibration import RealLog
    from simulator.figures import Impressions

    x = {name: log.impressions[name].to_numpy() for name in log.impressions.column_names}
    keep = (x["tab"] == SINGLE_COLUMN) & np.isin(x["video_id"], log.videos["video_id"].to_numpy())
    if not keep.any():
        raise ValueError(f"{source} has no impression of tab 1; a scorecard needs a single-column feed")
    x = {name: column[keep] for name, column in x.items()}
    known, tags = log.videos["video_id"].to_numpy(), log.videos["tag"].to_numpy()
    tags = np.unique(tags, return_inverse=True)[1]
    flags = (
        x["play"],
        x["long_view"],
        x["watch_ms"] >= x["duration_ms"],
        x["like"],
        x["comment"],
        x["share"],
        x["follow"],
        x["hate"],
        x["panel_ms"] > 0,
        x["profile_enter"],
    )
    items = np.searchsorted(known, x["video_id"])
    impressions = Impressions(
        x["user_id"],
        items,
        tags[items],
        x["duration_ms"] / 1000,
        x["watch_ms"] / 1000,
        np.stack([flag.astype(np.float64) for flag in flags]),
    )
    lists = log.histories["videos"].combine_chunks()
    played = np.searchsorted(known, lists.flatten().to_numpy())
    who = np.repeat(log.histories["user_id"].to_numpy(), lists.value_lengths().to_numpy())
    return RealLog(impressions, (who, played, tags[played]), source)


def scorecard_document(scores: "Sequence[Score]") -> list[dict[str, Any]]:
    """What `--json` prints: a list; a figure that could not be computed is null."""
    return [
        {
            "name": s.name,
            "real": s.real,
            "simulated": s.simulated if math.isfinite(s.simulated) else None,
            "tolerance": s.tolerance,
            "status": s.status,
            "source": s.source,
            "real_error": s.real_error,
            "error": s.error if math.isfinite(s.error) else None,
        }
        for s in scores
    ]


def scorecard_sections(scores: "Sequence[Score]") -> list[Section]:
    """One table a source, and the count."""
    sections = [
        Section(
            source,
            ["figure", "real", "error", "simulated", "error", "gap", "allowed", "status"],
            [_row(s) for s in scores if s.source == source],
            n_text=1,
        )
        for source in dict.fromkeys(s.source for s in scores)
    ]
    counts = [f"{sum(s.status == status for s in scores)} {status}" for status in ("pass", "fail", "report")]
    return [*sections, Section(f"{len(scores)} figures: {', '.join(counts)}", [], [], notes=[NOTE])]


def _row(s: "Score") -> list[str]:
    return [
        s.name,
        f"{s.real:.4g}",
        f"{s.real_error:.1%}" if s.real_error else "-",
        f"{s.simulated:.4g}" if math.isfinite(s.simulated) else "-",
        f"{s.error:.1%}" if s.error and math.isfinite(s.error) else "-",
        f"{s.simulated / s.real - 1:+.1%}" if math.isfinite(s.simulated) else "-",
        "-" if s.tolerance is None else f"x{1 + s.tolerance:.2f}",
        s.status,
    ]


def scorecard_figure(scores: "Sequence[Score]") -> bytes:
    """The PNG of a chart: simulated over real, figure by figure, inside or outside what is allowed."""
    import altair as alt
    import vl_convert

    shown = [s for s in scores if math.isfinite(s.simulated) and s.simulated / s.real > 0]
    values = [
        {
            "figure": s.name,
            "ratio": s.simulated / s.real,
            "low": 1 / (1 + (s.tolerance or 0.0)),
            "high": 1 + (s.tolerance or 0.0),
            "status": s.status,
        }
        for s in shown
    ]
    y = alt.Y("figure:N", sort=[s.name for s in shown], title=None)
    x = alt.Scale(type="log", domain=[0.2, 5], clamp=True)
    colors = alt.Scale(domain=["pass", "fail", "report"], range=["#2a7f4f", "#c0392b", "#888888"])
    base = alt.Chart(alt.Data(values=values))
    allowed = base.mark_bar(opacity=0.25, height=7, color="#888888").encode(
        y=y, x=alt.X("low:Q", scale=x, title="simulated / real (bars: allowed)"), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=40).encode(
        y=y, x=alt.X("ratio:Q", scale=x), color=alt.Color("status:N", scale=colors, title=None)
    )
    chart = alt.layer(allowed, points).properties(width=420, height=alt.Step(11))
    png: bytes = vl_convert.vegalite_to_png(chart.to_json(), scale=1.5)
    return png


def world_sections(world: "World") -> list[Section]:
    """What a world is: its size, and what of it was fitted from what."""
    rows = [
        ["family", world.family],
        ["users", f"{world.n_users:,}"],
        ["videos", f"{world.n_items:,}"],
        ["tags", f"{world.n_tags:,}"],
        ["seed", str(world.seed)],
    ]
    fitted = [[part, source] for part, source in world.origin.items()]
    return [
        Section("world", ["", ""], rows, n_text=2),
        Section("fitted from", ["part", "source"], fitted, n_text=2),
    ]


def left_out_sections(counts: dict[str, int]) -> list[Section]:
    """What of the log could not be used."""
    rows = [[name.replace("_", " "), f"{n:,}"] for name, n in counts.items()]
    return [Section("left out of the log", ["", "rows"], rows, n_text=1)] if rows else []
