"""A user's own data set: a folder of images, label files of the same names, and a classes file.

    DIR/classes.csv                                  name,red,green,blue and an optional id

and either a folder for each split

    DIR/images/train/**  DIR/images/val/**           NAME.png, .jpg, .bmp, .tif or .webp
    DIR/labels/train/**  DIR/labels/val/**           NAME.png, .bmp or .tif

or one folder with lists

    DIR/images/**  DIR/labels/**
    DIR/train.txt  DIR/val.txt                       one name a line, with or without its suffix

`test` is optional in both, and may have images alone: all of them have a label, or none. A name is the
path below the folder, without the suffix. With lists, files that no list names are left out. Labels are
of the image's size as viewers show it. They hold the ids of classes.csv, or are pictures in its colours.
255 is ignored unless it is a class's id, and so is the id of a row named ignore. `classes.read_classes`
describes the classes file, `pairing.Suffixes` how names may differ. Where there is no folder `labels` and a
suffix of the labels is given, they lie beside the images.
"""

from pathlib import Path

from dpanet_jax.data import finder, pairing
from dpanet_jax.data.classes import ClassesError, ClassesFileNotFound, read_classes, read_label_colors
from dpanet_jax.data.listing import (
    REQUIRED_SPLITS,
    SPLITS,
    DataError,
    DataSet,
    Listing,
    Pair,
    list_folders,
    other_name,
)
from dpanet_jax.data.pairing import Found, Suffixes

# How others lay out what this is to be: what is there, and what to do.
_LAYOUTS = (
    (
        ("JPEGImages", "SegmentationClass"),
        "it is laid out as Pascal VOC: rename JPEGImages to images and SegmentationClass to labels, and copy "
        "ImageSets/Segmentation/train.txt and val.txt here",
    ),
    (
        ("SegmentationClass",),
        "SegmentationClass is there, as CVAT writes it: rename it to labels, put the images in images, and "
        "copy ImageSets/Segmentation/default.txt to train.txt and val.txt, as they are to be split",
    ),
    (
        ("img_dir", "ann_dir"),
        "it is laid out as for mmsegmentation: rename img_dir to images and ann_dir to labels",
    ),
    (
        ("leftImg8bit", "gtFine"),
        "it is laid out as Cityscapes: rename leftImg8bit to images and gtFine to labels, and give "
        "--image_suffix=_leftImg8bit --label_suffix=_gtFine_labelIds",
    ),
    (
        ("train/_classes.csv",),
        "it is laid out as by Roboflow: make it images/train and images/val, write classes.csv with the "
        "ids of _classes.csv, and give --label_suffix=_mask",
    ),
    (("images", "annotations"), "rename annotations to labels"),
    (("images", "masks"), "rename masks to labels"),
    (("imgs", "masks"), "rename imgs to images and masks to labels"),
)


def list_folder(source: Path, options: Suffixes | None = None) -> Listing:
    """Matches images and labels of every split below `source`; problems are in the listing.

    Raises DataError when the classes file or the folders `images` and `labels` are not there.
    """
    suffixes = options or Suffixes()
    labels = source / "labels"
    if suffixes.label_suffix and not labels.exists():
        labels = source / "images"
    problems = [
        f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}{other_name(folder)}"
        for folder in dict.fromkeys((source / "images", labels))
        if not folder.is_dir()
    ]
    if problems:
        problems += _advice(source)
    try:
        classes, colors = read_classes(source / "classes.csv"), read_label_colors(source / "classes.csv")
    except ClassesFileNotFound as error:
        problems.append(f"{error}{_other_classes_file(source)}")
    except ClassesError as error:
        problems.append(str(error))
    if problems:
        raise DataError(source, problems)

    listing = Listing(classes, source / "classes.csv", colors)
    if any((source / f"{split}.txt").exists() for split in SPLITS):
        _from_lists(source, labels, suffixes, listing)
    else:
        inner = source / "images/images"
        nested = f"; {inner} is there: take the folder between away" if inner.is_dir() else ""
        list_folders(
            listing,
            {split: (source / "images" / split, labels / split) for split in SPLITS},
            hint=lambda split: f", and no {source / split}.txt{nested}",
            suffixes=suffixes,
        )
    return listing


def _other_classes_file(source: Path) -> str:
    names = ("class_dict", "classes", "labels", "labelmap", "label_map", "_classes", "obj", "palette")
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if path.stem.lower() in names and path.suffix.lower() in (".csv", ".txt", ".json", ".names"):
            done = "rename it" if path.stem.lower() == "class_dict" else "make it of that"
            return f"; {path.name} is there: {done}"
    return ""


