"""Folders of photographs: nothing is lost, done twice, mixed up or kept in memory."""

import csv
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest

from saunet import folders, inference
from saunet.cli import main
from saunet.data.images import read_image, write_png
from saunet.data.manifest import COLUMNS, Manifest, state_of
from saunet.data.pairing import list_results
from saunet.errors import InputError
from saunet.folders import plan_files, predict_files
from saunet.inference import Segmenter


class Counting:
    """A segmenter whose probability is green, which notes how often it computed."""

    def __init__(self, **options):
        self.calls = 0
        self.segmenter = Segmenter(
            None, name="green", engine=self.run, digest="1", **options
        )

    def run(self, batch):
        self.calls += 1
        return batch[..., 1:2]


def photograph(path, seed=0, size=(40, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    write_png(path, image)
    return image


def rows(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tree(tmp_path):
    """Photographs in sub-folders, two of one stem, and what is none."""
    folder = tmp_path / "photographs"
    for seed, name in enumerate(["b.png", "left/a.png", "right/a.png", "left/c/d.png"]):
        photograph(folder / name, seed)
    photograph(folder / ".hidden.png")
    photograph(folder / ".cache" / "thumbnail.png")
    (folder / "left" / "notes.txt").write_text("left eye")
    return folder


PLACES = ["b", "left/a", "left/c/d", "right/a"]


def test_the_tree_is_mirrored(tree, tmp_path):
    counting, out = Counting(), tmp_path / "out"
    result = predict_files(counting.segmenter, [tree], out)
    assert result == {"written": PLACES, "unchanged": 0, "skipped": {}, "ignored": 2}
    for place in PLACES:
        image = read_image(tree / f"{place}.png")
        found = read_image(out / f"{place}_mask.png")
        np.testing.assert_array_equal(found[..., 0] > 0, image[..., 1] > 127)
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    kinds = ("prob", "mask", "overlay")
    assert files == {f"{p}_{k}.png" for p in PLACES for k in kinds} | {"manifest.csv"}
    table = rows(out)
    assert [row["result"] for row in table] == PLACES
    for row in table:
        path = tree / f"{row['result']}.png"
        assert row["photograph"] == str(path)
        assert int(row["bytes"]) == path.stat().st_size
        assert int(row["modified"]) == path.stat().st_mtime_ns
        assert (row["status"], row["reason"]) == ("done", "")
        assert float(row["seconds"]) >= 0


def test_results_beside_photographs_are_none_of_a_folder_within(tree):
    """The manifest that says so lies above it."""
    counting = Counting()
    predict_files(counting.segmenter, [tree], tree)
    result = predict_files(counting.segmenter, [tree / "left"], tree.parent / "other")
    assert result["written"] == ["a", "c/d"]


def test_what_is_done_and_unchanged_is_not_done_again(tree, tmp_path):
    counting, out = Counting(), tmp_path / "out"
    predict_files(counting.segmenter, [tree], out)
    before = (out / "manifest.csv").read_bytes()
    result = predict_files(counting.segmenter, [tree], out)
    assert (counting.calls, result["unchanged"], result["written"]) == (4, 4, [])
    assert (out / "manifest.csv").read_bytes() == before

    photograph(tree / "b.png", 99)  # another picture
    os.utime(tree / "right" / "a.png", ns=(5, 5))  # saved again
    (out / "left" / "a_mask.png").unlink()  # a result was deleted
    (out / "left" / "c" / "d_prob.png").write_bytes(b"")  # or lost with the power
    photograph(tree / "left" / "new.png")  # a new one
    result = predict_files(counting.segmenter, [tree], out)
    assert result["written"] == ["b", "left/a", "left/new", "left/c/d", "right/a"]
    assert (counting.calls, result["unchanged"]) == (9, 0)
    places = [row["result"] for row in rows(out)]
    assert sorted(places) == sorted([*PLACES, "left/new"])  # one row each


def test_one_setting_in_two_words_is_not_done_again(tree, tmp_path):
    counting, out = Counting(), tmp_path / "out"
    predict_files(counting.segmenter, [tree], out, scale=1)
    again = predict_files(counting.segmenter, [tree], out, scale=1.0)
    assert (again["unchanged"], again["written"]) == (4, [])


def test_a_failed_row_says_of_what_settings_its_files_are(tmp_path):
    """On a cluster a row is begun, without settings, long before its files change."""
    manifest, place = Manifest(tmp_path), "eye"
    photograph(tmp_path / "eye.jpg")
    write_png(tmp_path / "eye_mask.png", np.zeros((40, 40), np.uint8))
    for before, noted in (("old", "old"), ("", "not known")):
        manifest.rows[place] = {"status": "done", "settings": before}
        manifest.append(
            place, tmp_path / "eye.jpg", ("1", "2"), "new", reason="damaged"
        )
        assert manifest.rows[place]["settings"] == noted
        assert manifest.claims(place)


def test_a_photograph_that_changes_meanwhile_is_done_again(tree, tmp_path):
    """A row vouches for the bytes that were segmented."""
    counting, out = Counting(), tmp_path / "out"

    def change(batch):
        photograph(tree / "b.png", 99, (44, 50))
        return counting.run(batch)

    segmenter = Segmenter(None, name="green", engine=change, digest="1")
    assert predict_files(segmenter, [tree / "b.png"], out)["written"] == ["b"]
    result = predict_files(counting.segmenter, [tree / "b.png"], out)
    assert result["written"] == ["b"]
    assert read_image(out / "b_mask.png").shape == (44, 50, 3)
    assert predict_files(counting.segmenter, [tree / "b.png"], out)["unchanged"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.4},
        {"views": 8},
        {"tile": "whole"},
        {"scale": 0.8},
        {"zero_outside": True},
    ],
)
def test_other_options_are_another_result(tree, tmp_path, options):
    counting, out = Counting(), tmp_path / "out"
    predict_files(counting.segmenter, [tree / "b.png"], out)
    result = predict_files(counting.segmenter, [tree / "b.png"], out, **options)
    assert result["written"] == ["b"]
    assert len(rows(out)) == 1


def test_other_weights_are_another_result(tree, tmp_path):
    import keras
    from keras import layers

    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(1, 1)(inputs), name="one")

    def segment(**options):
        segmenter = Segmenter(model, engine="keras", **options)
        return predict_files(segmenter, [tree / "b.png"], tmp_path / "out")["written"]

    assert segment() == ["b"]
    assert segment() == []
    model.set_weights([w + 1 for w in model.get_weights()])
    assert segment() == ["b"]
    padding = {"placement": "bottom_right", "multiple": 16, "square": True}
    assert segment(padding=padding) == ["b"]
    assert segment(padding=padding) == []


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    """Killed without warning in the middle; half a row is left, and ignored."""
    for i in range(12):
        photograph(tmp_path / "photographs" / f"{i:02d}.png", i)
    out = tmp_path / "out"
    code = f"""
        import os, signal
        from saunet.folders import predict_files
        from saunet.inference import Segmenter
        calls = []
        def run(batch):
            calls.append(1)
            if len(calls) == 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return batch[..., 1:2]
        segmenter = Segmenter(None, name="green", engine=run, digest="1")
        predict_files(segmenter, [{str(tmp_path / "photographs")!r}], {str(out)!r})
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    done = [row["result"] for row in rows(out) if row["status"] == "done"]
    assert 4 <= len(done) <= 7
    with (out / "manifest.csv").open("a") as file:
        file.write('07,"photogr')
    counting = Counting()
    result = predict_files(counting.segmenter, [tmp_path / "photographs"], out)
    assert result["unchanged"] == len(done)
    assert counting.calls == 12 - len(done)
    assert sorted([*done, *result["written"]]) == [f"{i:02d}" for i in range(12)]
    assert sorted(row["result"] for row in rows(out)) == [f"{i:02d}" for i in range(12)]
    halves = [p for p in out.iterdir() if p.name.startswith(".")]
    assert len(halves) <= folders.WRITERS
    for i in range(12):
        assert read_image(out / f"{i:02d}_prob.png").shape == (40, 50, 3)


def unreadable(monkeypatch, folder):
    """Makes a folder one that may not be listed, for root, too."""
    scandir = os.scandir

    def refused(path):
        if os.fspath(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)


def test_a_folder_that_may_not_be_read_is_not_left_out(tree, tmp_path, monkeypatch):
    unreadable(monkeypatch, tree / "left")
    message = rf"{tree / 'left'}: may not be read .*: change its permissions or leave"
    with pytest.raises(InputError, match=message):
        predict_files(Counting().segmenter, [tree], tmp_path / "out")
    with pytest.raises(InputError, match=message):
        list_results(tree, "mask")
    assert not (tmp_path / "out").exists()


def test_a_link_to_a_folder_is_not_followed(tree, tmp_path):
    (tree / "loop").symlink_to(tree)
    result = predict_files(Counting().segmenter, [tree], tmp_path / "out")
    assert result["written"] == PLACES


def test_an_engine_that_cannot_be_made_is_no_photographs_fault(
    tree, tmp_path, monkeypatch
):
    def refuse(*args, **options):
        raise InputError("this processor has no such instructions")

    monkeypatch.setattr(inference, "make_engine", refuse)
    segmenter = Segmenter(None, name="mine", engine="keras", digest="1")
    with pytest.raises(InputError, match=r"^this processor has no\b.*tions$"):
        predict_files(segmenter, [tree], tmp_path / "out")
    assert not rows(tmp_path / "out")


def test_unreadable_files_are_listed_and_tried_again(tree, tmp_path):
    counting, out = Counting(), tmp_path / "out"
    broken = tree / "left" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    result = predict_files(counting.segmenter, [tree], out)
    assert result["written"] == PLACES
    assert list(result["skipped"]) == [broken]
    row = next(row for row in rows(out) if row["result"] == "left/broken")
    assert row["status"] == "failed"
    assert str(broken) in row["reason"]
    assert (
        predict_files(counting.segmenter, [tree], out)["skipped"] == result["skipped"]
    )
    photograph(broken)
    result = predict_files(counting.segmenter, [tree], out)
    assert (result["written"], result["unchanged"]) == (["left/broken"], 4)
    assert [r["status"] for r in rows(out) if "broken" in r["result"]] == ["done"]


def test_a_line_of_a_list_ends_with_the_line_alone(tmp_path):
    """Names may hold what `str.splitlines` takes for an end, too."""
    names = ["eye\u2028left.png", "eye\x0bright.png", "eye\x85.png"]
    for name in names:
        photograph(tmp_path / name)
    (tmp_path / "list.txt").write_bytes("\r\n".join(names).encode())
    result = predict_files(
        Counting().segmenter, [tmp_path / "list.txt"], tmp_path / "out"
    )
    assert result["written"] == [name.removesuffix(".png") for name in names]


def test_a_bad_name_ends_no_run(tmp_path):
    """Names too long for a file or its results, and what stands in a result's way."""
    names = ["a.png", "n" * 300 + ".png", "o" * 240 + ".png", "loop.png", "left/b.png"]
    for name in ("a.png", "o.png", "left/b.png"):
        photograph(tmp_path / name)
    (tmp_path / "o.png").rename(tmp_path / names[2])
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "list.txt").write_text("\n".join([*names[1:], "a.png"]))
    out = tmp_path / "out"
    out.mkdir()
    (out / "left").write_text("mine")
    result = predict_files(Counting().segmenter, [tmp_path / "list.txt"], out)
    assert result["written"] == ["a"]
    reasons = [str(reason) for reason in result["skipped"].values()]
    for name, reason, words in zip(
        names[1:],
        reasons,
        (
            "cannot be read (File name too long): check its name",
            "cannot be written (File name too long): rename the photograph",
            "cannot be read (Too many levels of symbolic links): check its name",
            "cannot be written (File exists): rename the photograph, or what stands",
        ),
        strict=True,
    ):
        assert reason.startswith(f"{tmp_path / name}: ")
        assert words in reason
        assert "\n" not in reason
    assert [row["status"] for row in rows(out)] == ["failed"] * 4 + ["done"]
    assert sorted(path.name for path in out.iterdir()) == [
        *("a_mask.png", "a_overlay.png", "a_prob.png", "left", "manifest.csv")
    ]


