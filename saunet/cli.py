"""The command line: each verb parses, calls one function elsewhere, and prints.

Whatever needs a deep-learning framework is imported inside its verb, so that
`saunet --help`, `saunet score` and `saunet doctor` answer at once.
"""

import argparse
import ast
import dataclasses
import difflib
import functools
import inspect
import json
import os
import sys
from pathlib import Path

from saunet import __version__
from saunet.errors import InputError, RunError
from saunet.quiet import load_framework, track

SYNTHETIC_SEEDS = {"train": range(8), "test": range(100, 103)}
DEMO_WEIGHTS = "sa_unet_v2_drive"
THRESHOLD = "a vessel is above it (default: 0.5)"
CARD_THRESHOLD = "a vessel is above it (default: the card's, else 0.5)"


def main(argv=None):
    """Runs one command and returns its exit status.

    0: done; 2: bad input; 1: a training had to end; 130: interrupted.

    Args:
        argv: list of str; the process's own arguments by default.
    """
    _open_streams()
    by_argparse = False
    try:
        status = _status(argv)
    except SystemExit as ended:
        status, by_argparse = ended.code, True
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would flush stdout once more while it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            status = status or _complain(error.strerror)
    except KeyboardInterrupt:  # once more
        status = 130
    if by_argparse:
        raise SystemExit(status)
    return status


def _status(argv):
    try:
        args = _parser().parse_args(argv)
        return args.verb(args) or 0
    except InputError as error:
        return _complain(error)
    except RunError as error:
        return _complain(error, status=1)
    except BrokenPipeError:
        return 0  # `saunet models | head -1`: the reader has what it wanted
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror or error}")
    except KeyboardInterrupt:
        print("saunet: interrupted", file=sys.stderr)
        return 130