def _advice(source: Path) -> list[str]:
    for parts, words in _LAYOUTS:
        if all((source / part).exists() for part in parts):
            return [f"{source}: {words}"]
    if (source / "images").is_dir():
        found = finder.files_below(source / "images", finder.IMAGE_SUFFIXES)[0]
        if tail := pairing.labels_beside(found.keys()):
            return [
                f"{source / 'images'}: labels that end in {tail} lie among the images: give "
                f"--label_suffix={tail}"
            ]
    return []


def _from_lists(source: Path, label_folder: Path, suffixes: Suffixes, listing: Listing) -> None:
    problems = listing.problems
    images = pairing.find_images(source / "images", suffixes, problems)
    labels = pairing.find_labels(label_folder, suffixes, problems)
    names = _Names(source, images, suffixes, problems)
    for split in SPLITS:
        path = source / f"{split}.txt"
        if not path.exists():
            if split in REQUIRED_SPLITS:
                problems.append(f"{path}: no such file, while another split has a list{other_name(path)}")
            continue
        listed = names.read(path)
        if listed is None:
            continue
        labelled = split in REQUIRED_SPLITS or any(name in labels.files for name in listed)
        if labelled:
            alone = [name for name in listed if name not in labels.files]
            unlisted = [name for name in labels.files if name not in images.files]
            problems += pairing.explain(images, labels, alone, unlisted if alone else (), names.listed_in)
        listing.splits[split] = [
            Pair(name, images.files[name], labels.files[name] if labelled else None)
            for name in sorted(listed)
            if name in labels.files or not labelled
        ]


class _Names:
    """Reads the lists of a source. A name may stand in one of them, once."""

    def __init__(self, source: Path, images: Found, suffixes: Suffixes, problems: list[str]) -> None:
        self._folder = source / "images"
        self._roots = (self._folder, self._folder.resolve())
        self._images = images
        self._tail = suffixes.image_suffix
        self._problems = problems
        self.listed_in: dict[str, str] = {}

    def read(self, path: Path) -> list[str] | None:
        """The names of the images that a list names; None for an unreadable list."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            words = error.strerror if isinstance(error, OSError) else error
            self._problems.append(f"{path}: not readable as a list of names in UTF-8 ({words})")
            return None
        if "\0" in text:
            self._problems.append(f"{path}: not readable as a list of names in UTF-8 (it holds zeros)")
            return None
        lines = text.split("\n")  # Reading as text has made one of every kind of line end.
        if not any(line.strip() for line in lines):
            self._problems.append(f"{path}: no name in it, so the split is empty")
        names = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            name = self._known(line.strip())
            if name is None:
                self._problems.append(f"{where}: {self._unknown(line.strip())}")
            elif name in self.listed_in:
                self._problems.append(f"{where}: {name} is already in {self.listed_in[name]}")
            else:
                self.listed_in[name] = where
                names.append(name)
        return names

    def _forms(self, text: str) -> list[str]:
        """The names that a line may mean: as it is, and without what people write around a name."""
        text = finder.normal(text)
        forms = [text, text.replace("\\", "/")]
        for form in list(forms):
            path = Path(form)
            if path.is_absolute():
                below = [path.relative_to(f) for f in self._roots if path.is_relative_to(f)]
                path = below[0] if below else path
            parts = path.parts[1:] if path.parts[:1] == ("images",) else path.parts
            forms += [path.as_posix(), Path(*parts).as_posix()]
        # A dot may belong to the name, so the suffix goes only where the name is not known as it is.
        known = (*finder.IMAGE_SUFFIXES, *finder.UNREAD_SUFFIXES)
        forms += [Path(f).with_suffix("").as_posix() for f in forms if Path(f).suffix.lower() in known]
        forms += [form.removesuffix(self._tail) for form in forms]
        return forms

    def _known(self, text: str) -> str | None:
        return next((form for form in self._forms(text) if form in self._images.files), None)

    def _unknown(self, text: str) -> str:
        forms = self._forms(text)
        for form in forms:
            if form in self._images.unread:
                path = self._images.unread[form]
                return f"{path}: {finder.says_kind(path)}"
        words = text.replace("\t", " ").replace(";", " ").replace(",", " ").split()
        if len(words) > 1 and self._known(words[0]):
            return f"more than a name in it ({text!r}); a list has one name a line"
        lower = {name.casefold(): name for name in self._images.files}
        near = next((lower[form.casefold()] for form in forms if form.casefold() in lower), "")
        name = forms[-1]
        if Path(name).is_absolute():
            return f"no image {text} below {self._folder}"
        kinds = "|".join(suffix.lstrip(".") for suffix in finder.IMAGE_SUFFIXES)
        but = f"; {near} differs in capitals alone" if near else ""
        return f"no image {self._folder / name}.({kinds}){but}"


DATASET = DataSet(list_folder, has_configs=True, options=Suffixes)
