"""Photographs to files on many machines: `predict_files` as a pipeline of Ray Data.

Ray moves the work and does again what a dead worker had in hand. Here is only what a
worker does, with the code of `saunet.folders`, and that each photograph gets one row
of the manifest, which this process alone writes.
"""

import contextlib
import logging
import os
import pickle
import socket
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

from saunet.errors import InputError, RunError, need
from saunet.folders import plan_files, run_settings, segment_files
from saunet.quiet import quiet_stderr

# Cores of a worker without a GPU.
CORES = 2

# Photographs of a task. A dead worker's task is done again from its first one, and a
# pipeline of a million tasks would keep this process busy.
BLOCK = 16

# How often a task is done again. What kills its worker each time is found by the second
# round, in which each photograph is a task of its own.
RETRIES = 2

SECONDS = 5  # to answer at an address


def predict_on_cluster(
    load,
    inputs,
    out_dir,
    *,
    address="auto",
    workers=None,
    threads=None,
    progress=False,
    **options,
):
    """Segments photographs on the workers of a Ray cluster, as `predict_files` does.

    The files are the same, and so is `manifest.csv`: each photograph gets one row,
    once its files are whole. What a worker had in hand when it died is done again; a
    photograph that kills three workers gets the row of one that failed. The folders
    must have the same names on all machines.

    A process that is connected to Ray already keeps its cluster; else the connection
    is made and closed here.

    Args:
        load: function of `threads` that returns a `Segmenter`, called once by each
            worker and once here, where no GPU is used; it is pickled.
        inputs: as in `predict_files`.
        out_dir: likewise; on a file system that all machines share.
        address: "auto" (of `RAY_ADDRESS`; else of what `ray start` started on this
            machine; else Ray is started on this machine), "HOST:PORT" or
            "ray://HOST:10001".
        workers: their number. By default one a GPU, or on a cluster without GPUs one
            to two cores.
        threads: CPU threads of a worker; by default as many as it has cores.
        progress: as in `predict_files`.
        **options: likewise, `threshold`, `views`, `tile`, `scale`, `zero_outside`.

    Returns:
        As `predict_files`.

    Raises:
        InputError: as `predict_files`; nothing answers at the address, Ray is not
            installed, or a worker does not see `out_dir` or has other weights or
            another version.
        RunError: workers cannot start.
    """
    _need_ray()
    address = _reachable(address)
    with _no_gpu():
        plan = plan_files(load(threads=threads), inputs, out_dir, **options)
    if not plan.todo:
        return plan.note([])
    with _connected(address), _one_line():
        worker = {
            "load": load,
            "folder": os.getcwd(),
            "out_dir": plan.out_dir.absolute(),
            "settings": plan.settings,
            "threshold": plan.threshold,
            "options": plan.options,
            "threads": threads,
        }
        outcomes = _outcomes(plan.todo, worker, _share(workers))
        with contextlib.closing(outcomes):
            return plan.note(outcomes, elsewhere=True, progress=progress)


def _outcomes(todo, worker, share):
    """Yields what `segment_files` does, of each photograph once, as it is done."""
    from ray.util.client import ray as client

    stream = _stream_there if client.is_connected() else _stream
    waiting = {place: path for path, place in todo}
    for block, ahead in ((BLOCK, 2), (1, 1)):
        if not waiting:
            return
        rows = [pickle.dumps((path, place)) for place, path in waiting.items()]
        for row in stream(rows, worker, share, block, ahead):
            outcome = pickle.loads(row)
            if isinstance(outcome, Exception):
                raise outcome
            path = waiting.pop(outcome[0], None)
            if path is not None:  # else a task that was done again
                yield path, *outcome
    for place, path in waiting.items():
        reason = f"{path}: its worker died, each time it was tried"
        yield path, place, ("", ""), None, reason


