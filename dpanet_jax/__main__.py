"""The command line: `python -m dpanet_jax VERB --flag=value …`; each verb is one function below."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from dpanet_jax import config as config_lib
from dpanet_jax import hosts, paths
from dpanet_jax.command_line import (
    asked_hosts,
    config_flag,
    host_flags,
    join_hosts,
    parse,
    require_flags,
    say,
    string_flag,
)
from dpanet_jax.errors import UsageError
from dpanet_jax.options import did_you_mean
from dpanet_jax.version import version_line

if TYPE_CHECKING:
    from dpanet_jax.evaluation.trained import TrainedModel

_DATA_DIR = "where data sets are prepared (none: $TFDS_DATA_DIR, or ~/tensorflow_datasets)"
_CHECKPOINT = "best, latest, or a step's number"
_BASE_SIZE = "long side that images are resized to before the network (0: their own); none: the run's own"
_PROTOCOL = "how an image is put through the network: whole, slide, multiscale; none: the run's own"


def main(argv: list[str] | None = None) -> int:
    """Runs one verb. Returns 0; 1 where the work failed and 2 where the request was wrong.

    An error of the package's own kind, or of the operating system, is one line on stderr. Any other is a
    mistake of the package and is raised. Where one of several hosts fails alone, its process ends here.
    """
    # Orbax logs what it raises too, and warns of what is as it should be.
    logging.set_verbosity(logging.FATAL)
    try:
        _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return 0
    except SystemExit:
        raise
    except BaseException as error:
        status = say(error)
        fails_alone = hosts.count() > 1 and not getattr(error, "agreed", False)
        if fails_alone and status is None:
            traceback.print_exc()
        if fails_alone:
            hosts.leave(1 if status is None else status)
        if status is None:
            raise
        return status


def _run(argv: list[str]) -> None:
    if not argv:
        raise UsageError(f"a verb is missing\n{_usage()}")
    if argv[0] in ("-h", "--help", "help"):
        print(_usage())
    elif argv[0] == "--version":
        print(version_line())
    elif argv[0] not in VERBS:
        raise UsageError(f"{argv[0]!r} is not a verb: {', '.join(VERBS)}{did_you_mean(argv[0], VERBS)}")
    else:
        VERBS[argv[0]][0](argv[1:])


def _usage() -> str:
    lines = [f"  {verb:14}{words}" for verb, (_, words) in VERBS.items()]
    return "\n".join(
        [
            "usage: python -m dpanet_jax VERB --flag=value …",
            *lines,
            "",
            "python -m dpanet_jax VERB --help lists a verb's flags; --version says which version this is.",
            "DPANET_TRACEBACK=1 shows where an error came from.",
        ]
    )


def _parse(verb: str, argv: list[str], define: Callable[..., None]) -> flags.FlagValues:
    return parse(verb, VERBS[verb][1], argv, define)


def _model_flags(values: flags.FlagValues, words: str) -> None:
    string_flag(values, "workdir", words)
    string_flag(values, "checkpoint", _CHECKPOINT, "best")


def _protocol_flags(values: flags.FlagValues) -> None:
    string_flag(values, "protocol", _PROTOCOL)
    flags.DEFINE_integer("base_size", None, _BASE_SIZE, lower_bound=0, flag_values=values)


def _trained(
    values: flags.FlagValues, base_size: int | None = None, protocol: str | None = None
) -> "TrainedModel":
    from dpanet_jax.evaluation import protocols
    from dpanet_jax.evaluation.trained import load_trained
    from dpanet_jax.options import choose

    if protocol is not None:
        choose("--protocol", protocol, protocols.PROTOCOLS)
    return load_trained(values.workdir, values.checkpoint, base_size, protocol)


def _with_progress(unit: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    from dpanet_jax.progress import progress_bar

    return lambda items: progress_bar(items, unit=unit)


def prepare(argv: list[str]) -> None:
    """Writes one data set under data_dir."""
    from dpanet_jax.data.prepare import prepare as prepare_dataset

    def define(values: flags.FlagValues, argv: list[str]) -> None:
        string_flag(values, "dataset", "streets, camvid, cityscapes, folder or folder/NAME")
        string_flag(values, "source", "where the files are; streets draws its own")
        string_flag(values, "data_dir", _DATA_DIR)
        flags.DEFINE_list("imports", [], "modules that register data sets of your own", flag_values=values)
        flags.DEFINE_boolean("overwrite", False, "prepare it again", flag_values=values)
        string_flag(values, "image_suffix", "what image names end in and label names do not, as _leftImg8bit")
        string_flag(values, "label_suffix", "what label names end in and image names do not, as _mask")
        words = "take a subset of a published data set as it is"
        flags.DEFINE_boolean("partial", None, words, flag_values=values)

    values = _parse("prepare", argv, define)
    require_flags(values, "dataset")
    config_lib.import_modules(values.imports)
    given = {name: values[name].value for name in ("image_suffix", "label_suffix", "partial")}
    prepared = prepare_dataset(
        values.dataset,
        values.data_dir,
        source=values.source,
        overwrite=values.overwrite,
        **{name: value for name, value in given.items() if value is not None},
    )
    print(prepared)


def train(argv: list[str]) -> None:
    """Trains, or goes on where a run was stopped."""

    def define(values: flags.FlagValues, argv: list[str]) -> None:
        config_flag(values, argv)
        string_flag(values, "workdir", "where the run's files go; of several hosts, the same for all")
        host_flags(values)

    values = _parse("train", argv, define)
    require_flags(values, "config", "workdir")
    config_lib.check_config(values.config, starts=False)
    join_hosts(values, values.config.distributed)
    from dpanet_jax.training import loop

    loop.train(values.config, values.workdir)


def evaluate(argv: list[str]) -> None:
    """Prints and writes the figures of a trained model on a split."""

    def define(values: flags.FlagValues, argv: list[str]) -> None:
        _model_flags(values, "the run to evaluate")
        _protocol_flags(values)
        string_flag(values, "split", "none: the run's validation split")
        string_flag(values, "data_dir", _DATA_DIR + "; none: the run's own")
        flags.DEFINE_integer("batch_size", None, "none: the run's own", lower_bound=1, flag_values=values)
        flags.DEFINE_boolean("per_image", False, "write a row an image, worst first", flag_values=values)
        host_flags(values)
        flags.DEFINE_boolean("distributed", False, "join the hosts of a cluster", flag_values=values)

    values = _parse("evaluate", argv, define)
    require_flags(values, "workdir")
    join_hosts(values, values.distributed)
    from dpanet_jax.data.split import open_split
    from dpanet_jax.evaluation import report
    from dpanet_jax.evaluation.boundary import BoundaryIoU
    from dpanet_jax.evaluation.evaluate import Observer
    from dpanet_jax.evaluation.evaluate import evaluate as evaluate_split
    from dpanet_jax.evaluation.per_image import PerImage

    with hosts.agreed():
        model = _trained(values, values.base_size, values.protocol)
        config = model.config
        name = values.split or config.data.val_split
        if hosts.index() == 0:
            paths.require_writable(paths.anywhere(values.workdir))
        split = open_split(config.data.dataset, name, values.data_dir or config.data.data_dir or None)
        model.check_classes(split.name, split.classes)
    batch_size = values.batch_size or config.evaluation.batch_size
    asked = {
        "the checkpoint": model.folder.name,
        "the protocol": (model.protocol.name, model.base_size),
        "the batch size": batch_size,
        f"the checksum of {config.data.dataset} {name}": split.fingerprint[:16],
        "--per_image": values.per_image,
    }
    per_image = PerImage(len(model.classes)) if values.per_image else None
    boundary = BoundaryIoU(len(model.classes))
    observers: list[Observer] = [boundary, *([per_image] if per_image else [])]
    hosts.require_equal(hosts.code() | asked, "start all hosts with the same command, code and data")
    with hosts.lost_in_one_line():
        evaluated = evaluate_split(
            model.protocol,
            model.device_variables,
            split,
            batch_size,
            observers=observers,
            progress=_with_progress("batch"),
        )
    if hosts.index() > 0:
        return
    title = f"{config.data.dataset} {name}, protocol {model.protocol.name}, step {model.step}"
    report.print_table(evaluated.matrix, model.classes.names, title, config.evaluation.absent, boundary)
    workdir = paths.anywhere(values.workdir)
    written = report.write_report(model, evaluated.matrix, workdir, name, boundary)
    print(f"written to {written}")
    if per_image is not None:
        stem = report.report_stem(model, workdir, name)
        print(f"image by image: {per_image.write(stem.with_name(f'{stem.name}_per_image.csv'))}")


def predict(argv: list[str]) -> None:
    """Writes class ids, colours and overlays for images."""

    def define(values: flags.FlagValues, argv: list[str]) -> None:
        _model_flags(values, "the run whose model predicts")
        _protocol_flags(values)
        string_flag(values, "input", "an image or a video, or a folder of them")
        string_flag(values, "output", "a folder for ids/, color/ and overlay/")
        flags.DEFINE_boolean(
            "train_ids",
            False,
            "write ids as the network has them, not as the label files",
            flag_values=values,
        )

    values = _parse("predict", argv, define)
    require_flags(values, "workdir", "input", "output")
    from dpanet_jax.data import finder
    from dpanet_jax.evaluation import predict as predict_lib

    output = paths.anywhere(values.output)
    found = finder.find(paths.anywhere(values.input), leave_out=predict_lib.earlier_outputs(output))
    predict_lib.check_output(output, found)
    model = _trained(values, values.base_size, values.protocol)
    predicted = predict_lib.predict_files(
        model, found, output, progress=_with_progress("image"), train_ids=values.train_ids
    )
    if predicted.images or predicted.videos:
        counts = {"image": predicted.images, "video": predicted.videos}
        done = " and ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count)
        print(f"{done}: ids, color and overlay are in {output}")
    predicted.require_all()


def compare(argv: list[str]) -> None:
    """Holds the network's numbers against its PyTorch twin's."""

    def define(values: flags.FlagValues, argv: list[str]) -> None:
        config_flag(values, argv)
        string_flag(values, "torch", "weights for both sides: a file, an hf:// address, or random")
        string_flag(values, "output", "a folder for report.json and report.png (none: runs/compare/CONFIG)")
        string_flag(values, "split", "split that both mean IoUs are of (none: the config's validation split)")
        string_flag(values, "precision", "float64, float32 or both", "both")
        flags.DEFINE_integer("steps", 10, "steps of SGD", flag_values=values)
        flags.DEFINE_integer("images", 0, "images of the split; 0: all, -1: none", flag_values=values)

    values = _parse("compare", argv, define)
    require_flags(values, "config", "torch")
    config_lib.check_config(values.config)
    for module in ("torch", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"compare needs {module}: pip install {module}")
    from dpanet_jax.compare import run

    files = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    run.run(
        values.config,
        values.torch,
        paths.anywhere(values.output or Path("runs", "compare", *(Path(file).stem for file in files[-1:]))),
        split=values.split or "",
        steps=values.steps,
        precisions=run.PRECISIONS if values.precision == "both" else (values.precision,),
        max_images=values.images,
    )


def plan(argv: list[str]) -> None:
    """Says what a run costs and how fast it can be, on machines that need not be there."""

    def define(values: flags.FlagValues, argv: list[str]) -> None:
        config_flag(values, argv)
        string_flag(values, "topology", "v5e:16x16 and the like; local; cpu:N, simulated", "local")
        string_flag(values, "output", "a file for the plan as JSON")
        for name, default, words in (
            ("batch_size", 0, "of all devices; 0: the config's own"),
            ("num_classes", 0, "0: those of the prepared data set"),
            ("max_compiles", 5, "most compilations of the search"),
        ):
            flags.DEFINE_integer(name, default, words, lower_bound=0, flag_values=values)
        flags.DEFINE_boolean("search", True, "look for the largest batch that fits", flag_values=values)
        flags.DEFINE_boolean("variants", True, "remat and the other type as well", flag_values=values)
        host_flags(values)

    values = _parse("plan", argv, define)
    require_flags(values, "config", "topology")
    from dpanet_jax.analysis import plan as plan_lib

    plan_lib.plan(
        values.config,
        values.topology,
        batch_size=values.batch_size,
        num_classes=values.num_classes,
        search=values.search,
        variants=values.variants,
        max_compiles=values.max_compiles,
        hosts=asked_hosts(values),
        output=paths.anywhere(values.output) if values.output else None,
    )


def export_torch(argv: list[str]) -> None:
    """Writes a trained model's weights with the published PyTorch names."""

    def define(values: flags.FlagValues, argv: list[str]) -> None:
        _model_flags(values, "the run whose model is exported")
        string_flag(values, "output", "the file to write, FILE.safetensors; one that is there is replaced")

    values = _parse("export-torch", argv, define)
    require_flags(values, "workdir", "output")
    from dpanet_jax.interop import files

    output = paths.anywhere(values.output)
    files.require_writable(output)
    from dpanet_jax.interop.torch import to_state_dict

    model = _trained(values)
    state_dict = to_state_dict(model.variables)
    files.write_state_dict(state_dict, output)
    print(f"{len(state_dict)} arrays of {model.folder} are in {output}")
    print(f"here:       --config.model.pretrained={output}")
    print(f"in PyTorch: load_state_dict(safetensors.torch.load_file({str(output)!r}))")


