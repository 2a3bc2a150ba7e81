"""Training in two processes: the losses and weights of one process with the same batch."""

import dataclasses
import multiprocessing
import os
import signal
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training.data.batches import rank_share
from effedge.pipeline.training.distributed.processes import SINGLE_PROCESS, ProcessGroup, choose_device
from effedge.pipeline.training.distributed.sync_batch_norm import SyncBatchNorm2d, synchronize
from effedge.pipeline.training.ema import Ema
from effedge.pipeline.training.log.journal import read_journal
from effedge.pipeline.training.loop import train
from effedge.pipeline.training.validation import make_validation
from effedge.pipeline.weights.published import preprocessing
from effedge.pipeline.weights.save import save_weights
from tests.pipeline.small_training import B0, D0, data_of, write_coco

pytestmark = pytest.mark.usefixtures("one_thread")


def side_by_side(function, folder, count=2):
    """What `function(group)` returns in each of so many processes, forked and joined by Gloo."""
    folder.mkdir()

    def process(rank):
        try:
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
            torch.save(function(ProcessGroup(rank, count, torch.device("cpu"))), folder / f"{rank}.pt")
            dist.destroy_process_group()
        except BaseException:
            (folder / f"{rank}.txt").write_text(traceback.format_exc())
            os._exit(1)

    started = [multiprocessing.get_context("fork").Process(target=process, args=(rank,)) for rank in range(count)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    assert not list(folder.glob("*.txt")), "\n".join(path.read_text() for path in folder.glob("*.txt"))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def assert_close(a, b, tolerance):
    """Within `tolerance` of a tensor's largest value; of 0.01 where that is less, as in biases that learn nothing."""
    assert a.keys() == b.keys()
    for key in a:
        scale = max(float(b[key].abs().max()), 0.01)
        assert float((a[key].double() - b[key].double()).abs().max()) / scale < tolerance, key


def losses_of(out):
    return np.array([[e[k] for k in e if k not in ("step", "rate", "images_per_second")]
                     for e in read_journal(out.with_suffix(".log.jsonl")) if "rate" in e])  # fmt: skip


def test_synchronized_batch_norm_is_that_of_the_whole_batch_forward_and_backward(tmp_path):
    random = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(6, 4, 5, 3, generator=random) + torch.randn(1, 4, 1, 1, generator=random)
    g = torch.randn(6, 4, 5, 3, generator=random)
    plain = torch.nn.Sequential(torch.nn.BatchNorm2d(4, eps=1e-3, momentum=0.01))
    torch.nn.init.uniform_(plain[0].weight, 0.5, 2.0, generator=random)
    torch.nn.init.uniform_(plain[0].bias, -1.0, 1.0, generator=random)
    start = {key: value.clone() for key, value in plain.state_dict().items()}
    whole = x.clone().requires_grad_()
    y = plain(whole)
    y.backward(g)

    def process(group):
        norm = torch.nn.Sequential(torch.nn.BatchNorm2d(4, eps=1e-3, momentum=0.01))
        norm.load_state_dict(start)
        norm = synchronize(norm, group.device)
        assert isinstance(norm[0], SyncBatchNorm2d)
        mine = slice(3 * group.rank, 3 * group.rank + 3)
        part = x[mine].clone().requires_grad_()
        found = norm(part)
        found.backward(g[mine])
        return found.detach(), part.grad, norm[0].weight.grad, norm[0].bias.grad, norm.state_dict()

    first, second = side_by_side(process, tmp_path / "run")
    torch.testing.assert_close(torch.cat([first[0], second[0]]), y.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), whole.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first[2] + second[2], plain[0].weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first[3] + second[3], plain[0].bias.grad, rtol=1e-5, atol=1e-5)
    for state in (first[4], second[4]):
        assert_close(state, plain.state_dict(), 1e-6)


def doubled(batch):
    return type(batch)(*(tensor.double() if tensor.is_floating_point() else tensor for tensor in batch))


@pytest.fixture
def in_double():
    """In float32 the gradients of a batch this small have an error of 0.1%: BatchNorm divides by next to nothing, and
    Adam's first steps are a gradient's sign, be it noise. In float64 equal is equal."""
    torch.set_default_dtype(torch.float64)
    yield lambda data: data._replace(collate=lambda samples: doubled(data.collate(samples)))
    torch.set_default_dtype(torch.float32)


DET = dataclasses.replace(D0, model="det-lite0", steps=2, batch=4)