def test_exit_status(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        inference, "load_segmenter", lambda *_, **__: Counting().segmenter
    )

    def run(*inputs, out):
        words = ["predict", *inputs, "--weights", "w", "--out", tmp_path / out]
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    broken = tree / "broken.png"
    broken.write_text("left eye")
    status, out, err = run(tree, out="a")
    assert status == 0  # in a folder, a line of the summary
    assert out.startswith("4 ")
    assert err.startswith(f"saunet: skipped: {broken}: ")
    status, out, _ = run(tree, out="a")
    assert status == 0
    assert out.startswith("0 ")
    assert "4 done before" in out
    assert run(tree / "b.png", broken, out="b")[0] == 2  # asked for by name
    assert run(broken, out="c")[0] == 2


@pytest.mark.parametrize("place", ["maps", "left/maps", "."])
def test_results_are_no_photographs(tree, place):
    """Neither those in a folder below, nor those beside the photographs."""
    for expected in (PLACES, []):
        result = predict_files(Counting().segmenter, [tree], tree / place)
        assert result["written"] == expected
        assert result["ignored"] == 2


@pytest.mark.parametrize("options", [{}, {"threshold": 0.4}])
def test_results_of_an_interrupted_run_are_no_photographs(tree, options):
    """Neither those written before it ended, nor those of the run before that."""
    if options:
        predict_files(Counting().segmenter, [tree], tree)

    def stop(batch):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return batch[..., 1:2]

    calls = []
    segmenter = Segmenter(None, name="green", engine=stop, digest="1")
    with pytest.raises(KeyboardInterrupt):
        predict_files(segmenter, [tree], tree, **options)
    assert (tree / "b_mask.png").is_file()
    result = predict_files(Counting().segmenter, [tree], tree, **options)
    assert (result["written"], result["ignored"]) == (PLACES, 2)
    assert [row["result"] for row in rows(tree)] == PLACES


