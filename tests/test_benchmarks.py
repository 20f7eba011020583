"""The stock networks that the benchmarks compare with are the same networks."""

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import generator

from saunet.models import build_model

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def stock(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import stock

    return stock


@pytest.mark.parametrize("name", ["sa_unet", "sa_unet_v2"])
def test_stock_layers_give_the_same_map_from_the_same_weights(stock, name):
    ours, theirs = build_model(name), stock.STOCK[name]()
    for weight in ours.weights:
        rng = generator(weight.path)
        if len(weight.shape) == 4:
            scale = np.sqrt(2 / np.prod(weight.shape[:3]))
            weight.assign(scale * rng.standard_normal(weight.shape))
        else:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    theirs.set_weights(ours.get_weights())
    x = generator("image").random((2, 32, 48, 3)).astype("float32")
    want = np.asarray(ours(x))
    assert want.std() > 0.01
    np.testing.assert_allclose(theirs(x), want, atol=1e-5)
    kinds = {type(layer).__module__.partition(".")[0] for layer in theirs.layers}
    assert kinds == {"keras", "stock"}
    drops = [x for x in theirs.layers if isinstance(x, stock.StockDropBlock2D)]
    assert len(drops) == 14


def test_stock_drop_block_drops_whole_squares_and_keeps_the_sum(stock):
    keras.utils.set_random_seed(3)
    layer = stock.StockDropBlock2D(0.2, 7)
    y = np.asarray(layer(np.ones((4, 20, 24, 8)), training=True))
    np.testing.assert_allclose(y.mean(), 1, rtol=1e-5)
    dropped = y == 0
    assert 0.1 < dropped.mean() < 0.25
    windows = np.lib.stride_tricks.sliding_window_view(dropped, (7, 7), axis=(1, 2))
    squares = windows.all(axis=(-1, -2))
    grown = np.zeros_like(dropped)
    for row in range(7):
        for column in range(7):
            grown[:, row : row + 14, column : column + 18] |= squares
    np.testing.assert_array_equal(grown, dropped)


def test_a_row_of_results_stands_under_its_columns(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import record

    monkeypatch.setattr(record, "RESULTS", tmp_path)
    record.append("x.csv", {"a": 1, "b": 2})
    record.append("x.csv", {"b": 4, "a": 3})
    for row in ({"a": 5}, {"a": 5, "b": 6, "c": 7}):
        with pytest.raises(SystemExit, match="its columns are"):
            record.append("x.csv", row)
    assert (tmp_path / "x.csv").read_text() == "a,b\n1,2\n3,4\n"


def test_the_page_on_speed_is_rendered_from_the_measurements(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import page

    shown = (FOLDER.parent / "docs" / "speed.md").read_text(encoding="utf-8")
    assert shown == page.page(), "run: python benchmarks/page.py > docs/speed.md"
