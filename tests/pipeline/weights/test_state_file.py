"""Files of trainers: what is read from them, and that nothing in them is run."""

import argparse
import json
import pathlib
import sys
import types
from collections import defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from effedge.deploy.common.cli import UserError
from effedge.pipeline.weights.state_file import read_file

TENSOR = torch.arange(3.0)


def saved(content, path):
    torch.save(content, path)
    return read_file(path)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.pth.tar", "a.ckpt", "a.bin"])
def test_a_file_of_torch_save_may_have_any_of_the_trainers_suffixes(name, tmp_path):
    assert torch.equal(saved({"w": TENSOR}, tmp_path / name).tensors["w"], TENSOR)


def test_what_timms_saver_writes_is_read(tmp_path):
    args = argparse.Namespace(
        model="efficientnet_b0",
        lr=np.float64(0.1),
        mean=None,
        img_size=192,
        output=pathlib.Path("a/b"),
        opt_betas=(1, 2),
    )
    content = {
        "epoch": np.int64(3), "arch": "efficientnet_b0", "args": args, "metric": np.float32(0.5), "version": 2,
        "state_dict": {"w": TENSOR}, "state_dict_ema": {"w": -TENSOR}, "optimizer": {"state": {0: {"m": TENSOR}}},
        "saver": {"checkpoint_files": [("a.pth.tar", np.float64(0.5))], "best_metric": None},
    }  # fmt: skip
    file = saved(content, tmp_path / "last.pth.tar")
    assert list(file.tensors) == ["state_dict.w", "state_dict_ema.w", "optimizer.state.0.m"]
    values = {"epoch": 3, "metric": 0.5, "args.img_size": 192, "args.output": "a/b", "args.lr": 0.1, "arch": args.model}
    assert values.items() <= file.values.items() and file.values["args.opt_betas"] == [1, 2]
    assert "args.mean" not in file.values


def test_arrays_and_a_defaultdict_are_read(tmp_path):
    content = {"w": TENSOR, "mean": np.array([0.5, 0.25]), "counts": defaultdict(int, a=1)}
    values = saved(content, tmp_path / "a.pt").values
    assert values == {"mean": [0.5, 0.25], "counts.a": 1}


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module."])
def test_wrappers_that_change_nothing_leave_no_trace_wherever_they_are(wrapper, tmp_path):
    file = saved({f"{wrapper}backbone.{wrapper}conv.weight": TENSOR}, tmp_path / "a.pth")
    assert list(file.tensors) == ["backbone.conv.weight"]


def test_two_tensors_of_one_name_but_for_the_wrapper_stay_two(tmp_path):
    file = saved({"net.w": TENSOR, "net.module.w": -TENSOR}, tmp_path / "a.pth")
    assert list(file.tensors) == ["net.w", "net.module.w"]


@pytest.fixture
def package(monkeypatch):
    """A package with a class of a dict's kind and one with attributes, as Lightning's and OmegaConf's."""

    def make(module, name, bases, **members):
        for end in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:end])
            monkeypatch.setitem(sys.modules, part, sys.modules.get(part) or types.ModuleType(part))
        kind = type(name, bases, {"__module__": module, **members})
        setattr(sys.modules[module], name, kind)
        return kind

    return make


def test_hyper_parameters_are_read_without_lightning(package, tmp_path):
    attributes = package("pytorch_lightning.utilities.parsing", "AttributeDict", (dict,))
    content = {
        "state_dict": {"net.w": TENSOR},
        "hyper_parameters": attributes(model="efficientdet_d0", image_size=[640, 640]),
    }
    torch.save(content, tmp_path / "a.ckpt")
    del sys.modules["pytorch_lightning.utilities.parsing"]
    values = read_file(tmp_path / "a.ckpt").values
    assert values == {"hyper_parameters.model": "efficientdet_d0", "hyper_parameters.image_size": [640, 640]}


def test_a_configuration_is_read_without_omegaconf_and_its_code_is_not_run(package, tmp_path):
    def refuse(self, state):
        raise AssertionError("the package's code was run")

    node = package("omegaconf.nodes", "AnyNode", (), __setstate__=refuse)
    config = package("omegaconf.dictconfig", "DictConfig", (), __setstate__=refuse)
    leaf, root = node(), config()
    leaf.__dict__["_val"] = 640
    root.__dict__["_content"] = {"image_size": leaf}
    root.__dict__["_parent"] = root
    assert saved({"w": TENSOR, "config": root}, tmp_path / "a.pth").values == {"config.image_size": 640}


def test_another_class_is_refused_by_its_name(tmp_path):
    torch.save({"w": TENSOR, "model": torch.nn.Linear(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="Python object of 'torch.nn.modules.linear.Linear'") as caught:
        read_file(tmp_path / "a.pth")
    assert "\n" not in str(caught.value) and "save model.state_dict()" in str(caught.value)


def test_an_array_of_objects_is_refused(tmp_path):
    torch.save({"w": TENSOR, "names": np.array(["a", None], dtype=object)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="cannot be read safely"):
        read_file(tmp_path / "a.pth")


def test_the_hubs_config_is_read_beside_its_files_only(tmp_path):
    config = {
        "architecture": "efficientnet_b0",
        "pretrained_cfg": {"input_size": [3, 256, 256], "mean": [0.5, 0.5, 0.5]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, said in (("model.safetensors", True), ("mine.safetensors", False)):
        save_file({"w": TENSOR}, tmp_path / name, {"format": "pt"})
        values = read_file(tmp_path / name).values
        assert (values.get("pretrained_cfg.input_size") == [3, 256, 256]) is said
        assert (values.get("architecture") == "efficientnet_b0") is said
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json' is damaged"):
        read_file(tmp_path / "model.safetensors")
