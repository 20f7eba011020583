"""The report: its numbers are `evaluate`'s, nothing foreign runs, a browser agrees."""

import base64
import io
import json
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import Browser, find_chromium
from PIL import Image
from sklearn import metrics as sk

from saunet import cli, evaluation, page, report, viz, weights
from saunet.cli import main
from saunet.data.images import write_png
from saunet.data.manifest import Manifest
from saunet.errors import InputError
from saunet.metrics import calibration, count_levels, pr_curve, roc_curve

HEIGHT, WIDTH = 48, 60
# Names as `saunet predict` may meet them; the last but one is an attack.
NAMES = ("1", "2", "03", "4", "5", "6", "<script>alert(1)<b>\"&'", "10")
EMPTY = "10"  # has no vessel: most of its scores are undefined


class Page(HTMLParser):
    """A page as data: its tags, and its tables by id."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.tables = [], {}
        self._columns = self._row = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "table":
            self._columns, self._rows = [], []
            self.tables[attrs["id"]] = self._rows
        elif tag == "tr":
            self._row = {}
            self._cells = iter(self._columns)
        elif tag == "th" and "data-key" in attrs:
            self._columns.append(attrs["data-key"])
        elif tag in ("td", "th"):
            self._row[next(self._cells)] = attrs.get("data-value")
            if tag == "th":
                self._rows.append(self._row)

    def numbers(self, table):
        """Returns {row's heading: {column: number}}, the row below the table too."""
        first = next(iter(self.tables[table][0]))
        return {
            row[first]: {
                key: json.loads(value.replace("nan", "NaN"))
                for key, value in row.items()
                if key != first and value is not None
            }
            for row in self.tables[table]
        }


def same(one, other):
    return one == other or (math.isnan(one) and other is None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Returns maps as `saunet predict` writes them, truth, fov and photographs."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for folder in ("maps", "truth", "fov", "photographs"):
        (root / folder).mkdir()
    for number, name in enumerate(NAMES):
        truth = (x + number * y) % 11 < 3
        noise = rng.normal(0, 0.1 + 0.03 * ((number * 5) % 7), truth.shape)
        probability = np.clip(0.25 + 0.5 * truth + noise, 0, 1)
        if name == EMPTY:
            truth, probability = np.zeros_like(truth), probability / 4
        fov = (x - WIDTH / 2) ** 2 + (y - HEIGHT / 2) ** 2 < 22**2
        photograph = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        deep = np.rint(probability * 65535).astype(np.uint16)
        write_png(root / "maps" / f"{name}_prob.png", deep)
        mask = (probability > 0.5).astype(np.uint8)
        write_png(root / "maps" / f"{name}_mask.png", mask * np.uint8(255))
        overlay = viz.overlay(photograph, mask)
        write_png(root / "maps" / f"{name}_overlay.png", overlay)
        write_png(root / "truth" / f"{name}.png", truth * np.uint8(255))
        write_png(root / "fov" / f"{name}.png", fov * np.uint8(255))
        write_png(root / "photographs" / f"{name}.png", photograph)
    return root


def make(capsys, *argv):
    status = main(["report", *map(str, argv)])
    out, err = capsys.readouterr()
    return status, out, err


def scored(root, **options):
    options = {"truth": root / "truth", "fov": root / "fov", **options}
    return report.maps_page(root / "maps", **options)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("pooling", evaluation.POOLINGS)
@pytest.mark.parametrize("region", evaluation.REGIONS)
def test_the_numbers_are_those_of_score(folders, tmp_path, capsys, region, pooling):
    where = ("--truth", folders / "truth", "--fov", folders / "fov")
    protocol = ("--region", region, "--pooling", pooling, "--threshold", "0.4")
    out = tmp_path / "page.html"
    status, told, _ = make(capsys, folders / "maps", *where, *protocol, "--out", out)
    assert (status, told.split()[0]) == (0, str(out))
    argv = ["score", "--predictions", folders / "maps", *where, *protocol, "--json"]
    assert main([str(word) for word in argv]) == 0
    expected = json.loads(capsys.readouterr().out)
    parsed = Page(out.read_text(encoding="utf-8"))

    rows = parsed.numbers("images")
    foot = rows.pop(pooling)
    assert list(rows) == [row["name"] for row in expected["per_image"]]
    for row in expected["per_image"]:
        shown = rows[row["name"]]
        assert set(shown) == {*evaluation.SCORES, "tp", "fp", "fn", "tn"}
        assert all(same(shown[key], row[key]) for key in shown)
    # undefined scores were compared, too
    assert sum(math.isnan(row["auc"]) for row in rows.values()) == 1
    for key in evaluation.SCORES:
        assert same(foot[key], expected[key])
    counts = {key for key in ("tp", "fp", "fn", "tn") if key in foot}
    assert len(counts) == (4 if pooling == "pooled" else 0)
    for key in counts:
        assert foot[key] == sum(row[key] for row in expected["per_image"])

    protocols = parsed.numbers("protocols")
    assert len(protocols) == 4
    for name, shown in protocols.items():
        theirs = dict(zip(("region", "pooling"), name.split(", "), strict=True))
        other = evaluation.score_folders(
            folders / "maps",
            folders / "truth",
            folders / "fov",
            **theirs,
            threshold=0.4,
        )
        for key in evaluation.SCORES:
            assert shown[key] == pytest.approx(other[key], rel=0, abs=0, nan_ok=True)
    (chosen,) = [a for tag, a in parsed.tags if a.get("aria-current")]
    assert chosen["class"] == "chosen"
    text = out.read_text(encoding="utf-8")
    assert re.search(r'aria-current="true"><th scope="row" data-value="(.*?)"', text)[
        1
    ] == (f"{region}, {pooling}")


def test_without_fov_the_frame_counts_and_two_protocols_are_shown(folders):
    parsed = Page(scored(folders, fov=None))
    assert list(parsed.numbers("protocols")) == ["frame, pooled", "frame, mean"]
    expected = evaluation.score_folders(
        folders / "maps", folders / "truth", region="frame", pooling="pooled"
    )
    assert parsed.numbers("images")["pooled"]["f1"] == expected["f1"]


def test_every_score_has_a_column():
    assert set(report.SCORES) == set(evaluation.SCORES)


def test_numbers_are_rounded_for_the_eye_only():
    assert page.number(0.123456) == "0.1235"
    assert page.number(1234567) == "1,234,567"
    assert page.number(math.nan) == "undefined"
    html = page.table("t", "", {"name": "n", "a": "a"}, [("x", [0.123456])])
    assert '<td data-value="0.123456">0.1235</td>' in html


def test_calibration_by_hand():
    # Four pixels at 0.2 (one a vessel), two at 0.9 (both), one at 1 (not).
    probability = np.array([0.2] * 4 + [0.9] * 2 + [1.0])
    truth = np.array([1, 0, 0, 0, 1, 1, 0])
    bins, error = calibration(count_levels([(probability, truth)]))
    filled = {b["low"]: b for b in bins if b["pixels"]}
    assert sorted(filled) == [0.2, 0.9]
    assert (filled[0.2]["pixels"], filled[0.2]["vessels"]) == (4, 0.25)
    assert filled[0.2]["probability"] == pytest.approx(0.2)
    # 0.9 is 58981.5 steps of 65535, so the bin of 0.9 begins at the even one, 58982.
    assert (filled[0.9]["pixels"], filled[0.9]["vessels"]) == (3, 2 / 3)
    assert filled[0.9]["probability"] == pytest.approx(2.8 / 3, abs=1e-5)
    expected = 4 / 7 * 0.05 + 3 / 7 * abs(2.8 / 3 - 2 / 3)
    assert error == pytest.approx(expected, abs=1e-5)
    assert math.isnan(bins[0]["probability"])
    assert math.isnan(bins[0]["vessels"])


def test_an_edge_of_the_bins_belongs_to_the_upper_one():
    fifth = np.full((1, 4), 13107 / 65535, np.float32)  # exactly 0.2
    bins, _ = calibration(count_levels([(fifth, np.zeros((1, 4), np.uint8))]))
    assert [b["pixels"] for b in bins[:4]] == [0, 0, 4, 0]


def test_calibration_by_a_loop_over_pixels(folders):
    """On 16-bit maps nothing is rounded: the bins hold the same pixels."""
    total, hits, sums = np.zeros(10, int), np.zeros(10), np.zeros(10)
    for name in NAMES:
        levels = np.array(Image.open(folders / "maps" / f"{name}_prob.png")).astype(int)
        truth = np.array(Image.open(folders / "truth" / f"{name}.png")) > 0
        inside = np.array(Image.open(folders / "fov" / f"{name}.png")) > 0
        for level, vessel in zip(levels[inside], truth[inside], strict=True):
            index = min(int(level * 10) // 65535, 9)
            total[index] += 1
            hits[index] += vessel
            sums[index] += level / 65535
    rows = Page(scored(folders)).numbers("calibration")
    assert len(rows) == 11
    assert rows["all"]["pixels"] == total.sum()
    error = 0
    for index, shown in enumerate(list(rows.values())[:10]):
        assert shown["pixels"] == total[index]
        assert shown["share"] == pytest.approx(hits[index] / total[index])
        assert shown["mean"] == pytest.approx(sums[index] / total[index])
        assert shown["distance"] == abs(shown["mean"] - shown["share"])
        error += abs(hits[index] - sums[index]) / total.sum()
    assert rows["all"]["distance"] == pytest.approx(error)
    assert rows["all"]["share"] == pytest.approx(hits.sum() / total.sum())
    assert rows["all"]["mean"] == pytest.approx(sums.sum() / total.sum())


def test_curves_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    # Few values, so that many pixels tie.
    probability = rng.integers(0, 50, 3000) * 1300 / 65535
    truth = rng.random(3000) < probability
    levels = count_levels([(probability[:999], truth[:999])])
    levels += count_levels([(probability[999:], truth[999:])])
    fpr, tpr, _ = sk.roc_curve(truth, probability, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(levels), np.stack([fpr, tpr], 1), atol=1e-12)
    recall, precision = pr_curve(levels).T
    area = np.sum(np.diff(recall) * precision[1:])
    ap = sk.average_precision_score(truth, probability)
    assert recall[0] == 0
    assert area == pytest.approx(ap, abs=1e-12)
    p, r, _ = sk.precision_recall_curve(truth, probability)
    # theirs goes down from recall 1, and ends with a point at (0, 1) of its own
    np.testing.assert_allclose(recall[1::2], r[:-1][::-1], atol=1e-12)
    np.testing.assert_allclose(precision[1::2], p[:-1][::-1], atol=1e-12)


def test_an_empty_field_of_view_is_refused(tmp_path):
    root = quadrants(tmp_path)
    write_png(root / "fov" / "1.png", np.full((64, 64), 100, np.uint8))
    with pytest.raises(InputError, match="brightest pixel is 100 of 255"):
        scored(root)


def test_without_vessels_scores_are_undefined(tmp_path):
    root = quadrants(tmp_path)
    write_png(root / "truth" / "1.png", np.zeros((64, 64), np.uint8))
    html = scored(root)
    assert "No curves" in html
    shown = Page(html).numbers("images")["1"]
    assert math.isnan(shown["auc"])
    assert math.isnan(shown["sensitivity"])
    assert 'data-value="nan">undefined</td>' in html


def test_a_chart_places_its_points():
    svg = page.chart(
        "t", ("x", "y"), ((0, 1), (0, 10)), {"one": [(0, 0), (1, 10), (1, math.nan)]}
    )
    box = page.CHART
    ends = f"{box['left']},{box['bottom']} {box['right']},{box['top']}"
    assert f'<polyline class="line one" points="{ends}"/>' in svg
    assert svg.count("<circle") == 2


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ((1, 4), [1, 2, 3, 4]),
        ((0, 0.0028), [0, 0.0005, 0.001, 0.0015, 0.002, 0.0025]),
        ((-0.3, 0.4), [-0.2, 0, 0.2, 0.4]),
        ((1, 150), [20, 40, 60, 80, 100, 120, 140]),
        ((0.4, 0.7), [0.4, 0.5, 0.6, 0.7]),
    ],
)
def test_ticks_are_round(ends, ticks):
    assert page._ticks(*ends) == pytest.approx(ticks)


def test_a_tree_of_maps_is_scored_as_by_score(folders, tmp_path):
    for name in ("maps", "truth", "fov", "photographs"):
        for folder, stem in ((".", "1"), ("left", "1"), ("left", "2")):
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for path in (folders / name).glob(f"{stem}[._]*"):
                target = tmp_path / name / folder / path.name
                target.write_bytes(path.read_bytes())
    html = scored(tmp_path, images=tmp_path / "photographs")
    rows = Page(html).numbers("images")
    assert list(rows) == ["1", "left/1", "left/2", "pooled"]
    expected = evaluation.score_folders(
        *(tmp_path / name for name in ("maps", "truth", "fov")),
        region="fov",
        pooling="pooled",
    )
    assert rows["pooled"]["f1"] == expected["f1"]
    rows = Page(report.maps_page(tmp_path / "maps")).numbers("images")
    assert list(rows) == ["1", "left/1", "left/2"]


def test_the_manifest_says_what_made_the_maps(folders, tmp_path):
    def network():
        html = report.maps_page(tmp_path)
        return re.search(r"<dt>Network</dt>\s*<dd>(.*?)</dd>", html)[1]

    manifest = Manifest(tmp_path)
    (tmp_path / "left").mkdir()
    for place in ("1", "left/2"):
        map_ = folders / "maps" / f"{place[-1]}_prob.png"
        (tmp_path / f"{place}_prob.png").write_bytes(map_.read_bytes())
    assert network() == "not recorded"
    manifest.rewrite()
    assert network() == "not recorded"
    manifest.append("1", "photo", ("5", "7"), "saunet=1 net:0a views=8")
    assert network() == (
        "1 of 2 maps: saunet=1 net:0a views=8; 1 of 2 maps: not recorded"
    )
    manifest.append("left/2", "photo", ("5", "7"), "saunet=1 net:0a views=8")
    assert network() == "saunet=1 net:0a views=8"
    manifest.begin("photo", "1")  # and was stopped: nobody knows what made the map
    assert network() == (
        "1 of 2 maps: not recorded; 1 of 2 maps: saunet=1 net:0a views=8"
    )
    (tmp_path / "manifest.csv").write_text("file,size\n1,2\n")
    assert network() == "not recorded"


# ---------------------------------------------------------------- pictures


def pictures(html, anchor):
    """Returns {caption: (H, W, 3) uint8} of one image."""
    article = re.search(rf'<article class="image" id="{anchor}">.*?</article>', html)[0]
    found = re.findall(
        r'src="data:image/jpeg;base64,([^"]+)".*?<figcaption>(.*?)<', article
    )
    return {
        caption: np.array(
            Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        ).astype(int)
        for data, caption in found
    }


def quadrants(tmp_path):
    """A truth in the left half, a map in the upper half, and a photograph."""
    truth = np.zeros((64, 64), np.uint8)
    truth[:, :32] = 255
    guess = np.zeros((64, 64), np.uint16)
    guess[:32] = 60000
    for folder in ("maps", "truth", "fov", "photographs"):
        (tmp_path / folder).mkdir()
    write_png(tmp_path / "truth" / "1.png", truth)
    write_png(tmp_path / "maps" / "1_prob.png", guess)
    fov = np.full((64, 64), 255, np.uint8)
    fov[:, 56:] = 0
    write_png(tmp_path / "fov" / "1.png", fov)
    photograph = np.full((64, 64, 3), (200, 90, 40), np.uint8)
    write_png(tmp_path / "photographs" / "1.png", photograph)
    return tmp_path


def test_pictures_show_what_they_say(tmp_path):
    root = quadrants(tmp_path)
    html = scored(root, images=root / "photographs")
    shown = pictures(html, "image-1")
    assert list(shown) == ["photograph", "probability", "mask", "errors"]

    def near(caption, row, column, colour):
        np.testing.assert_allclose(shown[caption][row, column], colour, atol=12)

    near("photograph", 20, 20, (200, 90, 40))
    near("probability", 16, 16, [round(60000 / 65535 * 255)] * 3)
    near("probability", 48, 16, [0] * 3)
    near("mask", 16, 16, [255] * 3)
    near("mask", 48, 16, [0] * 3)
    near("errors", 16, 16, viz.TRUE_POSITIVE)
    near("errors", 16, 44, viz.FALSE_POSITIVE)
    near("errors", 48, 16, viz.FALSE_NEGATIVE)
    near("errors", 48, 44, viz.BACKGROUND)
    near("errors", 48, 61, viz.OUTSIDE)
    # The frame's report judges the corners, too.
    shown = pictures(scored(root, region="frame"), "image-1")
    near("errors", 16, 61, viz.FALSE_POSITIVE)


def test_the_threshold_moves_the_mask_and_a_note_says_so(tmp_path):
    root = quadrants(tmp_path)
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    write_png(root / "maps" / "1_mask.png", mask)
    assert "another threshold" not in scored(root)
    html = scored(root, threshold=0.95)
    assert "50.00% of the pixels" in html
    assert pictures(html, "image-1")["mask"].max() < 12


@pytest.mark.parametrize("other", [0, 1, 40])
def test_a_note_counts_pixels_that_rounding_does_not_explain(tmp_path, other):
    """Of 16,384 pixels one may be rounding, forty are another threshold."""
    (tmp_path / "maps").mkdir()
    probability = np.zeros((128, 128), np.uint16)
    write_png(tmp_path / "maps" / "1_prob.png", probability)
    mask = probability.astype(np.uint8)
    mask[0, :other] = 255
    write_png(tmp_path / "maps" / "1_mask.png", mask)
    assert ("another threshold" in report.maps_page(tmp_path / "maps")) is (other > 1)


def test_a_mask_of_another_size_is_not_compared(tmp_path):
    root = quadrants(tmp_path)
    write_png(root / "maps" / "1_mask.png", np.full((9, 9), 255, np.uint8))
    assert "another threshold" not in scored(root)


def test_a_probability_at_the_threshold_is_no_vessel(tmp_path):
    root = quadrants(tmp_path)
    html = report.maps_page(root / "maps", threshold=60000 / 65535)
    assert Page(html).numbers("images")["1"]["vessels"] == 0
    assert pictures(html, "image-1")["mask"].max() < 12
    html = report.maps_page(root / "maps", threshold=59999 / 65535)
    assert Page(html).numbers("images")["1"]["vessels"] == 0.5


def test_as_many_images_as_are_shown_larger_are_all_shown_larger(folders, monkeypatch):
    monkeypatch.setattr(report, "WORST", len(NAMES))
    html = scored(folders)
    assert "The images, worst F1 first" in html
    assert "The others" not in html
    monkeypatch.setattr(report, "WORST", len(NAMES) - 1)
    assert "The others" in scored(folders)


@pytest.mark.parametrize(("tint", "refused"), [(8, False), (20, True)])
def test_a_map_may_be_as_tinted_as_jpeg_makes_it(tmp_path, tint, refused):
    picture = np.full((40, 50, 3), 100, np.uint8)
    picture[20, 20, 0] += tint
    write_png(tmp_path / "1.png", picture)
    if refused:
        with pytest.raises(InputError, match="a colour picture"):
            report.maps_page(tmp_path)
    else:
        report.maps_page(tmp_path)


def test_a_page_may_end_in_capitals(tmp_path):
    assert report.check_out(tmp_path / "PAGE.HTML") == tmp_path / "PAGE.HTML"


def test_many_pictures_take_the_room_of_forty():
    sides = [report._small([None] * count) for count in (1, 40, 160, 1000)]
    assert sides == [360, 360, 180, 72]


def test_rings_mark_the_threshold_and_points_the_bins(folders):
    html = scored(folders)
    parsed = Page(html)
    pooled = parsed.numbers("images")["pooled"]
    box = page.CHART

    def place(x, y):
        across, up = box["right"] - box["left"], box["bottom"] - box["top"]
        return box["left"] + x * across, box["bottom"] - y * up

    rings = [
        (float(a["cx"]), float(a["cy"]))
        for tag, a in parsed.tags
        if tag == "circle" and "two" in a["class"]
    ]
    recall, precision = pooled["sensitivity"], pooled["precision"]
    expected = [place(1 - pooled["specificity"], recall), place(recall, precision)]
    np.testing.assert_allclose(rings, expected, atol=0.1)
    bins = parsed.numbers("calibration")
    bins.pop("all")
    points = re.findall(r'class="line one" points="(.*?)"', html)[2].split()
    found = [tuple(map(float, point.split(","))) for point in points]
    filled = [b for b in bins.values() if b["pixels"]]
    np.testing.assert_allclose(
        found, [place(b["mean"], b["share"]) for b in filled], atol=0.1
    )


def test_the_worst_five_come_first_and_larger(folders, monkeypatch):
    monkeypatch.setattr(report, "LARGE", 40)
    monkeypatch.setattr(report, "SMALL", 20)
    html = scored(folders)
    rows = {k: v for k, v in Page(html).numbers("images").items() if k != "pooled"}
    f1 = {name: row["f1"] for name, row in rows.items()}
    by_f1 = sorted(rows, key=lambda name: (math.isnan(f1[name]), f1[name]))
    order = re.findall(r'<article class="image" id="image-(\d)"', html)
    order = [int(number) for number in order]
    names = list(rows)
    assert [names[n - 1] for n in order[:5]] == by_f1[:5]
    assert sorted(order) == list(range(1, len(NAMES) + 1))
    assert order[5:] == sorted(order[5:])
    widths = [pictures(html, f"image-{n}")["mask"].shape[1] for n in order]
    assert widths == [40] * 5 + [20] * 3
    links = re.findall(r'<a href="#image-(\d)">', html)
    assert [int(n) for n in links] == list(range(1, len(NAMES) + 1))


def test_the_overlay_stands_in_for_the_photograph(folders):
    assert "overlay" in pictures(scored(folders), "image-1")
    shown = pictures(scored(folders, images=folders / "photographs"), "image-1")
    assert "photograph" in shown
    assert "overlay" not in shown


def test_without_truth_there_are_maps_and_no_scores(folders):
    html = report.maps_page(folders / "maps")
    parsed = Page(html)
    assert set(parsed.tables) == {"images"}
    rows = parsed.numbers("images")
    deep = np.array(Image.open(folders / "maps" / "03_prob.png")) / 65535
    assert rows["03"]["vessels"] == pytest.approx(np.mean(deep > 0.5))
    assert rows["03"]["probability"] == pytest.approx(deep.mean(), abs=1e-6)
    assert (rows["03"]["width"], rows["03"]["height"]) == (WIDTH, HEIGHT)
    assert sorted(rows) == sorted(NAMES)
    assert 'data-key="f1"' not in html


# ---------------------------------------------------------------- one safe file


def test_names_are_text_never_markup(folders):
    for html in (
        scored(folders, images=folders / "photographs"),
        report.maps_page(folders / "maps"),
    ):
        parsed = Page(html)
        assert [tag for tag, _ in parsed.tags].count("script") == 1
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert(1" in html
        alts = [attrs["alt"] for tag, attrs in parsed.tags if tag == "img"]
        assert any(alt.startswith("<script>alert(1") for alt in alts)
        assert all(alts)


def test_a_folder_may_have_any_name(folders, tmp_path):
    evil = tmp_path / "<img src=x onerror=alert(1)>$body"
    evil.mkdir()
    (evil / "1_prob.png").write_bytes((folders / "maps" / "1_prob.png").read_bytes())
    html = report.maps_page(evil)
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;$body</title>" in html


def test_the_page_refers_to_nothing_outside(folders):
    parsed = Page(scored(folders, images=folders / "photographs"))
    for tag, attrs in parsed.tags:
        for name in ("src", "href", "srcset", "action", "xlink:href", "style"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs[name])
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
    policy = next(a["content"] for t, a in parsed.tags if "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_headings_can_be_pressed_and_pictures_be_read(folders):
    parsed = Page(scored(folders))
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("h1") == tags.count("main") == 1
    assert tags.count("button") == 1 + len(evaluation.SCORES) + 4
    assert ("html", {"lang": "en"}) in parsed.tags
    for tag, attrs in parsed.tags:
        if tag == "svg" and attrs.get("role") == "img":
            assert attrs["aria-label"]
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_name_that_is_no_utf8_is_written(tmp_path):
    path = tmp_path / "page.html"
    html = page.document("eye \udcff", [])
    assert report.write_page(html, path) == path.stat().st_size
    assert "<h1>eye ?</h1>" in path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- runs

RECIPE = {"model": "sa_unet_v2", "model_kwargs": {"rate": 0.1}, "seed": 7}
LOG = (
    "epoch,loss,val_loss,learning_rate,seconds\n"
    "1,0.9,0.8,0.001,1\n2,0.5,0.6,0.0005,2\n3,0.4,0.7,0,3\n"
)


@pytest.fixture
def run(tmp_path):
    """A run folder as training writes it, without weights."""
    folder = tmp_path / "run"
    folder.mkdir()
    facts = {
        "recipe": RECIPE,
        "images": ["21", "22"],
        "validation": ["<23>"],
        "versions": {"keras": "3.15.1"},
        "device": "an abacus",
        "commit": None,
        "date": "2026-01-02",
        "hours": 1.5,
    }
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "log.csv").write_text(LOG)
    return folder


def test_a_run_shows_its_recipe_and_its_curves(run, capsys):
    assert make(capsys, run)[0] == 0
    html = (run / "report.html").read_text()
    for text in (
        "sa_unet_v2",
        "2 images: 21, 22",
        "&lt;23&gt;",
        "keras 3.15.1",
        "an abacus",
        "1.5 hours",
        "{&quot;rate&quot;: 0.1}",
        "<dt>Seed</dt><dd>7</dd>",
        "3 epochs. The last one's loss: 0.4000.",
        "Validation was best at epoch 2: 0.6000.",
    ):
        assert text in html, text
    assert html.count('<polyline class="line one"') == 2
    assert html.count('<polyline class="line two"') == 1
    assert "--dataset" in html
    # losses from 0.4 to 0.9: the first is at the top, the last at the bottom
    points = re.findall(r'class="line one" points="(.*?)"', html)[0].split()
    box = page.CHART
    assert points[0] == f"{box['left']},{box['top']}"
    assert points[-1] == f"{box['right']},{box['bottom']}"


@pytest.mark.parametrize("value", [None, 0, "x", [], {}], ids=repr)
def test_a_damaged_record_is_one_line_or_still_a_page(run, capsys, value):
    path = run / "run.json"
    whole = json.loads(path.read_text())
    places = [(whole, key) for key in whole]
    places += [(whole["recipe"], key) for key in list(whole["recipe"])]
    refused = 0
    for record, key in places:
        kept, record[key] = record[key], value
        path.write_text(json.dumps(whole))
        record[key] = kept
        status, _, err = make(capsys, run)
        assert (status, len(err.splitlines())) in ((0, 0), (2, 1)), (key, err)
        assert "not the record" in err or "the record of a run" in err or not err
        refused += bool(status)
    assert 4 <= refused < len(places)


@pytest.mark.parametrize(
    "about",
    [
        {"images": [1, "a"]},
        {"images": [["a"]]},
        {"start_images": 3},
        {"seen_sha256": [0]},
        {"devices": "two"},
    ],
    ids=repr,
)
def test_a_record_of_other_kinds_is_one_line(run, about):
    from saunet.weights import seen_images, seen_pixels

    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | about))
    for find in (seen_images, seen_pixels):
        with pytest.raises(InputError, match="makes no sense in the record of a run"):
            find(run)
    path.write_text("[" * 200_000)
    with pytest.raises(InputError, match="not the record of a run"):
        seen_images(run)


