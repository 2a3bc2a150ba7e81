"""The tests that need an NVIDIA GPU are skipped, with the reason, where CUDA finds none.

They run twice, with CUDA called by pycuda, if it is installed, and by libcuda. The kernels' tests need NumPy and Pillow
alone, so that a Jetson runs them.
"""

import sys
from pathlib import Path
from typing import Any, Iterator

import pytest


@pytest.fixture(scope="session", params=["pycuda", "libcuda"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Any]:
    """GPU 0, as the runtime uses it."""
    if request.param == "pycuda":
        pytest.importorskip("pycuda.driver", reason="pycuda is not installed", exc_type=ImportError)
    for name in [name for name in sys.modules if name.startswith("effedge.deploy.runtime.tensorrt.")]:
        del sys.modules[name]  # the choice is made when they are imported
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFEDGE_CUDA", request.param)
        from effedge.deploy.common.cli import UserError
        from effedge.deploy.runtime.tensorrt.gpu import CALLED_BY, Gpu

        assert request.param == CALLED_BY
        try:
            yield Gpu(Path("the tests"))
        except UserError as reason:
            pytest.skip(str(reason))
