"""What was done to which photograph: `manifest.csv` beside the results."""

import csv
import io
import os
import time
from pathlib import Path

from saunet.data.buckets import as_path, is_uri
from saunet.data.images import write_bytes
from saunet.errors import InputError

NAME = "manifest.csv"
OUTPUTS = ("prob", "mask", "overlay")
COLUMNS = (
    "result",  # folder and stem of the result's files
    "photograph",  # its whole path
    "bytes",
    "modified",  # nanoseconds since 1970
    "settings",
    "seconds",  # of computing
    "status",  # begun, done or failed
    "reason",
)


class Manifest:
    """A table that grows by one row a photograph and survives being killed.

    A row is appended after its files are whole, so a photograph whose last row is not
    of status done is one to do again; half a row, at the end of a killed run, is none.
    A photograph is begun right before its files change (on a cluster when the run
    starts), so that what a killed run has left is known for a result, and whose it is.

    Args:
        folder: of the results; a table in it is read.

    Raises:
        InputError: the table cannot be read or is another program's.
    """

    def __init__(self, folder):
        self.path = Path(folder) / NAME
        self.rows = {}  # result -> its last row
        self._synced = 0.0
        self.read()

    def read(self):
        """Reads the table anew, if there is one.

        Raises:
            InputError: as the class.
        """
        self.rows.clear()
        try:
            content = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read ({error.strerror}): choose another "
                f"folder with --out"
            ) from error
        # Not as text, which would take a "\r" in a name for the end of a line.
        text = content.decode("utf-8", errors="surrogateescape")
        rows = csv.reader(io.StringIO(text, newline=""))
        try:
            if next(rows, list(COLUMNS)) != list(COLUMNS):
                raise InputError(
                    f"{self.path}: expected the columns {', '.join(COLUMNS)}; choose "
                    f"another folder with --out"
                )
            for row in rows:
                if len(row) == len(COLUMNS):  # else half a row
                    self.rows[row[0]] = dict(zip(COLUMNS, row, strict=True))
        except csv.Error as error:  # such as a cell of 200,000 characters
            raise InputError(
                f"{self.path}: cannot be read as a table ({error}); choose another "
                f"folder with --out"
            ) from error

    def results(self):
        """Returns the paths of the files of all rows that claim some, without links."""
        return {
            path.resolve()
            for result in self.rows
            if self.claims(result)
            for path in results_of(self.path.parent, result).values()
        }

    def claims(self, result):
        """Returns whether files of this result, if there are any, are of a run.

        Of a photograph that failed and had none before there are none.
        """
        row = self.rows.get(result)
        return row is not None and (row["status"] != "failed" or bool(row["settings"]))

    def other_photograph(self, result, photograph):
        """Returns another photograph whose result this name has, or None.

        One that was moved is none: it is no longer where it was, and this one has its
        bytes and its time of change. Nor is one that was never done, and left no file.

        Args:
            result: str, folder and stem of the result.
            photograph: path or URI.
        """
        row = self.rows.get(result, {})
        noted = row.get("photograph")
        if not self.claims(result) or not noted or noted == _place_of(photograph):
            return None
        files = results_of(self.path.parent, result).values()
        if row["status"] != "done" and not any(map(os.path.lexists, files)):
            return None
        if is_uri(noted) or not os.path.exists(noted):
            moved = (row["bytes"], row["modified"]) == state_of(photograph)
            return None if moved else noted
        same = (
            not is_uri(photograph)
            and os.path.exists(photograph)
            and os.path.samefile(noted, photograph)
        )
        return None if same else noted

    def is_done(self, result, photograph, settings):
        """Returns whether a photograph as it is now was segmented with these settings.

        Args:
            result: str, folder and stem of its result.
            photograph: path or URI.
            settings: str, everything that decides the result.
        """
        row = self.rows.get(result)
        if row is None or row["status"] != "done" or row["settings"] != settings:
            return False
        state = state_of(photograph)
        return bool(state[0]) and (row["bytes"], row["modified"]) == state

    def rewrite(self, begun=()):
        """Writes the table anew, one row a result.

        Args:
            begun: list of (photograph, result) whose files may change from now on.

        Raises:
            InputError: it cannot be written; the old one is whole then.
        """
        for photograph, result in begun:
            self.rows[str(result)] = _begun(photograph, result)
        rows = [COLUMNS, *(row.values() for row in self.rows.values())]
        content = "".join(map(csv_line, rows)).encode("utf-8", "surrogateescape")
        write_bytes(self.path, content, sync=True)

    def begin(self, photograph, result):
        """Notes that the files of a result change, and are no longer as its row says.

        Raises:
            InputError: it cannot be written.
        """
        row = _begun(photograph, result)
        if self.rows.get(str(result)) != row:
            self._add(row)

    def append(self, result, photograph, state, settings, *, seconds=None, reason=""):
        """Adds a row to a table that `rewrite` has freed of half a row.

        Args:
            result: as in `is_done`.
            photograph: likewise.
            state: its `state_of` before it was read: what changed later is not done.
            settings: as in `is_done`.
            seconds: float.
            reason: str, why the photograph failed; empty for one that is done.

        Raises:
            InputError: it cannot be written.
        """
        if reason:
            # Of the files that are left by an earlier run.
            left = map(os.path.lexists, results_of(self.path.parent, result).values())
            kept = self.claims(str(result)) and any(left)
            settings = (
                (self.rows[str(result)]["settings"] or "not known") if kept else ""
            )
        size, modified = state
        self._add(
            {
                "result": str(result),
                "photograph": _place_of(photograph),
                "bytes": size,
                "modified": modified,
                "settings": settings,
                "seconds": "" if seconds is None else f"{seconds:.3f}",
                "status": "failed" if reason else "done",
                "reason": reason,
            }
        )

    def _add(self, row):
        self.rows[row["result"]] = row
        try:
            with self.path.open("ab") as file:
                file.write(csv_line(row.values()).encode("utf-8", "surrogateescape"))
                # So that a loss of power takes no more than a second's rows: for each
                # of them it would take longer than a small photograph.
                if time.monotonic() - self._synced > 1:
                    file.flush()
                    os.fsync(file.fileno())
                    self._synced = time.monotonic()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}): give a writable "
                f"folder with free space"
            ) from error