def test_what_another_run_has_noted_meanwhile_is_kept(tree, tmp_path):
    segmenter, out = Counting().segmenter, tmp_path / "out"
    plan = plan_files(segmenter, [tree / "b.png"], out)
    predict_files(segmenter, [tree / "left"], out)
    plan.note([(tree / "b.png", "b", ("", ""), 0.1, "")])
    assert [row["result"] for row in rows(out)] == ["a", "c/d", "b"]


def test_what_else_lies_among_the_results_is_no_photograph(tree):
    photograph(tree / "maps" / "panel.png")
    result = predict_files(Counting().segmenter, [tree], tree / "maps")
    assert (result["written"], result["ignored"]) == (PLACES, 2)


def test_results_never_replace_photographs(tmp_path):
    photograph(tmp_path / "eye.png")
    photograph(tmp_path / "eye_prob.png")
    before = (tmp_path / "eye_prob.png").read_bytes()
    with pytest.raises(InputError, match="overwritten"):
        predict_files(Counting().segmenter, [tmp_path], tmp_path)
    assert (tmp_path / "eye_prob.png").read_bytes() == before


@pytest.mark.parametrize("kind", ["prob", "mask", "overlay"])
def test_a_file_that_is_no_result_is_in_the_way(tmp_path, kind):
    """Such as a mask drawn by hand beside the photograph that is named."""
    drawn = tmp_path / f"eye_{kind}.png"
    photograph(tmp_path / "eye.png")
    photograph(drawn)
    before = drawn.read_bytes()
    with pytest.raises(InputError, match=f"eye_{kind}.png is no result of a run"):
        predict_files(Counting().segmenter, [tmp_path / "eye.png"], tmp_path)
    assert drawn.read_bytes() == before
    assert not (tmp_path / "manifest.csv").exists()


