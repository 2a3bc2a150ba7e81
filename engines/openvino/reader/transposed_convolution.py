"""Corrects transposed convolutions with an output_shape, in OpenVINO's graph.

From output_shape follows the padding (ONNX, ConvTranspose): total = stride * (in - 1) + (kernel - 1) * dilation + 1 -
output_shape, of which SAME_UPPER takes the smaller half at the beginning, and everything else the larger one. OpenVINO
has these the wrong way round for SAME_UPPER, and does not pad a grouped convolution at all. Here the padding is
explicit and output_shape is gone; where the output is larger than what the kernel reaches, output_padding makes up for
it.
"""

from typing import Any, List, Optional

from effedge.engines.openvino.reader.reading import Reading, static_sizes

CONVOLUTIONS = {"ConvolutionBackpropData": 2, "GroupConvolutionBackpropData": 3}  # axes of the kernel in front of h, w


def transposed_convolution(reading: Reading) -> Optional[List[Any]]:
    """Returns the corrected output of a ConvTranspose; None where it has no output_shape, or a size is dynamic."""
    output = reading.outputs[0]
    last = output.get_node()
    bias = last if last.get_type_name() == "Add" else None
    convolution = bias.input_value(0).get_node() if bias is not None else last
    leading = CONVOLUTIONS.get(convolution.get_type_name())
    if leading is None or "output_shape" not in reading.node.lists:
        return None
    data, kernel = convolution.input_value(0), convolution.input_value(1)
    sizes, width = static_sizes(data), kernel.get_partial_shape()
    if sizes is None or width.is_dynamic:
        return None
    attributes = convolution.get_attributes()
    strides, dilations = attributes["strides"], attributes["dilations"]
    shape = reading.node.lists["output_shape"][-len(sizes) :]
    begin, end, extra = [], [], []
    for axis, size in enumerate(sizes):
        reach = strides[axis] * (size - 1) + (width[leading + axis].get_length() - 1) * dilations[axis] + 1
        total = max(0, reach - shape[axis])
        first = total // 2 if reading.node.attributes.get("auto_pad") == "SAME_UPPER" else total - total // 2
        begin.append(first)
        end.append(total - first)
        extra.append(shape[axis] - (reach - total))
    grouped = convolution.get_type_name().startswith("Group")
    make = reading.ops.group_convolution_backprop_data if grouped else reading.ops.convolution_backprop_data
    right = make(data, kernel, strides, None, begin, end, dilations, "explicit", extra)
    if bias is not None:
        right = reading.ops.add(right, bias.input_value(1))
    return [right.output(0)]