def _begun(photograph, result):
    size, modified = state_of(photograph)
    row = {"result": str(result), "photograph": _place_of(photograph)}
    row |= {"bytes": size, "modified": modified, "status": "begun"}
    return dict.fromkeys(COLUMNS, "") | row


def results_of(folder, result):
    """Returns the paths of a photograph's results, by kind."""
    return {kind: folder / f"{result}_{kind}.png" for kind in OUTPUTS}


def _place_of(photograph):
    """Returns a URI, or a path that is the same from every folder."""
    if not is_uri(photograph):
        return os.path.abspath(photograph)
    file = as_path(photograph)
    # Which store it is, at times; without one a "?" of the name would begin it.
    return f"{file}?{file.query}" if file.query or "?" in file.key else str(file)


def state_of(photograph):
    """Returns the bytes and the time of change of a file, as words.

    Both are empty where they cannot be read: to be said by whoever reads the file.
    """
    try:
        facts = as_path(photograph).stat()
    except (OSError, InputError):
        return "", ""
    return str(facts.st_size), str(facts.st_mtime_ns)


def csv_line(cells):
    """Returns a row of CSV, whatever is in its cells, which are str."""
    cells = list(cells)
    text = io.StringIO(newline="")
    # By itself the writer quotes a "\n", and no "\r".
    quoting = (
        csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL
    )
    csv.writer(text, lineterminator="\n", quoting=quoting).writerow(cells)
    return text.getvalue()
