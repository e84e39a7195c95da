"""The command `abtest`: each command parses, calls one function, prints its result."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from abtest.options import CHECK_FAILED, OK, checked, exits, log_options, run_options


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="short-video-lab")
def main() -> None:
    """Online A/B experiments on a simulated short-video service.

    \b
    Examples:
      abtest run --days 5 --arms comirec,recgpt
      abtest analyze runs/experiment-1
      abtest list
    """
    # Threads that wait actively for each other cost several times the CPU where the machine is busy. It is
    # read when torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command()
@run_options
@click.option("--truth", is_flag=True, help="Then find the true lifts too, as abtest truth does.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of the tables.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@exits
def run(
    config: Path | None, resume: Path | None, truth: bool, as_json: bool, quiet: bool, **flags: Any
) -> int:
    """Simulate an experiment and report the lifts.

    \b
    Examples:
      abtest run --days 5 --arms comirec,recgpt
      abtest run --arms comirec,comirec --users 4000            # an A/A
      abtest run --arms poprec,mine=mypackage.models:Mine --split 80,20
      abtest run --log ../shared/data/kuairand --arms comirec,recgpt
      abtest run --layer feed:0-50 --holdout 5 --phases 1:20,3:100
      abtest run --users 100000 --workers 4 --truth
      abtest run --resume runs/experiment-1                     # after a crash
    """
    from abtest.progress import Progress
    from abtest.resume import plan_and_folder
    from abtest.run import execute

    plan, folder = checked(plan_and_folder, resume, config, flags)
    progress = Progress(quiet=quiet)
    analysis = execute(plan, folder, progress)
    if truth:
        from abtest.truth import find_truth, prepare

        analysis = replace(analysis, truth=find_truth(prepare(folder), progress))
    return _show(analysis, as_json=as_json, footer=f"run folder: {folder}")


@main.command()
@log_options
@click.option("--segments", help="Columns of an event log by whose values users are also compared.")
@click.option("--experiment", help="Name of a recorded experiment, where a run's database holds several.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.md and report.json.")
@click.option("--json", "as_json", is_flag=True, help="Print the document of report.json.")
@exits
def analyze(
    places: tuple[str, ...], experiment: str | None, out: Path | None, as_json: bool, **options: Any
) -> int:
    """Analyse a recorded run again, or an event log of your own: DuckDB, Parquet, CSV or any database URL.

    A run folder or its database needs nothing else. A log needs --map (or [map] in --config), which says what
    its columns mean; the sums are computed where the events lie.

    \b
    Examples:
      abtest analyze runs/experiment-1
      abtest analyze orders.csv --map user=user_id,arm=variant
      abtest analyze day-*.parquet --map user=uid,ts=time,arm=arm,event=kind --segments country,platform
      abtest analyze postgresql://user@host/shop --table events --assignment assignments \\
        --map user=uid,ts=at,arm=variant,event=kind --config experiment.toml
    """
    from abtest.analyze import analyse_any
    from abtest.request import LogRequest

    request = LogRequest(places, **options)
    return _show(checked(analyse_any, request, experiment, out), as_json=as_json)


@main.command()
@log_options
@click.option("--users", type=int, help="Users of all arms together (default: as many as were seen).")
@click.option("--split", help="Percent of users an arm, the control first, e.g. 80,20 (default 50,50).")
@click.option("--lift", "lifts", multiple=True, help="A lift to ask about, in percent: METRIC=PERCENT.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Level of all goals together.")
@click.option("--power", type=float, default=0.8, show_default=True, help="Power at the detectable lift.")
@click.option(
    "--design", default="fixed", show_default=True, help="fixed, or the bounds of daily looks, e.g. obf."
)
@click.option("--no-cuped", is_flag=True, help="Do not count on what a pre-period takes out of the variance.")
@click.option("--plot", type=click.Path(path_type=Path), help="File for the power curves, as PNG.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@exits
def plan(
    places: tuple[str, ...],
    users: int | None,
    split: str | None,
    lifts: tuple[str, ...],
    alpha: float,
    power: float,
    design: str,
    no_cuped: bool,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Plan an experiment from what users did: detectable lifts by day, users and days that a lift takes.

    From a run folder, or from an event log as `abtest analyze` reads it (arm= is not needed). Metrics that
    the RecGPT paper reports are asked about its online lifts.

    \b
    Examples:
      abtest plan runs/experiment-1
      abtest plan runs/experiment-1 --users 10000000 --split 90,10
      abtest plan runs/experiment-1 --design obf --plot power.png
      abtest plan events.parquet --map user=uid,ts=time,event=kind --lift n_buy=1
    """
    from abtest.plan import Design, parse_lifts, shares_of
    from abtest.plan import plan as make_plan
    from abtest.report.plan import plan_sections, write_figure
    from abtest.report.terminal import print_sections
    from abtest.request import LogRequest

    shares = checked(shares_of, split)
    asked = checked(Design, users, shares, alpha, power, design, not no_cuped)
    document = checked(make_plan, LogRequest(places, **options), asked, checked(parse_lifts, lifts))
    if plot is not None:
        checked(write_figure, document, plot)
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        print_sections(plan_sections(document))
    return OK


