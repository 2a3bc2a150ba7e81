"""The messages of Triton's model configuration as far as effedge writes them, with the numbers and types of
triton-inference-server/common, protobuf/model_config.proto: protobuf parses config.pbtxt by them."""

import pytest

pytest.importorskip("google.protobuf", minversion="4.22", reason="protobuf 4.22 or later is not installed")
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format  # noqa: E402

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "string": FIELD.TYPE_STRING, "int32": FIELD.TYPE_INT32, "int64": FIELD.TYPE_INT64, "uint64": FIELD.TYPE_UINT64,
    "bool": FIELD.TYPE_BOOL,
}  # fmt: skip
ENUMS = {
    "DataType": ["INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
                 "FP32", "FP64", "STRING", "BF16"],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
    "SecondaryDeviceKind": ["KIND_NVDLA"],
}  # fmt: skip
# Of each message its fields: name, number, type; "*" is repeated. A map is a repeated message of a key and a value.
MESSAGES = {
    "Reshape": [("shape", 1, "*int64")],
    "ModelInput": [("name", 1, "string"), ("data_type", 2, "DataType"), ("dims", 4, "*int64"),
                   ("reshape", 5, "Reshape")],
    "ModelOutput": [("name", 1, "string"), ("data_type", 2, "DataType"), ("dims", 3, "*int64"),
                    ("reshape", 5, "Reshape"), ("label_filename", 4, "string")],
    "SecondaryDevice": [("kind", 1, "SecondaryDeviceKind"), ("device_id", 2, "int64")],
    "InstanceGroup": [("kind", 4, "Kind"), ("count", 2, "int32"), ("gpus", 3, "*int32"),
                      ("secondary_devices", 8, "*SecondaryDevice")],
    "DynamicBatching": [("preferred_batch_size", 1, "*int32"), ("max_queue_delay_microseconds", 2, "uint64")],
    "TextEntry": [("key", 1, "string"), ("value", 2, "string")],
    "Parameter": [("string_value", 1, "string")],
    "ParameterEntry": [("key", 1, "string"), ("value", 2, "Parameter")],
    "Step": [("model_name", 1, "string"), ("model_version", 2, "int64"), ("input_map", 3, "*TextEntry"),
             ("output_map", 4, "*TextEntry")],
    "Ensembling": [("step", 1, "*Step")],
    "ModelConfig": [("name", 1, "string"), ("platform", 2, "string"), ("backend", 17, "string"),
                    ("max_batch_size", 4, "int32"), ("input", 5, "*ModelInput"), ("output", 6, "*ModelOutput"),
                    ("dynamic_batching", 11, "DynamicBatching"), ("ensemble_scheduling", 15, "Ensembling"),
                    ("instance_group", 7, "*InstanceGroup"), ("parameters", 14, "*ParameterEntry")],
}  # fmt: skip


def message_class():
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=f"TYPE_{value}" if name == "DataType" else value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            bare = kind.lstrip("*")
            field = message.field.add(name=field_name, number=number)
            field.label = FIELD.LABEL_REPEATED if kind[0] == "*" else FIELD.LABEL_OPTIONAL
            field.type = SCALARS.get(bare) or (FIELD.TYPE_ENUM if bare in ENUMS else FIELD.TYPE_MESSAGE)
            if bare not in SCALARS:
                field.type_name = f".inference.{bare}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


ModelConfig = message_class()
DATA_TYPES = [f"TYPE_{name}" for name in ENUMS["DataType"]]
KINDS = ENUMS["Kind"]


def parse(text):
    """Parses a config.pbtxt. Raises text_format.ParseError for a field that model_config.proto has not."""
    return text_format.Parse(text, ModelConfig())


def read(repository):
    """The configurations of a repository's models by name."""
    return {path.parent.name: parse(path.read_text()) for path in sorted(repository.glob("*/config.pbtxt"))}
