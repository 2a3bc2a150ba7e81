"""Fine-tunes the weights of an INT8 ONNX to its rounding (quantization-aware training)."""
