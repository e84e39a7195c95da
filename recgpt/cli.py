"""The command `recgpt`: prepare, pretrain, tune, eval, paper, recommend. Results on stdout, progress on
stderr.

torch takes seconds to import, so everything heavy is imported inside the commands.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recgpt.options import (
    COLUMNS,
    MAX_LIST,
    Columns,
    Commands,
    RecallSplit,
    data_file,
    debug,
    prompt_options,
    training_options,
)
from recgpt.printed import counts_table, results_table, summary

if TYPE_CHECKING:
    from baselines.base import Interactions
    from baselines.data import Renumbered, Split
    from recgpt.recommender import RecGPT
    from recgpt.stages import Row

PRETRAINED, TUNED = "pretrained.safetensors", "tuned.safetensors"
PROMPT_OPTIONS = ("tune_epochs", "prompts", "n_prompts", "prompt_slot_loss", "prompt_refresh")
REVIEW_FORMATS = ("amazon-json", "amazon-csv", "amazon-csv-2018", "yelp-json", "table")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@debug
def main() -> None:
    """RecGPT: pre-training, personalised prompts, prompt-tuning, two-step recall.

    DATA is a text file with one user a line, `user item item ...`, oldest item first, ids from 1 (`recgpt
    prepare` makes it of raw reviews), or a .csv, .csv.gz or .parquet table with --columns. The last item of
    each user is held out for the test and the one before it for validation; only the rest trains.

    With several GPUs or machines, torchrun starts pretrain, tune and eval in as many processes, which divide
    each batch among them: torchrun --nproc-per-node 2 -m recgpt.cli pretrain ...

    \b
    Examples:
      recgpt prepare reviews_Beauty.json.gz --out Beauty.txt
      recgpt eval Beauty.txt --models recgpt,sasrec,poprec
      recgpt eval log.parquet --columns user=who,item=video,time=ts
    """
    # Threads that wait actively for each other cost five times the CPU time where the machine is busy (28 s
    # against 5.6 s for the same training on two shared cores). Read when torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Sequence text to write.")
@click.option("--format", "file_format", type=click.Choice(REVIEW_FORMATS), help="Of SOURCE.  [found out]")
@click.option("--core", type=click.IntRange(1), default=5, show_default=True,
              help="Fewest actions of a user and of an item.")  # fmt: skip
@click.option("--from", "first", metavar="DATE", help="First day or second to keep, YYYY-MM-DD[ hh:mm:ss].")
@click.option("--to", "last", metavar="DATE", help="Last one, which is kept too.")
@click.option("--columns", type=Columns(), help="Of a table: user=...,item=...,time=...")
@debug
def prepare(
    source: Path,
    out: Path,
    file_format: str | None,
    core: int,
    first: str | None,
    last: str | None,
    columns: dict[str, str] | None,
) -> None:
    """Raw reviews to the sequence text that the other commands read, and Table 1 of the paper for it.

    SOURCE, plain or gzip: Amazon reviews (JSON lines) or ratings (CSV), Yelp reviews (JSON lines), or a table
    (CSV, Parquet). Every review counts, whatever its stars, and repeats stay; users and items with fewer than
    --core actions leave until no such are left. Original ids go to a file beside it: Beauty.ids.csv.

    \b
    Examples:
      recgpt prepare reviews_Beauty.json.gz --out Beauty.txt
      recgpt prepare review.json --out Yelp.txt --from 2019-01-01 --to 2019-12-31
      recgpt prepare log.csv --out log.txt --columns user=who,item=what,time=when
    """
    from baselines import reviews

    counts = reviews.prepare(
        source,
        out,
        file_format=file_format,
        core=core,
        within=reviews.period(first, last),
        columns=columns,
        progress=_progress,
    )
    click.echo(f"{out} and {reviews.ids_path(out).name}: {core}-core of {source.name}")
    click.echo(counts_table(counts))


@main.command()
@data_file
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to."
)
@training_options
@click.option("--dim", type=click.IntRange(1), help="Width of the network.  [the preset's]")
@click.option("--layers", type=click.IntRange(1), help="[the preset's]")
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="[the preset's]")
@click.option("--loss", type=click.Choice(["sampled", "full", "bce"]), help="[the preset's]")
@click.option("--negatives", type=click.IntRange(1), help="Of the sampled and bce losses.  [1024, bce: 1]")
@click.option(
    "--user-vectors", is_flag=True, help="A learned vector for each user, often dropped in training."
)
@debug
def pretrain(data: Path, out: Path, preset: str, **options: Any) -> None:
    """Stage 1: learn to predict the next item. An interrupted run continues where it stopped.

    \b
    Example:
      recgpt pretrain Beauty.txt --out checkpoints/beauty
    """
    from recgpt.stages import untrained

    sizes = _given(options, "dim", "layers", "dropout", "loss", "negatives", "user_vectors")
    split = _leave_one_out(data)
    model = untrained("recgpt", preset, training=_training(options), settings=_with_loss(sizes))
    model.resume_folder = out
    model.pretrain(split.train, _progress, validation=split.valid)
    model.save(out / PRETRAINED)
    _say(f"{out / PRETRAINED}: {summary(model)}")


@main.command()
@data_file
@click.option(
    "--from", "source", type=click.Path(path_type=Path), required=True, help="Folder of `recgpt pretrain`."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to."
)
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Rate.  [the checkpoint's]")
@click.option("--patience", type=click.IntRange(1), help="[the checkpoint's]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@prompt_options
@debug
def tune(data: Path, source: Path, out: Path, lr: float | None, **options: Any) -> None:
    """Stage 2: go on learning with the model's own prompts; then choose (m, n) for the two-step recall.

    What is not given is as in the settings that the checkpoint was pre-trained under.

    \b
    Example:
      recgpt tune Beauty.txt --from checkpoints/beauty --out checkpoints/beauty
    """
    from dataclasses import replace

    from recgpt.recommender import RecGPT

    training = _training(options, "patience", "threads", "device")
    model = RecGPT.load(source / PRETRAINED, device=training["device"])
    split = _leave_one_out(data)
    model.training = replace(model.training, **training)
    changes = _given(options)
    if lr is not None:
        changes["tune_lr_factor"] = lr / model.training.lr
    model.settings = replace(model.settings, **changes)
    model.resume_folder = out
    if source.resolve() != out.resolve():
        RecGPT.load(source / PRETRAINED).save(out / PRETRAINED)
    model.tune(split.train, _progress, validation=split.valid)
    model.save(out / TUNED)
    _say(f"{out / TUNED}: {summary(model)}")


@main.command("eval")
@data_file
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Folder of trained stages, to measure those."
)
@click.option(
    "--models", default="recgpt", show_default=True, help="Names, with commas, to train and measure; or all."
)
@click.option("--split", "which", type=click.Choice(["test", "valid"]), default="test", show_default=True)
@click.option("--masking", type=click.Choice(["seen", "none"]), default="seen", show_default=True,
              help="seen: items of the history are not ranked (minus infinity).")  # fmt: skip
@click.option("--recall", type=RecallSplit(), help="m,n of the two steps, instead of what validation chose.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@training_options
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
    preset: str,
    **options: Any,
) -> None:
    """Hit rate and NDCG by ranking all items, and what each stage of RecGPT adds.

    RecGPT gives three rows: recgpt:pretrain, recgpt:tuned (one step) and recgpt (two steps). Gained and lost
    are users whose target entered or left the list against the row above. Each row is compared with the first
    one, user by user. Seconds are CPU seconds of training and ranking.

    \b
    Examples:
      recgpt eval Beauty.txt --checkpoint checkpoints/beauty
      recgpt eval Beauty.txt --models recgpt,sasrec,comirec,poprec --json
    """
    from recgpt.stages import Row, document, train_and_measure, untrained

    names = _known_models(models)
    split = _leave_one_out(data, exclude_history=masking == "seen")
    held_out = split.test if which == "test" else split.valid
    tuning = _given(options, *PROMPT_OPTIONS)
    training = _training(options)
    rows: list[Row] = []
    if checkpoint is not None:
        rows = _checkpoint_rows(checkpoint, split, held_out, recall, training["device"])
    else:
        if recall is not None:
            tuning["second_share"] = recall[1] / sum(recall)
        untrained_models = [
            untrained(name, preset, training=training, settings=tuning if name == "recgpt" else None)
            for name in names
        ]
        for model in untrained_models:
            rows += train_and_measure(model, split, held_out, progress=_progress)
    found = {"data": data.stem, "split": which, "masking": masking, "results": document(rows)}
    _say(json.dumps(found, indent=2) if as_json else results_table(found))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("paper"),
              show_default=True, help="Folder for tables, figures and checkpoints.")  # fmt: skip
@click.option("--store", type=click.Path(path_type=Path, dir_okay=False),
              help="JSON file of the cells that have been run.  [OUT/cells.json]")  # fmt: skip
@click.option("--parts", help="Of loss,table2,table3,figure4,figure5,ablation,comparison.  [all]")
@click.option("--data", help="Of Sports,Beauty,Toys,Yelp.  [all]")
@click.option("--presets", default="best,paper,authors", show_default=True)
@click.option("--seeds", "n_seeds", type=click.IntRange(1), default=1, show_default=True,
              help="Of RecGPT (preset best), its ablations and SASRec, on Beauty and Toys.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Cells at a time.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--minutes", type=click.FloatRange(0), help="Begin no cell after so many minutes; 0: run none.")
@debug
def paper(
    folder: Path,
    out: Path,
    store: Path | None,
    parts: str | None,
    data: str | None,
    presets: str,
    n_seeds: int,
    workers: int,
    threads: int,
    device: str,
    minutes: float | None,
) -> None:
    """Tables 2 and 3 and Figures 4 and 5 of the paper, with its figures beside ours.

    FOLDER holds the four sequence files. A cell (a model, a stage, a setting, a seed) is trained and measured
    once and kept in the store; what is there is not run again, so an interrupted command continues. Tables
    and figures are written from the cells that exist, and a missing one is shown as "-".

    \b
    Examples:
      recgpt paper data/sequential --data Beauty --parts table2,table3 --workers 2
      recgpt paper data/sequential --store bench/paper.json --minutes 0
    """
    from baselines.distributed import pick_device
    from recgpt.paper import PARTS, Wanted
    from recgpt.published import DATA_FILES
    from recgpt.reproduce import Workplace, fill, write
    from recgpt.tables import to_markdown

    wanted = Wanted(
        parts=_chosen("part", parts, PARTS),
        data=_chosen("data set", data, tuple(DATA_FILES)),
        presets=_chosen("preset", presets, ("best", "paper", "authors")),
        n_seeds=n_seeds,
    )
    store = store or out / "cells.json"
    place = Workplace(
        folder, store, out / "checkpoints", workers, threads, device=pick_device(device), minutes=minutes
    )
    left = fill(wanted, place, lambda line: click.echo(line, err=True))
    for tables in write(wanted, store, out).values():
        for table in tables:
            click.echo(to_markdown(table) + "\n")
    click.echo(f"{out / 'paper.md'}: {len(left)} cells are missing", err=True)


@main.command()
@data_file
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), required=True, help="Folder of trained stages."
)
@click.option("--users", help="Ids of users in DATA, with commas.  [all]")
@click.option(
    "--k", type=click.IntRange(1, MAX_LIST), default=10, show_default=True, help="Items for each user."
)
@click.option("--recall", type=RecallSplit(), help="m,n of the two steps: m + n items, instead of --k.")
@click.option("--repeats", is_flag=True, help="Recommend items of the history too.")
@debug
def recommend(
    data: Path, checkpoint: Path, users: str | None, k: int, recall: tuple[int, int] | None, repeats: bool
) -> None:
    """What to show next to users of DATA, after all of their items: lines of `user item item ...`, best
    first. Ids are those of DATA; a table must be the one that the checkpoint was trained on.

    \b
    Example:
      recgpt recommend Beauty.txt --checkpoint checkpoints/beauty --users 1,2,3 --k 5
    """
    import numpy as np

    read = _read(data)
    interactions = read.interactions
    model = _newest(checkpoint)
    _check_items(model, interactions, data)
    item_ids = _item_ids(model, read, data)
    if recall is not None:
        k = sum(recall)
        _force(model, recall)
    chosen = _user_indices(users, read)
    histories = interactions.histories(chosen, None)
    hidden = histories[:, :0] if repeats else histories
    for user, items in zip(chosen, model.recommend(chosen, histories, k, hidden), strict=True):
        click.echo(
            " ".join(str(id_) for id_ in (read.user_ids[user], *item_ids[items[np.flatnonzero(items)]]))
        )


def _read(data: Path) -> "Renumbered":
    """DATA, with the --columns that were given."""
    from baselines.data import read_interactions

    return read_interactions(data, click.get_current_context().meta[COLUMNS])


def _leave_one_out(data: Path, *, exclude_history: bool = True) -> "Split":
    from baselines.data import leave_one_out

    split = leave_one_out(_read(data).interactions, exclude_history=exclude_history)
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


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options of these names (all that are left, where none is named) that were given, taken out."""
    taken = {name: options.pop(name) for name in names or list(options)}
    return {name: value for name, value in taken.items() if value not in (None, False)}


