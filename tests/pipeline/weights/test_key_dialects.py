"""Checkpoints of zylo117's and lukemelas's projects.

The expected figures were made by running those projects' own code (Yet-Another-EfficientDet-Pytorch at 15403b5,
EfficientNet-PyTorch at 7e8b0d3) on weights that follow from each of their keys by `fill`; the digests are of their own
state dicts' keys and shapes. The names below were written from their sources, in the other direction, from effedge's to
theirs.
"""

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.efficientdet import drop_redundant_biases
from effedge.pipeline.weights.fit import fit
from effedge.pipeline.weights.key_dialects import fit_biases

# crc32 of the sorted lines "key (shape)" of their models' state dicts.
DIGESTS = {
    "d0": 2279310430, "d4": 856104162, "d6": 547696934, "d7x": 37790314,
    "b0": 571740541, "b3": 502725991, "l2": 2940439164,
}  # fmt: skip


def fill(state):
    """Values from numpy's RandomState(crc32 of the key), of sizes that keep a network's activations in range."""
    filled = {}
    for key, tensor in state.items():
        random, shape = np.random.RandomState(zlib.crc32(key.encode())), tuple(tensor.shape)
        if not tensor.is_floating_point():
            value = np.zeros(shape, np.int64)
        elif key.endswith("running_var"):
            value = random.rand(*shape) + 0.5
        elif "_w1" in key or "_w2" in key:
            value = 1 + 0.1 * random.randn(*shape)
        elif len(shape) < 2:
            norm = key.endswith("weight") and key[: -len("weight")] + "running_mean" in state
            value = 0.1 * random.randn(*shape) + (0.5 if norm else 0)
        else:
            value = random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
        filled[key] = torch.from_numpy(np.asarray(value)).to(tensor.dtype)
    return filled


def meta_state(name):
    with torch.device("meta"):
        return create_model(name).state_dict()