def test_a_threshold_without_a_score_is_refused(run, capsys):
    status, _, err = make(capsys, run, "--threshold", "0.9")
    assert (status, "--threshold 0.9" in err) == (2, True)


def test_a_record_without_what_may_be_absent_is_a_page(run, capsys):
    (run / "run.json").write_text(json.dumps({"recipe": {"model": "unet"}}))
    assert make(capsys, run)[0] == 0


@pytest.mark.parametrize("rate", ["x", None])
def test_options_that_build_no_network_are_one_line(run, capsys, monkeypatch, rate):
    monkeypatch.setitem(cli.SYNTHETIC_SEEDS, "test", [100])
    path = run / "run.json"
    whole = json.loads(path.read_text())
    whole["recipe"]["model_kwargs"] = {"rate": rate}
    path.write_text(json.dumps(whole))
    (run / "last.weights.h5").touch()
    status, _, err = make(capsys, run, "--dataset", "synthetic")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "run.json: no network: " in err


def test_an_epoch_without_a_number_is_left_out_of_the_curves(run):
    log = run / "log.csv"
    log.write_text(LOG.replace("1,0.9,0.8,0.001", "1,nan,nan,0.001"))
    html = report.run_page(run)
    lines = re.findall(r'points="(.*?)"', html)
    assert [len(line.split()) for line in lines] == [2, 2, 3]
    assert "nan" not in " ".join(lines)
    assert "Validation was best at epoch 2: 0.6000." in html


