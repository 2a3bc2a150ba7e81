"""What needs an NVIDIA GPU: skipped, with the reason, where CUDA finds none.

The kernels' tests need NumPy, Pillow and pycuda alone, so that a Jetson runs them.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "deploy")]  # on_gpu, kernel_cases


@pytest.fixture(scope="session")
def gpu() -> Any:
    """GPU 0, as deploy/ has it."""
    pytest.importorskip("pycuda.driver", reason="pycuda is not installed", exc_type=ImportError)
    from deploy.cli import UserError
    from deploy.gpu import Gpu

    try:
        return Gpu(Path("the tests"))
    except UserError as reason:
        pytest.skip(str(reason))
