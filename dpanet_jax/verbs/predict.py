"""`predict`: writes class ids, colours and overlays for images."""

from absl import flags

from dpanet_jax import paths
from dpanet_jax.command_line import require_flags, string_flag
from dpanet_jax.verbs.shared import model_flags, protocol_flags, threads_flag, trained_for, with_progress

WORDS = "segment images: --workdir=DIR --input=FILE_OR_FOLDER --output=FOLDER"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the flags."""
    model_flags(values, "the run whose model predicts")
    protocol_flags(values)
    string_flag(values, "input", "an image or a video, or a folder of them")
    string_flag(values, "output", "a folder for ids/, color/ and overlay/")
    threads_flag(values, "0: chosen from the cores")
    flags.DEFINE_boolean(
        "train_ids",
        False,
        "write ids as the network has them, not as the label files",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> None:
    """Writes class ids, colours and overlays for images."""
    require_flags(values, "workdir", "input", "output")
    from dpanet_jax.data import finder
    from dpanet_jax.evaluation import predict as predict_lib
    from dpanet_jax.progress import message

    output = paths.anywhere(values.output)
    found = finder.find(paths.anywhere(values.input), leave_out=predict_lib.earlier_outputs(output))
    predict_lib.check_output(output, found)
    model = trained_for(values)
    predicted = predict_lib.predict_files(
        model,
        found,
        output,
        progress=with_progress("image"),
        train_ids=values.train_ids,
        tell=message,
        num_threads=values.num_threads,
    )
    if predicted.images or predicted.videos:
        counts = {"image": predicted.images, "video": predicted.videos}
        done = " and ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count)
        print(f"{done}: ids, color and overlay are in {output}")
    predicted.require_all()
