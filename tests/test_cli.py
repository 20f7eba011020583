"""The command line: what is printed where, exit statuses, and instant help."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import saunet
from saunet import cli, weights
from saunet.data import manifest
from saunet.data.buckets import as_path
from saunet.data.images import write_png
from saunet.errors import InputError, RunError
from saunet.models import MODELS, build_model


@pytest.fixture(scope="module")
def h5(tmp_path_factory):
    """Random weights of sa_unet_v2 as a bare file."""
    path = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    weights.save_weights(build_model("sa_unet_v2"), path)
    return str(path)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(2):
        image = np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)
        write_png(folder / f"{i}.png", image)
    return folder


def run(capsys, *argv):
    """Returns (exit status, stdout, stderr) of a command."""
    status = cli.main([str(word) for word in argv])
    return status, *capsys.readouterr()


def process(*argv):
    """Runs a command in a process of its own, as a shell would."""
    environment = dict(os.environ)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, "-m", "saunet", *argv],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


def test_help_needs_no_framework():
    code = (
        "import sys\n"
        "from saunet.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    heavy = {'keras', 'tensorflow', 'numpy', 'cv2'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy or end.code else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in "models summary train predict evaluate score doctor demo".split():
        assert verb in done.stdout


def test_help_is_instant():
    # The fastest of some: another process may hold the processor once.
    times = []
    for _ in range(3):
        start = time.perf_counter()
        process("--help")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3


def test_framework_chatter_stays_off_stderr():
    done = process("models", "--json")
    assert done.returncode == 0
    assert set(json.loads(done.stdout)) == set(MODELS)
    assert done.stderr == ""


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"saunet {saunet.__version__}\n"


def test_models_lists_all_within_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(capsys, "models")
    assert status == 0
    assert all(name in out for name in MODELS)
    assert max(map(len, out.splitlines())) <= 80


def test_summary_json(capsys):
    status, out, _ = run(capsys, "summary", "sa_unet_v2", "--json")
    assert status == 0
    assert json.loads(out) == {
        "model": "sa_unet_v2",
        "total": 260521,
        "trainable": 260521,
        "non_trainable": 0,
        "gflops": 21.19,
        "input_size": [592, 592],
    }


def test_summary_of_another_size(capsys):
    _, out, _ = run(capsys, "summary", "sa_unet_v2", "--input-size", 64, 128, "--json")
    small = json.loads(out)
    assert small["input_size"] == [64, 128]
    assert small["gflops"] == pytest.approx(21.19 * 64 * 128 / 592**2, rel=1e-3)


def test_summary_table(capsys):
    _, out, _ = run(capsys, "summary", "sa_unet")
    assert "538,707" in out
    assert "592 x 592" in out


def test_predict_writes_three_pictures_each(capsys, tmp_path, photographs, h5):
    status, out, err = run(
        capsys,
        *("predict", photographs, "--weights", h5, "--model", "sa_unet_v2"),
        *("--out", tmp_path / "out", "--tta", "--threshold", "0.4"),
    )
    assert (status, err) == (0, "")
    assert out.startswith("2 photographs segmented")
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_predict_options_reach_the_function(capsys, monkeypatch, h5):
    import saunet.folders
    import saunet.inference

    seen = {}
    monkeypatch.setattr(
        saunet.inference, "load_segmenter", lambda *names, **engine: (*names, engine)
    )
    monkeypatch.setattr(
        saunet.folders,
        "predict_files",
        lambda *args, **options: (
            seen.update(options, args=args)
            or {"written": [], "unchanged": 0, "skipped": {}, "ignored": 0}
        ),
    )
    run(capsys, "predict", "a", "b", "--weights", "w", "--out", "o")
    assert seen == {
        "args": (
            (
                *("w", None),
                {
                    "placement": None,
                    "engine": "auto",
                    "precision": "float32",
                    "threads": None,
                },
            ),
            ["a", "b"],
            "o",
        ),
        "threshold": None,
        "views": 1,
        "tile": None,
        "scale": None,
        "zero_outside": False,
        "progress": False,
    }
    run(
        capsys,
        *("predict", "a", "--weights", "w", "--model", "m", "--out", "o"),
        *("--tta", "--threshold", "0.3", "--tile", "512", "--scale", "none"),
        *("--zero-outside", "--padding", "bottom_right"),
    )
    assert seen["args"][0][:2] == ("w", "m")
    assert seen["args"][0][2]["placement"] == "bottom_right"
    assert (seen["threshold"], seen["views"]) == (0.3, 8)
    assert (seen["tile"], seen["scale"], seen["zero_outside"]) == (512, 1, True)


def test_evaluate_prints_the_keys_of_score(
    capsys, monkeypatch, tmp_path, photographs, h5
):
    monkeypatch.setitem(cli.SYNTHETIC_SEEDS, "test", [100])
    argv = ("evaluate", "--weights", h5, "--model", "sa_unet_v2")
    argv += ("--dataset", "synthetic")
    status, out, err = run(capsys, *argv, "--json", "--region", "frame")
    assert (status, err) == (0, "")
    evaluated = json.loads(out)
    assert evaluated["region"] == "frame"
    assert evaluated["pooling"] == "pooled"
    assert evaluated["threshold"] == 0.5
    assert evaluated["images"] == 1
    (tmp_path / "truth").mkdir()
    for i in range(2):
        write_png(tmp_path / f"truth/{i}.png", np.eye(40, 48, dtype=np.uint8) * 255)
    argv = ("score", "--predictions", photographs, "--truth", tmp_path / "truth")
    argv += ("--region", "frame", "--pooling", "mean")
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "")
    assert "a colour picture, expected a grey probability map" in err
    argv = ("score", "--predictions", tmp_path / "truth", "--truth", tmp_path / "truth")
    argv += ("--region", "frame", "--pooling", "mean")
    status, out, err = run(capsys, *argv, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out).keys() == evaluated.keys()
    status, out, _ = run(capsys, *argv)
    assert "region frame, pooling mean, threshold 0.5" in out
    assert "sensitivity" in out


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ((), {}),
        (("--scale", "none"), {}),
        (
            ("--tta", "--scale", "auto", "--tile", "512"),
            {"views": 8, "scale": "auto", "tile": 512},
        ),
        (("--scale", "0.5"), {"scale": 0.5}),
    ],
)
def test_evaluate_sees_what_it_says(capsys, monkeypatch, options, used):
    import saunet.inference

    seen = []

    class Segmenter:
        name, threshold = "mine", 0.5

        def check_options(self, **options):
            seen.append(options)

        def predict(self, image, **options):
            seen.append(options)
            return np.full(image.shape[:2], 0.25, np.float32)

    monkeypatch.setattr(saunet.inference, "load_segmenter", lambda *a, **k: Segmenter())
    monkeypatch.setitem(cli.SYNTHETIC_SEEDS, "test", [100])
    argv = (
        "evaluate",
        "--weights",
        "sa_unet_drive",
        "--dataset",
        "synthetic",
        *options,
    )
    status, out, err = run(capsys, *argv)
    assert (status, err) == (0, "")
    words = "".join(f", {name} {value}" for name, value in used.items())
    assert out.splitlines()[0] == f"mine on synthetic, test{words}"
    assert seen == [{"views": 1, "scale": 1, "tile": None, **used}] * 2
    printed = json.loads(run(capsys, *argv, "--json")[1])
    assert {key: printed[key] for key in used} == used
    assert not (set(printed) & {"views", "scale", "tile"}) - set(used)


def test_evaluate_says_that_it_computed_in_bfloat16(capsys, monkeypatch, h5):
    monkeypatch.setitem(cli.SYNTHETIC_SEEDS, "test", [100])
    argv = ("evaluate", "--weights", h5, "--model", "sa_unet_v2", "--engine", "keras")
    argv += ("--dataset", "synthetic", "--precision", "bfloat16")
    title = run(capsys, *argv)[1].splitlines()[0]
    assert title.endswith("on synthetic, test, computed in bfloat16")
    printed = json.loads(run(capsys, *argv, "--json")[1])
    assert printed["computed_in"] == "bfloat16"
    assert printed["precision"] is None or printed["precision"] <= 1  # the metric


def test_evaluate_names_the_padding_of_a_bare_file(capsys, monkeypatch, h5):
    monkeypatch.setitem(cli.SYNTHETIC_SEEDS, "test", [100])
    argv = ("evaluate", "--weights", h5, "--model", "sa_unet_v2")
    argv += ("--dataset", "synthetic", "--json")
    centered = json.loads(run(capsys, *argv)[1])
    argv += ("--padding", "bottom_right")
    padded = json.loads(run(capsys, *argv)[1])
    assert padded.pop("padding") == "bottom_right"
    assert set(padded) == set(centered)
    assert padded["auc"] != centered["auc"]


def test_evaluate_by_a_scale_that_is_not_known(capsys, h5):
    argv = ("evaluate", "--weights", h5, "--model", "sa_unet_v2", "--scale", "auto")
    status, out, err = run(capsys, *argv, "--dataset", "synthetic")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "does not say the field of view's diameter" in err


def test_demo_leaves_pictures_and_a_protocol(capsys, monkeypatch, tmp_path, h5):
    from saunet import inference

    segmenter = inference.load_segmenter(h5, "sa_unet_v2")
    monkeypatch.setattr(inference, "load_pretrained", lambda name: segmenter)
    monkeypatch.setitem(cli.SYNTHETIC_SEEDS, "test", [100])
    status, out, err = run(capsys, "demo", "--out", tmp_path / "demo")
    assert (status, err) == (0, "")
    assert "1 image, region fov, pooling pooled, threshold 0.5" in out
    assert "auc" in out
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        "manifest.csv",
        "panel.png",
        "synthetic_100.png",
        "synthetic_100_errors.png",
        "synthetic_100_mask.png",
        "synthetic_100_overlay.png",
        "synthetic_100_prob.png",
    ]
    assert run(capsys, "demo", "--out", tmp_path / "demo")[0] == 0


def test_convert_there_and_back(capsys, tmp_path, h5):
    legacy, keras3 = tmp_path / "a.h5", tmp_path / "a.weights.h5"
    for source, target, form in ((h5, legacy, "legacy"), (legacy, keras3, "keras")):
        words = ("convert", "--weights", source, "--model", "sa_unet_v2")
        status, out, err = run(capsys, *words, "--out", target)
        assert (status, err) == (0, "")
        assert out == f"{target} written, {form} format\n"
        before = target.read_bytes()
        assert run(capsys, *words, "--out", target, "--format", form)[0] == 0
        assert target.read_bytes() == before
    status, _, err = run(capsys, *words, "--out", target, "--format", "legacy")
    assert status == 2
    assert "does not fit the legacy format" in err
    first, last = build_model("sa_unet_v2"), build_model("sa_unet_v2")
    weights.load_weights(first, h5)
    weights.load_weights(last, keras3)
    for a, b in zip(first.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def train_recipe(capsys, monkeypatch, *options):
    """Returns what `saunet train` would train."""
    import saunet.training

    seen = {}
    monkeypatch.setattr(
        saunet.training,
        "train",
        lambda recipe, samples, out, **more: seen.update(
            more, recipe=recipe, samples=samples, out=out
        ),
    )
    monkeypatch.setattr(cli, "_samples", lambda args, split: (args.dataset, split))
    status, _, err = run(
        capsys, "train", "--dataset", "synthetic", "--out", "r", *options
    )
    if status:
        raise InputError(err)
    return seen


def test_train_follows_its_options(capsys, monkeypatch):
    from saunet.training import RECIPES

    plain = train_recipe(capsys, monkeypatch)
    assert plain["recipe"] == RECIPES["cpu"]
    assert plain["samples"] == ("synthetic", "train")
    assert plain["resume"] is False
    seen = train_recipe(
        capsys,
        monkeypatch,
        *("--recipe", "smoke", "--model", "unet_18", "--epochs", "2", "--resume"),
        *("--batch-size", "3", "--seed", "7", "--mixed-precision"),
        *("--set", "loss=bce", "--set", "weight_decay=1", "--set", "ema=None"),
        *("--set", "validation=('1', '2')"),
    )
    recipe = seen["recipe"]
    assert (recipe.model, recipe.model_kwargs) == ("unet_18", {})
    assert (recipe.epochs, recipe.batch_size, recipe.seed) == (2, 3, 7)
    assert recipe.precision == "mixed_bfloat16"
    assert (recipe.loss, recipe.weight_decay, recipe.ema) == ("bce", 1.0, None)
    assert recipe.validation == ("1", "2")
    assert recipe.crop == RECIPES["smoke"].crop
    assert (seen["out"], seen["resume"]) == ("r", True)


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ((), (60, 15)),
        (("--epochs", "10"), (10, 2)),
        (("--epochs", "120"), (120, 30)),
        (("--epochs", "1"), (1, 0)),
        (("--epochs", "10", "--set", "whole_epochs=7"), (10, 7)),
        (("--recipe", "smoke", "--epochs", "9"), (9, 0)),
    ],
)
def test_whole_epochs_keep_their_share(capsys, monkeypatch, options, epochs):
    recipe = train_recipe(capsys, monkeypatch, *options)["recipe"]
    assert (recipe.epochs, recipe.whole_epochs) == epochs


@pytest.mark.parametrize("option", ["--model sa_unet", "--set model=sa_unet"])
def test_another_network_has_its_own_options(capsys, monkeypatch, option):
    recipe = train_recipe(capsys, monkeypatch, *option.split())["recipe"]
    assert (recipe.model, recipe.model_kwargs) == ("sa_unet", {})


def test_train_starts_from_weights_with_their_network(capsys, monkeypatch):
    for start in (
        ("--set", "start_from=sa_unet_drive"),
        ("--start-from", "sa_unet_drive"),
    ):
        recipe = train_recipe(capsys, monkeypatch, *start)["recipe"]
        assert (recipe.start_from, recipe.model) == ("sa_unet_drive", "sa_unet")
    recipe = train_recipe(capsys, monkeypatch, *start, "--model", "rsan")["recipe"]
    assert (recipe.start_from, recipe.model) == ("sa_unet_drive", "rsan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recipe", "smokey"), "unknown recipe 'smokey': did you mean 'smoke'"),
        (("--set", "epoch=2"), "unknown recipe field 'epoch': did you mean 'epochs'"),
        (("--set", "epochs"), "FIELD=VALUE"),
        (("--set", "epochs=many"), "epochs=many: expected int"),
        (("--set", "loss=3"), "loss=3: expected str"),
        (("--set", "model_kwargs={[]:1}"), "model_kwargs={[]:1}: expected dict"),
        (("--set", f"epochs={'(' * 9999}"), ": expected int"),
        (("--start-from", "mine"), "no weights 'mine': give a training run"),
        (("--set", f"seed={10**400}"), "seed=1000"),
        (("--set", f"clip_norm={10**400}"), "clip_norm=1000"),
        (("--epochs", "9" * 400), "not a positive whole number of up to 9 digits"),
        (("--epochs", "0"), "not a positive whole number"),
        (("--epochs", "1.5"), "not a positive whole number"),
    ],
)
def test_train_refuses(capsys, monkeypatch, options, message):
    with pytest.raises(InputError) as error:
        train_recipe(capsys, monkeypatch, *options)
    assert message in str(error.value)
    assert str(error.value).count("\n") == 1


@pytest.mark.parametrize("scale", ["0", "0.01"])
def test_evaluate_by_no_scale(capsys, h5, scale):
    argv = ("evaluate", "--weights", h5, "--model", "sa_unet_v2", "--scale", scale)
    status, out, err = run(capsys, *argv, "--dataset", "synthetic")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "scale" in err


def test_synthetic_parts_share_no_image(monkeypatch):
    import saunet.data.synthetic

    monkeypatch.setattr(saunet.data.synthetic, "synthetic_fundus", lambda seed: seed)
    train, test = cli._synthetic("train"), cli._synthetic("test")
    assert not set(train) & set(test)
    assert sorted(cli._synthetic("all")) == sorted(train + test)


@pytest.mark.parametrize(
    ("named", "options", "remedy"),
    [
        (
            "sa_unet_v2_stare_fold0",
            (),
            "trained or chosen on 4 of these 4 images (im0255, im0",
        ),
        ("sa_unet_v2_stare_fold0", (), "add --fold 0, which they never saw, or say so"),
        ("sa_unet_v2_stare_fold0", ("--fold", 0), None),
        ("sa_unet_v2_stare_fold0", ("--split", "train"), None),
        ("sa_unet_v2_stare_fold0", ("--split", "all"), None),
        ("sa_unet_v2_stare_fold4", (), None),
        ("sa_unet_v2_drive", (), None),
        ("run", (), "add --fold 0, which they never saw, or say so"),
        ("run", ("--fold", 0), None),
        ("next", (), "add --fold 0, which they never saw, or say so"),
        ("next", ("--fold", 0), None),
        ("exported.onnx", (), "add --fold 0, which they never saw, or say so"),
        ("exported.onnx", ("--fold", 0), None),
        ("of_another", (), "add --fold 0, which they never saw, or say so"),
    ],
)
def test_no_test_of_images_that_were_trained_on(
    capsys, monkeypatch, tmp_path, named, options, remedy
):
    from saunet import engines, evaluation, inference, weights
    from saunet.data.datasets import split_names

    class Segmenter:
        name, threshold = "mine", 0.5

        def check_options(self, **options):
            pass

    def samples(args, split):
        return [
            SimpleNamespace(name=n, image=np.zeros(1))
            for n in split_names("stare", split, fold=args.fold)
        ]

    def scored(maps, samples, **protocol):
        raise InputError("scored")

    monkeypatch.setattr(inference, "load_segmenter", lambda *a, **k: Segmenter())
    monkeypatch.setattr(cli, "_samples", samples)
    monkeypatch.setattr(evaluation, "evaluate", scored)
    images = split_names("stare", "train", fold=0)
    if named == "exported.onnx":
        monkeypatch.setattr(engines, "read_metadata", lambda path: {"seen": images})
    if named == "of_another":  # a card of a network that began with one of STARE
        data = {"dataset": "DRIVE", "images": ["21"], "start_images": images}
        monkeypatch.setattr(
            weights, "find_weights", lambda name: (None, {"data": data})
        )
    if named in ("run", "next"):  # the next one started from such a run
        about = {"recipe": {"model": "sa_unet_v2"}, "images": images}
        if named == "next":
            about |= {"images": ["mine"], "start_images": images}
        named = tmp_path / named
        named.mkdir()
        (named / "run.json").write_text(json.dumps(about))
    argv = ("evaluate", "--weights", named, "--dataset", "stare", "--data-dir", ".")
    status, out, err = run(capsys, *argv, *options)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert (remedy or "error: scored") in err
    if isinstance(named, Path) and remedy:
        status, out, err = run(capsys, "report", named, *argv[3:])
        assert (status, out, remedy in err) == (2, "", True)


def test_a_fold_is_named_with_its_scores():
    args = SimpleNamespace(dataset="stare", split="test", fold=2)
    assert cli._dataset_title(args) == "stare, test, fold 2"
    args.fold = None
    assert cli._dataset_title(args) == "stare, test"


def test_workers_are_of_a_cluster(capsys):
    argv = ("predict", "a.png", "--weights", "sa_unet_drive", "--out", "o")
    status, _, err = run(capsys, *argv, "--workers", 4)
    assert (status, err) == (
        2,
        "saunet: error: --workers 4 is of a cluster: add --cluster auto\n",
    )


def test_a_demo_overwrites_nothing(capsys, tmp_path):
    def refused(name):
        status, _, err = run(capsys, "demo", "--out", tmp_path)
        assert (status, f"{name} exists, and would be overwritten" in err) == (2, True)

    (tmp_path / "panel.png").write_text("mine")
    refused("panel.png")
    assert (tmp_path / "panel.png").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1
    manifest.Manifest(tmp_path).rewrite()  # of other photographs
    refused("panel.png")
    (tmp_path / "panel.png").unlink()
    write_png(tmp_path / "synthetic_100.png", np.zeros((40, 50, 3), np.uint8))
    refused("synthetic_100.png")


def test_doctor(capsys, monkeypatch, tmp_path):
    import saunet.data.datasets

    found = []
    monkeypatch.setattr(
        saunet.data.datasets, "check_dataset", lambda name, folder: found
    )
    argv = ("doctor", "--dataset", "drive", "--data-dir", tmp_path)
    assert run(capsys, *argv) == (0, "no problems\n", "")
    found += ["a.tif: missing", "b.tif: missing"]
    assert run(capsys, *argv) == (2, "a.tif: missing\nb.tif: missing\n", "")
    found[:] = ["\udcff.tif: missing"]  # a name that is not UTF-8
    assert run(capsys, *argv) == (2, "\\udcff.tif: missing\n", "")


@pytest.mark.data
@pytest.mark.parametrize("dataset", ["drive", "chase_db1", "stare"])
def test_doctor_finds_the_real_data_well(capsys, shared, dataset):
    argv = ("doctor", "--dataset", dataset, "--data-dir", shared("data"))
    assert run(capsys, *argv) == (0, "no problems\n", "")


def test_interruption_is_one_line(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_framework", interrupted)
    assert run(capsys, "summary", "sa_unet") == (130, "", "saunet: interrupted\n")


def test_a_second_interruption_is_no_traceback(monkeypatch):
    class Stream(io.StringIO):
        def flush(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_status", lambda argv: 130)
    monkeypatch.setattr(sys, "stdout", Stream())
    assert cli.main([]) == 130


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RunError("loss is nan"), 1, "saunet: error: loss is nan\n"),
        (InputError("two\nlines"), 2, "saunet: error: two lines\n"),
        (
            OSError(28, "No space left on device", "a.png"),
            2,
            "saunet: error: a.png: No space left on device\n",
        ),
    ],
)
def test_ends_are_one_line(capsys, monkeypatch, error, status, line):
    def failing():
        raise error

    monkeypatch.setattr(cli, "load_framework", failing)
    assert run(capsys, "summary", "sa_unet") == (status, "", line)


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "load_framework", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["summary", "sa_unet"])


def test_closed_pipe_is_no_error():
    read_end, write_end = os.pipe()
    os.close(read_end)
    # Unbuffered, argparse itself would swallow the error.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-m", "saunet", "--help"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def ended(command):
    """Returns the status and what stands on stderr of a line of bash."""
    ours = ("PYTHONUNBUFFERED", "TF_CPP_MIN_LOG_LEVEL")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    done = subprocess.run(
        ["bash", "-c", command.format(f"{sys.executable} -m saunet")],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return done.returncode, done.stderr


def test_a_closed_pipe_makes_no_success_of_a_failure(tmp_path):
    (tmp_path / "images").mkdir()
    command = f"{{}} doctor --dataset folder --data-dir {tmp_path} | true"
    assert ended(f"set -o pipefail; {command}")[0] == 2


@pytest.mark.parametrize("begun", [False, True])
def test_a_training_that_nobody_listens_to_is_no_success(
    capsys, monkeypatch, tmp_path, begun
):
    def train(*args, **options):
        if begun:
            (tmp_path / "run.json").write_text("{}")
        raise BrokenPipeError

    monkeypatch.setattr("saunet.training.train", train)
    argv = ("train", "--dataset", "synthetic", "--out", tmp_path)
    status, _, err = run(capsys, *argv)
    assert status == 1
    assert "nothing reads stdout any more" in err
    assert ("--resume goes on" in err) == begun


def test_a_full_disk_is_one_line():
    status, told = ended("{} --version > /dev/full")
    assert (status, told) == (2, "saunet: error: No space left on device\n")


def test_streams_that_are_closed_are_no_error():
    assert ended("{} models --json <&- >&- 2>&-") == (0, "")


def test_a_closed_stdout_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # `saunet --version >&-`
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    sys.stdout.close()
    assert end.value.code == 0


@pytest.mark.parametrize("name", ["s3://key:word@bucket/a.png?region=x", "./a.png"])
def test_what_was_asked_for_by_name_is_known_however_it_was_written(capsys, name):
    args = SimpleNamespace(inputs=[name])
    skipped = {str(as_path(name)): "a.png: damaged"}
    assert cli._report_skipped(args, skipped) == 2
    assert cli._report_skipped(args, {"b.png": "b.png: damaged"}) == 0


def test_progress_needs_a_terminal(monkeypatch):
    args = cli._parser().parse_args(["demo"])
    assert not cli._show_progress(args)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli._show_progress(args)
    assert not cli._show_progress(cli._parser().parse_args(["demo", "--quiet"]))
