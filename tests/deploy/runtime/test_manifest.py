"""An engine folder is read only as it was built; each kind of damage has its own message."""

import json

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.manifest import parse_manifest, read_manifest


@pytest.fixture
def engine(tmp_path):
    """A folder of the right form, without a real engine."""
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "engine.bin").write_bytes(b"abc")
    manifest = {
        "format": 1,
        "spec": {"task": "detection"},
        "backend": {"name": "openvino"},
        "engine": "engine.bin",
        # FIPS 180-2's example: SHA-256 of "abc"
        "files": {"engine.bin": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_an_intact_folder_is_read(engine):
    assert read_manifest(engine) == read_manifest(str(engine)) == json.loads((engine / "manifest.json").read_text())


def test_missing_folder_file_for_folder_and_missing_manifest(engine, tmp_path):
    with pytest.raises(UserError, match=r"gone' does not exist.*make engine"):
        read_manifest(tmp_path / "gone")
    with pytest.raises(UserError, match="is a file"):
        read_manifest(engine / "engine.bin")
    (engine / "manifest.json").unlink()
    with pytest.raises(UserError, match="has no manifest.json"):
        read_manifest(engine)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1', b"\xff\xfe\x00", b"[1, 2]", b"null", b'"text"'])
def test_broken_json(engine, content):
    (engine / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json' is damaged.*build the engine again"):
        read_manifest(engine)


@pytest.mark.parametrize("number", [2, "1", None, [1]])
def test_unknown_format(engine, edit, number):
    edit(engine, lambda manifest: manifest.update(format=number))
    with pytest.raises(UserError, match="is of format"):
        read_manifest(engine)


@pytest.mark.parametrize("field", ["spec", "backend", "engine", "files"])
@pytest.mark.parametrize("value", [None, 3, "gone"])
def test_missing_or_misshapen_fields(engine, edit, field, value):
    def change(manifest):
        if value is None:
            del manifest[field]
        else:
            manifest[field] = value

    edit(engine, change)
    with pytest.raises(UserError, match=f"damaged.*('{field}'|'files' lacks 'gone')"):
        read_manifest(engine)


def test_missing_and_changed_files_are_named(engine):
    (engine / "engine.bin").write_bytes(b"abd")
    with pytest.raises(UserError, match=r"engine\.bin' is not the file that was built"):
        read_manifest(engine)
    (engine / "engine.bin").unlink()
    with pytest.raises(UserError, match=r"engine\.bin' is missing"):
        read_manifest(engine)


OUTSIDE = ["../engine.bin", "/etc/passwd", "sub/../../engine.bin", "", "a" * 300, "\ud800", "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_outside_the_folder_are_refused(engine, edit, name):
    edit(engine, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(UserError, match="expected a file inside"):
        parse_manifest(engine)
    edit(engine, lambda manifest: manifest.update(engine=name))
    with pytest.raises(UserError, match="expected a file inside"):
        parse_manifest(engine)


def test_a_link_that_leads_out_is_refused(engine, tmp_path):
    (engine / "engine.bin").rename(tmp_path / "engine.bin")
    (engine / "engine.bin").symlink_to("../engine.bin")
    with pytest.raises(UserError, match="a link that leads out"):
        read_manifest(engine)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spec.input", []), ("spec.input.size", [64]), ("spec.input.size", [64, 2**70]), ("spec.input.size", [0, 64]),
        ("spec.input.size", [2**14, 2**14]), ("spec.input.size", [True, True]), ("spec.input.batch", [1, 1]),
        ("spec.input.batch", [2, 1, 4]), ("spec.input.batch", [1, 4, 1e9]), ("spec.input.fill", [0, 0, 256]),
        ("spec.input.fill", [0, 0]), ("spec.input.crop", 0), ("spec.input.crop", float("nan")),
        ("spec.input.crop", 1e-9), ("spec.labels", "red"), ("spec.labels", [{}]), ("spec.task", 3),
        ("spec.task", ["detection"]), ("backend.name", None), ("backend.config", ["a"]), ("backend.config", {"A": 1}),
        ("backend.cpu_blocks", 3), ("backend.fp8", "no"), ("inputs", {}), ("inputs", [{"name": "x"}]), ("batch", [1]),
        ("outputs", [{"name": "x", "dtype": "float32", "shape": [1.5]}]), ("files", {"engine.bin": 3}),
    ],
)  # fmt: skip
def test_a_field_of_another_type_or_size_is_named(engine, edit, field, value):
    def change(manifest):
        *parents, name = field.split(".")
        for parent in parents:
            manifest = manifest.setdefault(parent, {})
        manifest[name] = value

    edit(engine, change)
    with pytest.raises(UserError, match=rf"(no valid '{field}'|not finite|NaN|Infinity).*: build the engine again"):
        parse_manifest(engine)


def test_what_no_json_decoder_takes_is_one_line(engine):
    path = engine / "manifest.json"
    for content in ("[" * 100_000, '{"format": ' + "1" * 10_000 + "}", '{"format": "' + "x" * 10_000 + '"}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"build the engine again|with this version") as error:
            parse_manifest(engine)
        assert len(str(error.value)) < 600


def test_parsing_alone_does_not_read_the_files(engine):
    (engine / "engine.bin").unlink()
    assert parse_manifest(engine)["engine"] == "engine.bin"
