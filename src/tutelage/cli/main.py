"""The command line: verbs, a recipe, overrides.

Nothing heavy is imported before a verb needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tutelage import __version__
from tutelage.base.errors import Interrupted, UserError
from tutelage.base.progress import console, output
from tutelage.cli.arguments import RUNS, OneModel, Overrides, Publish, RecipeArgument, Runs, check_names
from tutelage.cli.groups import cache, data, submission
from tutelage.cli.study import study

app = typer.Typer(
    name="tutelage",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Train language models **with teachers** when data or compute is scarce.

A *recipe* (a YAML file) is a whole experiment: corpus, tokenizer, teachers, students, controls, scores. Try

`tutelage run quickstart`

which needs no network and no GPU. Change any setting behind the recipe: `tutelage run quickstart
models.student.optim.lr=1e-3 name=faster`. What is finished is never computed twice; what was interrupted
resumes when the same command is given again.""",
)

app.add_typer(cache, name="cache")
app.add_typer(data, name="data")
app.add_typer(study, name="study")
app.add_typer(submission, name="submission")


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    publish: Publish = None,
    workers: Annotated[int, typer.Option(min=1, help="Train so many models side by side, on a share of the cores each; "
                                         "small models gain.")] = 1,
) -> None:  # fmt: skip
    """Do everything: prepare the corpus, train teachers before students, score, report."""
    check_names(recipe, overrides)
    from tutelage import api

    _show_table(api.run(recipe, overrides or (), runs, publish, workers))


@app.command()
def show(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A YAML file or a shipped recipe.")] = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    probe: Annotated[bool, typer.Option(help="Time a few steps of each model for the estimate.")] = True,
    presets: Annotated[bool, typer.Option("--presets", help="List the model shapes instead.")] = False,
) -> None:
    """Print the resolved recipe and what it will take: parameters, tokens, words, FLOPs, memory, disk, time.

    The recipe goes to stdout and the estimates to stderr, so that `tutelage show quickstart > mine.yaml` makes a file
    to begin with. Nothing is left in the folder of runs.
    """
    if recipe is not None:
        check_names(recipe, overrides)
    from tutelage.experiment import show as display

    if presets:
        display.print_presets()
    elif recipe is None:
        display.print_recipes()
    else:
        from tutelage.api.recipes import print_recipe

        print_recipe(recipe, overrides or (), runs, probe)


@app.command()
def prepare(recipe: RecipeArgument, overrides: Overrides = None, runs: Runs = RUNS) -> None:
    """Download and clean the corpus, train the tokenizer, encode."""
    check_names(recipe, overrides)
    from tutelage import api

    api.prepare(recipe, overrides or (), runs)


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    model: OneModel = None,
    share: Annotated[bool, typer.Option("--share", help="Leave out what another process is training, and end when all "
                                        "is trained: for several processes, also of several machines.")] = False,
) -> None:  # fmt: skip
    """Train all models, or one and those that teach it."""
    check_names(recipe, overrides, model)
    from tutelage import api

    api.train(recipe, overrides or (), runs, model, share)


@app.command()
def evaluate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, or with `--suite` a model.")],
    overrides: Annotated[list[str] | None, typer.Argument(
        metavar="[KEY=VALUE|MODEL]...", help="Changes to the recipe; with `--suite`, further models.")] = None,
    runs: Runs = RUNS,
    model: OneModel = None,
    suite: Annotated[list[str] | None, typer.Option(
        "--suite", "-s", help="Score models on this (`blimp`, ...); may be given several times.")] = None,
    convention: Annotated[str | None, typer.Option(
        help="Rules of that year: 2023 to 2026. Unless given 2025, and our own for fine-tuning (`glue`).")] = None,
    kind: Annotated[Literal["causal", "masked", "mntp"] | None, typer.Option(
        help="Of the models, where their configuration does not tell; `mntp`: causal ones that learned `hybrid`, "
        "reading whole sentences.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    precision: Annotated[Literal["fp32", "bf16"] | None, typer.Option(help="Of the models; fp32 by default.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(
        min=1, help="Tokens scored at once; what suits the machine, unless given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results (default: `evaluated`).")] = None,
) -> None:  # fmt: skip
    """Score the trained models of a recipe on what it names, or any models on suites.

    `tutelage evaluate mine.yaml` measures what the recipe's `evaluate` names and is not measured yet, and what its
    `evaluation.along` names at every checkpoint by words seen.

    `tutelage evaluate FOLDER owner/name --suite blimp --suite blimp-supplement` scores any Hugging Face models, folders
    or hub ids, side by side: it prints a table and writes scores, log-probabilities of single items and a page with
    plots to `--out`. Weights must be safetensors, and code of a model's own is never run.
    """
    if suite:
        from tutelage.experiment.names import check_suites

        check_suites(suite)
    from tutelage import api

    if not suite:
        options = {"--convention": convention, "--kind": kind, "--revision": revision, "--precision": precision,
                   "--batch-tokens": batch_tokens, "--out": out}  # fmt: skip
        if given := [name for name, value in options.items() if value is not None]:
            raise typer.BadParameter(f"{', '.join(given)} goes with --suite; a recipe has its own `evaluation`")
        check_names(recipe, overrides, model)
        api.evaluate(recipe, overrides or (), runs, model)
        return
    from tutelage.api.recipes import EVALUATED
    from tutelage.report.terminal import scores_table

    folder, models = out or EVALUATED, [recipe, *(overrides or ())]
    summary = api.evaluate_models(models, suite, folder, convention, kind, revision, precision or "fp32", batch_tokens)
    output().print(scores_table(summary))
    console.print(f"scores: {folder / 'summary.json'}; report: {folder / 'report.html'}")


