"""Choosing a model: the pick on recorded figures, what is left unmeasured, figures from a file, and the command."""

import json
import sys

import pytest
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.engines.targets import TARGETS
from effedge.pipeline.models.tables import EFFICIENTDETS, EFFICIENTNETS
from effedge.pipeline.reports.choose import command as choose
from effedge.pipeline.reports.choose import measure
from effedge.pipeline.reports.choose.figures import PUBLISHED, SERIES, TASKS, published, read_figures, series_of
from effedge.pipeline.reports.choose.measure import Cost
from effedge.pipeline.reports.choose.pareto import Candidate, measure_series, pareto_front, pick
from effedge.pipeline.reports.choose.plot import ticks

# Google's own latencies of the lite models on a Pixel 4 in ms, beside their mAP (google/automl's README).
PIXEL4 = [
    Candidate("det-lite0", 26.41, 36),
    Candidate("det-lite1", 31.50, 49),
    Candidate("det-lite2", 35.06, 69),
    Candidate("det-lite3", 38.77, 116),
    Candidate("det-lite4", 43.18, 260),
]
# The same README's of D0 to D7x on a V100, batch 1 end to end.
V100 = {
    "d0": 10.2, "d1": 13.5, "d2": 17.7, "d3": 28.0, "d4": 42.8, "d5": 72.5, "d6": 92.8, "d7": 122.0, "d7x": 153.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "model"),
    [(36, "det-lite0"), (68.9, "det-lite1"), (69, "det-lite2"), (200, "det-lite3"), (1e6, "det-lite4")],
)
def test_the_pick_is_the_most_accurate_within_the_limit(limit, model):
    assert pick(PIXEL4, limit).model == pick(PIXEL4[::-1], limit).model == model


def test_where_none_is_within_the_limit_it_is_the_fastest():
    assert pick(PIXEL4, 20) is PIXEL4[0]
    assert pick([Candidate("a", 30, 40), Candidate("b", 31, 40)], 20).model == "b", "of equally fast ones the better"


def test_of_equally_accurate_models_the_faster_is_taken_and_of_equals_the_first():
    tied = [Candidate("slow", 40, 25), Candidate("fast", 40, 12), Candidate("small", 30, 5)]
    assert pick(tied, 30).model == "fast"
    assert pick([Candidate("first", 40, 12), Candidate("second", 40, 12)], 30).model == "first"


def test_a_dominated_model_is_neither_taken_nor_on_the_front():
    """det-lite3 beside D0 and D1: slower than D1 and less accurate."""
    mixed = [Candidate("d0", 34.3, 14), Candidate("det-lite3", 38.77, 40), Candidate("d1", 40.2, 33)]
    assert [one.model for one in pareto_front(mixed)] == ["d0", "d1"]
    assert pick(mixed, 45).model == "d1"


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_beats_and_the_pick_is_on_it(seed):
    import random

    draw = random.Random(seed)
    some = [Candidate(str(index), draw.randint(1, 6), draw.randint(1, 6)) for index in range(8)]
    best = pareto_front(some)
    for one in some:
        better = [
            o for o in some if o.accuracy >= one.accuracy and o.milliseconds <= one.milliseconds and o[1:] != one[1:]
        ]
        assert (one in best) == (not better)
    for limit in range(8):
        assert pick(some, limit) in best
    assert [one.milliseconds for one in best] == sorted(one.milliseconds for one in best)


def test_a_series_ends_with_the_first_model_far_beyond_the_limit():
    asked = []

    def milliseconds(model):
        asked.append(model)
        return V100[model]

    found = list(measure_series([list(V100)], 25, milliseconds))
    assert asked == ["d0", "d1", "d2", "d3", "d4"], "28 ms is beyond 25, but not beyond 37.5"
    assert found[-1] == ("d4", 42.8, ["d5", "d6", "d7", "d7x"]) and all(larger == [] for _, _, larger in found[:-1])
    assert len(list(measure_series([list(V100)], 1000, V100.get))) == 9
    both = [model for model, _, _ in measure_series([["d3", "d4"], ["d0", "d1"]], 10, V100.get)]
    assert both == ["d3", "d0", "d1"], "each series by itself"


