"""``lightning-evo init``: propose a search for a config, after having tried that its first candidate trains."""

from __future__ import annotations

import math
import random
import re
import shlex
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning_evo.cli.console import CommandParser, refuse, show
from lightning_evo.genome.records import POSITION
from lightning_evo.utils.files import write_atomically

__all__ = ["run"]

BATCHES = 2
"""Batches of training and of validation that the first candidate is tried with."""


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments that follow its name; exit code 2 where no search can be proposed."""
    parser = CommandParser(
        "lightning-evo init",
        description="Propose the file of a search for a LightningCLI config: genes by its arguments' names, types and "
        "values, and an objective that its first candidate was seen to log.",
    )
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="a config file of the project, as for fit; can be repeated",
    )
    parser.add_argument(
        "--cli", metavar="PROGRAM", help="the project's own LightningCLI, as for fit: package.module:main or train.py"
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module to import first, as for fit; can be repeated",
    )
    parser.add_argument(
        "--to", type=Path, default=Path("search.yaml"), metavar="FILE", help="the file to write (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    options = parser.parse_args(list(arguments))
    if not options.config and options.cli is None:
        _refuse("give --config FILE, or with --cli PROGRAM the project's own LightningCLI")
    if options.to.exists() and not options.force:
        _refuse(f"--to {options.to}: exists; give another name, or --force")
    command = _command(options.cli, options.imports, options.config)
    trainable = _read(options.config, options.cli, options.imports)
    proposals = _accepted(trainable)
    metrics = _tried(trainable, proposals)
    monitor, mode, known = objective(metrics)
    name = Path(options.config[0]).stem if options.config else Path(re.split("[.:]", options.cli)[0]).name
    write_atomically(options.to, _text(command, f"runs/{name}", proposals, metrics, monitor, mode, known))
    on = [proposal.path for proposal in proposals if not proposal.reason]
    show(f"{options.to}: {len(on)} genes ({', '.join(on)}); {len(proposals) - len(on)} more are commented out")
    show(f"the first candidate trains; it logs {', '.join(metrics)}; the objective is {monitor} ({mode})")
    show(f"start it with: lightning-evo fit {command} --config {shlex.quote(str(options.to))}")


def _command(cli: str | None, imports: Sequence[str], files: Sequence[str]) -> str:
    """The arguments of ``init`` that ``fit`` takes as well."""
    words = ["--cli", cli] if cli is not None else []
    words += [word for name in imports for word in ("--import", name)]
    return shlex.join([*words, *(word for name in files for word in ("--config", name))])


def objective(metrics: Iterable[str]) -> tuple[str, str, bool]:
    """The metric that a search most likely is to optimize, its mode, and whether the mode is more than a guess.

    Metrics of validation come first, and scores before losses before others.

    >>> objective(["train_loss", "val_loss", "val_acc"])
    ('val_acc', 'max', True)
    >>> objective(["lr-Adam", "train_loss", "valid/MeanMAPE"])
    ('valid/MeanMAPE', 'min', True)
    >>> objective(["val_elbo"])
    ('val_elbo', 'min', False)
    """

    def rank(name: str) -> tuple[bool, bool, int]:
        words = _words(name)
        kind = 0 if _is(words, _SCORES) else 1 if _is(words, _LOSSES) else 2
        aside = name.startswith("lr-") or name.endswith("_step")
        return (aside, not any(word.startswith(("val", "dev")) for word in words), kind)

    best = min(metrics, key=rank)
    kind = rank(best)[2]
    return best, "max" if kind == 0 else "min", kind < 2


_SCORES = (
    r"acc\w*|\w*accuracy|f1|fbeta|f1score|au(ro)?c\w*|ap|map\d*|m?iou|jaccard|dice|r2|r2score|score|precision|recall|bleu|"
    r"rouge\w*|psnr|ssim"
)
_LOSSES = r"loss|err|error|r?mse|mae|mape|smape|nll|ce|bce|ppl|perplexity|wer|cer|kl|fid|rmsle"


def _words(name: str) -> list[str]:
    """The words in a metric's name, also where capitals divide them."""
    divided = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[^a-z0-9]+", divided.lower()) if word]