def _open_streams():
    """Makes stdout take a file name of any bytes, and a closed one take all."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # `<&-`, `>&-`: the lowest free number is this one
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # `>&-`
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _complain(message, status=2):
    print("saunet: error:", " ".join(str(message).splitlines()), file=sys.stderr)
    return status


# The verbs: their first line is their help.


def models(args):
    """List the networks: paper, parameters, GFLOPs.

    GFLOPs are those of one image of 592 x 592 pixels.
    """
    from saunet.facts import FACTS

    if args.json:
        return _print_json({name: facts._asdict() for name, facts in FACTS.items()})
    rows = [
        (name, facts.paper, f"{facts.total:,}", f"{facts.gflops:,.1f}")
        for name, facts in FACTS.items()
    ]
    _print_table(("model", "paper", "parameters", "GFLOPs"), rows)


def summary(args):
    """Count a network's parameters and operations.

    Operations as keras-flops counts them: a multiply-add is 2.
    """
    load_framework()
    from saunet.models import build_model
    from saunet.profiling import count_flops, count_parameters

    model = build_model(args.model)
    facts = {
        "model": args.model,
        **count_parameters(model),
        "gflops": round(count_flops(model, (*args.input_size, 3)) / 1e9, 3),
        "input_size": args.input_size,
    }
    if args.json:
        return _print_json(facts)
    facts["gflops"] = f"{facts['gflops']:,}"
    facts["input_size"] = "{} x {}".format(*args.input_size)
    _print_table(("", facts.pop("model")), facts.items())


def benchmark(args):
    """Time a network here, on every installed engine."""
    load_framework()
    from saunet.models import build_model
    from saunet.profiling import compare_engines

    shape = (*args.input_size, 3)
    rows = compare_engines(
        build_model(args.model),
        shape,
        batch=args.batch,
        runs=args.runs,
        progress=_show_progress(args),
    )
    if args.json:
        return _print_json(rows)
    height, width = args.input_size
    print(f"{args.model}, {args.batch} x {height} x {width} pixels, in turns, medians")
    header = ("engine", "precision", "ms", "images/s", "speedup", "of limit", "diff")
    cells = [
        (
            *(row["engine"], row["precision"]),
            *(f"{row['milliseconds']:.1f}", f"{row['images_per_second']:.1f}"),
            *(f"{row['speedup']:.2f}", f"{row['of_limit']:.2f}"),
            f"{row['difference']:.0e}",
        )
        for row in rows
    ]
    _print_table(header, cells)
    print(
        "of limit: over the time of the arithmetic alone, at the speed of a float32\n"
        "matrix product here; diff: largest difference from the first row"
    )


def train(args):
    """Train a network on a dataset.

    The run folder holds the recipe, a log and the weights; a killed run goes on
    with --resume.
    """
    load_framework()
    from saunet.training import train

    recipe, samples = _recipe(args), _samples(args, "train")
    progress = not (args.quiet or args.json)  # Keras prints it on stdout
    try:
        train(
            recipe,
            samples,
            args.out,
            resume=args.resume,
            progress=progress,
            devices=args.devices,
        )
    except BrokenPipeError as error:
        raise RunError(f"nothing reads stdout any more{_goes_on(args)}") from error
    except KeyboardInterrupt:
        print(f"saunet: interrupted{_goes_on(args)}", file=sys.stderr)
        return 130
    which = "best" if recipe.validation else "last"
    weights = str(Path(args.out) / f"{which}.weights.h5")
    line = f"{weights}: use it by --weights {args.out}"
    _print_done(args, {"weights": weights}, line)


def _goes_on(args):
    """Returns how a training that ended goes on, if it had begun."""
    if not (Path(args.out) / "run.json").is_file():
        return ""
    return "; every whole epoch is kept, and the same command with --resume goes on"


def predict(args):
    """Segment photographs: probability, mask, overlay.

    Of each photograph <stem>_prob.png (16 bits, 65535 is 1), <stem>_mask.png (0 or
    255) and <stem>_overlay.png are written, and in manifest.csv a row. What the
    manifest says was done with the same settings is not done again.
    """
    load_framework()
    from saunet.folders import predict_files
    from saunet.inference import load_segmenter

    options = {
        "threshold": args.threshold,
        "views": 8 if args.tta else 1,
        "tile": args.tile,
        "scale": args.scale,
        "zero_outside": args.zero_outside,
        "progress": _show_progress(args),
    }
    engine = _engine(args)
    if args.cluster is None:
        if args.workers is not None:
            raise InputError(
                f"--workers {args.workers} is of a cluster: add --cluster auto"
            )
        segmenter = load_segmenter(
            args.weights, args.model, placement=args.padding, **engine
        )
        result = predict_files(segmenter, args.inputs, args.out, **options)
    else:
        from saunet.cluster import predict_on_cluster

        options |= {"address": args.cluster, "workers": args.workers}
        options["threads"] = engine.pop("threads")
        load = functools.partial(
            load_segmenter,
            args.weights,
            args.model,
            placement=args.padding,
            **engine,
        )
        result = predict_on_cluster(load, args.inputs, args.out, **options)
    line = f"{_number(len(result['written']), 'photograph')} segmented into {args.out}"
    if result["unchanged"]:
        line += f", {result['unchanged']} done before"
    if result["ignored"]:
        line += f", {_number(result['ignored'], 'other file')} ignored"
    result["skipped"] = {str(path): why for path, why in result["skipped"].items()}
    _print_done(args, result, line)
    return _report_skipped(args, result["skipped"])


def convert(args):
    """Write weights for Keras 3 or Keras 2."""
    load_framework()
    from saunet.inference import load_segmenter, network_of
    from saunet.weights import save_weights

    model = network_of(load_segmenter(args.weights, args.model))
    file_format = save_weights(model, args.out, file_format=args.format)
    line = f"{args.out} written, {file_format} format"
    _print_done(args, {"written": args.out, "format": file_format}, line)


def export(args):
    """Write a network as ONNX, OpenVINO, LiteRT, SavedModel."""
    load_framework()
    from saunet.export import check_export, format_of
    from saunet.inference import export_segmenter, load_segmenter

    file_format = args.format or format_of(args.out)
    check_export(args.out, file_format, calibrated=args.int8 is not None)
    segmenter = load_segmenter(args.weights, args.model, placement=args.padding)
    difference = export_segmenter(
        segmenter,
        args.out,
        file_format,
        calibration=args.int8,
        seen=_seen_images(args.weights),
    )
    checked = "not checked: what runs it is not installed"
    if difference is not None:
        checked = f"at most {difference:.1g} from Keras on a drawn photograph"
    facts = {"written": args.out, "format": file_format, "difference": difference}
    _print_done(args, facts, f"{args.out} written, {file_format} format; {checked}")


def evaluate(args):
    """Score weights on a dataset's images."""
    load_framework()
    from saunet import evaluation
    from saunet.inference import load_segmenter

    segmenter = load_segmenter(
        args.weights, args.model, placement=args.padding, **_engine(args)
    )
    options = {
        "views": 8 if args.tta else 1,
        "scale": 1 if args.scale is None else args.scale,
    }
    options["tile"] = args.tile
    segmenter.check_options(**options)
    samples = _samples(args, args.split)
    _refuse_seen(args.weights, args, samples)
    shown = track(samples, "segmenting", _show_progress(args))
    given = args.threshold is not None
    result = evaluation.evaluate(
        (segmenter.predict(sample.image, **options) for sample in shown),
        samples,
        region=args.region,
        pooling=args.pooling,
        threshold=args.threshold if given else segmenter.threshold,
    )
    special = {name: v for name, v in options.items() if v not in (None, 1)}
    if args.fold is not None:
        special["fold"] = args.fold
    if args.precision != "float32":
        special["computed_in"] = args.precision
    if args.padding:
        special["padding"] = args.padding
    if args.region == "fov" and any(s.fov_source == "estimated" for s in samples):
        special["fov"] = "estimated"
    title = f"{segmenter.name} on {_dataset_title(args)}"
    used = {name.replace("_", " "): value for name, value in special.items()}
    title += "".join(f", {name} {value}" for name, value in used.items())
    _print_scores({**special, **result}, title, args.json)


