"""A compiled library is loaded only if it is this user's and undamaged, and a failing compiler costs its time once."""

import ctypes
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.native import compiled_library
from effedge.deploy.native.compiled_library import LibrarySource, library_path, load_compiled_library

CODE = 'extern "C" int answer() { return 42; }\n'
NOBODY = 65534


def load(path):
    library = ctypes.CDLL(str(path))
    return library.answer


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "effedge"


@pytest.fixture
def source(cache, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "answer.cpp").write_text(CODE)
    return LibrarySource("answer", tmp_path / "source", "answer.cpp", (), {})


@pytest.fixture
def compiled(source, request):
    """The library's file in the cache, where a compiler is installed."""
    try:
        compiled_library.find_compiler()
    except UserError as reason:
        pytest.skip(str(reason))
    assert load_compiled_library(source, load)() == 42
    return library_path(source)


@pytest.fixture
def compilations(monkeypatch):
    """A list to which each call of the compiler appends an item."""
    calls, real = [], compiled_library.compile_library
    monkeypatch.setattr(compiled_library, "compile_library", lambda *words: (calls.append(words), real(*words)))
    return calls


def other_answer(tmp_path, answer=13):
    """Compiles another library of the same name and function, as an attacker would."""
    code, path = tmp_path / f"other{answer}.cpp", tmp_path / f"other{answer}.so"
    code.write_text(CODE.replace("42", str(answer)))
    subprocess.run([*compiled_library.find_compiler(), "-shared", "-fPIC", "-o", str(path), str(code)], check=True)
    return path.read_bytes()


def put(path, content):
    """Puts another file in this one's place: the loaded library stays whole, or its exit would be a bus error."""
    path.unlink()
    path.write_bytes(content)


def test_it_is_compiled_once(source, compiled, compilations):
    assert load_compiled_library(source, load)() == 42
    assert not compilations and os.listdir(str(compiled.parent)) == [compiled.name]
    assert compiled.stat().st_mode & 0o777 == 0o644


def test_any_damage_is_found_and_it_is_compiled_again(source, compiled, compilations):
    intact = compiled.read_bytes()
    middle = len(intact) // 2
    flipped = intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :]
    for count, content in enumerate((b"", b"\x7fELF", intact[:-1], intact[:middle], flipped, intact + b"x"), 1):
        put(compiled, content)
        assert load_compiled_library(source, load)() == 42
        assert len(compilations) == count and compiled.read_bytes() != content


def test_a_library_that_somebody_put_there_is_not_loaded(source, compiled, compilations, tmp_path):
    """It has no digest, or that of another library."""
    put(compiled, other_answer(tmp_path))
    assert load_compiled_library(source, load)() == 42
    other = source._replace(name="another")
    kept = library_path(other)
    shutil.copy(str(compiled), str(kept))
    assert load_compiled_library(other, load)() == 42
    assert len(compilations) == 2


def test_a_file_that_others_may_write_or_own_or_that_is_a_link_is_not_loaded(source, compiled, compilations, tmp_path):
    def writable():
        compiled.chmod(0o666)

    def link():
        compiled.rename(tmp_path / "elsewhere.so")
        compiled.symlink_to(tmp_path / "elsewhere.so")

    def foreign():
        os.chown(str(compiled), NOBODY, NOBODY)

    def fifo():
        compiled.unlink()
        os.mkfifo(str(compiled))

    spoilers = [writable, link, fifo, *([foreign] if os.geteuid() == 0 else [])]
    for count, spoil in enumerate(spoilers, 1):
        spoil()
        assert load_compiled_library(source, load)() == 42
        assert len(compilations) == count