@main.command()
@click.argument("place", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--workers", type=int, help="Processes that the users are divided among (default: the run's).")
@click.option("--keep", is_flag=True, help="Keep the events of each life: lives/arm-1.duckdb, ...")
@click.option("--json", "as_json", is_flag=True, help="Print the truth as JSON.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@exits
def truth(place: Path, workers: int | None, keep: bool, as_json: bool, quiet: bool) -> int:
    """The true lifts of a finished run, beside what it estimated.

    All users live the days of the experiment once under each arm, with the same luck (twins). Kept as
    truth.json in the run's folder and written into its reports. Takes about as long as the experiment took
    for each arm.

    \b
    Examples:
      abtest truth runs/experiment-1
      abtest truth runs/experiment-1 --workers 2 --json
    """
    from abtest.progress import Progress
    from abtest.report.document import from_json
    from abtest.report.terminal import print_sections
    from abtest.report.truth import truth_section
    from abtest.truth import find_truth, prepare

    ready = checked(prepare, place, workers, keep=keep)
    found = find_truth(ready, Progress(quiet=quiet))
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        print_sections([truth_section(from_json((place / "report.json").read_text(encoding="utf-8")))])
    return OK


@main.command()
@click.argument("place", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@exits
def faults(place: Path, as_json: bool, quiet: bool) -> int:
    """Which health checks would notice what: faults of known kinds in copies of a finished run.

    Crashes, wrong salts, late exposures, lost and doubled events, slow clocks, bots and more, each alone,
    with the verdict and the lifts that it leads to. The run itself is not changed.

    \b
    Examples:
      abtest faults runs/experiment-1
      abtest faults runs/experiment-1 --json
    """
    from abtest.faults import try_faults
    from abtest.progress import Progress
    from abtest.report.faults import faults_section
    from abtest.report.terminal import print_sections

    found = checked(try_faults, place, Progress(quiet=quiet))
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        print_sections([faults_section(found)])
    return OK


@main.command()
@click.argument("place", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The Parquet file to write.")
@exits
def export(place: Path, out: Path) -> int:
    """Write a run as logged data for off-policy evaluation: a row for each feed, with its context, slate,
    propensities (null where a model of your own chose) and rewards.

    \b
    Example:
      abtest export runs/experiment-1 --out feeds.parquet
    """
    from abtest.export import export as write

    click.echo(f"{checked(write, place, out):,} feeds in {out}")
    return OK


@main.command()
@click.option(
    "--scorecard", is_flag=True, help="Let it live and hold it against real logs, figure by figure."
)
@click.option("--users", type=int, default=10_000, show_default=True, help="Users of the world.")
@click.option("--days", type=int, default=2, show_default=True, help="Days that are measured, after a first.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the world.")
@click.option("--profile", default="default", show_default=True, help="default (90 a day) or heavy (381).")
@click.option("--family", default="factors", show_default=True, help="factors, transitions or neighbours.")
@click.option("--log", help="KuaiRand folder: half its users make the world, half are the real side.")
@click.option("--sequences", help="File of interactions (sequence text) to build the world from.")
@click.option("--plot", type=click.Path(path_type=Path), help="PNG file for the chart of the scorecard.")
@click.option("--strict", is_flag=True, help="Exit with 3 where a figure fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the scorecard as a JSON list.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@exits
def world(
    scorecard: bool, plot: Path | None, strict: bool, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Describe a simulated world, or hold it against real logs.

    \b
    Examples:
      abtest world --family neighbours
      abtest world --scorecard --plot scorecard.png
      abtest world --scorecard --log ../shared/data/kuairand --json
    """
    from abtest.progress import Progress
    from abtest.world import WorldRequest, describe, prepare, show_scorecard

    ready = checked(prepare, WorldRequest(**options), plot)
    progress = Progress(quiet=quiet)
    if not scorecard:
        describe(ready, progress)
        return OK
    all_pass = show_scorecard(ready, progress, as_json=as_json, plot=plot)
    return OK if all_pass or not strict else CHECK_FAILED


@main.command("list")
@exits
def list_() -> int:
    """The models that an arm can name, and the metrics of a report.

    \b
    Example:
      abtest list
    """
    from abtest.arms import known_models
    from abtest.metrics import METRICS

    for title, names in (("models", known_models()), ("metrics", [metric.name for metric in METRICS])):
        click.echo(f"{title}:")
        for name in names:
            click.echo(f"  {name}")
    return OK


def _show(analysis: Any, *, as_json: bool, footer: str = "") -> int:
    from abtest.report import print_report

    if as_json:
        click.echo(json.dumps(analysis.document(), indent=2, allow_nan=False))
    else:
        print_report(analysis)
        if footer:
            click.echo(footer)
    return CHECK_FAILED if analysis.verdict.decision == "invalid" else OK