def test_what_climbing_leaves_out_could_not_have_been_taken():
    for limit in range(1, 200):
        measured = [
            Candidate(model, PUBLISHED[model].accuracy, ms)
            for model, ms, _ in measure_series([list(V100)], limit, V100.get)
        ]
        everything = [Candidate(model, PUBLISHED[model].accuracy, ms) for model, ms in V100.items()]
        assert pick(measured, limit) == pick(everything, limit)


@pytest.mark.parametrize("task", TASKS)
def test_a_series_grows_in_every_dimension_and_in_accuracy(task):
    """So that the larger are slower on any device."""
    for models in SERIES[task]:
        rows = [(EFFICIENTDETS | EFFICIENTNETS)[model] for model in models]
        for small, large in zip(rows, rows[1:], strict=False):
            for field in ("size", "width", "depth", "channels", "layers", "head_layers", "levels"):
                assert getattr(small, field, 0) <= getattr(large, field, 0)
            assert PUBLISHED[small.name].accuracy < PUBLISHED[large.name].accuracy
    assert sorted(sum(SERIES[task], ())) == sorted(row.model for row in published(task))


def test_figures_of_ones_own(tmp_path):
    """Only the models in the file count, in their series' order; B8 belongs to none."""
    (tmp_path / "mine.json").write_text('{"b1": 91.5, "b8": 93, "b0": 90}')
    (tmp_path / "mine.csv").write_text("\ufeffmodel, accuracy\nb1, 91.5\n\nb8,93\nb0,9e1\n")
    for name in ("mine.json", "mine.csv"):
        figures = read_figures(tmp_path / name)
        assert [(row.model, row.accuracy) for row in figures] == [("b1", 91.5), ("b8", 93.0), ("b0", 90.0)]
        assert series_of(figures) == [["b0", "b1"], ["b8"]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "b9,80", "did you mean 'b"),
        ("a.csv", "b0,80\nb0,81", "twice"),
        ("a.csv", "b0,80\nb1,good", "'good' of b1"),
        ("a.csv", "b0,nan", "NaN of b0"),
        ("a.csv", "b0;80", "the line 'b0;80'"),
        ("a.csv", "", "has no figures"),
        ("a.csv", "model,top-1", "has no figures"),
        ("a.csv", "b0,80\nd0,34", "both detectors .d0. and classifiers .b0."),
        ("a.csv", b"b0,\xff\xfe", "is no UTF-8"),
        ("a.json", "{", "damaged"),
        ("a.json", "[1]", "no JSON object"),
        ("a.json", '{"b0": "80"}', '"80" of b0'),
        ("a.json", '{"b0": true}', "true of b0"),
        ("none.csv", None, "does not exist"),
    ],
)
def test_a_broken_file_of_figures_is_one_line(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        read_figures(tmp_path / name)


def cost_of(latencies):
    return lambda model, precision, target, out: Cost(model, latencies[model], 2 * latencies[model], 1.0, 200)


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["choose", *map(str, words)])
    choose.main()


