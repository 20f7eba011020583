"""One run at a time writes to a folder.

The lock is the operating system's, on the open folder: it ends with the process,
however that ends, and leaves no file behind. Windows cannot open a folder; there it is
on an empty file `.lock`, which stays.
"""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

from saunet.errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None
    import msvcrt

NAME = ".lock"


@contextmanager
def lock_folder(folder, *, wait=False):
    """Keeps other runs out of an existing folder.

    Args:
        folder: its path.
        wait: for a run that holds it, instead of an error (on Windows ten seconds).

    Raises:
        InputError: another run holds it.
    """
    if fcntl:
        handle = os.open(folder, os.O_RDONLY)
    else:
        handle = os.open(Path(folder) / NAME, os.O_RDWR | os.O_CREAT)
    try:
        try:
            if fcntl:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            else:
                mode = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK
                msvcrt.locking(handle, mode, 1)
        except (BlockingIOError, PermissionError) as error:
            raise InputError(
                f"{folder}: another run writes to it: wait for its end, or choose "
                "another folder with --out"
            ) from error
        except OSError as error:
            # What Windows says after its ten seconds; else a file system without locks.
            if not fcntl and error.errno == errno.EDEADLOCK:
                raise InputError(
                    f"{folder}: another run still writes to it: wait for its end"
                ) from error
        yield
    finally:
        os.close(handle)
