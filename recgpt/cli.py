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
    PRESETS,
    Columns,
    Commands,
    ModelNames,
    Names,
    RecallSplit,
    data_file,
    debug,
    given,
    prompt_options,
    refuse_both,
    training_given,
    training_options,
    with_loss,
)
from recgpt.printed import counts_table, results_table, summary
from recgpt.published import DATA_FILES, PARTS

if TYPE_CHECKING:
    from baselines.data import Renumbered, Split

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
    from recgpt.folder import PRETRAINED
    from recgpt.stages import untrained

    sizes = given(options, "dim", "layers", "dropout", "loss", "negatives", "user_vectors")
    split = _leave_one_out(data)
    model = untrained("recgpt", preset, training=training_given(options), settings=with_loss(sizes))
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

    from recgpt.folder import PRETRAINED, TUNED
    from recgpt.recommender import RecGPT

    training = training_given(options, "patience", "threads", "device")
    model = RecGPT.load(source / PRETRAINED, device=training["device"])
    split = _leave_one_out(data)
    model.training = replace(model.training, **training)
    changes = given(options)
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
    "--models",
    "names",
    type=ModelNames(),
    default="recgpt",
    show_default=True,
    help="Names, with commas, to train and measure; or all.",
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
    names: tuple[str, ...],
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
    from recgpt.folder import measured
    from recgpt.stages import document, train_and_measure, untrained

    for name in sorted({"names", "preset", *options} - {"device", "threads"}):
        refuse_both("checkpoint", name, "a checkpoint is measured as it is, the other is for training first")
    split = _leave_one_out(data, exclude_history=masking == "seen")
    held_out = split.test if which == "test" else split.valid
    tuning = given(options, *PROMPT_OPTIONS)
    training = training_given(options)
    if checkpoint is not None:
        rows = measured(checkpoint, split, held_out, recall=recall, device=training["device"])
    else:
        if recall is not None:
            tuning["second_share"] = recall[1] / sum(recall)
        models = [
            untrained(name, preset, training=training, settings=tuning if name == "recgpt" else None)
            for name in names
        ]
        rows = []
        for model in models:
            rows += train_and_measure(model, split, held_out, progress=_progress)
    found = {"data": data.stem, "split": which, "masking": masking, "results": document(rows)}
    _say(json.dumps(found, indent=2) if as_json else results_table(found))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("paper"),
              show_default=True, help="Folder for tables, figures and checkpoints.")  # fmt: skip
@click.option("--store", type=click.Path(path_type=Path, dir_okay=False),
              help="JSON file of the cells that have been run.  [OUT/cells.json]")  # fmt: skip
@click.option("--parts", type=Names("part", PARTS), default=",".join(PARTS), show_default="all",
              help=f"Of {','.join(PARTS)}.")  # fmt: skip
@click.option("--data", type=Names("data set", DATA_FILES), default=",".join(DATA_FILES), show_default="all",
              help=f"Of {','.join(DATA_FILES)}.")  # fmt: skip
@click.option("--presets", type=Names("preset", PRESETS), default=",".join(PRESETS), show_default=True)
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
    parts: tuple[str, ...],
    data: tuple[str, ...],
    presets: tuple[str, ...],
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
    from recgpt.paper import Wanted
    from recgpt.reproduce import Workplace, fill, write
    from recgpt.tables import to_markdown

    wanted = Wanted(parts=parts, data=data, presets=presets, n_seeds=n_seeds)
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
    from recgpt.folder import newest
    from recgpt.lists import lists

    read, model = _read(data), newest(checkpoint)
    if recall is not None:
        k = sum(recall)
        model.fix_split(*recall)
    for user, items in lists(model, read, data, users=users, k=k, repeats=repeats):
        click.echo(" ".join(map(str, (user, *items))))


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


def _progress(stage: str, fraction: float) -> None:
    _say(f"{fraction:4.0%} {stage}", err=True)


def _say(text: str, *, err: bool = False) -> None:
    """Under torchrun the first process says it for all."""
    from baselines.distributed import rank

    if rank() == 0:
        click.echo(text, err=err)


if __name__ == "__main__":
    main()