@pytest.mark.parametrize("stopped", [0, 2])
def test_a_stopped_run_by_other_settings_keeps_what_it_did_not_reach(
    tree, tmp_path, stopped
):
    def stop(batch):
        if len(calls) == stopped:
            raise KeyboardInterrupt
        calls.append(1)
        return batch[..., 1:2]

    calls, out = [], tmp_path / "out"
    predict_files(Counting().segmenter, [tree], out)
    other = Segmenter(None, name="green", engine=stop, digest="1")
    with pytest.raises(KeyboardInterrupt):
        predict_files(other, [tree], out, threshold=0.4)
    result = predict_files(Counting().segmenter, [tree], out)
    assert (len(result["written"]), result["unchanged"]) == (stopped, 4 - stopped)
    for place in PLACES:
        image = read_image(tree / f"{place}.png")
        found = read_image(out / f"{place}_mask.png")
        np.testing.assert_array_equal(found[..., 0] > 0, image[..., 1] > 127)


def test_a_stopped_run_leaves_results_theirs(tmp_path):
    """Another photograph of the same name does not get into their place."""
    for folder in "ab":
        photograph(tmp_path / folder / "eye.png", ord(folder))
    first, second, out = tmp_path / "a/eye.png", tmp_path / "b/eye.png", tmp_path / "o"
    predict_files(Counting().segmenter, [first], out)
    Manifest(out).begin(first, "eye")
    with pytest.raises(InputError, match=r"are the results of .*a/eye\.png"):
        predict_files(Counting().segmenter, [second], out)
    for file in out.glob("eye_*.png"):
        file.unlink()
    Manifest(out).begin(second, "eye")  # and is stopped behind its first file
    write_png(out / "eye_prob.png", np.zeros((40, 50), np.uint16))
    with pytest.raises(InputError, match=r"are the results of .*b/eye\.png"):
        predict_files(Counting().segmenter, [first], out)
    assert predict_files(Counting().segmenter, [second], out)["written"] == ["eye"]


