"""`evaluate`: prints and writes the figures of a trained model on a split."""

from absl import flags

from dpanet_jax import hosts, paths
from dpanet_jax.command_line import host_flags, join_hosts, require_flags, string_flag
from dpanet_jax.verbs.shared import DATA_DIR, model_flags, protocol_flags, trained_for, with_progress

WORDS = "figures on a split: --workdir=DIR [--split=NAME] [--protocol=NAME]"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the flags."""
    model_flags(values, "the run to evaluate")
    protocol_flags(values)
    string_flag(values, "split", "none: the run's validation split")
    string_flag(values, "data_dir", DATA_DIR + "; none: the run's own")
    flags.DEFINE_integer("batch_size", None, "none: the run's own", lower_bound=1, flag_values=values)
    flags.DEFINE_boolean("per_image", False, "write a row an image, worst first", flag_values=values)
    host_flags(values)
    flags.DEFINE_boolean("distributed", False, "join the hosts of a cluster", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Prints and writes the figures of a trained model on a split."""
    require_flags(values, "workdir")
    join_hosts(values, values.distributed)
    from dpanet_jax.data.split import open_split
    from dpanet_jax.evaluation import protocols, report
    from dpanet_jax.evaluation.boundary import BoundaryIoU
    from dpanet_jax.evaluation.evaluate import Observer
    from dpanet_jax.evaluation.evaluate import evaluate as evaluate_split
    from dpanet_jax.evaluation.per_image import PerImage
    from dpanet_jax.progress import message

    with hosts.agreed():
        model = trained_for(values)
        config = model.config
        name = values.split or config.data.val_split
        if hosts.index() == 0:
            paths.require_writable(paths.anywhere(values.workdir))
        split = open_split(config.data.dataset, name, values.data_dir or config.data.data_dir or None)
        model.check_classes(split.name, split.classes)
    batch_size = values.batch_size or config.evaluation.batch_size
    asked = {
        "the checkpoint": model.folder.name,
        "the protocol": (model.protocol.name, model.base_size, getattr(model.protocol, "window", None)),
        "the batch size": batch_size,
        f"the checksum of {config.data.dataset} {name}": split.fingerprint[:16],
        "--per_image": values.per_image,
    }
    per_image = PerImage(len(model.classes)) if values.per_image else None
    boundary = BoundaryIoU(len(model.classes))
    observers: list[Observer] = [boundary, *([per_image] if per_image else [])]
    hosts.require_equal(hosts.code() | asked, "start all hosts with the same command, code and data")
    if line := protocols.compilations(model.protocol, len(set(split.sizes))):
        message(line)
    with hosts.lost_in_one_line():
        evaluated = evaluate_split(
            model.protocol,
            model.device_variables,
            split,
            batch_size,
            observers=observers,
            progress=with_progress("batch"),
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