def import_torch(argv: list[str]) -> None:
    """Makes a workdir of a PyTorch checkpoint, without training."""

    def define(values: flags.FlagValues, argv: list[str]) -> None:
        config_flag(values, argv)
        string_flag(values, "weights", "a file of a whole network's weights, or an hf:// address")
        string_flag(values, "workdir", "the run's folder to make; it must not be there, or be empty")
        string_flag(values, "classes", "a classes.csv; none: the classes of the config's prepared data set")

    values = _parse("import-torch", argv, define)
    require_flags(values, "config", "weights", "workdir")
    from dpanet_jax.training import imported

    folder = imported.import_torch(values.config, values.weights, values.workdir, values.classes)
    print(f"the weights of {values.weights} are in {folder}")
    print(f"evaluate:   python -m dpanet_jax evaluate --workdir={values.workdir}")
    print(f"go on here: the same --config and flags, with train --workdir={values.workdir}")


VERBS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "prepare": (prepare, "write a data set to the disk once, checked: --dataset=NAME [--source=DIR]"),
    "train": (train, "train, or go on: --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE …]"),
    "evaluate": (evaluate, "figures on a split: --workdir=DIR [--split=NAME] [--protocol=NAME]"),
    "predict": (predict, "segment images: --workdir=DIR --input=FILE_OR_FOLDER --output=FOLDER"),
    "export-torch": (export_torch, "weights with PyTorch's names: --workdir=DIR --output=FILE.safetensors"),
    "import-torch": (
        import_torch,
        "the inverse: --config=configs/NAME.py --weights=FILE --workdir=DIR [--classes=FILE]",
    ),
    "plan": (plan, "memory, speed and largest batch: --config=configs/NAME.py --topology=v5e:16x16|local"),
    "compare": (compare, "hold the numbers against PyTorch's: --config=configs/NAME.py --torch=FILE|random"),
}


if __name__ == "__main__":
    sys.exit(main())
