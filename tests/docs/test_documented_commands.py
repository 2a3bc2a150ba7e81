"""Every command that the README, the documentation or an example shows exists, with all of its options."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effedge.commands import COMMANDS
from effedge.deploy.common.cli import Parser
from tests.docs.documented import ROOT, Documented, documented_commands

# Commands that are not effedge's; what they are is not effedge's to test.
OTHERS = {
    ".",
    "cd",
    "curl",
    "eval",
    "git",
    "openssl",
    "pip",
    "pytest",
    "python3",
    "sh",
    "source",
    "sudo",
    "ssh",
    "scp",
    "tar",
    "train",
}
DOCUMENTED = documented_commands()


class Parsed(Exception):
    """Raised where a command's options have been read."""


@pytest.fixture
def check_effedge(monkeypatch):
    """check_effedge(words): fails unless the words behind `effedge` are a command and options that it takes."""
    parse_args = Parser.parse_args

    def parse_only(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    def check(words):
        if words[0] in ("--help", "--version", "--completion", "COMMAND"):
            return
        assert words[0] in COMMANDS, f"there is no command '{words[0]}'"
        if words[1:] == ["--help"]:
            return
        from effedge.__main__ import start

        monkeypatch.setattr(Parser, "parse_args", parse_only)
        monkeypatch.setattr(sys, "argv", ["effedge", *words])
        with pytest.raises(Parsed):
            start(list(words))

    return check


def asked_by_make(words, tmp_path):
    """The lists of words that make gives to `effedge`, which answers each with the name of an artefact."""
    fake = tmp_path / "bin" / "effedge"
    fake.parent.mkdir(exist_ok=True)
    asked = tmp_path / "asked.jsonl"
    fake.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(asked)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\nprint('artefact')\n"
    )
    fake.chmod(0o755)
    shutil.copy(fake, fake.with_name("torchrun"))
    extras = ("core", "train", "plot", "lite0", "rtx", "docs", "dev", "video", "serve", "hub", "fleet")
    for extra in extras:
        (tmp_path / f".installed-{extra}").touch()
    command = [
        "make",
        "-s",
        "-o",
        "pyproject.toml",
        "-C",
        str(ROOT),
        f"BIN={fake.parent}",
        f"VENV={tmp_path}",
        "INSTALLED=",
    ]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []


@pytest.mark.parametrize("shown", DOCUMENTED, ids=lambda shown: f"{shown.place}: {shown.command}"[:100])
def test_a_documented_command_exists_with_its_options(shown: Documented, check_effedge, tmp_path):
    words = shown.words
    program = Path(words[0]).name or words[0]
    if program == "effedge":
        check_effedge(words[1:])
    elif "effedge" in words and words[words.index("effedge") - 1] == "-m":
        check_effedge(words[words.index("effedge") + 1 :])
    elif program == "make":
        target = words[1]
        if target in ("test", "test-slow", "test-boards", "lint", "docs", "setup", "clean", "help"):
            text = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{target}:.*##", text, re.MULTILINE)
        else:
            asked = asked_by_make(words[1:], tmp_path)
            assert asked, "make asked nothing of effedge"
            for each in asked:
                check_effedge(each[each.index("effedge") + 1 :] if "effedge" in each else each)
    elif program == "python" and words[1] == "-m" and words[2].startswith("tests."):
        assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file()
    elif program == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
    elif program == "python" and words[1] == "-c":
        compile(words[2], "documented", "exec")
    else:
        assert program in OTHERS, f"what is {program}?"


def test_there_are_commands_and_every_command_is_documented():
    assert len(DOCUMENTED) > 60
    text = (ROOT / "docs" / "commands.md").read_text()
    for name, command in COMMANDS.items():
        assert f"### {name}\n" in text, f"docs/commands.md lacks {name}"
        assert command.help[1:] in " ".join(text.split()), f"docs/commands.md has another help of {name}"


def test_the_versions_of_the_hooks_are_those_of_the_constraints():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    [pinned] = re.findall(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f"rev: v{pinned} " in hooks


def test_links_between_pages_lead_somewhere():
    """Strictly, with anchors, by `make docs`; this needs no package."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="MkDocs is not installed (the extra 'docs')")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "runtime" / "index.html").read_text().count("Detector") > 5
