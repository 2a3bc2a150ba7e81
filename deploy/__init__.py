"""Runs engines on the device. Needs Python 3.8, NumPy, Pillow 9.1 (10.1 to draw), or later, and the engine's
backend."""
