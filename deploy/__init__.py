"""Runs engines on the device. Needs Python 3.8, NumPy, Pillow 7.0 or later, and the engine's
backend."""
