"""Collects TensorRT's messages: the errors and warnings, and while an engine is built, all messages in a file."""

import functools
import re
from typing import Any, List, Optional, Protocol, TextIO

SOURCE_PLACE = re.compile(r" In \w+ at /\S+:\d+(?=\)|$)")  # within TensorRT's own sources


class TensorRTLogger(Protocol):
    """A `module.ILogger` that keeps distinct errors and warnings, and writes to `file` if there is one."""

    errors: List[str]
    warnings: List[str]
    file: Optional[TextIO]

    def forget(self) -> None:
        """Drops the errors and warnings, so that the next ones are those of the work that follows."""

    def reason(self) -> str:
        """Returns the first error on one line, without its place in TensorRT's sources, and drops all errors: later
        errors are consequences of the first."""


@functools.lru_cache(maxsize=None)
def tensorrt_logger(module: Any) -> TensorRTLogger:
    """Returns the process's only logger for a backend module, tensorrt or tensorrt_rtx.

    Builders and engines share it, because TensorRT keeps the first logger that it is given and uses that one until the
    process ends.
    """

    class Logger(module.ILogger):
        file: Optional[TextIO] = None

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.forget()

        def forget(self) -> None:
            self.errors: List[str] = []
            self.warnings: List[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity == module.ILogger.VERBOSE:  # each kernel that was tried: tens of megabytes
                return
            if self.file is not None:
                print(f"{severity.name}: {msg}", file=self.file)
            is_error = severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)
            messages = self.errors if is_error else self.warnings
            if (is_error or severity == module.ILogger.WARNING) and msg not in messages:
                messages.append(msg)

        def reason(self) -> str:
            errors, self.errors = self.errors, []
            return SOURCE_PLACE.sub("", " ".join(errors[0].split())) if errors else "it gave no reason"

    return Logger()