def score(args):
    """Score the maps in a folder against the truth.

    Files are paired by one name, or by what both names begin with, up to the first
    number: 01_test.png and 01_manual1.gif are image 01.
    """
    from saunet.evaluation import score_folders

    result = score_folders(
        args.predictions,
        args.truth,
        args.fov,
        region=args.region,
        pooling=args.pooling,
        threshold=args.threshold,
    )
    _print_scores(result, args.predictions, args.json)


def report(args):
    """Write one HTML page about a run or a folder of maps."""
    from saunet.report import check_out, is_run, maps_page, run_page, write_page

    run = is_run(args.folder)
    out = check_out(args.out or Path(args.folder) / "report.html")
    protocol = {"region": args.region, "pooling": args.pooling or "pooled"}
    protocol["threshold"] = 0.5 if args.threshold is None else args.threshold
    if run:
        _refuse(args, ("truth", "fov", "images"), "is a training run: use --dataset")
        if args.dataset is None:
            unused = ("data_dir", "fold", "split", "region", "pooling", "threshold")
            _refuse(args, unused, "is not scored: add --dataset")
        samples = None
        if args.dataset is not None:
            load_framework()
            args.split = args.split or "test"
            samples = _samples(args, args.split)
            _refuse_seen(args.folder, args, samples)
        html = run_page(
            args.folder,
            samples,
            about=_dataset_title(args),
            **protocol,
            progress=_show_progress(args),
        )
    else:
        of_a_run = ("dataset", "data_dir", "fold", "split")
        _refuse(args, of_a_run, "holds maps: use --truth")
        if args.truth is None:
            _refuse(args, ("region", "pooling"), "is not scored: add --truth")
        html = maps_page(
            args.folder,
            truth=args.truth,
            fov=args.fov,
            images=args.images,
            **protocol,
        )
    size = write_page(html, out)
    facts = {"written": str(out), "bytes": size}
    _print_done(args, facts, f"{out} written, {size / 1e6:.1f} MB")


def measure(args):
    """Measure vessels: density, calibre, tortuosity.

    One row a mask, in a CSV file.
    """
    from saunet.machine import count_cores
    from saunet.measures import measure_files

    result = measure_files(
        args.inputs,
        args.out,
        args.fov,
        micrometres_per_pixel=args.scale,
        workers=args.workers or count_cores(),
        progress=_show_progress(args),
    )
    line = f"{_number(len(result['images']), 'mask')} measured into {args.out}"
    _print_done(args, result, line)
    for warning in result["warnings"]:
        print(f"saunet: warning: {warning}", file=sys.stderr)
    return _report_skipped(args, result["skipped"])


