"""The logger that builders and engines share: what it keeps, what it writes, and that there is one per module."""

import io

import pytest

from effedge.deploy.runtime.tensorrt.log import tensorrt_logger
from tests.deploy.fake_tensorrt import LogLevel, fake_tensorrt


def test_a_module_has_one_logger_in_a_process():
    module = fake_tensorrt(None)
    assert tensorrt_logger(module) is tensorrt_logger(module)
    assert tensorrt_logger(module) is not tensorrt_logger(fake_tensorrt(None, name="tensorrt_rtx"))


def test_the_reason_is_the_first_error_once_and_on_one_line():
    logger = tensorrt_logger(fake_tensorrt(None))
    for severity, text in (
        (LogLevel.WARNING, "a warning"),
        (LogLevel.ERROR, "an\n  error"),
        (LogLevel.INTERNAL_ERROR, "more"),
    ):
        logger.log(severity, text)
    assert logger.reason() == "an error"
    assert logger.reason() == "it gave no reason"


def test_the_reason_names_no_place_in_tensorrts_sources():
    logger = tensorrt_logger(fake_tensorrt(None))
    place = " In throwUnlessComputeCapSupported at /_src/runtime/dispatch/runtime.cpp:84"
    logger.log(LogLevel.ERROR, f"API Usage Error (The engine cannot be rebuilt for it.{place})")
    assert logger.reason() == "API Usage Error (The engine cannot be rebuilt for it.)"


def test_errors_and_warnings_are_kept_once_until_they_are_forgotten():
    """An engine may repeat a warning in each of its runs."""
    logger = tensorrt_logger(fake_tensorrt(None))
    for _ in range(3):
        for level in LogLevel:
            logger.log(level, f"some {level.name.lower()}")
    assert logger.errors == ["some internal_error", "some error"]
    assert logger.warnings == ["some warning"]
    logger.forget()
    assert (logger.errors, logger.warnings, logger.reason()) == ([], [], "it gave no reason")


def test_the_file_gets_every_message_but_verbose_ones():
    logger = tensorrt_logger(fake_tensorrt(None))
    with io.StringIO() as logger.file:
        for level in LogLevel:
            logger.log(level, "text")
        assert logger.file.getvalue() == "INTERNAL_ERROR: text\nERROR: text\nWARNING: text\nINFO: text\n"
    logger.file = None
    logger.log(LogLevel.ERROR, "later")


def test_it_is_a_logger_for_rtx():
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
    logger = tensorrt_logger(rtx)
    logger.forget()
    assert isinstance(logger, rtx.ILogger)
    logger.log(rtx.ILogger.ERROR, "an error")
    assert logger.reason() == "an error"
