"""Runs commands of effedge, each in a fork of this process, whose imports are done once; read by harness.py.

Each line of standard input is a JSON object: `cwd`, `log` (a file for what the command prints) and `call`, a function
of tests/faults/calls.py with its `arguments`. The answer is a line with the exit status, negative for a signal.
"""

from __future__ import annotations

import importlib
import json
import os
import sys


def answer(request: dict) -> int:
    """Runs a request in a child process; returns its status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 70
    try:
        os.setsid()  # a fault kills the child's process group
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.chdir(request["cwd"])
        call = getattr(importlib.import_module("tests.faults.calls"), request["call"])
        call(*request["arguments"])
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def main() -> None:
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        print(answer(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