def test_learning_rates_are_drawn_from_zero(run):
    log = run / "log.csv"
    log.write_text(LOG.replace("0.4,0.7,0,3", "0.4,0.7,0.0004,3"))
    rates = re.findall(r'class="line one" points="(.*?)"', report.run_page(run))[1]
    box = page.CHART
    heights = [float(point.split(",")[1]) for point in rates.split()]
    shares = [(box["bottom"] - y) / (box["bottom"] - box["top"]) for y in heights]
    np.testing.assert_allclose(shares, [1, 0.5, 0.4], atol=0.001)


def test_a_run_that_has_just_begun_has_a_page(run):
    (run / "log.csv").unlink()
    assert "No epoch is whole yet" in report.run_page(run)


def test_the_weights_of_a_run_score_as_evaluate_scores_them(
    run, monkeypatch, capsys, seed
):
    from helpers import fundus_like

    from saunet import cli
    from saunet.models import build_model

    samples = [fundus_like(48, 60, seed=i, name=str(i)) for i in range(2)]
    monkeypatch.setattr(cli, "_synthetic", lambda split: samples)
    model = build_model("sa_unet_v2")
    weights.save_weights(model, run / "best.weights.h5")
    model.layers[-1].set_weights([w * 0 for w in model.layers[-1].get_weights()])
    weights.save_weights(model, run / "last.weights.h5")
    protocol = ["--region", "frame", "--pooling", "mean", "--threshold", "0.45"]
    argv = ["evaluate", "--weights", run / "best.weights.h5", "--model", "sa_unet_v2"]
    argv += ["--dataset", "synthetic", "--json", *protocol]
    assert main([str(word) for word in argv]) == 0
    expected = json.loads(capsys.readouterr().out)
    status, _, _ = make(capsys, run, "--dataset", "synthetic", *protocol)
    assert status == 0
    html = (run / "report.html").read_text()
    assert "best.weights.h5, evaluated in float32" in html
    assert "2 of synthetic, test" in html
    rows = Page(html).numbers("images")
    assert all(same(rows["mean"][key], expected[key]) for key in evaluation.SCORES)
    for row in expected["per_image"]:
        shown = rows[row["name"]]
        assert all(same(shown[key], row[key]) for key in shown)


