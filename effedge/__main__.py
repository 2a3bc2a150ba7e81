"""Runs a command of effedge: `effedge quantize model.onnx ...`, or `python -m effedge quantize model.onnx ...`."""

import importlib
import os
import sys
from functools import partial
from typing import Callable, List, NoReturn

import effedge
from effedge.commands import COMMANDS, GROUPS, Command
from effedge.deploy.common.cli import COMPLETING, Parser, UserError, choose, run

SHELLS = ("bash", "zsh", "fish")
USAGE = "usage: effedge COMMAND [OPTIONS]   (effedge COMMAND --help lists the options)"


def main() -> NoReturn:
    """Runs the command `effedge`; its entry point."""
    words = sys.argv[1:]
    if COMPLETING in os.environ:
        words = typed_words()
    run(partial(start, words))


def start(words: List[str]) -> None:
    """Runs the command that the words name. Raises UserError for an unknown name, or if its module is not installed."""
    if COMPLETING in os.environ and not COMMANDS.keys() & words[:1]:
        complete_names()
    elif not words or words[0] in ("-h", "--help"):
        print(overview())
    elif words[0] in ("-V", "--version"):
        print(f"effedge {effedge.__version__}")
    elif words[0] == "--completion":
        print(completion(words[1] if len(words) > 1 else SHELLS[0]))
    else:
        name = choose("command", words[0], COMMANDS)
        sys.argv = [f"effedge {name}", *words[1:], *COMMANDS[name].options]
        load(name, COMMANDS[name])()


def load(name: str, command: Command) -> Callable[[], None]:
    """Imports a command's `main`. Raises UserError where its part of effedge is missing, as in a bundle."""
    try:
        main: Callable[[], None] = importlib.import_module(command.module).main
        return main
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("effedge."):
            raise
        raise UserError(
            f"'effedge {name}' is not in a bundle, which only builds and runs engines: install all of effedge for it"
        ) from error


def overview() -> str:
    """Returns the text of `effedge --help`: every command with a line of help."""
    width = max(map(len, COMMANDS))
    lines = [USAGE]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {command.help}" for name, command in commands.items())]
    lines += ["", "--version prints the version; --completion bash, zsh or fish prints that shell's completion:"]
    lines += ['  eval "$(effedge --completion bash)"']
    return "\n".join(lines)


def completion(shell: str) -> str:
    """Returns the code by which a shell completes effedge's commands and options. Raises UserError without
    argcomplete."""
    choose("shell", shell, SHELLS)
    try:
        import argcomplete
    except ImportError as error:
        raise UserError("completion needs the package argcomplete: pip install argcomplete") from error
    return str(argcomplete.shellcode(["effedge"], shell=shell))


def typed_words() -> List[str]:
    """Returns the words behind `effedge` on the line that the shell completes, without the unfinished word. A command
    among them completes its own options."""
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0") or 0)]
    words = line.split(" ")[1:-1]
    if words and words[0] in COMMANDS:
        os.environ[COMPLETING] = "2"  # argcomplete: the parser's own words begin with the second
    return [word for word in words if word]


def complete_names() -> None:
    """Completes the name of a command, or an option of `effedge` itself."""
    parser = Parser(prog="effedge")
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--completion", choices=SHELLS)
    parser.parse_args()


if __name__ == "__main__":
    main()
