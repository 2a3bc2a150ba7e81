"""Quantization-aware fine-tuning: an INT8 ONNX whose weights learn to live with its rounding."""
