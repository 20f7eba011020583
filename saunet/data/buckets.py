"""Photographs in object stores: URIs that `pyarrow.fs` knows, in the place of paths."""

import functools
import io
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

from saunet.errors import InputError, need


def is_uri(path):
    """Returns whether this is such as `s3://bucket/folder`, not a path."""
    return "://" in str(path)


class BucketFile:
    """A file in a store, with what reading a photograph needs of `pathlib.Path`.

    What `pyarrow.fs.FileSystem.from_uri` says in the query, such as
    `?endpoint_override=...`, is taken; credentials are the environment's. It can be
    pickled: the other process connects by itself.

    Args:
        uri: such as `s3://bucket/folder/eye.png`, its name as it is, not quoted; what
            stands behind the last "?", if there is one, is the query.
        size: bytes, if known already.
        modified: nanoseconds since 1970, likewise.
    """

    def __init__(self, uri, size=None, modified=None):
        head, mark, query = str(uri).rpartition("?")
        uri, self.query = (head, query) if mark else (query, "")
        self.scheme, _, rest = uri.partition("://")
        self.host, _, self.key = rest.partition("/")
        self._facts = None if size is None else (size, modified)

    def __eq__(self, other):
        return isinstance(other, BucketFile) and self._place() == other._place()

    def __hash__(self):
        return hash(self._place())

    def _place(self):
        return self.scheme, self.host, self.key, self.query

    def __str__(self):
        user, at, host = self.host.rpartition("@")
        shown = host if ":" in user else user + at + host  # no password
        return f"{self.scheme}://{shown}/{self.key}"

    def beside(self, relative):
        """Returns the file of this path from the folder of this one."""
        folder = self.key.rpartition("/")[0]
        key = f"{folder}/{relative}" if folder else str(relative)
        return BucketFile(f"{self.scheme}://{self.host}/{key}?{self.query}")

    @property
    def name(self):
        return PurePosixPath(self.key).name

    def resolve(self):
        """Returns the path of a `file://`, else itself."""
        return Path(f"/{self.key}").resolve() if self.scheme == "file" else self

    def exists(self):
        return self._facts is not None or self._info().type.name != "NotFound"

    def is_dir(self):
        return self._facts is None and self._info().type.name == "Directory"

    def stat(self):
        """Returns what a listing said of it, or the store says now."""
        if self._facts is None:
            info = self._info()
            if not info.is_file:
                raise FileNotFoundError(f"{self}: no such file")
            self._facts = (info.size, info.mtime_ns)
        size, modified = self._facts
        return SimpleNamespace(st_size=size, st_mtime_ns=modified)

    def open(self, mode="rb"):
        """Returns the whole file, in memory."""
        store, root = self._store()
        with store.open_input_stream(root + self.key) as stream:
            return io.BytesIO(stream.read())

    def files(self):
        """Lists the files below, sorted, hidden ones left out.

        Returns:
            List of (`BucketFile`, its path relative to this one, str).

        Raises:
            InputError: the store cannot be reached or has no such place.
        """
        from pyarrow.fs import FileSelector

        store, root = self._store()
        base = (root + self.key).rstrip("/")
        try:
            found = store.get_file_info(FileSelector(base, recursive=True))
        except OSError as error:
            raise InputError(f"{self}: {_first_line(error)}; check the name") from error
        files = []
        for info in sorted(found, key=lambda info: info.path):
            relative = info.path[len(base) :].lstrip("/")
            if info.is_file and not any(p[:1] == "." for p in relative.split("/")):
                key = "/".join(filter(None, [self.key.rstrip("/"), relative]))
                uri = f"{self.scheme}://{self.host}/{key}?{self.query}"
                files.append((BucketFile(uri, info.size, info.mtime_ns), relative))
        return files

    def _info(self):
        store, root = self._store()
        try:
            return store.get_file_info((root + self.key).rstrip("/") or "/")
        except OSError as error:
            raise InputError(f"{self}: {_first_line(error)}; check the name") from error

    def _store(self):
        return _connect(f"{self.scheme}://{self.host}/", self.query)


def as_path(path):
    """Returns a `BucketFile` for a URI, else a `Path`; either is left as it is."""
    if isinstance(path, BucketFile):
        return path
    return BucketFile(path) if is_uri(path) else Path(path)


@functools.cache
def _connect(root, query):
    """Returns (file system, what its paths begin with); once a process."""
    shown = str(BucketFile(root))
    need("pyarrow", "cluster", f"{shown}: a bucket")
    from pyarrow.fs import FileSystem

    try:
        store, path = FileSystem.from_uri(f"{root}?{query}" if query else root)
    except (OSError, ValueError) as error:
        reason = _first_line(error).replace(root, shown)
        raise InputError(
            f"{shown}: {reason}; expected s3://BUCKET/..., gs://BUCKET/... "
            f"or file:///FOLDER"
        ) from error
    return store, path.rstrip("/") + "/"


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