def test_a_photograph_named_twice_is_done_once(tmp_path):
    photograph(tmp_path / "photographs" / "eye.png")
    inputs = [tmp_path / "photographs", tmp_path / "photographs" / "eye.png"]
    assert predict_files(Counting().segmenter, inputs, tmp_path / "out")["written"] == [
        "eye"
    ]
    with pytest.raises(InputError, match="no photograph to segment"):
        predict_files(Counting().segmenter, [], tmp_path / "out")


def test_a_broken_link_is_skipped_aloud(tmp_path):
    folder = tmp_path / "photographs"
    photograph(folder / "a.png")
    (folder / "b.png").symlink_to(tmp_path / "not_fetched.png")
    (folder / "c.png").symlink_to(folder / "c.png")
    (folder / "d.txt").symlink_to(tmp_path / "gone.txt")
    result = predict_files(Counting().segmenter, [folder], tmp_path / "out")
    assert (result["written"], result["ignored"]) == (["a"], 1)
    assert [path.name for path in result["skipped"]] == ["b.png", "c.png"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,size\neye.png,3\n", "expected the columns result, "),
        (f"{','.join(COLUMNS)}\n{'a' * 200_000}\n", "cannot be read as a table"),
    ],
)
def test_a_manifest_of_another_kind_is_refused_and_kept(tmp_path, text, reason):
    photograph(tmp_path / "eye.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.csv").write_text(text)
    with pytest.raises(InputError, match=reason):
        predict_files(Counting().segmenter, [tmp_path / "eye.png"], tmp_path / "out")
    assert (tmp_path / "out/manifest.csv").read_text() == text


@pytest.mark.parametrize("torn", range(1, 40, 3))
def test_half_a_row_is_none(tmp_path, torn):
    manifest = Manifest(tmp_path)
    manifest.rewrite()
    photograph(tmp_path / "a.png")
    state = state_of(tmp_path / "a.png")
    manifest.append("a", tmp_path / "a.png", state, "s", seconds=1)
    whole = manifest.path.read_bytes()
    manifest.append('b,"\n"', tmp_path / "a.png", state, "s", seconds=1)
    manifest.path.write_bytes(manifest.path.read_bytes()[: len(whole) + torn])
    again = Manifest(tmp_path)
    assert list(again.rows) == ["a"]
    again.rewrite()
    again.append("c", tmp_path / "a.png", state, "s", seconds=1)
    assert list(Manifest(tmp_path).rows) == ["a", "c"]


