"""What a terminal of 80 columns, a pipe, a script and the TAB key get."""

import io
import json
import re
import shutil
import subprocess
import sys

import pytest
from test_cli import run

from saunet import cli
from saunet.completion import SHELLS, completion_script
from saunet.errors import InputError
from saunet.models import list_models
from saunet.training import RECIPES
from saunet.weights import list_pretrained


def commands():
    """Returns name -> parser of each command."""
    (verbs,) = (a for a in cli._parser()._actions if isinstance(a.choices, dict))
    return verbs.choices


COMMANDS = commands()


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal(monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    parser = COMMANDS[name] if name else cli._parser()
    assert max(map(len, parser.format_help().splitlines())) <= 80


def test_the_list_of_commands_has_one_line_each(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.split() for line in cli._parser().format_help().splitlines()]
    for name in COMMANDS:
        (line,) = (line for line in lines if line[:1] == [name])
        assert line[-1].endswith("."), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is(name):
    silent = [a.dest for a in COMMANDS[name]._actions if not a.help]
    assert not silent


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_speaks_json(name):
    assert "--json" in COMMANDS[name]._option_string_actions


def test_every_bar_can_be_switched_off():
    # Those that only read and answer at once have none.
    loud = {n for n, c in COMMANDS.items() if "--quiet" in c._option_string_actions}
    assert set(COMMANDS) - loud == {
        "models",
        "summary",
        "score",
        "doctor",
    }


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self):
        return True


TABLE = (("network", "parameters"), [("sa_unet_v2_with_a_long_name", 260521)])


def shown(monkeypatch, columns, stream):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", stream)
    cli._print_table(*TABLE)
    return re.sub(r"\x1b\[\d*m", "", stream.getvalue())


def test_a_table_is_as_wide_as_it_needs_in_a_pipe(monkeypatch):
    out = shown(monkeypatch, 20, io.StringIO())
    assert "sa_unet_v2_with_a_long_name" in out
    assert "260,521" in out


def test_a_narrow_terminal_cuts_nothing_off(monkeypatch):
    out = shown(monkeypatch, 32, Terminal())
    assert max(map(len, out.splitlines())) <= 32
    cells = [line.split("│")[1].strip() for line in out.splitlines() if "│" in line]
    assert "".join(cells) == "sa_unet_v2_with_a_long_name"
    assert "…" not in out


def test_numbers_stand_right_and_words_left(monkeypatch):
    row = [line for line in shown(monkeypatch, 80, Terminal()).splitlines()][3]
    assert row == "│ sa_unet_v2_with_a_long_name │    260,521 │"


def test_undefined_and_negative_scores_are_numbers_too(capsys):
    cli._print_table(("metric", "value"), [("auc", float("nan")), ("mcc", -0.25)])
    out = capsys.readouterr().out
    assert "│ auc    │     nan │" in out
    assert "│ mcc    │ -0.2500 │" in out


@pytest.fixture
def finished(monkeypatch):
    """Every function behind a verb that writes files, done in no time."""
    import saunet.folders
    import saunet.inference
    import saunet.training

    def predict_files(segmenter, inputs, out, **options):
        return {
            "written": ["a"],
            "skipped": {"b.png": "b.png: damaged"},
            "ignored": 2,
            "unchanged": 0,
        }

    monkeypatch.setattr(saunet.inference, "load_segmenter", lambda *a, **k: None)
    monkeypatch.setattr(saunet.folders, "predict_files", predict_files)
    monkeypatch.setattr(saunet.inference, "export_segmenter", lambda *a, **k: 2e-6)
    monkeypatch.setattr(saunet.training, "train", lambda *a, **k: None)
    monkeypatch.setattr(cli, "_samples", lambda args, split: [])
    monkeypatch.setattr(cli, "_seen_images", lambda weights: [])


PREDICT = ("predict", "photos", "b.png", "--weights", "w", "--out", "o")
EXPORT = ("export", "--weights", "w", "--out", "v.onnx")
TRAIN = ("train", "--dataset", "synthetic", "--out", "r")


