"""Options that commands share, and how errors end; `--help` needs no more of this than click."""

import functools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

OK, FAILED, BAD_INPUT, CHECK_FAILED = 0, 1, 2, 3

Option = Callable[[Callable[..., None]], Callable[..., None]]


def exits(command: Callable[..., int]) -> Callable[..., None]:
    """Turn errors into one sentence and an exit code: 2 for bad input, which is found before anything is
    written, 1 for a failure after that, 3 where a health check of the experiment failed."""

    @functools.wraps(command)
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    def wrapper(debug: bool, **options: Any) -> None:
        try:
            sys.exit(command(**options))
        except BadInputError as error:
            code, shown = BAD_INPUT, error.__cause__ or error
        except (RuntimeError, ValueError, LookupError, OSError, MemoryError) as error:
            code, shown = FAILED, error
        if debug:
            traceback.print_exception(shown)
        click.echo(f"abtest: {sentence(shown)}", err=True)
        sys.exit(code)

    return wrapper


class BadInputError(Exception):
    """Bad input, found before anything was written; its cause holds the sentence."""


def checked(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function whose ValueError, LookupError or OSError is the user's to mend."""
    try:
        return function(*args, **kwargs)
    except (ValueError, LookupError, OSError) as error:
        raise BadInputError from error


def sentence(error: BaseException) -> str:
    """The error as one line (a KeyError's text comes without its quotes)."""
    text = error.args[0] if isinstance(error, LookupError) and error.args else error
    return " ".join(str(text).split()) or type(error).__name__


_RUN: list[Option] = [
    click.option(
        "--arms",
        help="Arms, the control first: names (abtest list), repeated names, NAME=package.module:Class.",
    ),
    click.option("--days", type=int, help="Days of the experiment (default 5)."),
    click.option("--users", type=int, help="Users of the world (default 10,000)."),
    click.option("--warmup-days", type=int, help="Days before it, under the logging policy (default 5)."),
    click.option(
        "--log",
        type=str,
        help="Folder of a KuaiRand log to build the world from (default: a synthetic world).",
    ),
    click.option(
        "--sequences",
        type=str,
        help="File of interactions (sequence text) to build the world from instead.",
    ),
    click.option("--family", help="What users enjoy: factors (default), transitions or neighbours."),
    click.option("--profile", help="How much they watch: default (90 a day) or heavy (381)."),
    click.option("--seed", type=int, help="Seed of the world, the salt and the training (default 0)."),
    click.option("--split", help="Percent of users an arm, e.g. 50,50 (default: equal)."),
    click.option("--control", help="Name of the control arm (default: the first)."),
    click.option("--name", help="Name of the experiment (default: experiment)."),
    click.option("--out", help="Run folder, new or empty (default runs/NAME-N, the next free N)."),
    click.option(
        "--stage",
        help="retrieval: 50 candidates in front of the shared ranker (default);"
        " feed: the arm fills the feed.",
    ),
    click.option("--device", help="cpu (default), cuda or cuda:N."),
    click.option("--epochs", type=int, help="Training budget of each model: epochs at most (default 12)."),
    click.option(
        "--max-targets",
        type=int,
        help="Training budget of each model: targets an epoch (default 100,000).",
    ),
    click.option(
        "--threads",
        type=int,
        help="Threads of the models and the database; part of what is reproduced (default 2).",
    ),
    click.option(
        "--checkpoints",
        help="Folder of trained models to reuse and add to (default: inside the run folder).",
    ),
    click.option(
        "--looks", help="daily: goals are tested after each day (default); final: once, at the end."
    ),
    click.option(
        "--sequential",
        help="How daily looks share alpha: obf (default), pocock, always-valid; none: the last day decides.",
    ),
    click.option(
        "--correction", help="Over goals and treatments: holm (default), hochberg; bh for exploration."
    ),
    click.option(
        "--retrain",
        help="At each midnight of the experiment: frozen (default), or arms learn on from their own users'"
        " days (own) or everybody's (pooled).",
    ),
    click.option("--retrain-epochs", type=int, help="Epochs of each retraining (default 2)."),
    click.option(
        "--explore",
        type=int,
        help="Percent of the slots that show a video hardly shown so far (default 0).",
    ),
    click.option(
        "--uploads",
        type=float,
        help="Videos that are uploaded a day, in percent of the catalogue (default 0); arms learn of them by"
        " --explore and --retrain.",
    ),
    click.option(
        "--workers",
        type=int,
        help="Processes that the users are divided among, and the trainings of the arms where there are"
        " processors for --threads of each (default 1).",
    ),
    click.option(
        "--executor",
        help="local (default), or dask://HOST:PORT, whose workers see the run folder: one task a worker and"
        " day.",
    ),
    click.option(
        "--hashing", help="Scheme of the assignment: blake2b (default) or growthbook, as its SDKs do it."
    ),
    click.option(
        "--layer",
        help="Layer and part of it in percent, e.g. feed:0-50: no user is in two experiments of a layer.",
    ),
    click.option(
        "--beside",
        help="Other experiments of the layer, which must not overlap: titles:50-80,covers:80-100.",
    ),
    click.option("--holdout", type=float, help="Percent of users that are in no experiment (default 0)."),
    click.option(
        "--holdout-salt", help="Salt of the holdout, the same for all experiments (default: global)."
    ),
    click.option(
        "--phases", help="A ramp-up as DAY:PERCENT of the users, e.g. 1:10,3:50,5:100 (default 1:100)."
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="TOML file with any of these settings; flags win.",
    ),
    click.option(
        "--resume",
        type=click.Path(path_type=Path),
        help="Folder of a run that was cut off: go on from its latest midnight, with its settings.",
    ),
]


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """What `abtest run` can be told: the names of `settings.RunSettings`, a file of them, a run to resume."""
    return _with(_RUN, command)


_LOG: list[Option] = [
    click.argument("places", nargs=-1, required=True, metavar="URL|FILES..."),
    click.option(
        "--map",
        "mapping",
        help="Columns of an event log: user=COLUMN,arm=COLUMN and, as they are there, ts= event= value="
        " id= ingest= segment= ts_unit= (s, ms, us, ns) assignment_user= assignment_arm= assignment_ts=.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="TOML file that declares the experiment and its metrics (abtest/declaration.py shows one).",
    ),
    click.option("--table", help="Table of the events, where a database holds several."),
    click.option("--assignment", help="Table or file with user, arm and perhaps time, instead of a column."),
    click.option(
        "--control", help="Name of the control arm (default: the one called control, or the first)."
    ),
    click.option("--name", help="Name of the experiment (default: that of the file or database)."),
    click.option("--stratify", help="Column of users' attributes within which arms are compared."),
]


def log_options(command: Callable[..., None]) -> Callable[..., None]:
    """What the commands that read an event log share."""
    return _with(_LOG, command)


def _with(options: list[Option], command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command
