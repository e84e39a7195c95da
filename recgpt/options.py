"""Options of the commands: types, groups of options that several commands share, what was given, and how
errors end.

`--help` needs no more of this than click; a model is only looked up by name when one is named.
"""

import difflib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import click
from click.core import ParameterSource

MAX_LIST = 50
PRESETS = ("best", "paper", "authors")
RANK_PATIENCE_S = 5
COLUMNS = "recgpt.columns"
"""Where the context keeps --columns."""


class _Sentence(click.ClickException):
    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Under torchrun the first process speaks for all: it fails for the same reason, and torchrun stops
        the others while they wait. One that goes on living failed alone and says so."""
        if os.environ.get("RANK", "0") != "0":
            time.sleep(RANK_PATIENCE_S)
        super().show(file)


class Commands(click.Group):
    """Bad input ends in one sentence and exit code 2; --debug shows where it came from."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _Sentence(error.format_message()) from error
        except (ValueError, LookupError, ArithmeticError, OSError) as error:
            if ctx.meta.get("recgpt.debug"):
                raise
            raise _Sentence(str(error.args[0]) if isinstance(error, LookupError) else str(error)) from error


class RecallSplit(click.ParamType):
    """`m,n`: items of step 1 and of step 2."""

    name = "m,n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        parts = str(value).split(",")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r} is not of the form m,n; for example 9,1", param, ctx)
        m, n = (int(part) for part in parts)
        if not 1 <= m + n <= MAX_LIST:
            self.fail(f"m + n is {m + n}; a list has 1 to {MAX_LIST} items", param, ctx)
        return m, n


class Columns(click.ParamType):
    """`user=...,item=...,time=...`: columns of a table by their roles."""

    name = "role=column,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        pairs = [part.partition("=") for part in str(value).split(",")]
        columns = {role.strip(): name for role, _, name in pairs}
        if len(columns) < len(pairs) or not all(columns) or not all(columns.values()):
            self.fail(f"{value!r} is not of the form user=...,item=...,time=...", param, ctx)
        return columns


class Names(click.ParamType):
    """Names with commas, of those that are known, in their order."""

    name = "name,..."

    def __init__(self, what: str, known: Iterable[str]) -> None:
        self.what, self.known = what, tuple(known)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        names = _names(value)
        for name in names:
            if name not in self.known:
                self.fail(f"unknown {self.what} {name!r}; known: {', '.join(self.known)}", param, ctx)
        return tuple(name for name in self.known if name in names)


class ModelNames(click.ParamType):
    """Names of models with commas, in the order given; `all` is every one."""

    name = "model,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        from baselines import MODELS

        known = sorted({*MODELS, "recgpt"})
        names = _names(value)
        if names == ("all",):
            return tuple(known)
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                self.fail(f"unknown model {name!r}; known models: {', '.join(known)}.{hint}", param, ctx)
        return names


def _names(value: Any) -> tuple[str, ...]:
    """Each name once; the value itself where there is none. A default may be read twice, as names already."""
    if isinstance(value, tuple):
        return value
    names = [name.strip() for name in str(value).split(",") if name.strip()]
    return tuple(dict.fromkeys(names or [str(value)]))


def given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options of these names (all that are left, where none is named) that were given, taken out."""
    taken = {name: options.pop(name) for name in names or list(options)}
    return {name: value for name, value in taken.items() if value not in (None, False)}


def training_given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """As `given`, for fields of TrainingSettings; the device is one that is there."""
    from baselines.distributed import pick_device

    found = given(options, *names)
    return {**found, "device": pick_device(found["device"])}


def with_loss(settings: dict[str, Any]) -> dict[str, Any]:
    """`loss` and `negatives` as one LossSettings, where either is named."""
    from baselines.losses import LossSettings

    loss, negatives = settings.pop("loss", None), settings.pop("negatives", None)
    if loss is None and negatives is None:
        return settings
    loss = loss or "sampled"
    return {**settings, "loss": LossSettings(loss, negatives or (1 if loss == "bce" else 1024))}


def refuse_both(one: str, other: str, reason: str) -> None:
    """Raise UsageError where both parameters of the running command were given."""
    ctx = click.get_current_context()
    if all(ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in (one, other)):
        flags = {param.name: param.opts[0] for param in ctx.command.params}
        raise click.UsageError(f"{flags[one]} and {flags[other]} are both given; {reason}")


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["recgpt.debug"] = ctx.meta.get("recgpt.debug", False) or value


debug = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)


def _remember_columns(ctx: click.Context, _: click.Parameter, columns: dict[str, str] | None) -> None:
    ctx.meta[COLUMNS] = columns


def data_file(command: Callable[..., None]) -> Callable[..., None]:
    """DATA and, for a table, --columns, which stands in the context as COLUMNS."""
    options = [
        click.argument("data", type=click.Path(path_type=Path)),
        click.option(
            "--columns",
            type=Columns(),
            expose_value=False,
            callback=_remember_columns,
            help="Of DATA where it is a table: user=...,item=...,time=... (time is optional).",
        ),
    ]
    return _applied(options, command)


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """How to train: a preset, and what is to differ from it."""
    devices, device = click.Choice(["auto", "cpu", "cuda"]), "auto: cuda where there is a GPU."
    preset_help = "best: what validation chose; paper: the published method; authors: their published code."
    options = [
        click.option("--preset", type=click.Choice(PRESETS), default="best",
                     show_default=True, help=preset_help),
        click.option("--epochs", type=click.IntRange(1), help="Of training, at most.  [the preset's]"),
        click.option("--lr", type=click.FloatRange(0, min_open=True), help="Rate.  [the preset's]"),
        click.option("--patience", type=click.IntRange(1),
                     help="Epochs without a better validation that end a stage.  [the preset's]"),
        click.option("--max-targets", type=click.IntRange(1), help="Targets of an epoch, drawn anew.  [all]"),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True),
        click.option("--device", type=devices, default="auto", show_default=True, help=device),
    ]  # fmt: skip
    return _applied(options, command)


def prompt_options(command: Callable[..., None]) -> Callable[..., None]:
    """How to tune, where it is to differ from the preset."""
    ways, learned = click.Choice(["sequential", "parallel", "last"]), click.Choice(["none", "next", "skip"])
    slot = (
        "What a prompt's slot learns: nothing, the item after its gap, or the one after that.  [the preset's]"
    )
    options = [
        click.option("--tune-epochs", type=click.IntRange(1), help="Of tuning, at most.  [the preset's]"),
        click.option("--prompts", type=ways, help="How prompts are generated.  [the preset's]"),
        click.option(
            "--k",
            "n_prompts",
            type=click.IntRange(0, 6),
            help="K, prompts in a gap.  [the preset's]",
        ),
        click.option("--prompt-slot-loss", type=learned, help=slot),
        click.option(
            "--refresh",
            "prompt_refresh",
            type=click.IntRange(1),
            help="Steps prompts are kept.  [preset's]",
        ),
    ]
    return _applied(options, command)


def _applied(options: list[Callable[..., Any]], command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command
