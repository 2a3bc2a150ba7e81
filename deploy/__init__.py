"""The runtime: what goes to the device. Python 3.8, NumPy, Pillow 9.1 (10.1 to draw), or later; the engine's backend."""