def _stream(rows, worker, share, block, ahead):
    """Yields the rows that the workers return, as Ray Data gets them."""
    import ray

    size = max(1, min(block, len(rows) // (4 * share.workers)))
    tasks = -(-len(rows) // size)
    data = ray.data.from_items(
        [{"photograph": row} for row in rows], override_num_blocks=tasks
    )
    # These are of this pipeline alone.
    data.context.enable_progress_bars = False
    data.context.target_max_block_size = 1  # bytes: a row is sent when it is there
    data.context.max_errored_blocks = -1  # a task that fails for good ends no run
    with warnings.catch_warnings():
        # Ray 2.60 has no other way yet to say how often a task is done again.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        data = data.map_batches(
            _Worker,
            fn_constructor_kwargs={**worker, "cores": share.cores},
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(
                size=min(share.workers, tasks), max_tasks_in_flight_per_actor=ahead
            ),
            num_cpus=None if share.gpus else share.cores,
            num_gpus=share.gpus or None,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
    for row in data.iter_rows():
        yield row["outcome"]


def _stream_there(*words):
    """As `_stream`, for `ray://`, whose client cannot run a pipeline by itself."""
    import ray

    pipeline = ray.remote(num_cpus=0)(_Pipeline).remote(*words)
    while (row := ray.get(pipeline.next.remote())) is not None:
        yield row


class _Pipeline:
    """A pipeline in a process of the cluster."""

    def __init__(self, *words):
        self.rows = _stream(*words)

    def next(self):
        return next(self.rows, None)


class _Worker:
    """What an actor of Ray Data is: a warm segmenter and its share of the photographs.

    What goes wrong is sent back as a result, because Ray passes over exceptions here.
    """

    def __init__(
        self, load, folder, out_dir, settings, threshold, options, threads, cores
    ):
        threads = threads or cores
        # Read by TensorFlow, if it is the engine, when it first computes.
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
        self.out_dir, self.threshold, self.options = out_dir, threshold, options
        self.host = socket.gethostname()
        self.error = None
        with contextlib.suppress(OSError):
            os.chdir(folder)  # relative paths are those of the command line
        try:
            self.segmenter = load(threads=threads)
            self._check(settings)
        except Exception as error:
            self.error = _portable(error, self.host)

    def _check(self, settings):
        if not (self.out_dir / "manifest.csv").is_file():
            raise InputError(
                f"{self.out_dir} is not there: expected a folder that all machines "
                f"share; choose another with --out"
            )
        own = run_settings(self.segmenter, threshold=self.threshold, **self.options)
        if own != settings:
            raise InputError(
                f"its settings are {own}, expected {settings}: install the same "
                f"saunet and put the same weights on all machines"
            )

    def __call__(self, batch):
        """Yields a row for each photograph, as soon as its files are whole."""
        if self.error is not None:
            yield _row(self.error)
            return
        photographs = [pickle.loads(row) for row in batch["photograph"]]
        try:
            for _, place, state, seconds, reason in segment_files(
                self.segmenter, photographs, self.out_dir, self.threshold, self.options
            ):
                reason = reason and f"{reason} (on {self.host})"
                yield _row((place, state, seconds, reason))
        except Exception as error:
            yield _row(_portable(error, self.host))


def _row(outcome):
    return {"outcome": [pickle.dumps(outcome)]}


def _portable(error, host):
    """Returns an exception that says where it was, and that any process can raise."""
    if isinstance(error, InputError):
        return InputError(f"worker on {host}: {error}")
    return RuntimeError(f"worker on {host}: {traceback.format_exc()}")


class _Share(NamedTuple):
    """How a cluster is shared out: the number of workers, and what each one has."""

    workers: int
    cores: int
    gpus: int


def _share(workers):
    """Returns the `_Share` of what the cluster has now."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus:
        return _Share(min(workers or gpus, gpus), cores=1, gpus=1)
    nodes = [int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]]
    if not any(nodes):
        raise InputError(
            "the cluster has no CPU and no GPU: add a machine that has by `ray start "
            "--address HOST:PORT`, or choose another cluster with --cluster"
        )
    cores = min(CORES, max(nodes))
    if workers is not None:  # as many cores as let all of them find a machine
        fitting = (c for c in range(max(nodes), 0, -1) if _fit(nodes, c) >= workers)
        cores = next(fitting, 1)
    return _Share(min(workers or _fit(nodes, cores), _fit(nodes, cores)), cores, 0)


def _fit(nodes, cores):
    return sum(node // cores for node in nodes)


def _need_ray():
    """Imports Ray Data, whose own messages would hide the bar; `InputError` without."""
    for package in ("ray", "pandas", "pyarrow"):  # Ray alone brings not all of these
        need(package, "cluster", "a cluster")
    import ray.data  # noqa: F401

    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the other writes Ray's log
            handler.setLevel(logging.CRITICAL)


def _reachable(address):
    """Returns the address for Ray, `None` for its own choice; `InputError` if dead."""
    import ray

    if ray.is_initialized():
        return None
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address == "local":
        return address
    if address == "auto":
        # Of a Ray that crashed, too; and then Ray would wait for minutes.
        known = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")
        try:
            _knock(known.read_text())
        except (OSError, ValueError):
            return "local" if known.exists() else None
        return None
    try:
        _knock(address)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--cluster {address}: nothing answers ({error}): expected auto, HOST:PORT "
            f"or ray://HOST:10001; start a cluster by `ray start --head`"
        ) from error
    return address


def _knock(address):
    host, _, port = address.strip().rpartition("//")[2].partition(":")
    socket.create_connection((host, int(port)), SECONDS).close()


@contextlib.contextmanager
def _connected(address):
    """Connects to a cluster, or starts Ray here, for as long as the context lasts."""
    import ray

    # Ray prints the deaths of workers to stdout, where --json has its place.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        if ray.is_initialized():
            yield
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells its makers
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            with quiet_stderr():  # it tells that it shall say less
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"--cluster {address or 'auto'}: Ray cannot connect "
                f"({_last_line(error)}): expected one of the same versions of Ray and "
                f"Python; if it wants a token, set RAY_AUTH_MODE=token"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _one_line():
    """Says in one line that Ray gave up, of which it says many."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise RunError(
            f"the workers cannot go on ({_last_line(error)}): is the same saunet "
            f"installed on all machines? What is done is kept"
        ) from error


@contextlib.contextmanager
def _no_gpu():
    """Hides the GPUs, whose memory a framework would take, from this process."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _last_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip(". ")
