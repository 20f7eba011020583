"""Photographs to vessel maps, from files to files, however many there are."""

import contextlib
import os
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from saunet import __version__, viz
from saunet.data.buckets import is_uri
from saunet.data.images import part_of, read_image, writable_folder, write_png
from saunet.data.listing import find_places, real_path
from saunet.data.lock import lock_folder
from saunet.data.manifest import Manifest, results_of, state_of
from saunet.errors import InputError, first_of
from saunet.inference import checked_threshold

# Photographs in memory beside the one that the network sees.
READ_AHEAD = 2
WRITERS = 2


def predict_files(
    segmenter,
    inputs,
    out_dir,
    *,
    threshold=None,
    views=1,
    tile=None,
    scale=None,
    zero_outside=False,
    progress=False,
):
    """Segments photographs and writes three pictures for each.

    `<stem>_prob.png` is the probability in 16 bits (65535 is 1), `<stem>_mask.png`
    is 255 where it is above the threshold and else 0, `<stem>_overlay.png` is the
    photograph with the vessels drawn on it; those of a folder's sub-folders in
    sub-folders of the same names. `manifest.csv` gets a row for each. A photograph
    that the same settings have segmented already, and that has not changed since, is
    not done again. A file that cannot be read is skipped, unless none can be.

    Files are read and written by threads while the network computes; a fixed number
    of photographs is in memory, however many there are.

    Args:
        segmenter: a `Segmenter`.
        inputs: as in `find_images`.
        out_dir: folder to write to; made if need be.
        threshold: the segmenter's own unless given.
        views: as in `Segmenter.predict`.
        tile: likewise.
        scale: likewise; by default "auto" where the segmenter knows the diameter of
            its training images' field of view, else 1.
        zero_outside: likewise.
        progress: show a bar on stderr.

    Returns:
        `{"written": [folder and stem], "unchanged": number of photographs done
        before, "skipped": {path: reason}, "ignored": number of files in the folders
        that are no images}`.

    Raises:
        InputError: nothing to read, nowhere to write, another run that writes there,
            two photographs (or a photograph and a result) that would share a file, or
            a file in the way that is no result of a run. Said before computing.
    """
    plan = plan_files(
        segmenter,
        inputs,
        out_dir,
        threshold=threshold,
        views=views,
        tile=tile,
        scale=scale,
        zero_outside=zero_outside,
    )
    outcomes = segment_files(
        segmenter,
        plan.todo,
        plan.out_dir,
        plan.threshold,
        plan.options,
        begin=plan.manifest.begin,
    )
    return plan.note(outcomes, progress=progress)


@dataclass(frozen=True)
class Plan:
    """What a run over files has to do, and where it notes what it did.

    Attributes:
        out_dir: path of the folder of the results.
        manifest: the `Manifest` in it.
        settings: str, everything that decides a result.
        threshold: float.
        options: dict, the options of `Segmenter.predict`.
        todo: list of (path, folder and stem of the result).
        unchanged: number of photographs that are done already.
        ignored: number of files in the folders that are no images.
    """

    out_dir: Path
    manifest: Manifest
    settings: str
    threshold: float
    options: dict
    todo: list
    unchanged: int
    ignored: int

    def note(self, outcomes, *, elsewhere=False, progress=False):
        """Gives each photograph a row of the manifest, as it is done.

        Args:
            outcomes: iterable of what `segment_files` yields.
            elsewhere: other machines write the files, and cannot say when each begins.
            progress: show a bar on stderr.

        Returns:
            As `predict_files`.

        Raises:
            InputError: no photograph could be read, now or before, or another run
                writes to the folder.
        """
        written, skipped = [], {}
        with lock_folder(self.out_dir), _progress_bar(progress) as bar:
            if self.todo:
                known = self.manifest.rows.copy()
                self.manifest.read()  # another run may have ended since the plan
                if self.manifest.rows != known:
                    _refuse_taken(self.todo, self.out_dir, self.manifest)
                    self._refuse_redone(known)
                self.manifest.rewrite(begun=self.todo if elsewhere else ())
            task = bar.add_task("segmenting", total=len(self.todo))
            for path, place, state, seconds, reason in outcomes:
                self.manifest.append(
                    place, path, state, self.settings, seconds=seconds, reason=reason
                )
                if reason:
                    skipped[path] = reason
                else:
                    written.append(place)
                bar.advance(task)
            if self.todo:
                self.manifest.rewrite()  # without the rows of what was begun
        if not written and not self.unchanged:
            raise InputError(first_of(skipped.values()))
        return {
            "written": written,
            "unchanged": self.unchanged,
            "skipped": skipped,
            "ignored": self.ignored,
        }

    def _refuse_redone(self, known):
        """Raises InputError where what was done is done otherwise meanwhile."""
        now = self.manifest.rows
        for place, row in known.items():
            ours = row["status"] == "done" and row["settings"] == self.settings
            if ours and now.get(place) != row:
                raise InputError(
                    f"{self.out_dir}: another run has written {place} since this one "
                    "looked: the same command again goes on"
                )