# ---------------------------------------------------------------- bad input


def test_a_folder_that_may_not_be_read_is_not_called_empty(folders, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if os.fspath(path) == str(folders / "maps"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InputError, match="maps: may not be read"):
        report.maps_page(folders / "maps")


def case_no_folder(root, run):
    return [root / "nowhere"], "no such folder"


def case_empty_folder(root, run):
    (run.parent / "empty").mkdir()
    return [run.parent / "empty"], "neither a training run"


def case_both(root, run):
    write_png(run / "1_prob.png", np.zeros((40, 40), np.uint16))
    return [run], "a training run and vessel maps"


def case_truth_without_match(root, run):
    (run.parent / "truth").mkdir()
    write_png(run.parent / "truth" / "99.png", np.zeros((40, 40), np.uint8))
    return [root / "maps", "--truth", run.parent / "truth"], "has no partner"


def case_photographs_as_maps(root, run):
    return [root / "photographs"], "a colour picture"


def case_fov_without_truth(root, run):
    return [root / "maps", "--fov", root / "fov"], "--fov without --truth"


def case_region_fov_without_fov(root, run):
    options = ["--truth", root / "truth", "--region", "fov"]
    return [root / "maps", *options], "needs the field-of-view masks"


def case_threshold(root, run):
    return [root / "maps", "--threshold", "1.5"], "threshold 1.5"


def case_dataset_for_maps(root, run):
    return [root / "maps", "--dataset", "drive"], "holds maps: use --truth"


def case_split_of_maps(root, run):
    return [root / "maps", "--split", "train"], "holds maps: use --truth"


def case_protocol_without_truth(root, run):
    return [root / "maps", "--pooling", "mean"], "is not scored: add --truth"


def case_protocol_without_dataset(root, run):
    return [run, "--region", "frame"], "is not scored: add --dataset"


def case_truth_for_a_run(root, run):
    return [run, "--truth", root / "truth"], "is a training run: use --dataset"


def case_data_dir_alone(root, run):
    return [run, "--data-dir", root], "add --dataset"


def case_run_is_no_record(root, run):
    (run / "run.json").write_text("[]")
    return [run], "not the record of a run"


def case_run_is_no_json(root, run):
    (run / "run.json").write_bytes(b"\xff{")
    return [run], "not the record of a run"


def case_broken_log(root, run):
    (run / "log.csv").write_text("epoch,loss\n1,much\n")
    return [run], "expected numbers"


def case_no_weights(root, run):
    return [run, "--dataset", "synthetic"], "no best.weights.h5 or last.weights.h5"


def case_out_is_no_page(root, run):
    return [root / "maps", "--out", root / "maps" / "1_prob.png"], "ends in .html"


def case_out_is_nowhere(root, run):
    return [root / "maps", "--out", run / "no" / "page.html"], "no such folder"


def case_photograph_of_another_size(root, run):
    folder = run.parent / "photographs"
    folder.mkdir()
    for name in NAMES:
        write_png(folder / f"{name}.png", np.zeros((50, 40, 3), np.uint8))
    return [root / "maps", "--images", folder], "the photograph is 40x50"


@pytest.mark.parametrize(
    "case",
    [value for name, value in list(globals().items()) if name.startswith("case_")],
    ids=lambda case: case.__name__[5:],
)
def test_bad_input_is_one_line(folders, run, capsys, case):
    old = run / "report.html"
    old.write_text("an older page")
    argv, expected = case(folders, run)
    before = sorted(folders.rglob("*"))
    status, out, err = make(capsys, *argv)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert expected in err
    assert old.read_text() == "an older page"
    assert sorted(folders.rglob("*")) == before


# ---------------------------------------------------------------- a real browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("no Chromium: install it (apt-get install chromium)")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def file(folders):
    path = folders / "page.html"
    report.write_page(scored(folders, images=folders / "photographs"), path)
    return path


def column(browser, index):
    """Returns what the image table shows in a column, from top to bottom."""
    return browser.run(
        "[...document.querySelector('#images').tBodies[0].rows]"
        f".map(row => row.cells[{index}].dataset.value)"
    )


def sorting(browser):
    return browser.run(
        "[...document.querySelectorAll('#images th')]"
        ".map(th => th.getAttribute('aria-sort')).filter(Boolean)"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_loads_without_a_complaint_or_a_request(browser, file, width, dark):
    browser.open(file, width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == []
    broken = "[...document.images].filter(image => !image.naturalWidth).length"
    assert browser.run(broken) == 0
    assert browser.run("document.images.length") == 4 * len(NAMES)
    # Nothing but a table in its own frame is wider than the window.
    assert browser.run("document.documentElement.scrollWidth") == width
    shot = Image.open(io.BytesIO(browser.screenshot(whole=False))).convert("RGB")
    assert shot.width == width
    pixels = np.array(shot)
    ground = np.bincount(pixels.mean(axis=2).astype(int).ravel()).argmax()
    assert ground < 40 if dark else ground > 240
    text = np.mean(np.abs(pixels.mean(axis=2) - ground) > 100)
    assert 0.005 < text < 0.5


def test_the_style_is_applied_and_the_curves_are_drawn(browser, file):
    browser.open(file)
    body = "getComputedStyle(document.body)"
    assert browser.run(f"{body}.backgroundColor") == "rgb(255, 255, 255)"
    lines = "document.querySelectorAll('.chart .line')"
    assert browser.run(f"{lines}.length") == 3
    assert browser.run(f"getComputedStyle({lines}[0]).fill") == "none"
    boxes = browser.run(
        f"[...{lines}].map(line => line.getBoundingClientRect().height)"
    )
    assert min(boxes) > 50


def test_a_press_sorts_and_another_reverses(browser, file):
    browser.open(file)
    before = column(browser, 0)
    assert sorting(browser) == []
    click = "document.querySelectorAll('#images th button')[{}].click()"
    browser.run(click.format(1))
    up = column(browser, 1)
    numbers = [float(value) for value in up]
    defined = [value for value in numbers if not math.isnan(value)]
    assert defined == sorted(defined)
    assert len(set(defined)) > 5
    assert column(browser, 0) != before
    assert sorting(browser) == ["ascending"]
    browser.run(click.format(1))
    assert [float(v) for v in column(browser, 1)][: len(defined)] == defined[::-1]
    assert sorting(browser) == ["descending"]
    # The row moves as a whole, and the sum stays below.
    rows = Page(file.read_text(encoding="utf-8")).numbers("images")
    for name, value in zip(column(browser, 0), column(browser, 1), strict=True):
        assert float(value) == pytest.approx(rows[name]["f1"], abs=0, nan_ok=True)
    assert browser.run("document.querySelector('#images').tFoot.rows.length") == 1
    # Names by their numbers: 2 before 10.
    browser.run(click.format(0))
    names = column(browser, 0)
    assert sorting(browser) == ["ascending"]
    assert [n for n in names if n.isdecimal()] == "1 2 03 4 5 6 10".split()
    assert browser.complaints() == []


def test_undefined_scores_stay_last(browser, file):
    browser.open(file)
    for _ in range(2):
        browser.run("document.querySelectorAll('#images th button')[2].click()")
        values = column(browser, 2)
        assert values[-1] == "nan"
        assert "nan" not in values[:-1]


def test_the_keyboard_sorts(browser, file):
    browser.open(file)
    browser.run("document.querySelectorAll('#images th button')[0].focus()")
    browser.press("Tab")
    focus = "document.activeElement.closest('th')?.dataset.key"
    assert browser.run(focus) == "f1"
    browser.press("Enter")
    assert sorting(browser) == ["ascending"]
    assert browser.run(focus) == "f1"  # and the focus stays
    browser.press("Enter")
    assert sorting(browser) == ["descending"]


def test_a_name_is_shown_as_it_is(browser, folders, tmp_path):
    path = tmp_path / "page.html"
    report.write_page(report.maps_page(folders / "maps"), path)
    browser.open(path)
    assert sorted(column(browser, 0)) == sorted(NAMES)
    links = "[...document.querySelectorAll('#images a')].map(a => a.textContent)"
    assert sorted(browser.run(links)) == sorted(NAMES)
    assert browser.complaints() == []
    assert browser.requests() == []


def test_a_run_loads_as_well(browser, run):
    report.write_page(report.run_page(run), run / "report.html")
    browser.open(run / "report.html", width=400)
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.run("document.documentElement.scrollWidth") == 400
    assert browser.run("document.querySelectorAll('.chart').length") == 2


def test_the_browser_would_tell(browser, file, tmp_path):
    """The checks above can fail: a log, an exception, a request, a foreign script."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<script>console.log('here'); missing()</script>"
        "<img src='http://127.0.0.1:9/x.png'>"
    )
    browser.open(bad)
    kinds = {event["method"] for event in browser.complaints()}
    assert {"Runtime.consoleAPICalled", "Runtime.exceptionThrown"} <= kinds
    assert browser.requests() == ["http://127.0.0.1:9/x.png"]
    # In a report the policy stops both.
    html = file.read_text(encoding="utf-8")
    bad.write_text(
        html.replace(
            "<main>",
            "<main><script>document.title = 'taken'</script>"
            "<img src='http://127.0.0.1:9/x.png'>",
        )
    )
    browser.open(bad)
    assert len(browser.complaints()) >= 2
    assert browser.run("document.title") != "taken"


# ---------------------------------------------------------------- real maps


@pytest.mark.data
@pytest.mark.slow
def test_public_maps_of_drive(shared, tmp_path):
    """lwnet's maps of DRIVE's test part, whose scores README gives."""
    drive = shared("data/DRIVE") / "test"
    html = report.maps_page(
        shared("peer_predictions/lwnet_drive_test"),
        truth=drive / "1st_manual",
        fov=drive / "mask",
        images=drive / "images",
    )
    scores = Page(html).numbers("protocols")["fov, pooled"]
    assert round(scores["f1"], 4) == 0.8273
    assert round(scores["auc"], 4) == 0.9810
    assert html.count('<article class="image"') == 20
    assert report.write_page(html, tmp_path / "page.html") < 8e6
