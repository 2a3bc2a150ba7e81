"""The writer of protobuf's text format, held against protobuf's own parser."""

import pytest

pytest.importorskip("google.protobuf", minversion="4.22", reason="protobuf 4.22 or later is not installed")
from google.protobuf import text_format  # noqa: E402
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto  # noqa: E402

from effedge.deploy.triton.config_text import Word, as_text, entries  # noqa: E402


@pytest.mark.parametrize(
    "text", ["", "plain", 'a "quoted" \\ path', "two\nlines\t\0", "µ, 猫, 🙂", "1\x7f2", "\u00e91"]
)
def test_any_text_is_read_as_it_was_given(text):
    assert text_format.Parse(as_text({"name": text}), FileDescriptorProto()).name == text


def test_nested_messages_lists_words_and_numbers_are_read_as_given():
    field = {"name": "x", "number": 7, "type": Word("TYPE_BOOL"), "proto3_optional": True}
    text = as_text(
        {"message_type": [{"name": "a", "field": [field, field]}, {"name": "b"}], "public_dependency": [1, 2]}
    )
    read = text_format.Parse(text, FileDescriptorProto())
    assert [message.name for message in read.message_type] == ["a", "b"]
    expected = FieldDescriptorProto(name="x", number=7, type=FieldDescriptorProto.TYPE_BOOL, proto3_optional=True)
    assert list(read.message_type[0].field) == [expected, expected]
    assert list(read.public_dependency) == [1, 2]


def test_what_is_none_or_empty_is_left_out_but_an_empty_message_is_not():
    assert as_text({"a": None, "b": [], "c": {}, "d": 0}) == "c {\n}\nd: 0\n"


def test_a_map_is_written_as_entries():
    assert entries({"x": "y"}) == [{"key": "x", "value": "y"}]