def demo(args):
    """Segment drawn photographs and score the maps."""
    load_framework()
    from saunet.data.images import writable_folder, write_png
    from saunet.evaluation import evaluate, read_probability
    from saunet.folders import predict_files
    from saunet.inference import load_pretrained
    from saunet.viz import error_map, panel

    segmenter, folder = load_pretrained(DEMO_WEIGHTS), writable_folder(args.out)
    samples = _synthetic("test")
    photographs = [folder / f"{sample.name}.png" for sample in samples]
    errors = [folder / f"{sample.name}_errors.png" for sample in samples]
    _refuse_others(folder, samples, photographs, [*errors, folder / "panel.png"])
    for path, sample in zip(photographs, samples, strict=True):
        write_png(path, sample.image)
    predict_files(segmenter, photographs, folder, progress=_show_progress(args))
    maps = [read_probability(folder / f"{s.name}_prob.png") for s in samples]
    rows = []
    for sample, probability, path in zip(samples, maps, errors, strict=True):
        vessels = probability > segmenter.threshold
        picture = error_map(vessels, sample.vessels, sample.fov)
        write_png(path, picture)
        rows.append([sample.image, sample.vessels, probability, picture])
    titles = ["photograph", "true vessels", "probability", "found, false, missed"]
    panel(rows, titles, folder / "panel.png")
    result = evaluate(
        maps, samples, region="fov", pooling="pooled", threshold=segmenter.threshold
    )
    _print_scores(result, f"{segmenter.name} on synthetic photographs", args.json)
    if not (args.json or args.quiet):
        print(f"photographs, maps and errors are in {folder}; panel.png shows all")


def _refuse_others(folder, samples, photographs, more):
    """Raises InputError where a demo would overwrite what is of no demo."""
    import numpy as np

    from saunet.data.images import read_image
    from saunet.data.manifest import Manifest

    done = {sample.name for sample in samples} <= Manifest(folder).rows.keys()
    others = [] if done else [path for path in more if path.exists()]
    for path, sample in zip(photographs, samples, strict=True):
        if path.exists() and not np.array_equal(read_image(path), sample.image):
            others.append(path)
    if others:
        raise InputError(
            f"{others[0]} exists, and would be overwritten: choose another folder with "
            "--out"
        )


def doctor(args):
    """Check a dataset's folder for what spoils a training.

    Files that are missing or unreadable, sizes that differ, labels that are not
    binary, pictures that occur twice. Of many alike three are named; --json has all.
    Exit status 2 if there is any.
    """
    from saunet.data.datasets import DATASETS, check_dataset, short_list
    from saunet.data.folder import check_folder

    _lookup("dataset", args.dataset, (*DATASETS, "folder"))
    if args.dataset == "folder":
        problems = check_folder(_data_dir(args))
    else:
        problems = check_dataset(args.dataset, _data_dir(args))
    facts = {"dataset": args.dataset, "problems": problems}
    _print_done(args, facts, "\n".join(short_list(problems) or ["no problems"]))
    return 2 if problems else 0


# Parsing.


class _PrintCompletion(argparse.Action):
    """Prints the completion script of a shell and exits."""

    def __call__(self, parser, namespace, shell, option_string=None):
        load_framework()
        from saunet.completion import completion_script

        print(completion_script(parser, shell))
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, like every other bad input's."""

    def error(self, message):
        raise InputError(f"{message}; see `{self.prog} --help`")


