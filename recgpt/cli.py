"""The command `recgpt`: pretrain, tune, eval, recommend. Results on stdout, progress on stderr.

torch takes seconds to import, so everything heavy is imported inside the commands.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from baselines.base import Interactions
    from baselines.data import Split
    from baselines.training import TrainingSettings
    from recgpt.recommender import RecGPT
    from recgpt.stages import Row

PRETRAINED, TUNED = "pretrained.safetensors", "tuned.safetensors"
MAX_LIST = 50
RANK_PATIENCE_S = 5


class _Sentence(click.ClickException):
    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Under torchrun the first process speaks for all: it fails for the same reason, and torchrun stops
        the others while they wait. One that goes on living failed alone and says so."""
        if os.environ.get("RANK", "0") != "0":
            time.sleep(RANK_PATIENCE_S)
        super().show(file)


class _Commands(click.Group):
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


class _Recall(click.ParamType):
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


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["recgpt.debug"] = ctx.meta.get("recgpt.debug", False) or value


debug = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)
data_file = click.argument("data", type=click.Path(path_type=Path))


def training_options(epochs: int, lr: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """How long and how to train, with the defaults of a command."""
    patience = "Stop a stage after this many epochs without a better validation."
    devices, device = click.Choice(["auto", "cpu", "cuda"]), "auto: cuda where there is a GPU."
    options = [
        click.option("--epochs", type=click.IntRange(1), default=epochs, show_default=True, help="At most."),
        click.option("--lr", type=click.FloatRange(0, min_open=True), default=lr, show_default=True),
        click.option("--patience", type=click.IntRange(1), default=10, show_default=True, help=patience),
        click.option("--max-targets", type=click.IntRange(1), help="Targets of an epoch, drawn anew.  [all]"),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True),
        click.option("--device", type=devices, default="auto", show_default=True, help=device),
    ]
    return lambda command: _all(options, command)


def prompt_options(command: Callable[..., None]) -> Callable[..., None]:
    """The fields of PromptSettings. A test compares the defaults told here with those."""
    ways, learned = click.Choice(["sequential", "parallel", "last"]), click.Choice(["none", "next", "skip"])
    slot = "What a prompt's slot learns: nothing, the item after its gap, or the one after that.  [next]"
    options = [
        click.option("--prompts", type=ways, help="How prompts are generated.  [parallel]"),
        click.option(
            "--k", "n_prompts", type=click.IntRange(0, 6), help="K, prompts in a gap; 0: none.  [1]"
        ),
        click.option("--prompt-slot-loss", type=learned, help=slot),
        click.option(
            "--refresh", "prompt_refresh", type=click.IntRange(1), help="Steps prompts are kept.  [1]"
        ),
    ]
    return _all(options, command)


def _all(options: list[Callable[..., Any]], command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@debug
def main() -> None:
    """RecGPT: pre-training, personalised prompts, prompt-tuning, two-step recall.

    DATA is a text file with one user a line, `user item item ...`, oldest item first, ids from 1. The last
    item of each user is held out for the test and the one before it for validation; only the rest trains.

    With several GPUs or machines, torchrun starts pretrain, tune and eval in as many processes, which divide
    each batch among them: torchrun --nproc-per-node 2 -m recgpt.cli pretrain ...

    \b
    Example:
      recgpt eval Beauty.txt --models recgpt,sasrec,poprec
    """
    # Threads that wait actively for each other cost five times the CPU time where the machine is busy (28 s
    # against 5.6 s for the same training on two shared cores). Read when torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command()
@data_file
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to."
)
@training_options(epochs=34, lr=1e-3)
@click.option("--dim", type=click.IntRange(1), default=64, show_default=True, help="Width of the network.")
@click.option("--layers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True)
@click.option("--loss", type=click.Choice(["sampled", "full", "bce"]), default="sampled", show_default=True)
@click.option("--negatives", type=click.IntRange(1), help="Of the sampled and bce losses.  [1024, bce: 1]")
@click.option(
    "--user-vectors", is_flag=True, help="A learned vector for each user, often dropped in training."
)
@debug
def pretrain(
    data: Path,
    out: Path,
    dim: int,
    layers: int,
    dropout: float,
    loss: str,
    negatives: int | None,
    user_vectors: bool,
    **training: Any,
) -> None:
    """Stage 1: learn to predict the next item. An interrupted run continues where it stopped.

    \b
    Example:
      recgpt pretrain Beauty.txt --out checkpoints/beauty
    """
    from baselines.sequential import LossSettings
    from recgpt.recommender import RecGPT, RecGPTSettings

    split = _leave_one_out(data)
    settings = RecGPTSettings(
        dim=dim,
        layers=layers,
        dropout=dropout,
        user_vectors=user_vectors,
        loss=LossSettings(loss, negatives or (1 if loss == "bce" else 1024)),
        tune_share=0.0,
    )
    model = RecGPT(settings, _training(training))
    model.resume_folder = out
    model.fit(split.train, _progress, validation=split.valid)
    model.save(out / PRETRAINED)
    _say(f"{out / PRETRAINED}: {_summary(model)}")


@main.command()
@data_file
@click.option(
    "--from", "source", type=click.Path(path_type=Path), required=True, help="Folder of `recgpt pretrain`."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to."
)
@training_options(epochs=6, lr=5e-4)
@prompt_options
@debug
def tune(data: Path, source: Path, out: Path, **options: Any) -> None:
    """Stage 2: go on learning with the model's own prompts; then choose (m, n) for the two-step recall.

    \b
    Example:
      recgpt tune Beauty.txt --from checkpoints/beauty --out checkpoints/beauty
    """
    from dataclasses import replace

    from recgpt.recommender import RecGPT

    prompts = _prompt_settings(options)
    training = _training(options)
    model = RecGPT.load(source / PRETRAINED, device=training.device)
    split = _leave_one_out(data)
    model.settings = replace(model.settings, **prompts)
    model.training = training
    model.resume_folder = out
    if source.resolve() != out.resolve():
        RecGPT.load(source / PRETRAINED).save(out / PRETRAINED)
    model.tune(split.train, _progress, validation=split.valid)
    model.save(out / TUNED)
    _say(f"{out / TUNED}: {_summary(model)}")


@main.command("eval")
@data_file
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Folder of trained stages, to measure those."
)
@click.option(
    "--models", default="recgpt", show_default=True, help="Names, with commas, to train and measure."
)
@click.option("--split", "which", type=click.Choice(["test", "valid"]), default="test", show_default=True)
@click.option("--masking", type=click.Choice(["seen", "none"]), default="seen", show_default=True,
              help="seen: items of the history are not ranked (minus infinity).")  # fmt: skip
