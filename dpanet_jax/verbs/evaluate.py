"""`evaluate`: the figures of a trained model on a split, and its predictions as a benchmark takes them."""

import dataclasses
from typing import TYPE_CHECKING

from absl import flags

from dpanet_jax import hosts, paths
from dpanet_jax.command_line import host_flags, join_hosts, require_flags, string_flag
from dpanet_jax.errors import UsageError
from dpanet_jax.verbs.shared import (
    DATA_DIR,
    model_flags,
    protocol_flags,
    threads_flag,
    trained_for,
    with_progress,
)

if TYPE_CHECKING:
    from dpanet_jax.data.split import Split
    from dpanet_jax.evaluation.boundary import BoundaryIoU
    from dpanet_jax.evaluation.cityscapes import Instances
    from dpanet_jax.evaluation.evaluate import Observer
    from dpanet_jax.evaluation.metrics import ConfusionMatrix
    from dpanet_jax.evaluation.per_image import PerImage
    from dpanet_jax.evaluation.submission import Submission
    from dpanet_jax.evaluation.trained import TrainedModel

WORDS = "figures on a split: --workdir=DIR [--split=NAME] [--protocol=NAME] [--submission=FILE.zip]"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the flags."""
    model_flags(values, "the run to evaluate")
    protocol_flags(values)
    string_flag(values, "split", "none: the run's validation split")
    string_flag(values, "data_dir", DATA_DIR + "; none: the run's own")
    flags.DEFINE_integer("batch_size", None, "none: the run's own", lower_bound=1, flag_values=values)
    threads_flag(values, "0: the run's own, or chosen from the cores")
    flags.DEFINE_boolean("per_image", False, "write a row an image, worst first", flag_values=values)
    words = "of Cityscapes: a folder or ZIP archive with *_instanceIds.png, for the iIoU"
    string_flag(values, "instances", words)
    words = "write the predictions as the server of Cityscapes (.zip) or VOC (.zip, .tar.gz, .tgz) takes them"
    string_flag(values, "submission", f"{words}; a split without labels may be given")
    host_flags(values)
    flags.DEFINE_boolean("distributed", False, "join the hosts of a cluster", flag_values=values)


@dataclasses.dataclass(frozen=True)
class _Observers:
    """What looks at each prediction; None where it was not asked for, or the split has no labels."""

    boundary: "BoundaryIoU | None" = None
    per_image: "PerImage | None" = None
    instances: "Instances | None" = None
    submission: "Submission | None" = None

    def all(self) -> list["Observer"]:
        observers = (self.boundary, self.per_image, self.instances, self.submission)
        return [observer for observer in observers if observer is not None]


def _observers(values: flags.FlagValues, split: "Split", protocol: str) -> _Observers:
    """Those that the flags ask for. Raises UsageError for what cannot be had of this split and protocol."""
    from dpanet_jax.evaluation import cityscapes
    from dpanet_jax.evaluation.boundary import BoundaryIoU
    from dpanet_jax.evaluation.per_image import PerImage
    from dpanet_jax.evaluation.submission import Submission

    for flag in ("per_image", "instances"):
        if values[flag].value and not split.labelled:
            raise UsageError(f"--{flag}: split {split.name!r} has no labels, so it has no figures")
    for flag in ("instances", "submission"):
        if values[flag].value and protocol == "center_crop":
            raise UsageError(
                f"--{flag}: center_crop sees the middle of an image alone; take another --protocol"
            )
    if values.instances and not cityscapes.has_classes_of(split.classes.names):
        raise UsageError(
            "--instances: the iIoU is a figure of Cityscapes, and this data set has other classes"
        )
    submission = Submission(split) if values.submission else None
    names = split.names() if values.instances or values.submission else []
    if submission is not None and hosts.index() == 0:
        submission.require(values.submission, names)
    files = cityscapes.find_instances(values.instances, names) if values.instances else None
    num_classes = len(split.classes.names)
    return _Observers(
        BoundaryIoU(num_classes) if split.labelled else None,
        PerImage(num_classes) if values.per_image else None,
        None if files is None else cityscapes.Instances(files),
        submission,
    )


def run(values: flags.FlagValues) -> None:
    """Prints and writes the figures, and writes the predictions where they are asked for."""
    require_flags(values, "workdir")
    join_hosts(values, values.distributed)
    from dpanet_jax.data.split import open_split
    from dpanet_jax.evaluation import protocols
    from dpanet_jax.evaluation.evaluate import evaluate as evaluate_split
    from dpanet_jax.progress import message

    with hosts.agreed():
        model = trained_for(values)
        config = model.config
        name = values.split or config.data.val_split
        if hosts.index() == 0:
            paths.require_writable(paths.anywhere(values.workdir))
        split = open_split(config.data.dataset, name, values.data_dir or config.data.data_dir or None)
        model.check_classes(split.name, split.classes)
        observers = _observers(values, split, model.protocol.name)
    batch_size = values.batch_size or config.evaluation.batch_size
    asked = {
        "the checkpoint": model.folder.name,
        "the protocol": (model.protocol.name, model.base_size, getattr(model.protocol, "window", None)),
        "the batch size": batch_size,
        f"the checksum of {config.data.dataset} {name}": split.fingerprint[:16],
        **{f"--{flag}": bool(values[flag].value) for flag in ("per_image", "instances", "submission")},
    }
    hosts.require_equal(hosts.code() | asked, "start all hosts with the same command, code and data")
    if line := protocols.compilations(model.protocol, len(set(split.sizes))):
        message(line)
    with hosts.lost_in_one_line():
        evaluated = evaluate_split(
            model.protocol,
            model.device_variables,
            split,
            batch_size,
            observers=observers.all(),
            may_lack_labels=observers.submission is not None,
            num_threads=values.num_threads or config.data.num_threads,
            progress=with_progress("batch"),
        )
    if hosts.index() > 0:
        return
    if (submission := observers.submission) is not None:
        written = submission.write(paths.anywhere(values.submission))
        print(f"for the {submission.form.server} server: {written}, {len(submission):,} predictions")
    if split.labelled:
        _say_figures(model, evaluated.matrix, observers, paths.anywhere(values.workdir), name)


def _say_figures(
    model: "TrainedModel", matrix: "ConfusionMatrix", observers: _Observers, workdir: paths.AnyPath, name: str
) -> None:
    """Prints the figures of the split `name`, and writes them below `workdir`."""
    from dpanet_jax.evaluation import cityscapes, report

    config, names = model.config, model.classes.names
    title = f"{config.data.dataset} {name}, protocol {model.protocol.name}, step {model.step}"
    report.print_table(matrix, names, title, config.evaluation.absent, observers.boundary)
    benchmark = {}
    if cityscapes.has_classes_of(names):
        figures = cityscapes.compute(matrix, observers.instances)
        cityscapes.print_table(figures)
        benchmark = {"cityscapes": cityscapes.as_json(figures)}
    written = report.write_report(model, matrix, workdir, name, observers.boundary, benchmark)
    print(f"written to {written}")
    if observers.per_image is not None:
        stem = report.report_stem(model, workdir, name)
        rows = observers.per_image.write(stem.with_name(f"{stem.name}_per_image.csv"))
        print(f"image by image: {rows}")
