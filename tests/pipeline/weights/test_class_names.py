import pytest

from effedge.deploy.common.cli import UserError
from effedge.pipeline.weights.class_names import (
    coco_labels,
    imagenet21k_labels,
    imagenet_labels,
    read_labels,
    stated_names,
)


def test_coco_has_80_names_at_their_category_ids():
    labels = coco_labels()
    assert len(labels) == 90 and sum(label is not None for label in labels) == 80
    # category id minus 1, from instances_val2017.json
    assert {labels[0], labels[17], labels[89]} == {"person", "dog", "toothbrush"}
    assert [index + 1 for index, label in enumerate(labels) if label is None] == [
        12,
        26,
        29,
        30,
        45,
        66,
        68,
        69,
        71,
        83,
    ]


def test_imagenet_has_1000_different_names():
    labels = imagenet_labels()
    assert len(labels) == 1000 and len({label.casefold() for label in labels if label}) == 1000
    assert labels[0] == "tench" and labels[207] == "golden retriever" and labels[999] == "toilet tissue"


def test_imagenet21k_has_21843_different_names_in_the_order_of_the_published_weights():
    labels = imagenet21k_labels()
    assert len(labels) == 21843 and len({label.casefold() for label in labels if label}) == 21843
    # timm's imagenet21k_goog_synsets.txt, lines 1 and 21843: n00004475 and n15102894, by WordNet
    assert labels[0] == "organism" and labels[-1] == "knothole"
    assert labels.index("tench") < labels.index("goldfish") < labels.index("golden retriever")


def test_an_empty_line_is_a_gap(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\n\n dog \n")
    assert read_labels(tmp_path / "labels.txt") == ["cat", None, "dog"]


def test_a_missing_or_binary_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_labels(tmp_path / "labels.txt")
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is UTF-16"):
        read_labels(tmp_path / "labels.txt")


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert read_labels(tmp_path / "labels.txt") == ["cat", "dog"]


def test_the_names_that_ultralytics_exporters_state():
    for stated in ("{0: 'cat', 1: 'dog'}", "['cat', 'dog']"):
        assert stated_names({"names": stated}) == ["cat", "dog"]
    for stated in ("", "[]", "{1: 'cat'}", "cat"):
        assert stated_names({"names": stated}) is None