def test_the_command_prints_the_table_draws_it_and_says_what_to_type(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    latencies = {**{one.model: one.milliseconds for one in PIXEL4}, **V100}
    monkeypatch.setattr(choose, "measure", cost_of(latencies))
    files = ["--json", tmp_path / "a.json", "--plot", tmp_path / "a.png"]
    run(monkeypatch, "--latency", 30, "--target", "cpu", *files)
    printed = capsys.readouterr().out
    assert "| d3 | 46.8 | 28.0 | 56.0 | 1.0 | 200 | take this |" in printed
    assert "| det-lite0 | 26.41 | 36.0 | 72.0 | 1.0 | 200 |  |" in printed
    assert "take d3: AP 46.8 in 28.0 ms, the most accurate of 4 within 30 ms" in printed
    assert "not measured: det-lite2, det-lite3, det-lite4; det-lite1 takes more than 1.5 times the limit" in printed
    assert "not measured: d6, d7, d7x; d5 takes" in printed
    assert "make engine MODEL=d3 WEIGHTS=coco PRECISION=fp16 TARGET=cpu" in printed
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["take"] == "d3" and report["within_limit"] and len(report["models"]) == 8
    assert report["models"][0]["source"].startswith("google/automl")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 800


def test_figures_of_ones_own_decide(monkeypatch, capsys, tmp_path):
    """D0 may be better than D1 on somebody's data."""
    (tmp_path / "mine.csv").write_text("d0,61.5\nd1,60.0\n")
    monkeypatch.setattr(choose, "measure", cost_of(V100))
    run(monkeypatch, "--latency", 15, "--figures", tmp_path / "mine.csv", "--precision", "int8")
    printed = capsys.readouterr().out
    assert "take d0: accuracy 61.5 in 10.2 ms, the most accurate of 2 within 15 ms" in printed
    assert "make engine MODEL=d0 WEIGHTS=YOURS.safetensors PRECISION=int8 CALIBRATION=IMAGES/" in printed


def test_where_none_fits_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(choose, "measure", lambda model, *_: Cost(model, 50.0 + len(model), 60.0, 1.0, 200))
    run(monkeypatch, "--latency", 5, "--task", "classification", "--target", "cpu")
    printed = capsys.readouterr().out
    assert "take b0: top-1 77.1 in 52.0 ms, the fastest: no model is within 5 ms here" in printed
    assert "WEIGHTS=imagenet" in printed and printed.count("not measured") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--latency", "0"], "expected milliseconds above 0"),
        (["--latency", "nan"], "expected a finite number"),
        ([], "--latency"),
        (["--latency", "30", "--task", "detect"], "did you mean 'detection'"),
        (["--latency", "30", "--precision", "fp8"], "unknown precision"),
        (["--latency", "30", "--target", "cpi"], "did you mean 'cpu'"),
        (["--latency", "30", "--target", "jetson-orin"], "on the Jetson itself"),
        (["--latency", "30", "--target", "rtx"], "no NVIDIA GPU answers here"),
        (["--latency", "30", "--task", "classification", "--figures", "{mine}"], "is of detection"),
        (["--latency", "30", "--plot", "{mine}/a.png"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_built(monkeypatch, capsys, tmp_path, words, said):
    mine = tmp_path / "mine.csv"
    mine.write_text("d0,61.5\n")
    monkeypatch.setattr(choose, "measure", None)
    monkeypatch.setattr(choose, "runs_here", lambda target: target.name == "cpu")
    with pytest.raises((UserError, SystemExit)) as caught:
        run(monkeypatch, *(word.format(mine=mine) for word in words))
    assert said in str(caught.value) + capsys.readouterr().err


def test_an_engine_is_built_and_timed_in_processes_of_their_own(monkeypatch, tmp_path):
    """B0, and its process is small though this one has been large."""
    ballast = bytearray(1 << 30)
    ballast[:: 1 << 12] = b"x" * len(range(0, 1 << 30, 1 << 12))
    del ballast
    found = measure.measure("b0", "fp32", TARGETS["cpu"], tmp_path)
    assert found.model == "b0" and found.engine <= found.milliseconds <= found.p90
    assert 80 < found.memory_mib < 600
    assert (tmp_path / "b0-random" / "fp32-cpu" / "manifest.json").is_file()


def test_ticks_surround_the_span():
    assert ticks(7, 40) == [5, 10, 20, 50]
    assert ticks(10, 10) == [10] and ticks(0.3, 2) == pytest.approx([0.2, 0.5, 1, 2])
