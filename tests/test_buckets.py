"""Lists and buckets stand for the photographs that they name."""

import csv
import pickle
import sys

import numpy as np
import pytest
from test_folders import Counting, photograph, rows

from saunet.data.buckets import BucketFile, as_path, is_uri
from saunet.data.images import read_image
from saunet.data.listing import find_images, find_places
from saunet.data.manifest import Manifest, state_of
from saunet.errors import InputError
from saunet.folders import predict_files


@pytest.fixture
def tree(tmp_path):
    """Two photographs in folders, what is none, and what is hidden."""
    for seed, name in enumerate(["a b#1.png", "left/ä%20.png"]):
        photograph(tmp_path / "in" / name, seed)
    photograph(tmp_path / "in" / ".hidden" / "c.png")
    (tmp_path / "in" / "notes.md").write_text("left eye")
    return tmp_path / "in"


def segment(inputs, out):
    counting = Counting()
    return predict_files(counting.segmenter, inputs, out), counting.calls


# Lists.


def test_a_list_names_photographs(tree, tmp_path):
    """Relative paths begin at the list's folder, whose folders the results keep."""
    other = photograph(tmp_path / "other.png", 7)
    lines = ["left/ä%20.png", "", " a b#1.png ", str(tmp_path / "other.png")]
    (tree / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    result, _ = segment([tree / "list.txt"], tmp_path / "out")
    assert result["written"] == ["left/ä%20", "a b#1", "other"]
    mask = read_image(tmp_path / "out" / "other_mask.png")
    np.testing.assert_array_equal(mask[..., 0] > 0, other[..., 1] > 127)
    again, calls = segment([tree / "list.txt"], tmp_path / "out")
    assert (again["written"], again["unchanged"], calls) == ([], 3, 0)


@pytest.mark.parametrize("column", ["photograph", "path"])
def test_a_column_of_a_table_names_photographs(tree, column):
    with (tree / "list.CSV").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerows([["eye", column], ["left", "left/ä%20.png"], ["right", ""]])
    assert find_images([tree / "list.CSV"]) == ([tree / "left" / "ä%20.png"], 0)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_lists_that_windows_programs_write(tree, encoding):
    start = "\ufeff" if encoding == "utf-16-be" else ""
    for name, head in (("list.txt", ""), ("list.csv", "path\r\n")):
        text = f"{start}{head}left/ä%20.png\r\n"
        (tree / name).write_bytes(text.encode(encoding))
        assert find_images([tree / name]) == ([tree / "left" / "ä%20.png"], 0)


def test_the_manifest_of_a_run_is_a_list(tree, tmp_path):
    segment([tree], tmp_path / "out")
    result, _ = segment([tmp_path / "out" / "manifest.csv"], tmp_path / "again")
    assert len(result["written"]) == 2


def test_a_path_that_leaves_the_folder_is_written_by_its_name(tree, tmp_path):
    (tree / "left" / "list.txt").write_text("../a b#1.png\n")
    result, _ = segment([tree / "left" / "list.txt"], tmp_path / "out")
    assert result["written"] == ["a b#1"]
    assert (tmp_path / "out" / "a b#1_mask.png").is_file()


def test_what_a_list_names_and_is_not_there_is_skipped(tree, tmp_path):
    (tree / "list.txt").write_text("a b#1.png\ngone.png\n")
    result, _ = segment([tree / "list.txt"], tmp_path / "out")
    assert result["written"] == ["a b#1"]
    assert list(result["skipped"]) == [tree / "gone.png"]
    (tree / "a b#1.png").unlink()
    with pytest.raises(InputError, match="no such file"):
        segment([tree / "list.txt"], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("list.txt", "\n \n", "names no photograph"),
        ("list.csv", "eye,file\nleft,a.png\n", "expected a column photograph or path"),
        ("list.csv", "", "expected a column"),
        ("list.txt", "a\0.\0p\0n\0g\0", "is no text, expected paths: save it as UTF-8"),
        ("list.csv", f"path\n{'a' * 200_000}\n", "cannot be read as a table"),
        ("list.txt", "a.png\na.jpg\n", "would all be written to a_"),
    ],
)
def test_a_list_of_another_kind_is_refused(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        segment([tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Buckets.


@pytest.fixture
def bucket(tree):
    """The tree as pyarrow sees it."""
    pytest.importorskip("pyarrow", reason="needs saunet[cluster]")
    return f"file://{tree}"


def test_a_bucket_is_like_a_folder(bucket, tree, tmp_path):
    plain, _ = segment([tree], tmp_path / "plain")
    result, _ = segment([bucket], tmp_path / "out")
    assert result == plain
    for kind in ("prob", "mask", "overlay"):
        for place in result["written"]:
            name = f"{place}_{kind}.png"
            found = (tmp_path / "out" / name).read_bytes()
            assert found == (tmp_path / "plain" / name).read_bytes()
    first, second = rows(tmp_path / "out"), rows(tmp_path / "plain")
    for row, same in zip(first, second, strict=True):
        assert row["photograph"] == f"file://{same['photograph']}"
        for key in ("result", "bytes", "modified", "status"):
            assert row[key] == same[key]
    photograph(tree / "a b#1.png", 9)
    again, calls = segment([bucket], tmp_path / "out")
    assert (again["written"], again["unchanged"], calls) == (["a b#1"], 1, 1)


def test_a_question_mark_may_be_part_of_a_name(bucket, tree, tmp_path):
    photograph(tree / "what?.png", 3)
    result, _ = segment([bucket], tmp_path / "out")
    assert "what?" in result["written"]
    again, _ = segment([tmp_path / "out" / "manifest.csv"], tmp_path / "again")
    assert "what?" in again["written"]


def test_results_in_a_bucket_are_no_photographs(bucket, tree):
    for expected in (2, 0):
        result, _ = segment([bucket], tree)
        assert len(result["written"]) == expected


def test_one_file_of_a_bucket(bucket, tmp_path):
    result, _ = segment([f"{bucket}/left/ä%20.png"], tmp_path / "out")
    assert result["written"] == ["ä%20"]
    (tmp_path / "list.txt").write_text(f"{bucket}/a b#1.png\n{bucket}/gone.png\n")
    result, _ = segment([tmp_path / "list.txt"], tmp_path / "listed")
    assert result["written"] == ["a b#1"]
    (reason,) = result["skipped"].values()
    assert reason.startswith(f"{bucket}/gone.png: no such file: check the name")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:///no/such/folder", "no such file or folder"),
        ("nothing://bucket/folder", "expected s3://BUCKET"),
    ],
)
def test_a_bucket_that_is_none_is_one_line(bucket, tmp_path, uri, reason):
    with pytest.raises(InputError, match=reason) as error:
        segment([uri], tmp_path / "out")
    assert "\n" not in str(error.value)


def test_results_go_to_a_folder(tree):
    with pytest.raises(InputError, match="go to a folder, not to a bucket"):
        segment([tree], "s3://bucket/out")


def test_a_file_of_a_bucket_travels_and_keeps_secrets():
    file = BucketFile("s3://key:secret@bucket/a/b c.png?region=x", 5, 7)
    again = pickle.loads(pickle.dumps(file))
    assert (again.key, again.query, again.name) == ("a/b c.png", "region=x", "b c.png")
    assert (again.stat().st_size, again.stat().st_mtime_ns) == (5, 7)
    assert str(again) == "s3://bucket/a/b c.png"
    assert {again, file} == {file}
    assert as_path("s3://bucket/a?region=x") != as_path("s3://bucket/a?region=y")
    assert as_path(file) is file
    assert not is_uri("C:/photographs")


def test_names_in_the_list_of_a_bucket_are_of_its_store():
    uri = "s3://key:secret@bucket/lists/list.txt?endpoint_override=http://localhost"
    beside = BucketFile(uri).beside("left/what?.png")
    assert beside == BucketFile(uri.replace("list.txt", "left/what?.png"))
    assert BucketFile("s3://bucket/list.txt").beside("a.png").key == "a.png"


def test_a_message_keeps_secrets(bucket, tmp_path):
    with pytest.raises(InputError, match="bucket") as error:
        segment(["s3://key:secret@bucket/a.png?nonsense=1"], tmp_path / "out")
    assert "secret" not in str(error.value)


def test_a_query_says_which_store_and_not_which_result(tmp_path):
    uri = "s3://bucket/left/eye.png?endpoint_override=http://localhost:9000"
    (tmp_path / "list.txt").write_text(f"{uri}\n")
    ((path, place),), _ = find_places([tmp_path / "list.txt"])
    assert place == "eye"
    manifest = Manifest(tmp_path)
    manifest.rewrite()
    manifest.append(place, path, ("5", "7"), "s", seconds=1)
    assert manifest.rows["eye"]["photograph"] == uri
    other = BucketFile("s3://bucket/left/eye.png", 5, 8)
    assert manifest.other_photograph("eye", other) == uri
    assert manifest.other_photograph("eye", BucketFile(str(other), 5, 7)) is None


def test_without_pyarrow_the_command_that_helps_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    with pytest.raises(InputError, match=r"pip install 'saunet\[cluster\]'"):
        find_images(["s3://nowhere-else/folder"])


def test_a_row_of_a_photograph_that_is_gone_is_not_done(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.rewrite()
    photograph(tmp_path / "a.png")
    for state in (state_of(tmp_path / "a.png"), ("", "")):
        manifest.append("a", tmp_path / "a.png", state, "s", seconds=1)
        (tmp_path / "a.png").unlink(missing_ok=True)
        assert not manifest.is_done("a", tmp_path / "a.png", "s")