def _parser():
    parser = _Parser(
        prog="saunet",
        description="Retinal vessel segmentation: SA-UNet and its relatives.",
        epilog="`saunet COMMAND --help` shows a command's options.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"saunet {__version__}",
        help="show the version and exit",
    )
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        metavar="SHELL",
        help="print a script for bash, zsh or fish that completes commands with TAB",
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def verb(function):
        about = inspect.getdoc(function)
        line = about.partition("\n")[0]
        sub = verbs.add_parser(function.__name__, help=line, description=about)
        sub.set_defaults(verb=function, quiet=False)
        return sub

    _json_option(verb(models))

    sub = verb(summary)
    _network_options(sub, "pixels of the image they are counted for")
    _json_option(sub)

    sub = verb(benchmark)
    _network_options(sub, "pixels of an image")
    sub.add_argument(
        "--batch",
        type=_positive,
        default=1,
        metavar="N",
        help="images a call (default: 1)",
    )
    sub.add_argument(
        "--runs",
        type=_positive,
        default=7,
        metavar="N",
        help="timed calls of each engine (default: 7)",
    )
    _output_options(sub)

    sub = verb(train)
    sub.add_argument(
        "--model", metavar="M", help="see `saunet models` (default: the recipe's)"
    )
    _dataset_options(sub)
    sub.add_argument("--out", required=True, metavar="RUN", help="folder of the run")
    sub.add_argument(
        "--recipe",
        metavar="NAME",
        default="cpu",
        help="how to train: smoke (minutes), cpu (default), sa_unet_paper, ...; "
        "an unknown name lists all",
    )
    sub.add_argument(
        "--start-from",
        metavar="NAME_OR_H5",
        help="weights to begin with, and their network unless --model is given: a "
        "shipped name, a run's folder or an .h5 file (default: new ones)",
    )
    sub.add_argument(
        "--epochs",
        type=_positive,
        metavar="N",
        help="default: the recipe's; its stages become shorter or longer, too",
    )
    sub.add_argument(
        "--batch-size", type=_positive, metavar="N", help="default: the recipe's"
    )
    sub.add_argument("--seed", type=int, metavar="N", help="default: the recipe's")
    sub.add_argument(
        "--mixed-precision", action="store_true", help="multiply in bfloat16"
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of the recipe; may be repeated",
    )
    sub.add_argument("--resume", action="store_true", help="go on with a killed run")
    sub.add_argument(
        "--devices",
        choices=("one", "all"),
        default="one",
        help="all: each GPU of the machine takes its share of a batch",
    )
    _output_options(sub)

    sub = verb(predict)
    sub.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE_OR_FOLDER",
        help="photographs, folders or buckets (s3://...) of them, and lists: a .txt of "
        "paths, a .csv with a column photograph",
    )
    _weights_options(sub)
    _padding_option(sub)
    _engine_options(sub)
    sub.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    sub.add_argument(
        "--cluster",
        metavar="auto|ADDRESS",
        help="share the work out to the workers of a Ray cluster; auto: the one that "
        "runs here, else this machine's cores",
    )
    sub.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="of the cluster (default: one a GPU, else one to two cores)",
    )
    sub.add_argument("--threshold", type=float, metavar="T", help=CARD_THRESHOLD)
    _view_options(sub, scale_default="auto where the card says how wide")
    sub.add_argument(
        "--zero-outside",
        action="store_true",
        help="no vessel outside the field of view",
    )
    _output_options(sub)

    sub = verb(evaluate)
    _weights_options(sub)
    _padding_option(sub)
    _engine_options(sub)
    _view_options(sub, scale_default="none, the images as they are")
    _dataset_options(sub)
    _split_option(sub)
    _protocol_options(sub)
    sub.add_argument("--threshold", type=float, metavar="T", help=CARD_THRESHOLD)
    _output_options(sub)

    sub = verb(score)
    sub.add_argument(
        "--predictions", required=True, metavar="DIR", help="maps to be scored"
    )
    sub.add_argument("--truth", required=True, metavar="DIR", help="labels")
    sub.add_argument("--fov", metavar="DIR", help="masks of the field of view")
    _protocol_options(sub, required=True)
    sub.add_argument(
        "--threshold", type=float, metavar="T", default=0.5, help=THRESHOLD
    )
    _json_option(sub)

    sub = verb(report)
    sub.add_argument(
        "folder", metavar="RUN_OR_FOLDER", help="of `saunet train`, or vessel maps"
    )
    sub.add_argument("--out", metavar="FILE", help="default: report.html in the folder")
    maps = sub.add_argument_group("a folder of vessel maps")
    maps.add_argument("--truth", metavar="DIR", help="labels to score the maps by")
    maps.add_argument("--fov", metavar="DIR", help="masks of the field of view")
    maps.add_argument("--images", metavar="DIR", help="the photographs, to show them")
    run = sub.add_argument_group("a training run")
    _dataset_options(run, required=False)
    _split_option(run)
    _protocol_options(sub, region_default="fov where there are masks")
    # None, so is --threshold: not given, and refused where nothing is scored.
    sub.add_argument("--threshold", type=float, metavar="T", help=THRESHOLD)
    sub.set_defaults(region=None, pooling=None, split=None)
    _output_options(sub)

    sub = verb(measure)
    sub.add_argument(
        "inputs", nargs="+", metavar="MASK_OR_FOLDER", help="masks, and folders of them"
    )
    sub.add_argument("--fov", metavar="DIR", help="masks of the field of view")
    sub.add_argument(
        "--scale",
        type=float,
        metavar="UM_PER_PIXEL",
        help="micrometres a pixel is wide: lengths in micrometres, too",
    )
    sub.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="most processes side by side, one for 25 masks; default: one a core",
    )
    sub.add_argument("--out", required=True, metavar="FILE.csv", help="table to write")
    _output_options(sub)

    sub = verb(doctor)
    _dataset_options(sub, fold=False, synthetic=False)
    _json_option(sub)

    sub = verb(demo)
    sub.add_argument(
        "--out", default="demo", metavar="DIR", help="folder to write to; default: demo"
    )
    _output_options(sub)

    sub = verb(convert)
    _weights_options(sub, files="or an .h5 file")
    sub.add_argument("--out", required=True, metavar="FILE", help="file to write")
    sub.add_argument(
        "--format",
        choices=("keras", "legacy"),
        help="Keras 3's .weights.h5 (keras) or Keras 2's .h5 (legacy); default: as "
        "--out ends",
    )
    _output_options(sub)

    sub = verb(export)
    _weights_options(sub, files="or an .h5 file")
    _padding_option(sub)
    sub.add_argument(
        "--out", required=True, metavar="PATH", help="file or folder to write"
    )
    sub.add_argument(
        "--format",
        choices=("onnx", "openvino", "litert", "saved_model"),
        help=".onnx, .xml and .bin, .tflite, or a folder; default: as --out ends",
    )
    sub.add_argument(
        "--int8",
        nargs="+",
        metavar="IMAGE_OR_FOLDER",
        help="onnx: convolve 8-bit integers, scaled on these training images; eight do",
    )
    _output_options(sub)
    return parser