def test_any_name_comes_back(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.rewrite()
    names = ['b,"\n"', "ä", " x ", "\udcff", "c\r", "d\r\n"]
    path = tmp_path / "a.png"
    photograph(path)
    for name in names:
        manifest.append(name, path, state_of(path), "s", seconds=1)
    again = Manifest(tmp_path)
    assert list(again.rows) == names
    assert all(again.is_done(name, path, "s") for name in names)
    assert not again.is_done(names[0], path, "t")
    again.rewrite(begun=[(path, names[0])])
    again.begin(path, names[0])
    again = Manifest(tmp_path)
    assert list(again.rows) == names
    assert [again.is_done(name, path, "s") for name in names] == [False, *[True] * 5]
    assert {tuple(row) for row in again.rows.values()} == {COLUMNS}


def test_many_photographs_need_no_more_memory_than_few(tmp_path):
    """Three hundred pictures hold as much as thirty, but for a row each."""
    size = (64, 64)  # 4096 pixels: three maps and a picture are 50 kB
    for i in range(300):
        photograph(tmp_path / f"{i % 30}" / f"{i}.png", i, size)

    def peak(inputs, out):
        tracemalloc.start()
        predict_files(Counting().segmenter, inputs, tmp_path / out)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak([tmp_path / "0"], "warm")
    few = peak([tmp_path / str(i) for i in range(3)], "few")
    every = [tmp_path / str(i) for i in range(30)]
    # Twice: in one of them Python's own table of names may grow, by 8 MB at once.
    many = min(peak(every, out) for out in ("many", "again"))
    assert many - few < 270 * 3000  # one kept picture or map would be 12 kB each


def test_pictures_are_written_while_the_network_computes(tmp_path, monkeypatch):
    """The last picture is begun before the first is written, and none is early."""
    events = []
    for i in range(6):
        photograph(tmp_path / "in" / f"{i}.png", i)
    original = folders.write_png

    def slow(path, array):
        events.append(("write", path.name[0]))
        original(path, array)

    def run(batch):
        events.append(("compute",))
        return batch[..., 1:2]

    reading = folders.read_image
    monkeypatch.setattr(folders, "write_png", slow)
    monkeypatch.setattr(
        folders,
        "read_image",
        lambda path: events.append(("read", path.name[0])) or reading(path),
    )
    segmenter = Segmenter(None, name="x", engine=run, digest="1")
    predict_files(segmenter, [tmp_path / "in"], tmp_path / "out")
    reads = [i for i, e in enumerate(events) if e[0] == "read"]
    computed = [i for i, e in enumerate(events) if e[0] == "compute"]
    assert len(reads) == len(computed) == 6
    assert sum(e[0] == "write" for e in events) == 18
    for n, at in enumerate(computed):
        ahead = sum(read < at for read in reads) - n
        assert 1 <= ahead <= folders.READ_AHEAD + 1


def test_a_failed_write_ends_the_run_and_keeps_what_is_done(tmp_path, monkeypatch):
    for i in range(6):
        photograph(tmp_path / "in" / f"{i}.png", i)
    original = folders.write_png

    def full(path, array):
        if path.name.startswith("3"):
            raise InputError(f"{path}: No space left on device")
        original(path, array)

    monkeypatch.setattr(folders, "write_png", full)
    counting, out = Counting(), tmp_path / "out"
    with pytest.raises(InputError, match="No space left"):
        predict_files(counting.segmenter, [tmp_path / "in"], out)
    done = [row["result"] for row in rows(out) if row["status"] == "done"]
    assert done == ["0", "1", "2"]
    monkeypatch.setattr(folders, "write_png", original)
    result = predict_files(counting.segmenter, [tmp_path / "in"], out)
    assert (result["unchanged"], result["written"]) == (3, ["3", "4", "5"])


def test_another_photograph_does_not_take_a_results_place(tmp_path, monkeypatch):
    """Cameras number from 1 in each folder."""
    for seed, name in enumerate(("left", "right")):
        photograph(tmp_path / name / "IMG_0001.png", seed)
    out, counting = tmp_path / "maps", Counting()
    monkeypatch.chdir(tmp_path / "left")
    predict_files(counting.segmenter, ["."], out)
    before = (out / "IMG_0001_prob.png").read_bytes()
    monkeypatch.chdir(tmp_path / "right")
    with pytest.raises(InputError, match=r"are the results of .*left/IMG_0001\.png"):
        predict_files(counting.segmenter, ["."], out)
    assert (out / "IMG_0001_prob.png").read_bytes() == before
    # The same one by another name, and one that was moved, are no others.
    (tmp_path / "link").symlink_to(tmp_path / "left")
    same = predict_files(counting.segmenter, [tmp_path / "link"], out)
    (tmp_path / "left").rename(tmp_path / "moved")
    moved = predict_files(counting.segmenter, [tmp_path / "moved"], out)
    assert (same["unchanged"], moved["unchanged"]) == (1, 1)
    assert counting.calls == 1
    # One that failed has no results to lose.
    for name in ("bad/2.png", "good/2.png"):
        photograph(tmp_path / name)
    (tmp_path / "bad" / "2.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"2\.png"):
        predict_files(counting.segmenter, [tmp_path / "bad"], out)
    assert predict_files(counting.segmenter, [tmp_path / "good"], out)["written"]
    # And takes nobody else's.
    with pytest.raises(InputError, match="are the results of"):
        predict_files(counting.segmenter, [tmp_path / "bad"], out)


def test_what_is_gone_was_moved_only_if_this_is_it(tmp_path):
    """Two discs are plugged in one after the other."""
    for seed, name in enumerate("ab"):
        photograph(tmp_path / name / "eye.png", seed)
    predict_files(Counting().segmenter, [tmp_path / "a" / "eye.png"], tmp_path / "out")
    (tmp_path / "a").rename(tmp_path / "away")
    with pytest.raises(InputError, match=r"are the results of .*a/eye\.png"):
        predict_files(Counting().segmenter, [tmp_path / "b"], tmp_path / "out")


def test_a_mask_drawn_for_a_photograph_that_failed_stays(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"none")
    photograph(tmp_path / "b.png")
    predict_files(Counting().segmenter, [tmp_path], tmp_path)
    photograph(tmp_path / "a_mask.png", 1)
    before = (tmp_path / "a_mask.png").read_bytes()
    photograph(path, 2)
    for inputs in ([path], [tmp_path]):
        with pytest.raises(InputError, match=r"a_mask\.png .*overwritten"):
            predict_files(Counting().segmenter, inputs, tmp_path)
    assert (tmp_path / "a_mask.png").read_bytes() == before


def test_a_photograph_that_fails_later_may_be_done_again(tmp_path):
    path, out = tmp_path / "a.png", tmp_path / "out"
    photograph(path)
    photograph(tmp_path / "b.png")
    predict_files(Counting().segmenter, [tmp_path], out)
    path.write_bytes(b"none")
    assert predict_files(Counting().segmenter, [tmp_path], out)["skipped"]
    photograph(path, 3)
    assert predict_files(Counting().segmenter, [tmp_path], out)["written"] == ["a"]


def test_a_run_that_ended_since_the_plan_keeps_its_results(tmp_path):
    for seed, name in enumerate("ab"):
        photograph(tmp_path / name / "eye.png", seed)
    out = tmp_path / "out"
    plan = plan_files(Counting().segmenter, [tmp_path / "b"], out)
    predict_files(Counting().segmenter, [tmp_path / "a"], out)
    before = (out / "eye_mask.png").read_bytes()
    with pytest.raises(InputError, match=r"are the results of .*a/eye\.png"):
        plan.note([])
    assert (out / "eye_mask.png").read_bytes() == before


def test_what_another_run_has_redone_since_the_plan_is_not_unchanged(tree, tmp_path):
    out = tmp_path / "out"
    predict_files(Counting().segmenter, [tree / "left"], out)
    plan = plan_files(Counting().segmenter, [tree / "left", tree / "b.png"], out)
    assert plan.unchanged == 2
    predict_files(Counting().segmenter, [tree / "left"], out, threshold=0.3)
    before = (out / "manifest.csv").read_bytes()
    with pytest.raises(InputError, match="another run has written a since"):
        plan.note([])
    assert (out / "manifest.csv").read_bytes() == before


def test_photographs_of_a_killed_run_may_have_moved(tree, tmp_path):
    out = tmp_path / "out"
    predict_files(Counting().segmenter, [tree], out)
    manifest = Manifest(out)
    manifest.begin(tree / "b.png", "b")
    moved = tree.rename(tmp_path / "moved")
    result = predict_files(Counting().segmenter, [moved], out)
    assert (result["written"], result["unchanged"]) == (["b"], 3)


def test_one_photograph_named_in_two_ways_is_taken_once(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tree)
    result = predict_files(Counting().segmenter, ["b.png", tree / "b.png"], "../out")
    assert result["written"] == ["b"]
    with pytest.raises(InputError, match="an empty name is no photograph"):
        predict_files(Counting().segmenter, [""], "../out")


def test_results_of_other_runs_are_no_photographs(tree):
    counting = Counting()
    predict_files(counting.segmenter, [tree], tree / "maps")
    predict_files(counting.segmenter, [tree / "left"], tree / "left")
    (tree / "right" / "manifest.csv").write_text("ours,not\n1,2\n")
    result = predict_files(counting.segmenter, [tree], tree / "again")
    assert sorted(result["written"]) == PLACES