def lukemelas_names(keys, conv=""):
    """Returns their names of effedge's classifier keys; `conv` comes between a convolution and its weight."""
    blocks = []
    for key in keys:
        match = re.match(r"blocks\.(\d+\.\d+)\.", key)
        if match and match[1] not in blocks:
            blocks.append(match[1])  # in the order of the state dict, which is that of the network
    theirs = {}
    for key in keys:
        if match := re.match(r"blocks\.(\d+\.\d+)\.(.+)\.(\w+)$", key):
            names = ["conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3"]
            if match[1].startswith("0."):
                names = ["-", "-", "conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2"]
            parts = [
                "_expand_conv",
                "_bn0",
                "_depthwise_conv",
                "_bn1",
                "_se_reduce",
                "_se_expand",
                "_project_conv",
                "_bn2",
            ]
            part = parts[names.index(match[2])]
            inner = "" if part.startswith("_bn") else conv
            theirs[key] = f"_blocks.{blocks.index(match[1])}.{part}{inner}.{match[3]}"
        else:
            module, leaf = key.rsplit(".", 1)
            part = {"conv_stem": "_conv_stem" + conv, "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            theirs[key] = f"{part.get(module, '_fc')}.{leaf}"
    return theirs


def zylo117_names(keys, levels):
    """Returns their names of effedge's detector keys."""
    coarsest = 2 + levels
    down = list(range(coarsest - 1, 2, -1))  # levels of the nodes top-down, then bottom-up
    nodes = [f"{level}_up" for level in down] + [f"{level}_down" for level in range(4, coarsest + 1)]
    weights = [f"p{level}_w1" for level in down] + [f"p{level}_w2" for level in range(4, coarsest + 1)]
    backbone = lukemelas_names([key[len("backbone.") :] for key in keys if key.startswith("backbone.")], ".conv")
    theirs = {f"backbone.{own}": f"backbone_net.model.{name}" for own, name in backbone.items()}
    separable = {"conv_dw": "depthwise_conv.conv", "conv_pw": "pointwise_conv.conv", "bn": "bn"}
    for key in keys:
        head = {"box_net": "regressor", "class_net": "classifier"}.get(key.split(".")[0])
        leaf = key.rsplit(".", 1)[1]
        if match := re.match(r"fpn\.resample\.3\.conv\.(conv|bn)", key):
            theirs[key] = f"bifpn.0.p5_to_p6.{'0.conv' if match[1] == 'conv' else 1}.{leaf}"
        elif match := re.match(r"fpn\.cell\.(\d)\.fnode\.(\d)\.combine\.edge_weights", key):
            theirs[key] = f"bifpn.{match[1]}.{weights[int(match[2])]}"
        elif match := re.match(r"fpn\.cell\.(\d)\.fnode\.(\d)\.combine\.resample\.(\d)\.conv\.(conv|bn)", key):
            second = "" if int(match[2]) < levels - 1 else "_2"
            part = "0.conv" if match[4] == "conv" else "1"
            theirs[key] = f"bifpn.{match[1]}.p{int(match[3]) + 3}_down_channel{second}.{part}.{leaf}"
        elif match := re.match(r"fpn\.cell\.(\d)\.fnode\.(\d)\.after_combine\.conv\.(\w+)", key):
            theirs[key] = f"bifpn.{match[1]}.conv{nodes[int(match[2])]}.{separable[match[3]]}.{leaf}"
        elif match := re.match(r"\w+\.bn_rep\.(\d)\.(\d)\.bn", key):
            theirs[key] = f"{head}.bn_list.{match[2]}.{match[1]}.{leaf}"
        elif match := re.match(r"\w+\.(conv_rep\.\d|predict)\.(conv_\w\w)", key):
            place = match[1].replace("conv_rep", "conv_list").replace("predict", "header")
            theirs[key] = f"{head}.{place}.{separable[match[2]]}.{leaf}"
    assert len(theirs) == len(keys)
    return theirs


def other_state(name):
    """Makes their state dict of a model, of meta tensors."""
    own = meta_state(name)
    if name.startswith("d"):
        names = zylo117_names(list(own), levels=6 if name == "d7x" else 5)
        state = {names[key]: value for key, value in own.items()}
        if name in ("d6", "d7", "d7x"):  # fusion weights that their forward does not read
            cells = {key.split(".")[1] for key in state if key.startswith("bifpn.")}
            lengths = {"p6_w1": 2, "p5_w1": 2, "p4_w1": 2, "p3_w1": 2, "p4_w2": 3, "p5_w2": 3, "p6_w2": 3, "p7_w2": 2}
            for cell in cells:
                state |= {f"bifpn.{cell}.{key}": torch.empty(n, device="meta") for key, n in lengths.items()}
        return state
    names = lukemelas_names(list(own))
    return {names[key]: value for key, value in own.items()}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_names_here_are_those_of_their_models_and_all_are_understood(name):
    state = other_state(name)
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    assert zlib.crc32("\n".join(lines).encode()) == DIGESTS[name]
    fitted = fit(name, state, Path("theirs.pth"), None)
    assert fitted.classes == (90 if name.startswith("d") else 1000)
    assert fitted.state.keys() == meta_state(name).keys()


def run(name, size):
    torch.set_num_threads(1)
    model = create_model(name).eval()
    model.load_state_dict(fit(name, fill(other_state(name)), Path("theirs.pth"), None).state)
    image = torch.from_numpy(np.random.RandomState(7).randn(1, 3, size, size)).float()
    with torch.inference_mode():
        return model(image)


def check(tensor, mean, std, values):
    flat = tensor.double().flatten()
    assert flat.mean().item() == pytest.approx(mean, rel=1e-4, abs=1e-6)
    assert flat.std().item() == pytest.approx(std, rel=1e-4)
    picks = torch.linspace(0, flat.numel() - 1, 6).long()
    assert flat[picks].tolist() == pytest.approx(values, rel=1e-4, abs=1e-5)


def test_lukemelas_b0_gives_their_outputs():
    expected = [-0.07176923, 0.02527145, -0.20903414, 0.06607994, -0.15748399, -0.01680384]
    check(run("b0", 224), -0.0012599376587895676, 0.14872483595578367, expected)


def test_zylo117_d0_gives_their_outputs():
    """Theirs with its max-pools padded by minus infinity, as TensorFlow's; as published they pad with zeros."""
    classes, boxes = run("d0", 256)
    flat = [
        torch.cat([x.permute(0, 2, 3, 1).reshape(1, -1, n) for x in part], 1) for part, n in [(classes, 90), (boxes, 4)]
    ]
    expected = [0.5225592851638794, 0.4819849133491516, 0.5182228088378906, 0.51325345, 0.52035284, 0.47146887]
    check(flat[0].sigmoid(), 0.49990408161050776, 0.04014059745656761, expected)
    expected = [-0.18330970406532288, -0.5431540608406067, -0.028283998370170593, -0.29207021, -0.1562376, 0.24083766]
    check(flat[1], 0.016895244243061536, 0.2053467355804615, expected)


def moving(model):
    """The model with random biases and BatchNorm statistics."""
    torch.manual_seed(1)
    for key, value in model.state_dict().items():
        if key.endswith("bias"):
            value.normal_(std=0.5)
        if key.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("biased", [True, False], ids=["taken away", "added"])
def test_biases_in_front_of_batch_norm_come_and_go_without_a_change_to_the_outputs(biased):
    theirs, ours = create_model("d0", 2), create_model("d0", 2).eval()
    for part in ("fpn", "class_net", "box_net"):
        drop_redundant_biases(getattr(ours if biased else theirs, part))
    theirs = moving(theirs)
    assert len(theirs.state_dict()) != len(ours.state_dict())
    ours.load_state_dict(fit_biases(theirs.state_dict(), ours.state_dict()))
    features = [torch.randn(1, channels, side, side) for channels, side in ((40, 16), (112, 8), (320, 4))]
    with torch.inference_mode():
        for left, right in zip(theirs.fpn(list(features)), ours.fpn(list(features)), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
        levels = theirs.fpn(list(features))
        for head in ("class_net", "box_net"):
            for left, right in zip(getattr(theirs, head)(levels), getattr(ours, head)(levels), strict=True):
                torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