def _json_option(sub):
    sub.add_argument("--json", action="store_true", help="print JSON and nothing else")


def _weights_options(sub, *, files="an .h5 or exported .onnx file"):
    sub.add_argument(
        "--weights",
        required=True,
        metavar="NAME_OR_H5",
        help=f"a shipped name, a run or card's folder, {files}",
    )
    sub.add_argument(
        "--model", metavar="M", help="the network that an .h5 file belongs to"
    )


def _padding_option(sub):
    sub.add_argument(
        "--padding",
        choices=("centered", "bottom_right"),
        help="where an .h5 file's network saw photographs padded, such as bottom_right "
        "for the authors' SA-UNetv2 (default: centered)",
    )


def _engine_options(sub):
    sub.add_argument(
        "--engine",
        choices=("auto", "keras", "openvino", "onnxruntime"),
        default="auto",
        help="what computes (default: the fastest that is installed)",
    )
    sub.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16: faster, coarser (default: float32)",
    )
    sub.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="CPU threads of OpenVINO and ONNX Runtime (default: all)",
    )


def _engine(args):
    return {name: getattr(args, name) for name in ("engine", "precision", "threads")}


def _view_options(sub, *, scale_default):
    sub.add_argument(
        "--tta",
        action="store_true",
        help="mean over flips and quarter turns: 8 times slower",
    )
    sub.add_argument(
        "--scale",
        type=_scale,
        metavar="auto|none|FACTOR",
        help="scale what the network sees; auto: until the field of view is as wide as "
        f"in the training images (default: {scale_default})",
    )
    sub.add_argument(
        "--tile",
        type=_tile,
        metavar="whole|N",
        help="cut large photographs into tiles of N x N pixels (default: 592, from 1 "
        "megapixel on)",
    )


def _split_option(sub):
    sub.add_argument(
        "--split",
        choices=("test", "train", "all"),
        default="test",
        help="part of the dataset (default: test)",
    )


