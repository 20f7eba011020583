"""Which photographs a user means: files, folders, buckets, and lists of them."""

import codecs
import contextlib
import csv
import io
import os
from pathlib import Path

from saunet.data.buckets import BucketFile, as_path, is_uri
from saunet.data.images import IMAGE_SUFFIXES, image_stem, is_image
from saunet.data.manifest import NAME as MANIFEST
from saunet.data.manifest import Manifest
from saunet.data.pairing import walk
from saunet.errors import InputError

LIST_SUFFIXES = (".csv", ".txt")
LIST_COLUMNS = ("photograph", "path")


def find_images(inputs):
    """Lists the photographs that files, folders, buckets and lists stand for.

    Args:
        inputs: paths, and URIs such as `s3://bucket/folder`. Of a folder, the image
            files in it and in the folders below, hidden ones left out, in sorted
            order; DICOM also under other names. Of a list, a .txt of one path a line
            or a .csv with a column `photograph` or `path`, what it names; relative
            paths begin at its folder.

    Returns:
        (list of paths, number of other files that the folders hold).

    Raises:
        InputError: a path that is not there, a folder without an image, or one, also
            below, that may not be read.
    """
    found, ignored = find_places(inputs)
    return [path for path, _ in found], ignored


def find_places(inputs, out_dir=None, results=()):
    """As `find_images`, each path with the place of its result in `out_dir`.

    Left out: what `out_dir`, where it is below a folder of `inputs`, holds; files
    whose resolved path is among `results`; and the results of other runs, by the
    manifests beside and above them.
    """
    found, ignored = [], 0
    if any(str(path) == "" for path in inputs):
        raise InputError("an empty name is no photograph: give files or folders")
    for path in map(as_path, inputs):
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"{path}: no such file or folder; check the path")
            listed = path.name.lower().endswith(LIST_SUFFIXES)
            found += _listed(path) if listed else [(path, image_stem(path.name))]
            continue
        files, images = 0, []
        for file, relative in _files(path, out_dir):
            if real_path(file) in results:
                continue
            files += 1
            if file.name[0] != "." and is_image(file):
                images.append((file, _place(relative)))
        if not images:
            raise InputError(
                f"{path}: no image among its {files} files; expected "
                f"{', '.join(IMAGE_SUFFIXES)}"
            )
        found += images
        ignored += files - len(images)
    return found, ignored


def _files(path, out_dir):
    """Yields each file in and below a folder, and its path relative to that folder."""
    if isinstance(path, BucketFile):
        yield from path.files()
        return
    earlier = set()
    for folder in Path(os.path.abspath(path)).parents:
        if (folder / MANIFEST).is_file() and not _same(folder, out_dir):
            with contextlib.suppress(InputError):
                earlier |= Manifest(folder).results()
    for folder, below, names in walk(path):
        if MANIFEST in names:
            with contextlib.suppress(InputError):  # another program's table
                earlier |= Manifest(folder).results()
        below[:] = sorted(
            name
            for name in below
            if name[0] != "." and not _same(Path(folder) / name, out_dir)
        )
        for name in sorted(names):
            file = Path(folder) / name
            lost = file.is_symlink() and not file.exists()  # to be skipped aloud
            if (file.is_file() or lost) and real_path(file) not in earlier:
                yield file, file.relative_to(path)


def _listed(path):
    """Returns the photographs that a list names, each with the place of its result.

    A relative path keeps its folders there, as it would below a folder.
    """
    text = _text(path)
    if path.name.lower().endswith(".csv"):
        try:
            rows = list(csv.reader(io.StringIO(text, newline="")))
        except csv.Error as error:  # such as a cell of 200,000 characters
            raise InputError(
                f"{path}: cannot be read as a table ({error}): expected one path a row"
            ) from error
        head = rows[0] if rows else []
        columns = [head.index(name) for name in LIST_COLUMNS if name in head]
        if not columns:
            raise InputError(
                f"{path}: expected a column {' or '.join(LIST_COLUMNS)}; write one "
                f"path a line into a .txt instead"
            )
        names = [row[columns[0]] for row in rows[1:] if len(row) > columns[0]]
    else:
        names = text.split("\n")  # no more: a name may hold what else ends a line
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise InputError(f"{path}: names no photograph; expected one path a line")
    found = []
    for name in names:
        if is_uri(name) or os.path.isabs(name):
            found.append((as_path(name), image_stem(as_path(name).name)))
        else:
            inside = ".." not in Path(name).parts
            place = _place(name) if inside else image_stem(name)
            bucket = isinstance(path, BucketFile)
            file = path.beside(name) if bucket else path.parent / name
            found.append((file, place))
    return found


def _text(path):
    """Returns what a list holds: UTF-8, or UTF-16 as Windows' programs write it."""
    with path.open("rb") as file:
        content = file.read()
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        text = content.decode("utf-16", errors="replace")
    else:
        text = content.decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise InputError(f"{path}: is no text, expected paths: save it as UTF-8")
    return text


def _place(relative):
    return (Path(relative).parent / image_stem(relative)).as_posix()


def real_path(file):
    """Returns a path without links; of a link to itself, it."""
    if isinstance(file, BucketFile):
        return file.resolve()
    return Path(os.path.realpath(file))


def _same(folder, out_dir):
    return out_dir is not None and folder.resolve() == Path(out_dir).resolve()