@app.command()
def report(recipe: RecipeArgument, overrides: Overrides = None, runs: Runs = RUNS, publish: Publish = None) -> None:
    """Write the report of a finished experiment again, and publish it if asked."""
    check_names(recipe, overrides)
    from tutelage import api

    _show_table(api.report(recipe, overrides or (), runs, publish))


@app.command()
def export(
    recipe: RecipeArgument,
    model: Annotated[str, typer.Argument(help="`name`, `name[seed]` or `name@step-N`.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    overrides: Overrides = None,
    runs: Runs = RUNS,
    babylm: Annotated[Literal["2025", "2026"] | None, typer.Option(
        help="An upload folder for BabyLM: the model, and a revision for each checkpoint by words seen.")] = None,
) -> None:  # fmt: skip
    """Copy a trained model to a folder that `AutoModelForCausalLM.from_pretrained` loads."""
    check_names(recipe, overrides, model)
    from tutelage import api

    if babylm is None:
        api.export(recipe, model, folder, overrides or (), runs)
    else:
        api.export_babylm(recipe, model, babylm, folder, overrides or (), runs)
    console.print(f"{model}: {folder}")


@app.command()
def score(
    recipe: RecipeArgument,
    model: Annotated[str, typer.Argument(help="`name`, `name[seed]`, `name@step-N`, a folder or a hub id.")],
    overrides: Overrides = None,
    runs: Runs = RUNS,
    to: Annotated[Path | None, typer.Option(help="Keep the scores there instead of in the recipe's run.")] = None,
) -> None:
    """Score every token of the training rows by a model: loss, rank, entropy, in six bytes a token.

    Selections (`stages: [{select: ...}]`) do this by themselves; the verb is for looking at a scorer first.
    `tutelage score mine.yaml small@step-200` prints tokens, mean loss, the share of tokens among the ten likeliest and
    quantiles of the rows' scores. An interrupted pass resumes where it stopped; what is scored stays.
    """
    check_names(recipe, overrides, model, outside=True)
    from tutelage import api

    output().print(str(api.score(recipe, model, overrides or (), runs, to)), highlight=False, markup=False)


@app.command()
def check(
    run: Annotated[Path, typer.Argument(help="Folder of a finished experiment, as `runs/NAME`.")],
    track: Annotated[str, typer.Option(help="As `babylm-2026-strict-small`; an unknown name lists them.")],
    model: OneModel = None,
) -> None:
    """Tell whether a track's rules were kept: words, epochs, teachers, checkpoints. Exit code 1 if one was broken."""
    from tutelage.babylm.track_rules import rules_of

    rules_of(track)
    from tutelage import api

    findings = api.check(run, track, model)
    for finding in findings:
        print(finding)
    if any(finding.verdict == "broken" for finding in findings):
        raise typer.Exit(1)


@app.command()
def bench(
    preset: Annotated[str, typer.Option(help="Shape of the model (`tutelage show --presets`).")] = "llama-4m",
    vocabulary: Annotated[int, typer.Option(min=64, help="Different tokens of the made-up text.")] = 8000,
    rows: Annotated[int, typer.Option(min=1, help="Rows in a step; `optim.batch_rows` of a recipe.")] = 32,
    length: Annotated[int, typer.Option(min=8, help="Tokens in a row; `data.rows.length` of a recipe.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps to time, for each way of training.")] = 8,
) -> None:
    """Measure how fast this machine trains, in a minute or two; no recipe, no data, nothing is kept.

    Three things are timed: a large product of matrices (what the machine can do at best, in fp32 and, where it has
    bf16, in that), a plain PyTorch loop, and tutelage's own training loop on the same shape and made-up text, in the
    precision and form that it chooses for a long run. The table gives tokens per second, the ratio to the slowest, and
    the share of the machine's best that training reaches.

    Choose the shape you mean to train: `tutelage bench --preset llama-10m --length 256`. Close other programs first;
    run it twice to see how steady the numbers are. For the time of a whole recipe: `tutelage show RECIPE`.
    """
    from tutelage.models.presets import preset as shape

    shape(preset)
    from tutelage import api
    from tutelage.bench.bench import table

    output().print(table(api.bench(preset, vocabulary, rows, length, steps)))


def _version(value: bool) -> None:
    if value:
        print(f"tutelage {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def _show_table(summary: object) -> None:
    if summary is None:
        return
    from tutelage.compare.summary import Summary
    from tutelage.report.report import terminal_table

    assert isinstance(summary, Summary)
    output().print(terminal_table(summary))


def main() -> None:
    """Run the command line; errors of the user's end in one message, not in a traceback.

    Exit codes: 0 done, 1 a user's error, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM. Training saves before it leaves; a
    second Ctrl-C ends it at once.
    """
    from tutelage.study.filter.text import visible

    # Read when torch loads. Threads that spin while they wait slow training down beside any other busy process; those
    # that sleep at once are woken too late for short operations. So they spin for a moment (benchmarks/waiting.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app()
    except UserError as error:
        # Errors repeat values and text of files, which may hold orders to the terminal.
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stop:
        # Everything is saved; further signals shall not spoil the exit code.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(str(stop), file=sys.stderr)
        sys.exit(128 + stop.number)