def _dataset_options(sub, *, fold=True, required=True, synthetic=True):
    sub.add_argument(
        "--dataset",
        required=required,
        metavar="D",
        help="drive, chase_db1, stare, "
        + ("synthetic, " if synthetic else "")
        + "or folder: DIR/images and DIR/vessels",
    )
    sub.add_argument("--data-dir", metavar="DIR", help="the dataset's folder")
    if fold:
        sub.add_argument(
            "--fold",
            type=int,
            metavar="N",
            help="stare: the fold that is the test part, 0 to 4 (default: 4)",
        )


def _protocol_options(sub, *, required=False, region_default="fov"):
    for option, choices, what, default in (
        ("--region", ("fov", "frame"), "the pixels that count", region_default),
        ("--pooling", ("pooled", "mean"), "one count of all, or a mean", "pooled"),
    ):
        if required:
            how = {"required": True, "help": what}
        else:
            how = {"default": choices[0], "help": f"{what} (default: {default})"}
        sub.add_argument(option, choices=choices, **how)


def _output_options(sub):
    sub.add_argument(
        "--quiet", action="store_true", help="no progress, no closing line"
    )
    _json_option(sub)


def _network_options(sub, what):
    sub.add_argument("model", metavar="MODEL", help="see `saunet models`")
    sub.add_argument(
        "--input-size",
        nargs=2,
        type=_positive,
        default=[592, 592],
        metavar=("H", "W"),
        help=f"{what} (default: 592 592)",
    )


def _positive(text):
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a positive whole number of up to 9 digits"
        )
    return int(text)


def _scale(text):
    if text in ("auto", "none"):
        return 1 if text == "none" else text
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not auto, none or a number"
        ) from error


def _tile(text):
    return text if text == "whole" else _positive(text)


def _recipe(args):
    """Returns the recipe that --recipe names, with what the other options change."""
    from saunet.training import RECIPES, recipe_with, with_epochs
    from saunet.weights import find_weights

    recipe = _lookup("recipe", args.recipe, RECIPES)
    if args.epochs:
        recipe = with_epochs(recipe, args.epochs)
    changes = {
        name: getattr(args, name)
        for name in ("batch_size", "seed", "start_from")
        if getattr(args, name) is not None
    }
    if args.mixed_precision:
        changes["precision"] = "mixed_bfloat16"  # needs no loss scaling
    types = {field.name: field.type for field in dataclasses.fields(recipe)}
    for assignment in args.set:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: expected FIELD=VALUE")
        _lookup("recipe field", name, types)
        changes[name] = _typed(name, text, types[name])
    network = {}
    model = changes.get("model", args.model)
    if model not in (None, recipe.model):
        # The options belong to the recipe's own network.
        network = {"model": model, "model_kwargs": {}}
    elif model is None and changes.get("start_from"):
        known = find_weights(changes["start_from"])[1]
        network = {k: known[k] for k in ("model", "model_kwargs") if k in known}
    return recipe_with(recipe, **network | changes)


