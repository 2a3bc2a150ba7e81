"""One line and exit status 2 for what a user causes; a traceback for a defect; Ctrl-C even where a library hides it."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from effedge.deploy.common.cli import INTERRUPTED, UserError, run

ROOT = Path(__file__).resolve().parents[3]


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("Ctrl-C raised nothing")


def ends(main, capsys):
    """run(main): its exit status and the lines on stderr."""
    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code, capsys.readouterr().err.splitlines()


def test_a_main_that_returns_exits_0(capsys):
    assert ends(lambda: None, capsys) == (0, [])


def test_a_user_error_is_one_line_and_exit_2(capsys):
    def main():
        raise UserError("no file 'x':\nexpected\none")

    assert ends(main, capsys) == (2, ["error: no file 'x': expected one"])


def test_ctrl_c_is_one_line_and_exit_2(capsys):
    assert ends(press_ctrl_c, capsys) == (2, [INTERRUPTED])


@pytest.mark.parametrize("chained", [True, False])
def test_ctrl_c_that_a_library_turned_into_an_error_of_its_own_is_ctrl_c(capsys, chained):
    def main():
        try:
            press_ctrl_c()
        except BaseException as error:
            raise ImportError("cannot import name 'x'") from (error if chained else None)

    assert ends(main, capsys) == (2, [INTERRUPTED])


def test_an_error_without_ctrl_c_keeps_its_traceback():
    def main():
        raise ImportError("cannot import name 'x'")

    with pytest.raises(ImportError):
        run(main)


def test_a_user_error_after_ctrl_c_is_its_own_line(capsys):
    """Training answers Ctrl-C by saying after which step it stopped."""

    def main():
        try:
            press_ctrl_c()
        except KeyboardInterrupt:
            raise UserError("interrupted after step 3") from None

    assert ends(main, capsys) == (2, ["error: interrupted after step 3"])


def test_the_handler_before_is_put_back(capsys):
    before = signal.getsignal(signal.SIGINT)
    ends(press_ctrl_c, capsys)
    assert signal.getsignal(signal.SIGINT) is before


def test_where_ctrl_c_is_ignored_it_stays_ignored(capsys):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert ends(lambda: os.kill(os.getpid(), signal.SIGINT), capsys) == (0, [])
    finally:
        signal.signal(signal.SIGINT, before)


def test_off_the_main_thread_no_handler_is_installed():
    script = (
        "import threading; from effedge.deploy.common.cli import run\n"
        "thread = threading.Thread(target=run, args=(lambda: print('ran'),)); thread.start(); thread.join()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=str(ROOT), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def test_a_real_ctrl_c_inside_an_import_that_hides_it_is_one_line(tmp_path):
    (tmp_path / "hides.py").write_text(
        "import time\n"
        "try:\n"
        "    print('importing', flush=True)\n"
        "    time.sleep(60)\n"
        "except BaseException as error:\n"
        "    raise RuntimeError('half-initialized module') from error\n"
    )
    script = "from effedge.deploy.common.cli import run\ndef main():\n    import hides\nrun(main)"
    # A job in the background of a shell, and all that it starts, has Ctrl-C ignored.
    command = [sys.executable, "-c", f"import signal; signal.signal(2, signal.default_int_handler)\n{script}"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()) == (2, [INTERRUPTED])


def test_ctrl_c_inside_the_execution_of_a_text_is_exit_2(tmp_path):
    """`python -m` would end by SIGINT itself: Python remembers an interrupt of exec() that was caught since."""
    (tmp_path / "executes.py").write_text(
        "from effedge.deploy.common.cli import run\nrun(lambda: exec('raise KeyboardInterrupt'))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-m", "executes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()) == (2, [INTERRUPTED])


def test_a_reader_that_has_enough_ends_the_command_without_a_word():
    """As `effedge ... | head -1`."""
    script = (
        "from effedge.deploy.common.cli import run\ndef main():\n    while True: print('line', flush=True)\nrun(main)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as done:
        assert done.stdout.readline() == b"line\n"
        done.stdout.close()
        assert done.stderr.read() == b"" and done.wait(30) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 2)])
def test_the_end_of_a_session_and_systemds_stop_are_as_ctrl_c_with_a_shells_status(capsys, number, status):
    before = signal.getsignal(number)
    assert ends(lambda: os.kill(os.getpid(), number), capsys) == (status, [INTERRUPTED])
    assert signal.getsignal(number) is before

    def main():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise UserError("interrupted after step 3") from None

    assert ends(main, capsys) == (status, ["error: interrupted after step 3"])


def test_under_nohup_the_end_of_a_session_ends_nothing(capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ends(lambda: os.kill(os.getpid(), signal.SIGHUP), capsys) == (0, [])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_main_handles_well_is_status_0(capsys):
    """As the end of a live video."""

    def main():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)

    assert ends(main, capsys) == (0, [])


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "body",
    ["print('x')", "print('x', flush=True)", "log.info('x')", "Parser(prog='p').parse_args(['--help'])",
     "print('x'); raise SystemExit(0)"],
)  # fmt: skip
def test_a_full_standard_output_is_one_line(body, unbuffered):
    script = f"from effedge.deploy.common.cli import Parser, run; from effedge.deploy.common.messages import log\n\
def main():\n    {body}\nrun(main)"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=str(ROOT),
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    message = b"error: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, message)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_left_before_the_first_line_ends_the_command_without_a_word(unbuffered):
    script = "import sys; from effedge.deploy.common.cli import run; sys.stdin.read(); run(lambda: print('x'))"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=str(ROOT), env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as done:  # fmt: skip
        done.stdout.close()
        done.stdin.close()
        assert done.stderr.read() == b"" and done.wait(30) == 0


def test_standard_error_that_is_full_changes_no_status():
    script = "from effedge.deploy.common.cli import UserError, run\ndef main():\n    raise UserError('x')\nrun(main)"
    with open("/dev/full", "wb") as full:
        assert subprocess.run([sys.executable, "-c", script], cwd=str(ROOT), stderr=full, check=False).returncode == 2


def test_a_terminal_that_is_gone_disturbs_nothing_that_is_still_to_be_kept(tmp_path):
    """As a lost ssh session: SIGHUP, and then EIO from each write to the terminal."""
    import pty

    script = (
        "import sys, time; from effedge.deploy.common.cli import run, handled_signals\n"
        "def main():\n"
        "    stopped = []\n"
        "    with handled_signals(stopped.append):\n"
        "        print('ready', flush=True)\n"
        "        while not stopped: time.sleep(0.01)\n"
        "    for _ in range(3): print('words', flush=True); print('words', file=sys.stderr, flush=True)\n"
        f"    open({str(tmp_path / 'kept')!r}, 'w').close()\n"
        "run(main)"
    )
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.chdir(str(ROOT))
        os.execv(sys.executable, [sys.executable, "-c", script])
    said = b""
    while not said.endswith(b"\n"):
        said += os.read(terminal, 100)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert (tmp_path / "kept").exists() and os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
