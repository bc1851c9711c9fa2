"""`prepare`: writes one data set under data_dir."""

from absl import flags

from dpanet_jax import config as config_lib
from dpanet_jax.command_line import require_flags, string_flag
from dpanet_jax.verbs.shared import DATA_DIR

WORDS = "write a data set to the disk once, checked: --dataset=NAME [--source=DIR]"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the flags."""
    words = "streets, camvid, cityscapes, voc, ade20k, coco_stuff, folder or folder/NAME"
    string_flag(values, "dataset", words)
    string_flag(values, "source", "where the files are; streets draws its own")
    string_flag(values, "data_dir", DATA_DIR)
    flags.DEFINE_list("imports", [], "modules that register data sets of your own", flag_values=values)
    flags.DEFINE_boolean("overwrite", False, "prepare it again", flag_values=values)
    string_flag(values, "image_suffix", "what image names end in and label names do not, as _leftImg8bit")
    string_flag(values, "label_suffix", "what label names end in and image names do not, as _mask")
    string_flag(values, "store", "how images are stored: source (as the files are), jpeg, png or raw")
    flags.DEFINE_integer("store_quality", None, "of --store=jpeg, 1 to 100 (default 95)", flag_values=values)
    words = "take a subset of a published data set as it is"
    flags.DEFINE_boolean("partial", None, words, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Writes one data set under data_dir."""
    from dpanet_jax.data.prepare import prepare as prepare_dataset

    require_flags(values, "dataset")
    config_lib.import_modules(values.imports)
    given = {name: values[name].value for name in ("image_suffix", "label_suffix", "partial")}
    prepared = prepare_dataset(
        values.dataset,
        values.data_dir,
        source=values.source,
        overwrite=values.overwrite,
        store=values.store,
        store_quality=values.store_quality,
        **{name: value for name, value in given.items() if value is not None},
    )
    print(prepared)