def _typed(name, text, kind):
    """Reads a value as Python writes it, a bare word as a string."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if isinstance(value, kind):
        return value
    if type(value) is int and isinstance(0.0, kind) and abs(value) < 2**1000:
        return float(value)
    kinds = getattr(kind, "__name__", str(kind))
    raise InputError(f"--set {name}={text}: expected {kinds}, written as in Python")


def _lookup(kind, name, known):
    if name not in known:
        guess = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {guess[0]!r}? " if guess else ""
        raise InputError(
            f"unknown {kind} {name!r}: {hint}known are {', '.join(sorted(known))}"
        )
    return known[name] if isinstance(known, dict) else name


def _refuse(args, names, reason):
    """Raises InputError where an option was given that the folder has no use for."""
    for name in names:
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise InputError(
                f"--{option} {getattr(args, name)}: {args.folder} {reason}"
            )


def _samples(args, split):
    """Returns the samples that --dataset, --data-dir and --fold name."""
    from saunet.data.datasets import DATASETS, load_dataset
    from saunet.data.folder import load_folder

    if args.dataset == "synthetic":
        for name in ("data_dir", "fold"):
            if getattr(args, name, None) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(args, name)}: synthetic "
                    "photographs are drawn; leave it out"
                )
        return _synthetic(split)
    _lookup("dataset", args.dataset, (*DATASETS, "folder", "synthetic"))
    if args.dataset == "folder":
        if args.fold is not None:
            raise InputError(f"--fold {args.fold}: a folder has none; leave it out")
        return load_folder(_data_dir(args), split)
    return load_dataset(args.dataset, _data_dir(args), split, fold=args.fold)


def _refuse_seen(weights, args, samples):
    """Raises InputError where the test images are some that the weights have seen.

    Trained on, or chosen by. A name tells where there are folds; pixels tell anywhere.
    """
    from saunet.data.datasets import DATASETS
    from saunet.weights import sha256_of_pixels

    if args.split != "test":
        return
    folds = getattr(DATASETS.get(args.dataset), "folds", None) or ()
    seen = {*_seen_images(weights)}
    known = [
        sample.name
        for sample in samples
        if (folds and sample.name in seen) or sha256_of_pixels(sample.image) in seen
    ]
    free = [k for k, test in enumerate(folds) if not seen.intersection(test)]
    remedy = f"add --fold {free[0]}, which they never saw, or " if free else ""
    if known:
        raise InputError(
            f"{weights} were trained or chosen on {len(known)} of these {len(samples)} "
            f"images ({', '.join(known)}), which are no test: {remedy}say so with "
            "--split train or all"
        )


def _seen_images(weights):
    """Returns what weights, also exported, have seen: names, and digests of pixels."""
    from saunet.engines import read_metadata
    from saunet.weights import seen_images, seen_pixels

    if Path(weights).suffix.lower() == ".onnx":
        return (read_metadata(weights) or {}).get("seen") or []
    return [*seen_images(weights), *sorted(seen_pixels(weights))]


def _dataset_title(args):
    name = args.data_dir if args.dataset == "folder" else args.dataset
    fold = "" if args.fold is None else f", fold {args.fold}"
    return f"{name}, {args.split}{fold}"


def _synthetic(split):
    from saunet.data.synthetic import synthetic_fundus

    splits = (split,) if split in SYNTHETIC_SEEDS else SYNTHETIC_SEEDS
    return [synthetic_fundus(seed) for one in splits for seed in SYNTHETIC_SEEDS[one]]


def _data_dir(args):
    if args.data_dir is None:
        raise InputError(
            f"--dataset {args.dataset} needs --data-dir, the folder that holds it"
        )
    return args.data_dir


# Printing.


def _show_progress(args):
    return sys.stderr.isatty() and not args.quiet


def _print_json(facts):
    print(json.dumps(facts, indent=2))


def _print_done(args, facts, line):
    """Prints what was done: JSON, or one line, or with --quiet nothing."""
    if args.json:
        _print_json(facts)
    elif not args.quiet:
        print(line)


def _report_skipped(args, skipped):
    """Says which files were skipped, on stderr; returns the exit status.

    What was asked for by name and cannot be read is an error; in a folder it is not.
    """
    for reason in skipped.values():
        print(f"saunet: skipped: {reason}", file=sys.stderr)
    from saunet.data.buckets import as_path

    named = {str(as_path(name)) for name in args.inputs}
    return 2 if named & set(skipped) else 0


def _number(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _print_table(header, rows):
    from rich.console import Console
    from rich.table import Table

    table, rows = Table(), [[_cell(value) for value in row] for row in rows]
    for name, *cells in zip(header, *rows, strict=True):
        numbers = all(cell.lstrip("-")[:1].isdigit() or cell == "nan" for cell in cells)
        justify = "right" if numbers else "left"
        # Where the terminal is too narrow, a cell goes on below: nothing is cut off.
        table.add_column(name, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # A pipe or a file has no width.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _cell(value):
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print_scores(result, title, as_json=False):
    from saunet.evaluation import SCORES, to_json

    if as_json:
        print(to_json(result))
        return
    print(title)
    print(
        f"{_number(result['images'], 'image')}, region {result['region']}, pooling "
        f"{result['pooling']}, threshold {result['threshold']:g}"
    )
    _print_table(("metric", "value"), [(key, result[key]) for key in SCORES])
