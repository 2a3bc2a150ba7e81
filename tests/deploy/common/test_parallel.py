"""Items through several threads: the order, how far ahead, errors, and engines in throughput mode."""

import threading
import time

import numpy as np
import pytest

from effedge import Classifier, Detector
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.parallel import ordered_map
from effedge.deploy.runtime.backends import load_backend
from effedge.deploy.runtime.manifest import read_manifest


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_order_is_that_of_the_items_whatever_takes_longest(workers):
    def slow_for_even(item):
        time.sleep(0.002 * (item % 2 == 0))
        return item * item

    assert list(ordered_map(slow_for_even, range(40), workers)) == [item * item for item in range(40)]
    assert list(ordered_map(slow_for_even, [], workers)) == []


def test_several_items_are_worked_on_at_once():
    both = threading.Barrier(2, timeout=10)  # passed only by two threads that wait together
    assert list(ordered_map(lambda item: both.wait() >= 0, range(6), 2)) == [True] * 6


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_read_ahead_than_twice_the_workers(workers):
    read = []

    def items():
        for item in range(1000):
            read.append(item)
            yield item

    for done, _ in enumerate(ordered_map(lambda item: item, items(), workers), start=1):
        assert len(read) <= done + 2 * workers


def test_an_error_comes_in_its_place_and_what_was_not_begun_never_is():
    begun = []

    def fail_at_three(item):
        begun.append(item)
        if item == 3:
            raise UserError("three")
        return item

    got = []
    with pytest.raises(UserError, match="three"):
        for item in ordered_map(fail_at_three, range(1000), 2):
            got.append(item)
    assert got == [0, 1, 2] and len(begun) <= 8


@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 2, 4), (3, 3, 3)])
def test_throughput_mode_finds_the_same(build, batch):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (int(h), int(w), 3), np.uint8) for h, w in random.integers(20, 90, (17, 2))]
    for kind, task in ((Detector, "detection"), (Classifier, "classification")):
        folder = build(task, batch=batch, name=task)
        single, parallel = kind(folder), kind(folder, throughput=True)
        parallel.engine.parallel = 3  # whatever this machine's number of cores
        results = list(zip(single(images), parallel(images)))
        assert len(results) == len(images)
        for expected, result in results:
            if task == "classification":
                assert expected == result
            else:
                np.testing.assert_array_equal(expected.boxes, result.boxes)
                assert expected.labels == result.labels


def test_an_image_that_cannot_be_read_is_one_line_in_throughput_mode_too(build, tmp_path):
    detector = Detector(build(), throughput=True)
    detector.engine.parallel = 2
    detections = detector.stream([np.zeros((9, 9, 3), np.uint8), tmp_path / "missing.jpg"])
    next(detections)
    with pytest.raises(UserError, match="missing.jpg"):
        next(detections)


def test_each_thread_has_a_request_of_its_own(adder):
    """One request shared by two threads is refused by OpenVINO ("Infer Request is busy") sooner or later."""
    backend = load_backend(adder, read_manifest(adder), throughput=True)
    assert backend.parallel >= 1

    def add(item):
        feeds = {"x": np.full((1, 3), item, np.float32), "y": np.full((1, 1), item, np.int32)}
        return backend(feeds)["sum"].tolist()

    assert list(ordered_map(add, range(300), 4)) == [[[2.0 * item] * 3] for item in range(300)]