@pytest.mark.parametrize(
    ("argv", "status", "line"),
    [
        (PREDICT, 2, "1 photograph segmented into o, 2 other files ignored\n"),
        (
            EXPORT,
            0,
            "v.onnx written, onnx format; at most 2e-06 from Keras on a drawn "
            "photograph\n",
        ),
        (TRAIN, 0, "r/last.weights.h5: use it by --weights r\n"),
    ],
)
def test_quiet_says_nothing_but_errors(capsys, finished, argv, status, line):
    complaint = "saunet: skipped: b.png: damaged\n" if argv is PREDICT else ""
    assert run(capsys, *argv) == (status, line, complaint)
    assert run(capsys, *argv, "--quiet") == (status, "", complaint)


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (
            PREDICT,
            {
                "written": ["a"],
                "skipped": {"b.png": "b.png: damaged"},
                "ignored": 2,
                "unchanged": 0,
            },
        ),
        (EXPORT, {"written": "v.onnx", "format": "onnx", "difference": 2e-6}),
        (TRAIN, {"weights": "r/last.weights.h5"}),
    ],
)
def test_json_is_all_there_is_on_stdout(capsys, finished, argv, facts):
    for more in ((), ("--quiet",)):
        _, out, _ = run(capsys, *argv, "--json", *more)
        assert json.loads(out) == facts


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_training_prints_no_progress_for_scripts(monkeypatch, finished, option):
    import saunet.training

    seen = []
    monkeypatch.setattr(
        saunet.training, "train", lambda *a, progress, **k: seen.append(progress)
    )
    cli.main([*TRAIN])
    cli.main([*TRAIN, option])
    assert seen == [True, False]


def test_doctor_lists_problems_as_json(capsys, monkeypatch, tmp_path):
    import saunet.data.datasets

    monkeypatch.setattr(
        saunet.data.datasets, "check_dataset", lambda name, folder: ["a.tif: missing"]
    )
    argv = ("doctor", "--dataset", "drive", "--data-dir", tmp_path, "--json")
    status, out, err = run(capsys, *argv)
    assert (status, err) == (2, "")
    assert json.loads(out) == {"dataset": "drive", "problems": ["a.tif: missing"]}


# Completion.


@pytest.fixture(scope="module")
def scripts():
    pytest.importorskip("shtab", reason="needs saunet[completion]")
    return {shell: completion_script(cli._parser(), shell) for shell in SHELLS}


def bash(scripts, tmp_path, *words):
    """Returns what TAB offers in bash after these words."""
    script = tmp_path / "saunet.bash"
    script.write_text(scripts["bash"])
    line = " ".join(repr(word) for word in ("saunet", *words))
    code = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
        "$(complete -p saunet | sed 's/.*-F \\([^ ]*\\).*/\\1/') saunet "
        f"'{words[-1]}' '{words[-2] if words[1:] else 'saunet'}'; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {word.strip() for word in done.stdout.splitlines()}


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash_completes(scripts, tmp_path):
    assert bash(scripts, tmp_path, "") >= set(COMMANDS)
    assert bash(scripts, tmp_path, "pre") == {"predict"}
    assert bash(scripts, tmp_path, "summary", "sa_unet_v2_") == {
        "sa_unet_v2_narrow",
        "sa_unet_v2_skip_sa",
    }
    assert bash(scripts, tmp_path, "train", "--recipe", "") == set(RECIPES)
    shipped = {name for name in list_pretrained() if name.startswith("sa_")}
    assert bash(scripts, tmp_path, "predict", "--weights", "sa_") == shipped
    assert bash(scripts, tmp_path, "score", "--region", "") == {"fov", "frame"}
    assert bash(scripts, tmp_path, "train", "--res") == {"--resume"}


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish here")
def test_fish_completes(scripts, tmp_path):
    script = tmp_path / "saunet.fish"
    script.write_text(scripts["fish"])
    done = subprocess.run(
        [
            "fish",
            "--no-config",
            "-c",
            f"source {script}; complete -C 'saunet summary '",
        ],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    offered = {line.split("\t")[0] for line in done.stdout.splitlines()}
    assert offered >= set(list_models())


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
def test_zsh_reads_the_script(scripts, tmp_path):
    script = tmp_path / "_saunet"
    script.write_text(scripts["zsh"])
    done = subprocess.run(["zsh", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sa_unet_v2_narrow" in scripts["zsh"]


def test_another_shell_is_one_line(capsys):
    status, out, err = run(capsys, "--print-completion", "cmd")
    assert (status, out) == (2, "")
    assert err == "saunet: error: completion for 'cmd': expected bash, zsh, fish\n"


def test_without_shtab_the_command_that_helps_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(InputError, match=r"pip install 'saunet\[completion\]'"):
        completion_script(cli._parser(), "bash")


def test_the_script_is_printed_alone(capsys):
    pytest.importorskip("shtab", reason="needs saunet[completion]")
    with pytest.raises(SystemExit) as end:
        cli.main(["--print-completion", "bash"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert out.startswith("# AUTOMATICALLY GENERATED by")
    assert err == ""
