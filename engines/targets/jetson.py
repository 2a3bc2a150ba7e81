"""Tells which Jetson this is.

| fact | source |
|---|---|
| the kind of board | compute capability of the GPU; without a GPU, the SoC or the name in the device tree |
| Jetson Linux (L4T) | /etc/nv_tegra_release, which is empty or missing in a container |

Sources: NVIDIA's table of compute capabilities (CUDA GPUs); the device trees of Linux (nvidia,tegra210 to tegra264);
dusty-nv/jetson-containers#215 (containers).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from effedge.deploy.timing.board import l4t, text
from effedge.engines.gpu import Gpu, first_gpu

ROOT = Path("/")
RELEASE = "etc/nv_tegra_release"
DEVICE_TREES = ("proc/device-tree", "sys/firmware/devicetree/base")
NANO, TX2, XAVIER, ORIN, THOR = ("Nano", "TX2", "Xavier", "Orin", "Thor")
# No other GPU has these capabilities. A Jetson with another one is newer than this table.
KINDS = {"5.3": NANO, "6.2": TX2, "7.2": XAVIER, "8.7": ORIN, "11.0": THOR}
# In this order: an Orin Nano is an Orin.
IN_DEVICE_TREE = {THOR: "tegra264|Thor", ORIN: "tegra234|Orin", XAVIER: "tegra194|Xavier|Jetson-AGX",
                  TX2: "tegra186|TX2", NANO: "tegra210|Jetson Nano"}  # fmt: skip


@dataclass(frozen=True)
class Jetson:
    """A Jetson; a fact that is not known is None.

    Attributes:
        kind: Nano (also TX1), TX2, Xavier, Orin or Thor.
        capability: compute capability of the GPU, like "8.7"; None where no GPU answers.
        l4t: release of Jetson Linux, like "36.4.3".
    """

    kind: Optional[str]
    capability: Optional[str]
    l4t: Optional[str]

    def describe(self, tensorrt: Optional[str]) -> str:
        """Names the board and its software.

        >>> Jetson("Orin", "8.7", "36.4.3").describe("10.7.0")
        'an Orin (compute capability 8.7) with Jetson Linux 36.4.3 and TensorRT 10.7.0'
        """
        name = f"{'an' if self.kind == ORIN else 'a'} {self.kind or 'Jetson of an unknown kind'}"
        gpu = f"compute capability {self.capability}" if self.capability else "no GPU answers"
        release = f"Jetson Linux {self.l4t}" if self.l4t else "an unknown Jetson Linux"
        return f"{name} ({gpu}) with {release} and {f'TensorRT {tensorrt}' if tensorrt else 'no TensorRT that imports'}"


def find_jetson() -> Optional[Jetson]:
    """Returns the Jetson that this is, None on another machine, also on a Jetson whose GPU 0 is a card in a slot."""
    gpu, has_release, in_tree = first_gpu(), (ROOT / RELEASE).exists(), kind_in_device_tree()
    if gpu is None:
        if not has_release and in_tree is None:
            return None
    elif not is_jetson_gpu(gpu, has_release or in_tree is not None):
        return None
    release = (l4t(text(ROOT / RELEASE)) or "").lstrip("R") or None
    capability = None if gpu is None else gpu.capability
    return Jetson(KINDS.get(capability or "", in_tree), capability, release)


def is_jetson_gpu(gpu: Gpu, board_says_so: bool) -> bool:
    """Tells if a GPU is a Jetson's own. A driver that does not call it integrated is believed less than the board; but
    a GPU of another capability that is not integrated is a card in a slot."""
    return gpu.integrated + board_says_so + (gpu.capability in KINDS) >= 2


def kind_in_device_tree() -> Optional[str]:
    """Reads the kind of Jetson from the device tree's `compatible` and `model`."""
    words = " ".join(text(ROOT / tree / name) for tree in DEVICE_TREES for name in ("compatible", "model"))
    if not re.search("nvidia|jetson", words, re.IGNORECASE):
        return None
    return next((kind for kind, signs in IN_DEVICE_TREE.items() if re.search(signs, words)), None)