def _is(words: Sequence[str], pattern: str) -> bool:
    return any(re.fullmatch(pattern, word) for word in words)


def _refuse(message: str) -> NoReturn:
    refuse(ValueError(f"init: {message}"))


def _read(files: Sequence[str], cli: str | None, imports: Sequence[str]) -> Any:
    """What the config files describe together, read by a project's own LightningCLI where it is named."""
    import lightning_evo.cli.lightning  # noqa: F401 - short class names resolve only among classes that are imported
    from lightning_evo.training import Blueprint, ConfigError, ConfigTrainable
    from lightning_evo.training.programs import Program, ProgramError
    from lightning_evo.utils.config_files import ConfigFileError, load_yaml_strictly, read_config_file
    from lightning_evo.utils.imports import import_by_name

    words = ("fit", *(word for name in files for word in ("--config", name)))
    blueprint = Blueprint(program=None if cli is None else Program(cli, words), imports=tuple(imports))
    config = None
    try:
        for name in imports:
            import_by_name(name)
        blueprint.made_by  # noqa: B018 - runs the program
    except (ImportError, ProgramError) as error:
        if isinstance(error, ImportError) and not imports:
            raise
        _refuse(f"{'--cli' if isinstance(error, ProgramError) else '--import'} {error}")
    for name in files:
        try:
            part = load_yaml_strictly(read_config_file(name))
        except ConfigFileError as error:
            _refuse(f"--config {error}" if name in str(error) else f"--config {name}: {error}")
        if not isinstance(part, Mapping):
            _refuse(f"--config {name}: holds {'nothing' if part is None else 'a ' + type(part).__name__}, not a config")
        if "evolution" in part:
            _refuse(f"--config {name}: has an evolution section already")
        try:
            config = blueprint.resolve(part, config)
        except ConfigError as error:
            _refuse(f"--config {name}: {error}")
    try:
        return ConfigTrainable(config or {}, blueprint)
    except ConfigError as error:
        _refuse(f"{_command(cli, imports, files)}: {error}")


def _accepted(trainable: Any) -> list[Any]:
    """The proposals whose values the parser takes."""
    from lightning_evo.cli.proposals import proposed_genes
    from lightning_evo.genome import SearchSpace, SpaceError, read_gene

    arguments = trainable.blueprint.made_by[1]
    fixed = {"model": arguments.get("model_class"), "data": arguments.get("datamodule_class")}
    classes = {section: kind for section, kind in fixed.items() if isinstance(kind, type)}
    accepted = []
    for proposal in proposed_genes(trainable.config, classes, trainable.stacked_sections):
        try:
            trainable.check(SearchSpace({proposal.path: read_gene(proposal.gene)}), [])
        except (SpaceError, ValueError):
            continue
        accepted.append(proposal)
    if accepted and all(proposal.reason for proposal in accepted):
        accepted[0].reason = ""  # a search has one at least
    if not accepted:
        _refuse("no argument of model, data and optimizer is a number, a choice or true or false that could vary")
    return accepted


