"""The command `effedge` as its user meets it: help, names, versions, completion, and mistakes in one line."""

import os
import re
import subprocess
import sys

import pytest

import effedge
from effedge.__main__ import main
from effedge.commands import COMMANDS
from effedge.deploy.common.code_digest import ROOT


def run_effedge(*words, **environment):
    command = [sys.executable, "-m", "effedge", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


def completed(line):
    """What the shell is offered for a line."""
    script = "import os, sys; os.dup2(1, 8); sys.argv = ['effedge']; from effedge.__main__ import main; main()"
    environment = {**os.environ, "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_TYPE": "9",
                   "COMP_POINT": str(len(line)), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment)
    return done.stdout.split()


def test_help_has_a_line_for_every_command():
    done = run_effedge("--help")
    assert done.returncode == 0 and done.stderr == ""
    lines = {words[0]: words[1] for words in re.findall(r"^  (\S+) +(.+)$", done.stdout, re.MULTILINE)}
    assert {name: command.help for name, command in COMMANDS.items()}.items() <= lines.items()
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert run_effedge().stdout == done.stdout


def test_the_version():
    assert run_effedge("--version").stdout == f"effedge {effedge.__version__}\n"


@pytest.mark.parametrize(
    ("word", "nearest"), [("quantise", "quantize"), ("latency_test", "latency-test"), ("engin", "engine")]
)
def test_an_unknown_command_is_one_line_with_the_nearest_name(word, nearest):
    done = run_effedge(word, "--out", "x")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: unknown command '{word}': did you mean '{nearest}'?")
    assert done.stderr.count("\n") == 1


def test_it_starts_in_a_fifth_of_a_second():
    """Nothing heavy is imported before it is known what is wanted. Of processor time, and the best of five, as the
    machine may be busy."""
    seconds = []
    for _ in range(5):
        before = os.times()
        assert run_effedge("--help").returncode == 0
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))  # of ended processes, user and system
    assert min(seconds) < 0.2


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_help_of_every_command_names_it(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["effedge", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and shown.startswith(f"usage: effedge {name} ") and "python -m" not in shown


def test_where_a_part_of_effedge_is_missing_it_says_so(tmp_path):
    script = (
        "import sys; sys.modules['effedge.pipeline'] = None; sys.argv = ['effedge', 'train', 'b0'];"
        "from effedge.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: 'effedge train' is not in a bundle") and done.stderr.count("\n") == 1


def test_completion_of_commands_and_of_their_options():
    pytest.importorskip("argcomplete")
    assert completed("effedge la") == ["latency", "latency-test", "layer-accuracy"]
    assert completed("effedge latency-test --to") == ["--tolerance"]
    assert "--images-dir" in completed("effedge quantize model.onnx --im")
    script = run_effedge("--completion", "zsh").stdout
    assert "effedge" in script and "compdef" in script
    assert run_effedge("--completion", "cmd").stderr.startswith("error: unknown shell 'cmd': did you mean")