@pytest.mark.parametrize(
    "options", [dataclasses.replace(B0, size=Size(64, 64), steps=3, batch=4), pytest.param(DET, marks=pytest.mark.slow)]
)
def test_two_processes_come_to_the_losses_and_weights_of_one(tmp_path, folders, options, in_double):
    """With dropout and stochastic depth on."""
    path = folders if options.model == "b0" else write_coco(tmp_path, 5)
    data = in_double(data_of(options, path, tmp_path / "photographs"))
    weights, _ = train(options, data, tmp_path / "one.safetensors")
    pair = side_by_side(lambda group: train(options, data, tmp_path / "two.safetensors",
                                            group=group)[0], tmp_path / "run")  # fmt: skip
    one, two = losses_of(tmp_path / "one.safetensors"), losses_of(tmp_path / "two.safetensors")
    assert len(one) == options.steps
    np.testing.assert_allclose(two, one, rtol=2e-5)  # the journal's digits
    assert_close(pair[0], weights, 1e-6)
    assert all(torch.equal(pair[0][key], pair[1][key]) for key in weights)


def test_a_batch_in_parts_is_the_batch(tmp_path, folders, in_double):
    """Where BatchNorm's statistics are frozen; with dropout and stochastic depth on."""
    for options in (dataclasses.replace(B0, batch=4), DET):
        init = tmp_path / f"{options.model}.safetensors"
        save_weights(create_model(options.model, 3).state_dict(), init, {})
        options = dataclasses.replace(options, init=str(init), freeze_norm=True, steps=2)
        path = folders if options.model == "b0" else write_coco(tmp_path, 5)
        data = in_double(data_of(options, path, tmp_path / "photographs"))
        found = []
        for parts in (1, 2):
            out = tmp_path / f"{options.model}-{parts}.safetensors"
            accumulated = dataclasses.replace(options, accumulate=parts)
            found.append((train(accumulated, data, out)[0], losses_of(out)))
        np.testing.assert_allclose(found[0][1], found[1][1], rtol=2e-5)
        assert_close(found[0][0], found[1][0], 1e-6)


def test_two_processes_validate_as_one(tmp_path):
    path, images = write_coco(tmp_path, 5), tmp_path / "photographs"  # which do not split alike
    model = create_model("det-lite0", 3, 128)
    labels, look = ["blue", "green", "red"], preprocessing("det-lite0", "")

    def figures(group):
        validation = make_validation("det-lite0", str(path), images, labels, Size(128, 128), look)._replace(
            spread=group.spread
        )
        return validation(model, model.state_dict())

    assert side_by_side(figures, tmp_path / "run") == [figures(SINGLE_PROCESS)] * 2


@pytest.mark.slow
def test_an_interrupt_of_one_process_stops_both_after_the_same_step_and_both_go_on(tmp_path, folders, monkeypatch):
    options = dataclasses.replace(B0, steps=4, batch=4)
    data, out = data_of(options, folders), tmp_path / "b0.safetensors"
    whole, _ = side_by_side(lambda group: train(options, data, tmp_path / "whole.safetensors",
                                                group=group)[0], tmp_path / "whole")  # fmt: skip
    update = Ema.update

    def process(group):
        def stopping(self, model, now):
            if group.rank == 1 and now == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            update(self, model, now)

        monkeypatch.setattr(Ema, "update", stopping)
        try:
            train(options, data, out, group=group)
        except (UserError, SystemExit) as error:
            return str(error)

    told, silent = side_by_side(process, tmp_path / "stopped")
    assert told.startswith("interrupted after step 2 of 4") and silent == "2"
    parts, _ = side_by_side(lambda group: train(options, data, out, group=group)[0], tmp_path / "on")
    assert all(torch.equal(parts[key], whole[key]) for key in whole)


def test_the_shares_of_the_processes_are_the_batches_of_one():
    draws = [rank_share(lambda index: index, 6, rank, 3) for rank in range(3)]
    assert [draw(k) for draw in draws for k in range(2)] == list(range(6))
    assert [draw(k) for draw in draws for k in range(2, 4)] == list(range(6, 12))


def test_images_are_distributed_and_every_process_has_the_results_of_all(tmp_path):
    paths = [Path(str(index)) for index in range(5)]

    def process(group):
        seen = []
        results = group.spread(lambda given: [seen.append(path) or int(path.name) ** 2 for path in given])(paths)
        return list(results), len(seen)

    assert side_by_side(process, tmp_path / "run") == [([0, 1, 4, 9, 16], 3), ([0, 1, 4, 9, 16], 2)]


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None, 0).type == "cpu"
    with pytest.raises(UserError, match="finds no GPU here"):
        choose_device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(None, 1) == torch.device("cuda", 1) and choose_device("cpu", 1).type == "cpu"
    with pytest.raises(UserError, match="process 2 of this machine has no GPU"):
        choose_device(None, 2)
