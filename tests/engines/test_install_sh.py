"""Tests what install.sh checks before it starts Python, on a folder with effedge's files and stand-ins for the rest.

`--help` is all that the installation does here; tests/pipeline/shipping/test_bundle.py installs real bundles.
"""

import hashlib
import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import effedge
from effedge.deploy import signed_bundle
from effedge.deploy.runtime.signature import read_private_key, sign_bundle
from effedge.engines.installation.launch import command
from tests.deploy.keys import write_keys

PACKAGE = Path(effedge.__file__).parent
STAND_INS = ("bundle.json", "model/model.onnx", "selftest/image.png", "selftest/expected.json")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("packed") / "net"
    for room in ("deploy", "engines"):
        shutil.copytree(str(PACKAGE / room), str(root / "effedge" / room), ignore=shutil.ignore_patterns("__pycache__"))
    for path in PACKAGE.glob("*.py"):
        shutil.copy(str(path), str(root / "effedge"))
    for name in STAND_INS:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("{}")
    shutil.copy(str(PACKAGE / "engines" / "install.sh"), str(root))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    sums = "".join(f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (root / "SHA256SUMS").write_text(sums)
    return root


@pytest.fixture
def root(packed, tmp_path):
    return Path(shutil.copytree(str(packed), str(tmp_path / "net")))


def install(root, **environment):
    return subprocess.run(
        ["sh", "install.sh", "--help"], cwd=str(root), capture_output=True, text=True,
        env={**os.environ, "HOME": str(root.parent), "PYTHON": sys.executable, **environment},
    )  # fmt: skip


@pytest.fixture
def pinned(root):
    """The bundle, signed, on a board that trusts its key alone."""
    private, public = write_keys(root.parent, "ours")
    sign_bundle(root, read_private_key(private))
    trusted = root.parent / "effedge" / ".trusted"
    trusted.mkdir(parents=True)
    shutil.copy(str(public), str(trusted / "key.pub"))
    shutil.copy(signed_bundle.__file__, str(trusted / "check.py"))
    return root


def refused(done, said):
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and done.stderr.count("error: ") == 1


def test_a_whole_bundle_starts(root):
    done = install(root)
    assert done.returncode == 0 and "--iterations" in done.stdout, done.stderr


def test_where_a_key_is_pinned_a_signed_bundle_starts(pinned):
    done = install(pinned)
    assert done.returncode == 0 and "--iterations" in done.stdout, done.stderr


def test_where_a_key_is_pinned_a_cache_of_python_is_made_again(pinned):
    assert install(pinned).returncode == 0
    caches = list(pinned.rglob("__pycache__/*"))
    done = install(pinned)
    assert caches and done.returncode == 0, done.stderr
    (pinned / "effedge" / "more.py").write_text("")
    refused(install(pinned), "'effedge/more.py' in")


def test_where_a_key_is_pinned_an_unsigned_bundle_is_refused(pinned, tmp_path):
    (pinned / "SHA256SUMS.sig").unlink()
    refused(install(pinned), "is not signed (SHA256SUMS.sig is missing)")
    others, _ = write_keys(tmp_path, "theirs")
    sign_bundle(pinned, read_private_key(others))
    refused(install(pinned), "is not signed by")


@pytest.mark.parametrize("name", ["effedge/engines/install.py", "model/model.onnx", "SHA256SUMS", "SHA256SUMS.sig"])
def test_where_a_key_is_pinned_a_changed_byte_is_refused(pinned, name):
    path = pinned / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = install(pinned)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("error: ") == done.stderr.count("\n") == 1


def test_where_a_key_is_pinned_a_list_that_was_made_to_fit_is_refused(pinned):
    """SHA256SUMS alone shows damage, and not who packed the bundle."""
    evil, sums = pinned / "effedge/engines/install.py", pinned / "SHA256SUMS"
    before = hashlib.sha256(evil.read_bytes()).hexdigest()
    evil.write_text("print('evil')")
    sums.write_text(sums.read_text().replace(before, hashlib.sha256(evil.read_bytes()).hexdigest()))
    refused(install(pinned), "is not signed by")
    shutil.rmtree(str(pinned.parent / "effedge"))
    assert install(pinned).stdout == "evil\n"


@pytest.mark.parametrize("name", ["json", "numpy", "runpy", "openvino", "onnxruntime", "sitecustomize", "effedge"])
def test_a_module_that_lies_in_the_folder_is_not_imported(root, name):
    marker = root / "imported"
    (root / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')")
    done = install(root, PYTHONPATH=os.pathsep.join([str(root), "", "."]))
    assert done.returncode == 0, done.stderr
    probe = "import json, effedge; assert effedge.__path__; print(json.__file__)"
    for words in (("effedge", "--version"), ("-c", probe)):
        child = subprocess.run(command(*words), cwd=str(root), stdout=subprocess.PIPE, text=True)
        assert child.returncode == 0 and str(root) not in child.stdout
    assert not marker.exists()


def test_the_packages_of_the_user_are_found(tmp_path):
    (tmp_path / "mine.py").write_text("print('found')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command("-c", "import mine"), stdout=subprocess.PIPE, env=environment)
    assert done.stdout.split() == [b"found"]


@pytest.mark.parametrize(
    "name", ["effedge/json.py", "effedge/deploy/x.pyc", "model/w.bin", "selftest/more.npz", "proof/images/000.png"]
)
def test_a_file_that_is_not_listed_is_refused(root, name):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("")
    refused(install(root), f"'{name}' is none of the bundle's files")
    (root / name).unlink()
    (root / name).symlink_to("/etc/hostname")
    refused(install(root), f"'{name}' is none of the bundle's files")


def test_a_cache_of_python_with_other_code_is_not_run(root):
    """Python takes a cache for its source's if their times and sizes agree, whatever its code is."""
    marker, source = root / "imported", root / "effedge" / "engines" / "install.py"
    evil = root / "evil.py"
    evil.write_text(f"open({str(marker)!r}, 'w')\n".ljust(source.stat().st_size, "#"))
    os.utime(str(evil), (source.stat().st_atime, source.stat().st_mtime))
    py_compile.compile(str(evil), importlib.util.cache_from_source(str(source)))
    assert install(root).returncode == 0 and not marker.exists()


@pytest.mark.parametrize("program", ["exit 1", "exit 127", "kill -9 $$", 'echo "install.sh: OK"; exit 1'])
def test_a_sha256sum_that_fails_is_no_check(root, tmp_path, program):
    tool = tmp_path / "bin" / "sha256sum"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{program}\n")
    tool.chmod(0o755)
    refused(install(root, PATH=f"{tool.parent}{os.pathsep}{os.environ['PATH']}"), "SHA256SUMS is damaged, or sha256sum")


def test_without_sha256sum_it_is_refused(root, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "dirname", "awk", "find", "sed", "head", "grep"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    refused(install(root, PATH=str(tmp_path / "bin")), "there is no 'sha256sum' here")


@pytest.mark.parametrize("kept", [0, 0.01, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("whole_lines", [True, False])
def test_a_list_that_is_cut_is_refused(root, kept, whole_lines):
    content = (root / "SHA256SUMS").read_bytes()
    content = content[: int(kept * len(content))]
    (root / "SHA256SUMS").write_bytes(content[: content.rfind(b"\n") + 1] if whole_lines else content)
    done = install(root)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: ")
