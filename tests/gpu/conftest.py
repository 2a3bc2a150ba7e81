"""The tests that need an NVIDIA GPU are skipped, with the reason, where CUDA finds none.

The kernels' tests need NumPy, Pillow and pycuda alone, so that a Jetson runs them.
"""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def gpu() -> Any:
    """GPU 0, as the runtime uses it."""
    pytest.importorskip("pycuda.driver", reason="pycuda is not installed", exc_type=ImportError)
    from effedge.deploy.common.cli import UserError
    from effedge.deploy.runtime.tensorrt.gpu import Gpu

    try:
        return Gpu(Path("the tests"))
    except UserError as reason:
        pytest.skip(str(reason))
