"""A latency test in a project of your own: fails if the engine is slower than its baseline by more than 5%.

    effedge latency-test build/d0-digits/int8-cpu --baseline baselines/d0.json --record     # once, then commit it
    ENGINE=build/d0-digits/int8-cpu BASELINE=baselines/d0.json pytest examples/test_latency.py

The fixture `check_latency` comes with effedge. A machine that is too busy to tell skips the test.
"""

import os

import pytest


def test_the_engine_is_as_fast_as_its_baseline(check_latency):
    if "ENGINE" not in os.environ:
        pytest.skip("ENGINE and BASELINE name the engine's folder and its baseline")
    check_latency(os.environ["ENGINE"], os.environ["BASELINE"], tolerance=5)