def plan_files(
    segmenter,
    inputs,
    out_dir,
    *,
    threshold=None,
    views=1,
    tile=None,
    scale=None,
    zero_outside=False,
):
    """Returns the `Plan` of `predict_files`, which has the same arguments.

    Raises:
        InputError: as `predict_files`.
    """
    threshold = segmenter.threshold if threshold is None else threshold
    threshold = checked_threshold(threshold)
    if scale is None:
        scale = "auto" if segmenter.fov_diameter else 1
    options = {
        "views": views,
        "tile": tile,
        "scale": scale,
        "zero_outside": zero_outside,
    }
    segmenter.check_options(**options)
    if scale == 1:
        options["scale"] = 1  # 1.0 is the same setting
    if is_uri(out_dir):
        raise InputError(
            f"{out_dir}: results go to a folder, not to a bucket: choose one with "
            f"--out, and copy it afterwards"
        )
    out_dir = Path(out_dir)
    manifest = Manifest(out_dir)
    results = {*manifest.results(), manifest.path.resolve()}
    photographs, ignored = find_places(inputs, out_dir, results)
    # One may be named twice.
    named = {(real_path(path), place): path for path, place in photographs}
    photographs = [(path, place) for (_, place), path in named.items()]
    if not photographs:
        raise InputError("no photograph to segment: give files or folders")
    _refuse_collisions(photographs, out_dir, manifest)
    writable_folder(out_dir)
    settings = run_settings(segmenter, threshold=threshold, **options)
    todo = [
        (path, place)
        for path, place in photographs
        if not (
            manifest.is_done(place, path, settings)
            and all(_is_whole(p) for p in results_of(out_dir, place).values())
        )
    ]
    return Plan(
        out_dir=out_dir,
        manifest=manifest,
        settings=settings,
        threshold=threshold,
        options=options,
        todo=todo,
        unchanged=len(photographs) - len(todo),
        ignored=ignored,
    )