@click.option("--recall", type=_Recall(), help="m,n of the two steps, instead of what validation chose.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@training_options(epochs=40, lr=1e-3)
@prompt_options
@debug
def evaluate(
    data: Path,
    checkpoint: Path | None,
    models: str,
    which: str,
    masking: str,
    recall: tuple[int, int] | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Hit rate and NDCG by ranking all items, and what each stage of RecGPT adds.

    RecGPT gives three rows: recgpt:pretrain, recgpt:tuned (one step) and recgpt (two steps). Gained and lost
    are users whose target entered or left the list against the row above. Seconds are CPU seconds of training
    and ranking. `--epochs` counts both stages.

    \b
    Examples:
      recgpt eval Beauty.txt --checkpoint checkpoints/beauty
      recgpt eval Beauty.txt --models recgpt,sasrec,comirec,poprec --json
    """
    from recgpt.recommender import RecGPTSettings
    from recgpt.stages import document, train_and_measure

    names = _known_models(models)
    prompts = _prompt_settings(options)
    training = _training(options)
    split = _leave_one_out(data, exclude_history=masking == "seen")
    held_out = split.test if which == "test" else split.valid
    rows: list[Row] = []
    if checkpoint is not None:
        rows = _checkpoint_rows(checkpoint, split, held_out, recall, training.device)
    else:
        share = None if recall is None else recall[1] / sum(recall)
        settings = RecGPTSettings(**prompts, second_share=share)
        for name in names:
            rows += train_and_measure(
                name, split, held_out, training=training, settings=settings, progress=_progress
            )
    found = {"data": data.stem, "split": which, "masking": masking, "results": document(rows)}
    _say(json.dumps(found, indent=2) if as_json else _table(found))


@main.command()
@data_file
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), required=True, help="Folder of trained stages."
)
@click.option("--users", help="Ids of users in DATA, with commas.  [all]")
@click.option(
    "--k", type=click.IntRange(1, MAX_LIST), default=10, show_default=True, help="Items for each user."
)
@click.option("--recall", type=_Recall(), help="m,n of the two steps: m + n items, instead of --k.")
@click.option("--repeats", is_flag=True, help="Recommend items of the history too.")
@debug
def recommend(
    data: Path, checkpoint: Path, users: str | None, k: int, recall: tuple[int, int] | None, repeats: bool
) -> None:
    """What to show next to users of DATA, after all of their items: lines of `user item item ...`, best
    first.

    \b
    Example:
      recgpt recommend Beauty.txt --checkpoint checkpoints/beauty --users 1,2,3 --k 5
    """
    import numpy as np

    from baselines.data import read_sequences

    interactions = read_sequences(data)
    model = _newest(checkpoint)
    _check_items(model, interactions, data)
    if recall is not None:
        k = sum(recall)
        _force(model, recall)
    chosen = _user_indices(users, interactions)
    histories = interactions.histories(chosen, None)
    hidden = histories[:, :0] if repeats else histories
    for user, items in zip(chosen, model.recommend(chosen, histories, k, hidden), strict=True):
        click.echo(" ".join(str(number) for number in (user + 1, *items[np.flatnonzero(items)])))


def _leave_one_out(data: Path, *, exclude_history: bool = True) -> "Split":
    from baselines.data import leave_one_out, read_sequences

    split = leave_one_out(read_sequences(data), exclude_history=exclude_history)
    if not len(split.valid.users):
        raise ValueError(f"no user of {data} has three items or more, so none can be held out")
    return split


def _checkpoint_rows(
    folder: Path, split: "Split", held_out: Any, recall: tuple[int, int] | None, device: str
) -> "list[Row]":
    from recgpt.recommender import RecGPT
    from recgpt.stages import measure

    rows: list[Row] = []
    for name in (PRETRAINED, TUNED):
        if name == TUNED and not (folder / TUNED).exists():
            continue
        model = RecGPT.load(folder / name, device=device)
        if model.data_hash != split.train.content_hash():
            raise ValueError(f"{folder / name} was trained on other data than the training part of this file")
        if recall is not None:
            _force(model, recall)
        rows += measure(model, held_out)
    return rows


def _newest(folder: Path) -> "RecGPT":
    from recgpt.recommender import RecGPT

    return RecGPT.load(folder / (TUNED if (folder / TUNED).exists() else PRETRAINED))


def _force(model: "RecGPT", recall: tuple[int, int]) -> None:
    from dataclasses import replace

    model.settings = replace(model.settings, second_share=recall[1] / sum(recall))


def _training(options: dict[str, Any]) -> "TrainingSettings":
    from baselines.distributed import pick_device
    from baselines.training import TrainingSettings

    return TrainingSettings(**{**options, "device": pick_device(options["device"])})


def _prompt_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `prompt_options` that were given, taken out of `options`."""
    names = ("prompts", "n_prompts", "prompt_slot_loss", "prompt_refresh")
    given = {name: options.pop(name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def _known_models(models: str) -> list[str]:
    import difflib

    from baselines import MODELS

    known = sorted({*MODELS, "recgpt"})
    names = [name.strip() for name in models.split(",") if name.strip()]
    for name in names or [models]:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise LookupError(f"unknown model {name!r}; known models: {', '.join(known)}.{hint}")
    return names


def _check_items(model: "RecGPT", interactions: "Interactions", data: Path) -> None:
    if interactions.n_items > model.n_items:
        raise ValueError(
            f"{data} has item {interactions.n_items}, but the checkpoint knows items 1 to {model.n_items}; "
            "train it on this file"
        )


def _user_indices(users: str | None, interactions: "Interactions") -> Any:
    import numpy as np

    if users is None:
        return np.flatnonzero(interactions.lengths)
    words = [word.strip() for word in users.split(",")]
    for word in words:
        if not word.isdecimal() or not 1 <= int(word) <= interactions.n_users:
            raise ValueError(f"user {word!r} is not in the data; its users are 1 to {interactions.n_users}")
    return np.array([int(word) - 1 for word in words], np.int64)


def _progress(stage: str, fraction: float) -> None:
    _say(f"{fraction:4.0%} {stage}", err=True)


def _say(text: str, *, err: bool = False) -> None:
    """Under torchrun the first process says it for all."""
    from baselines.distributed import rank

    if rank() == 0:
        click.echo(text, err=err)


def _summary(model: "RecGPT") -> str:
    run = model.runs[-1]
    value = "no validation" if run.best_value is None else f"validation NDCG@10 {run.best_value:.4f}"
    seconds = sum(epoch.cpu_s for epoch in run.epochs)
    text = f"epoch {run.best} of {len(run.epochs)}, {value}, {seconds:.0f} CPU seconds"
    if model.splits:
        text += ", recall " + " ".join(f"({split.m}, {split.n})" for split in model.splits.values())
    return text


def _table(found: dict[str, Any]) -> str:
    titles = ("model", "HR@5", "NDCG@5", "HR@10", "NDCG@10", "(m, n)@10", "gained/lost@10", "users", "CPU s")
    lines = [titles]
    for row in found["results"]:
        recall = row.get("recall", {}).get("10")
        values = [f"{row[name]:.4f}" for name in ("hr@5", "ndcg@5", "hr@10", "ndcg@10")]
        split = f"({recall['m']}, {recall['n']})" if recall else "-"
        moved = f"{row['gained@10']}/{row['lost@10']}" if "gained@10" in row else "-"
        lines.append((row["model"], *values, split, moved, f"{row['n_users']:,}", f"{row['seconds']:.0f}"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    head = f"{found['data']}, {found['split']}, all items ranked, masking: {found['masking']}"
    return "\n".join([head, *(_aligned(line, widths) for line in lines)])


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    first, *rest = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
    return "  ".join([first.lstrip().ljust(widths[0]), *rest])


if __name__ == "__main__":
    main()