def _training(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """As `_given`, for fields of TrainingSettings; the device is one that is there."""
    from baselines.distributed import pick_device

    given = _given(options, *names)
    return {**given, "device": pick_device(given["device"])}


def _with_loss(settings: dict[str, Any]) -> dict[str, Any]:
    """`loss` and `negatives` as one LossSettings, where a loss is named."""
    from baselines.sequential import LossSettings

    loss, negatives = settings.pop("loss", None), settings.pop("negatives", None)
    if loss is None and negatives is None:
        return settings
    loss = loss or "sampled"
    return {**settings, "loss": LossSettings(loss, negatives or (1 if loss == "bce" else 1024))}


def _chosen(what: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The names in `text`, in the order of `known`; all for None."""
    if text is None:
        return known
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text]:
        if name not in known:
            raise LookupError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _known_models(models: str) -> list[str]:
    import difflib

    from baselines import MODELS

    known = sorted({*MODELS, "recgpt"})
    names = [name.strip() for name in models.split(",") if name.strip()]
    if names == ["all"]:
        return known
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


def _item_ids(model: "RecGPT", read: "Renumbered", data: Path) -> Any:
    """The id in DATA of each item that the model knows. The numbers of a table's items hold for that table
    alone, so another table must not meet the checkpoint."""
    import numpy as np

    from baselines.data import is_table, leave_one_out

    if not is_table(data):
        return np.arange(model.n_items + 1)
    if model.data_hash != leave_one_out(read.interactions).train.content_hash():
        raise ValueError(
            f"the checkpoint was trained on other data than the table {data}, and each table numbers items "
            "anew; turn tables into sequence text with `recgpt prepare` and train on that"
        )
    return read.item_ids


def _user_indices(users: str | None, read: "Renumbered") -> Any:
    import numpy as np

    if users is None:
        return np.flatnonzero(read.interactions.lengths)
    index = {str(id_): user for user, id_ in enumerate(read.user_ids.tolist())}
    words = [word.strip() for word in users.split(",")]
    for word in words:
        if word not in index:
            raise ValueError(
                f"user {word!r} is not in the data; its users are {read.user_ids[0]} to {read.user_ids[-1]}"
            )
    return np.array([index[word] for word in words], np.int64)


def _progress(stage: str, fraction: float) -> None:
    _say(f"{fraction:4.0%} {stage}", err=True)


def _say(text: str, *, err: bool = False) -> None:
    """Under torchrun the first process says it for all."""
    from baselines.distributed import rank

    if rank() == 0:
        click.echo(text, err=err)


if __name__ == "__main__":
    main()
