"""The command line: `python -m dpanet_jax VERB --flag=value …`; each verb is one function below."""

import importlib.util
import os
import sys
from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from dpanet_jax import config as config_lib

VERBS = {
    "prepare": "write a data set to the disk once, checked: --dataset=NAME [--source=DIR]",
    "train": "train, or go on: --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE …]",
    "evaluate": "figures on a split: --workdir=DIR [--split=NAME] [--protocol=whole]",
    "predict": "segment images: --workdir=DIR --input=FILE_OR_FOLDER --output=FOLDER",
    "export-torch": "weights with PyTorch's names: --workdir=DIR --output=FILE.safetensors",
    "compare": "hold the numbers against PyTorch's: --config=configs/NAME.py --torch=FILE|random",
}


class UsageError(ValueError):
    """The command line is wrong; the message says how."""


def main(argv: list[str] | None = None) -> int:
    """Runs one verb. Returns 0; 1 where the work failed and 2 where the request was wrong."""
    argv = sys.argv[1:] if argv is None else argv
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is as it should be.
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(_usage(), flush=True)
            return 0 if argv else 2
        verb = {
            "prepare": prepare,
            "train": train,
            "evaluate": evaluate,
            "predict": predict,
            "export-torch": export_torch,
            "compare": compare,
        }.get(argv[0])
        if verb is None:
            raise UsageError(f"{argv[0]!r} is not a verb: {', '.join(VERBS)}")
        verb(argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # What reads our words has gone, as `head` does: nothing to say, nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("dpanet_jax: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, flags.Error) as error:
        if os.environ.get("DPANET_TRACEBACK"):
            raise
        print(f"dpanet_jax: {_words(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError | flags.Error) else 1
    return 0


def _usage() -> str:
    lines = [f"  {verb:14}{words}" for verb, words in VERBS.items()]
    return "\n".join(
        [
            "usage: python -m dpanet_jax VERB --flag=value …",
            *lines,
            "",
            "python -m dpanet_jax VERB --help lists a verb's flags. DPANET_TRACEBACK=1 shows where an",
            "error came from.",
        ]
    )


def _words(error: BaseException) -> str:
    """What is said of an error: our own as written (DataError lists files), others on one line."""
    if type(error).__module__.startswith(("dpanet_jax", "__main__")):
        return str(error)
    text = " ".join(str(error).split())
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def _parse(verb: str, argv: list[str], define) -> flags.FlagValues:
    """This verb's flags from the command line; UsageError for any other, and for a stray word."""
    asked_for_help = any(word in ("-h", "--help") for word in argv)
    values = flags.FlagValues()
    define(values, [] if asked_for_help else argv)
    if asked_for_help:
        print(f"usage: python -m dpanet_jax {verb} …\n  {VERBS[verb]}\n")
        for name in sorted(values):
            print(f"  --{name}: {values[name].help}")
        raise SystemExit(0)
    try:
        rest = values([f"dpanet_jax {verb}", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        near = config_lib.did_you_mean(error.flagname, list(values))
        raise UsageError(f"--{error.flagname} is not a flag of {verb}{near}") from error
    except AttributeError as error:  # ml_collections' word for a key that the config lacks
        raise UsageError(_unknown_key(argv, error)) from error
    except (KeyError, TypeError, SyntaxError, ImportError, NameError) as error:
        raise UsageError(f"--config: {type(error).__name__}: {error}") from error
    if rest:
        raise UsageError(f"{rest[0]!r} was not understood: flags are written --flag=value")
    return values


def _unknown_key(argv: list[str], error: AttributeError) -> str:
    known = config_lib.flatten(config_lib.default_config())
    for word in argv:
        key = word.removeprefix("--config.").split("=")[0]
        if word.startswith("--config.") and key not in known:
            return f"config.{key} is not a key of the config{config_lib.did_you_mean(key, known)}"
    return f"--config: {error}"


def _required(values: flags.FlagValues, *names: str) -> None:
    for name in names:
        if not values[name].value:
            raise UsageError(f"--{name} is missing (--help lists the flags)")


def _string(values, name: str, words: str, default=None) -> None:
    flags.DEFINE_string(name, default, words, flag_values=values)


def prepare(argv: list[str]) -> None:
    """Writes one data set under data_dir."""
    from dpanet_jax.data.prepare import prepare as prepare_dataset

    def define(values, argv):
        _string(values, "dataset", "streets, camvid, folder or folder/NAME")
        _string(values, "source", "where the files are; streets draws its own")
        _string(values, "data_dir", _DATA_DIR)
        flags.DEFINE_boolean("overwrite", False, "prepare it again", flag_values=values)

    values = _parse("prepare", argv, define)
    _required(values, "dataset")
    print(prepare_dataset(values.dataset, values.data_dir, source=values.source, overwrite=values.overwrite))


def _config_flag(values, argv: list[str]) -> None:
    config_flags.DEFINE_config_file(
        "config",
        None,
        "a file with get_config(); --config.KEY=VALUE changes one value",
        flag_values=values,
        sys_argv=["dpanet_jax", *argv],
    )


def _check_config_file(argv: list[str]) -> None:
    for word in argv:
        path = word.removeprefix("--config=")
        if path != word and not os.path.isfile(path):
            raise UsageError(f"--config={path}: there is no such file")


def train(argv: list[str]) -> None:
    """Trains, or goes on where a run was stopped."""

    def define(values, argv):
        _config_flag(values, argv)
        _string(values, "workdir", "where the run's files go")

    _check_config_file(argv)
    values = _parse("train", argv, define)
    _required(values, "config", "workdir")
    config_lib.check(values.config)
    if values.config.distributed:
        import jax

        jax.distributed.initialize()
    from dpanet_jax.training import loop

    loop.train(values.config, values.workdir)


def _trained(values, base_size: int | None = None):
    from dpanet_jax.evaluation.trained import load_trained

    return load_trained(values.workdir, values.checkpoint, base_size)


def _base_size_flag(values) -> None:
    flags.DEFINE_integer("base_size", None, _BASE_SIZE, lower_bound=0, flag_values=values)


_DATA_DIR = "where data sets are prepared (none: $TFDS_DATA_DIR, or ~/tensorflow_datasets)"
_CHECKPOINT = "best, latest, or a step's number"
_BASE_SIZE = "long side that images are resized to before the network (0: their own); none: the run's own"


def evaluate(argv: list[str]) -> None:
    """Prints and writes the figures of a trained model on a split."""

    def define(values, argv):
        _string(values, "workdir", "the run to evaluate")
        _string(values, "split", "none: the run's validation split")
        _string(values, "protocol", "how an image is put through the network: whole", "whole")
        _string(values, "checkpoint", _CHECKPOINT, "best")
        _base_size_flag(values)
        _string(values, "data_dir", _DATA_DIR + "; none: the run's own")
        flags.DEFINE_integer("batch_size", 0, "0: the run's own", flag_values=values)

    values = _parse("evaluate", argv, define)
    _required(values, "workdir")
    from dpanet_jax.evaluation import inference, report, trained
    from dpanet_jax.progress import progress_bar

    if values.protocol not in inference.PROTOCOLS:
        raise UsageError(f"--protocol={values.protocol}: this version has {', '.join(inference.PROTOCOLS)}")
    model = _trained(values, values.base_size)
    config = model.config
    split = values.split or config.data.val_split
    matrix = trained.evaluate_split(
        model,
        split,
        values.data_dir or config.data.data_dir or None,
        values.batch_size or config.evaluation.batch_size,
        progress=lambda batches: progress_bar(batches, unit="batch"),
    )
    title = f"{config.data.dataset} {split}, protocol {values.protocol}, step {model.step}"
    report.print_table(matrix, model.classes.names, title, config.evaluation.absent)
    print(f"written to {trained.write_report(model, matrix, Path(values.workdir), split)}")


def predict(argv: list[str]) -> None:
    """Writes class ids, colours and overlays for images."""

    def define(values, argv):
        _string(values, "workdir", "the run whose model predicts")
        _string(values, "input", "an image, or a folder of them")
        _string(values, "output", "a folder for ids/, color/ and overlay/")
        _string(values, "checkpoint", _CHECKPOINT, "best")
        _base_size_flag(values)

    values = _parse("predict", argv, define)
    _required(values, "workdir", "input", "output")
    from dpanet_jax.evaluation import trained
    from dpanet_jax.progress import progress_bar

    trained.find_images(Path(values.input))
    images = trained.predict_files(
        _trained(values, values.base_size),
        values.input,
        values.output,
        progress=lambda items: progress_bar(items, unit="image"),
    )
    print(f"{len(images)} images: ids, color and overlay are in {values.output}")


def compare(argv: list[str]) -> None:
    """Holds the network's numbers against its PyTorch twin's."""

    def define(values, argv):
        _config_flag(values, argv)
        _string(values, "torch", "weights for both sides: a file, an hf:// address, or random")
        _string(values, "output", "a folder for report.json and report.png (none: runs/compare/CONFIG)")
        _string(values, "split", "split that both mean IoUs are of (none: the config's validation split)")
        _string(values, "precision", "float64, float32 or both", "both")
        flags.DEFINE_integer("steps", 10, "steps of SGD", flag_values=values)
        flags.DEFINE_integer("images", 0, "images of the split; 0: all, -1: none", flag_values=values)

    _check_config_file(argv)
    values = _parse("compare", argv, define)
    _required(values, "config", "torch")
    config_lib.check(values.config)
    for module in ("torch", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"compare needs {module}: pip install {module}")
    from dpanet_jax.compare import run

    files = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    run.run(
        values.config,
        values.torch,
        values.output or Path("runs", "compare", *(Path(file).stem for file in files[-1:])),
        split=values.split or "",
        steps=values.steps,
        precisions=run.PRECISIONS if values.precision == "both" else (values.precision,),
        max_images=values.images,
    )


def export_torch(argv: list[str]) -> None:
    """Writes a trained model's weights with the published PyTorch names."""

    def define(values, argv):
        _string(values, "workdir", "the run whose model is exported")
        _string(values, "output", "the file to write, FILE.safetensors; one that is there is replaced")
        _string(values, "checkpoint", _CHECKPOINT, "best")

    values = _parse("export-torch", argv, define)
    _required(values, "workdir", "output")
    from dpanet_jax.interop import files

    try:
        files.check_output(values.output)
    except files.WeightsError as error:
        raise UsageError(f"--output={error}") from error
    from dpanet_jax.interop.torch import to_state_dict

    model = _trained(values)
    state_dict = to_state_dict(model.variables)
    files.write_state_dict(state_dict, values.output)
    print(f"{len(state_dict)} arrays of {model.folder} are in {values.output}")
    print(f"here:       --config.model.pretrained={values.output}")
    print(f"in PyTorch: load_state_dict(safetensors.torch.load_file({values.output!r}))")


if __name__ == "__main__":
    sys.exit(main())