def _tried(trainable: Any, proposals: list[Any]) -> dict[str, float]:
    """What the first candidate logs; genes that can't be built are switched off with the reason.

    The files of its training are thrown away.
    """
    from lightning_evo.training.structure import StructureComparison, compare_structures

    # What changes a structure may make one that can't be built.
    built = _space([one for one in proposals if not _is_real(one)] or proposals)
    compared = compare_structures(trainable.blueprint, trainable.variants(built))
    unbuilt = StructureComparison.from_dict(compared.extra[StructureComparison.key]).unbuilt
    plain_error = _line(_train(trainable, []).error_type) if unbuilt else ""
    if plain_error:
        _refuse(f"the config itself doesn't train: {plain_error}")
    for one in proposals:
        if not one.reason and one.path in unbuilt:
            one.reason = f"can't be built: {_line(unbuilt[one.path])}"
    outcome = _train(trainable, proposals)
    if outcome.status != "completed":
        for one in proposals:
            # A width and the number of heads, for example, which have to go together.
            if not one.reason and not _is_real(one):
                one.reason = f"a candidate that varies it together with others failed: {_line(outcome.error_type)}"
        outcome = _train(trainable, proposals)
    if outcome.status != "completed":
        _refuse(f"the config itself doesn't train: {_line(outcome.error_type)}")
    if all(one.reason for one in proposals):
        _refuse(f"the config trains, but no candidate: {proposals[0].reason}")
    logged = {name: value for name, value in sorted((outcome.curve or [{}])[-1].items()) if name not in POSITION}
    if not logged:
        _refuse(
            "the first candidate logs no metric that a search could optimize; in validation_step, self.log('val_loss', ...)"
        )
    return logged


def _is_real(proposal: Any) -> bool:
    """Whether its gene is a range of real numbers."""
    return isinstance(proposal.gene, dict) and isinstance(proposal.gene["low"], float)


def _line(text: str | None) -> str:
    return " ".join((text or "").split())[:200]


def _space(proposals: Sequence[Any]) -> Any:
    from lightning_evo.genome import SearchSpace, read_gene

    chosen = {one.path: read_gene(one.gene) for one in proposals if not one.reason}
    return SearchSpace(chosen) if chosen else {}


def _train(trainable: Any, proposals: Sequence[Any]) -> Any:
    from lightning_evo.genome import Objective
    from lightning_evo.training import TrainingRequest, train_candidate
    from lightning_evo.training.overrides import apply_genome

    space = _space(proposals)
    genome = space.sample(random.Random(0)) if space else {}
    short: dict[str, Any] = {
        "max_epochs": 1,
        "max_steps": -1,
        "limit_train_batches": BATCHES,
        "limit_val_batches": BATCHES,
    }
    short |= {"check_val_every_n_epoch": 1, "val_check_interval": None, "num_sanity_val_steps": 0, "logger": None}
    config = apply_genome(trainable.resolve(genome), {f"trainer.{name}": value for name, value in short.items()})
    with tempfile.TemporaryDirectory(prefix="lightning-evo-init-") as directory:
        request = TrainingRequest(directory, [Objective("cost/params", "min")], save_checkpoint=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return train_candidate(trainable.blueprint, {"seed_everything": 0, **config}, request)


def _text(
    command: str,
    directory: str,
    proposals: Sequence[Any],
    metrics: Mapping[str, float],
    monitor: str,
    mode: str,
    known: bool,
) -> str:
    """The search as YAML, with comments."""
    lines = [
        f"# A search proposed by `lightning-evo init {command}`. Look through the genes, then start it with",
        f"#   lightning-evo fit {command} --config THIS_FILE",
        "evolution:",
        "  space:",
    ]
    for one in proposals:
        gene, value = _flow(one.gene), _flow(one.value)
        lines.append(
            f"    {'# ' if one.reason else ''}{one.path}: {gene}  # now {value}{'; ' + one.reason if one.reason else ''}"
        )
    others = ", ".join(name for name in metrics if name != monitor)
    remarks = [f"also logged: {others}"] if others else []
    remarks += [] if known else ["is less better? otherwise max"]
    lines += [
        "  objectives:",
        f"    - {_flow({'monitor': monitor, 'mode': mode})}" + (f"  # {'; '.join(remarks)}" if remarks else ""),
        "    # - {monitor: cost/flops, mode: min}  # a second objective gives a Pareto front",
        "  budget:",
        "    candidates: 50",
        '    # wall_time: "08:00:00"',
        "  # callbacks:",
        "  #   - class_path: EarlyFitnessPrediction  # stop candidates unlikely to beat the best",
        f"  directory: {_flow(directory)}",
        "  seed: 1",
    ]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    import yaml

    return (
        yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False)
        .strip()
        .removesuffix("\n...")
        .strip()
    )
