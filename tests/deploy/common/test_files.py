"""Digests: against hashlib, and by what they depend on."""

import hashlib

from effedge.deploy.common.files import digest_of_json, sha256, sha256_of_bytes, sha256_of_files, sha256_of_path


def test_a_file_and_its_chunks_have_hashlibs_digest(tmp_path):
    content = bytes(range(256)) * 5000  # more than one chunk
    (tmp_path / "a.bin").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert sha256(tmp_path / "a.bin") == sha256_of_path(tmp_path / "a.bin") == expected
    assert sha256_of_bytes([content[:7], b"", content[7:]]) == expected


def test_the_digest_of_files_follows_their_names_contents_and_order(tmp_path):
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg")]
    for path in paths:
        path.write_bytes(b"same")
    before = sha256_of_files(paths)
    assert sha256_of_files(list(paths)) == before
    assert before not in (sha256_of_files(paths[:1]), sha256_of_files(paths[::-1]))
    paths[0].write_bytes(b"other")
    assert sha256_of_files(paths) != before


def test_the_digest_of_a_folder_leaves_out_hidden_files(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_bytes(b"1")
    before = sha256_of_path(tmp_path)
    (tmp_path / "inner" / ".cache").write_bytes(b"2")
    assert sha256_of_path(tmp_path) == before
    (tmp_path / "inner" / "a").rename(tmp_path / "a")
    assert sha256_of_path(tmp_path) != before


def test_the_digest_of_json_does_not_follow_the_order_of_keys():
    assert digest_of_json({"a": 1, "b": [2]}) == digest_of_json({"b": [2], "a": 1})
    assert digest_of_json({"a": 1}) != digest_of_json({"a": 2}) and len(digest_of_json({})) == 16