def segment_files(
    segmenter, photographs, out_dir, threshold, options, *, begin=lambda *file: None
):
    """Reads, segments and writes photographs, with threads around.

    In order, but for one that fails: it is told of at once.

    Args:
        segmenter: a `Segmenter`.
        photographs: list of (path, folder and stem of the result).
        out_dir: path of the folder of the results.
        threshold: float.
        options: dict, the options of `Segmenter.predict`.
        begin: function of a path, and folder and stem, called before its files change.

    Yields:
        (path, folder and stem, state, seconds of computing, "") once a photograph's
        files are whole, with its `state_of` before it was read; (path, folder and
        stem, state, None, reason) for one that fails.

    Raises:
        InputError: the segmenter's engine cannot be made here, or a result not written.
    """

    def write(results, image, probability):
        mask = (probability > threshold).astype(np.uint8)
        pictures = {
            "prob": np.round(probability * 65535).astype(np.uint16),
            "mask": mask * np.uint8(255),
            "overlay": viz.overlay(image, mask),
        }
        for kind, picture in pictures.items():
            write_png(results[kind], picture)

    if photographs:
        _ = segmenter.engine  # where it cannot be made, no photograph is at fault
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(WRITERS) as writer:
        being_written = deque()
        for (path, place, state), reading in _ahead(reader, read_image, photographs):
            try:
                image = reading.result()
                results = _make_room(results_of(out_dir, place))
                started = time.perf_counter()
                probability = segmenter.predict(image, **options)
            except InputError as error:
                # The file's name is in the reader's message, not in the network's.
                named = str(path) in str(error)
                reason = str(error) if named else f"{path}: {error}"
                yield path, place, state, None, reason
                continue
            seconds = time.perf_counter() - started
            begin(path, place)
            writing = writer.submit(write, results, image, probability)
            being_written.append(((path, place, state, seconds, ""), writing))
            if len(being_written) > WRITERS:
                yield _whole(*being_written.popleft())
        while being_written:
            yield _whole(*being_written.popleft())


def _make_room(results):
    """Returns a photograph's results, once their folder is there to be written to.

    Raises:
        InputError: it cannot be made, or the photograph's name is too long.
    """
    longest = results["overlay"]
    try:
        longest.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.stat(part_of(longest))
    except OSError as error:
        raise InputError(
            f"{longest}: cannot be written ({error.strerror}): rename the photograph, "
            f"or what stands in its way"
        ) from error
    return results


def _whole(outcome, writing):
    writing.result()
    return outcome


def _ahead(pool, function, photographs):
    """Yields ((path, place, state), future of function(path)), some begun early."""
    begun = deque()
    for path, place in photographs:
        begun.append(((path, place, state_of(path)), pool.submit(function, path)))
        if len(begun) > READ_AHEAD:
            yield begun.popleft()
    yield from begun


def run_settings(segmenter, **options):
    """Returns one line that says everything that decides a result."""
    words = [f"{name}={value}" for name, value in sorted(options.items())]
    return " ".join([f"saunet={__version__}", segmenter.fingerprint, *words])


def _progress_bar(shown):
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


class _Rate(ProgressColumn):
    """How many photographs a second."""

    def render(self, task):
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f}/s")


def _is_whole(path):
    """Returns whether a result is there; after a loss of power one may be empty.

    Asking for it each time costs less than `fsync` of each picture, by which small
    photographs took twice as long.
    """
    return path.is_file() and path.stat().st_size > 0


def _refuse_collisions(photographs, out_dir, manifest):
    # On Windows A.png and a.png are one file.
    places = Counter(os.path.normcase(place) for _, place in photographs)
    for place, count in places.items():
        if count > 1:
            twins = ", ".join(
                str(p) for p, other in photographs if os.path.normcase(other) == place
            )
            raise InputError(
                f"{twins} would all be written to {place}_*.png: rename them or run "
                f"them into different folders"
            )
    results = {
        path.resolve()
        for _, place in photographs
        for path in results_of(out_dir, place).values()
    }
    for path, _ in photographs:
        if real_path(path) in results:
            raise InputError(
                f"{path} would be overwritten by a result: choose another folder "
                f"with --out"
            )
    _refuse_taken(photographs, out_dir, manifest)


def _refuse_taken(photographs, out_dir, manifest):
    """Raises InputError where a result would take the place of what is not its own."""
    for path, place in photographs:
        other = manifest.other_photograph(place, path)
        if other is not None:
            raise InputError(
                f"{out_dir / place}_*.png are the results of {other}, {path} is "
                f"another photograph: choose another folder with --out"
            )
        for result in results_of(out_dir, place).values():
            # An empty one is what a loss of power leaves.
            there = os.path.lexists(result) and _is_whole(result)
            if there and not manifest.claims(place):
                raise InputError(
                    f"{result} is no result of a run (by {manifest.path}), and would "
                    f"be overwritten: move it, or choose another folder with --out"
                )