def test_a_folder_of_another_user_is_not_used(source, compiled, compilations, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    os.chown(str(compiled.parent), NOBODY, NOBODY)
    assert load_compiled_library(source, load) is None and not compilations


def test_a_folder_that_is_a_link_is_not_used(source, compiled, compilations, tmp_path):
    compiled.parent.rename(tmp_path / "elsewhere")
    compiled.parent.symlink_to(tmp_path / "elsewhere")
    assert load_compiled_library(source, load) is None and not compilations


def test_a_folder_of_ours_that_others_could_write_is_closed(source, compiled, compilations):
    compiled.parent.chmod(0o777)  # as an older version made it under umask 0
    assert load_compiled_library(source, load)() == 42
    assert compiled.parent.stat().st_mode & 0o022 == 0 and not compilations


def test_what_is_loaded_is_what_was_checked(source, compiled, monkeypatch, tmp_path):
    """Another user puts another folder in the cache's place between the check and the load."""
    attack = tmp_path / "attack"
    attack.mkdir()
    (attack / compiled.name).write_bytes(other_answer(tmp_path))
    real = compiled_library.checked_content

    def swapping(content, belongs_to):
        compiled.parent.rename(tmp_path / "moved")
        attack.rename(compiled.parent)
        return real(content, belongs_to)

    monkeypatch.setattr(compiled_library, "checked_content", swapping)
    assert load_compiled_library(source, load)() == 42


def test_several_libraries_are_not_mixed_up(source, compiled, tmp_path):
    """glibc takes a library of a path that it has loaded for the same, and handles' numbers come again."""
    functions = []
    for answer in (1, 2, 3):
        folder = tmp_path / f"source{answer}"
        folder.mkdir()
        (folder / "answer.cpp").write_text(CODE.replace("42", str(answer)))
        functions.append(load_compiled_library(source._replace(folder=folder), load))
    assert [function() for function in functions] == [1, 2, 3]


def compiler_script(tmp_path, monkeypatch, text):
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path, lambda: len((tmp_path / "calls").read_text().splitlines())


def test_a_hanging_compiler_costs_its_time_once_and_says_so(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled_library, "TIMEOUT", 0.5)
    path, calls = compiler_script(tmp_path, monkeypatch, f"sleep 77 & echo $! > {tmp_path}/child; wait")
    started = time.monotonic()
    assert load_compiled_library(source, load) is None
    assert time.monotonic() - started < 5
    child = int((tmp_path / "child").read_text())
    for _ in range(100):  # the process that the compiler started has ended too
        if not alive(child):
            break
        time.sleep(0.02)
    assert not alive(child)
    for _ in range(3):
        assert load_compiled_library(source, load) is None
    assert calls() == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all("cannot compile answer.cpp (it took more than 0" in line for line in lines)
    assert all("CXX" in line and ".failed'" in line for line in lines)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_failed_compiler_is_tried_again_when_it_changes_or_after_a_day(source, tmp_path, monkeypatch):
    path, calls = compiler_script(tmp_path, monkeypatch, "exit 3")
    for _ in range(2):
        assert load_compiled_library(source, load) is None
    assert calls() == 1
    os.utime(str(path), (1, 1))  # another compiler
    assert load_compiled_library(source, load) is None
    assert calls() == 2
    now = time.time()
    monkeypatch.setattr(compiled_library.time, "time", lambda: now + compiled_library.RETRY_AFTER + 60)
    assert load_compiled_library(source, load) is None
    assert calls() == 3
    library_path(source).with_suffix(".failed").write_bytes(b"{damaged")
    assert load_compiled_library(source, load) is None
    assert calls() == 4


def test_a_wrong_result_is_remembered_with_its_reason(source, compiled, compilations, capsys):
    compiled.unlink()

    def check(function):
        raise UserError("it computes something else")

    for _ in range(2):
        assert load_compiled_library(source, load, check) is None
    assert len(compilations) == 1
    assert "(it computes something else)" in capsys.readouterr().err


def test_without_a_compiler_nothing_is_said(source, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load_compiled_library(source, load) is None
    assert capsys.readouterr().err == ""
