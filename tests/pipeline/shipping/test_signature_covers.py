"""A signature of a bundle covers each of its files: whichever is changed, missing, new or not listed, it is refused."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from effedge.deploy import signed_bundle
from effedge.deploy import verify as verify_command
from effedge.deploy.runtime.signature import NAME as ENGINE_SIGNATURE
from effedge.deploy.runtime.signature import read_private_key, sign_bundle
from effedge.deploy.signed_bundle import PACKED, SUFFIX, SUMS, Refused, check_bundle, public_key
from effedge.engines.build_options import DEFAULT
from effedge.engines.build_request import BuildRequest
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import TARGETS
from effedge.pipeline.shipping.bundle import bundle_stage
from tests.deploy.keys import write_keys
from tests.engines import graphs


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A bundle with images for a proof, packed by effedge, and the folder that it unpacks to."""
    folder = tmp_path_factory.mktemp("bundle")
    onnx_path = graphs.network(folder / "net.onnx", opset=17, seed=1)
    request = BuildRequest(onnx_path, read_header(onnx_path), "fp32", TARGETS["cpu-ort"], DEFAULT, None)
    archive = bundle_stage(request, proof_images=2)
    with tarfile.open(str(archive)) as files:
        files.extractall(str(folder / "unpacked"))
    [root] = (folder / "unpacked").iterdir()
    return archive, root


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return write_keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture
def root(packed, keys, tmp_path):
    """The folder, signed."""
    folder = Path(shutil.copytree(str(packed[1]), str(tmp_path / "net")))
    sign_bundle(folder, read_private_key(keys[0]))
    return folder


def check(signed, keys):
    check_bundle(signed, public_key(keys[1].read_bytes()), "the key")


def refused(signed, keys):
    """Tells if a bundle is refused, in one line."""
    try:
        check(signed, keys)
    except Refused as error:
        return "\n" not in str(error)
    return False


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def changed(content):
    """The content with another bit in the middle."""
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


def test_a_changed_byte_of_any_file_in_a_folder_is_refused(root, keys, call_main):
    check(root, keys)
    names = names_in(root)
    assert len(names) > 150 and {SUMS, SUMS + SUFFIX, "install.sh", "proof/expected.json"} <= set(names)
    accepted = []
    for name in names:
        content = (root / name).read_bytes() or b"\0"
        (root / name).write_bytes(changed(content))
        accepted += [] if refused(root, keys) else [name]
        (root / name).write_bytes(content if content != b"\0" else b"")
    assert accepted == []
    check(root, keys)
    (root / names[0]).unlink()
    status, out, error = call_main(verify_command.main, root, "--key", keys[1])
    assert (status, out, error.count("\n")) == (2, "", 1)


def test_a_changed_byte_of_any_file_in_an_archive_is_refused(packed, keys, tmp_path):
    with tarfile.open(str(packed[0])) as files:
        members = [(member, files.extractfile(member).read()) for member in files]

    def repack(odd):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for member, content in members:
                content = changed(content or b"\0") if member.name == odd else content
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        path.write_bytes(gzip.compress(plain.getvalue(), 0))

    path = tmp_path / "net.tar.gz"
    repack(None)
    sign_bundle(path, read_private_key(keys[0]))
    check(path, keys)
    accepted = []
    for member, _ in members:
        repack(member.name)
        accepted += [] if refused(path, keys) else [member.name]
    assert accepted == []


def test_a_file_that_a_signed_list_lacks_is_refused(root, keys):
    """As of a list that another effedge made of fewer files: what it does not list is not covered."""
    whole = (root / SUMS).read_bytes()
    lines = whole.splitlines(keepends=True)
    accepted = []
    for line in lines:
        sums = whole.replace(line, b"")
        (root / SUMS).write_bytes(sums)
        signature = read_private_key(keys[0]).sign(signed_bundle.PURPOSE + sums)
        (root / (SUMS + SUFFIX)).write_text(json.dumps({"format": 1, "signature": signature.hex()}))
        accepted += [] if refused(root, keys) else [line]
    assert accepted == []


@pytest.mark.parametrize(
    "name",
    ["effedge/json.py", "effedge/deploy/__pycache__/predict.cpython-38.pyc", "model/fallback.onnx", "model/a/b",
     "selftest/more.npz", "proof/images/009.png"],
)  # fmt: skip
def test_a_new_file_in_a_bundles_folders_is_refused(root, keys, call_main, name):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("")
    status, out, error = call_main(verify_command.main, root, "--key", keys[1])
    assert (status, out) == (2, "") and f"'{name}' in '{root}' is none of the bundle's files" in error
    (root / name).unlink()
    (root / name).symlink_to("/etc")
    assert refused(root, keys)


@pytest.mark.parametrize("name", ["proof", "sbom.cdx.json"])
def test_what_an_older_bundle_did_not_have_is_refused_beside_it(root, keys, name):
    """Its code would read a proof, say, that came later."""
    lines = (root / SUMS).read_bytes().splitlines(keepends=True)
    kept = b"".join(line for line in lines if line[66:].split(b"/")[0].strip() != name.encode())
    (root / SUMS).write_bytes(kept)
    shutil.move(str(root / name), str(root.parent / "later"))
    sign_bundle(root, read_private_key(keys[0]))
    check(root, keys)
    shutil.move(str(root.parent / "later"), str(root / name))
    assert refused(root, keys)
    if name == "proof":
        shutil.rmtree(str(root / name))
        (root / name).symlink_to("model")
        assert refused(root, keys)


def test_what_an_installation_makes_is_not_looked_at(root, keys):
    for name in ("engine/manifest.json", "candidate/device.json", "latency.json", "proof.json", "install.log"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("{}")
    check(root, keys)
    assert not (root / "engine" / ENGINE_SIGNATURE).exists()


def test_the_names_that_a_bundle_has_are_those_that_are_looked_at(packed):
    tops = {name.partition("/")[0] for name in names_in(packed[1])}
    assert tops == {*PACKED, SUMS}
