"""WEIGHTS of the Hugging Face hub, from a server of its shape: the right files, or one line and nothing left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from effedge.deploy.common.cli import Parser, UserError
from effedge.pipeline.artefact_folder import names_of
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import Size
from effedge.pipeline.request import Checkpoint, add_source, read_source
from effedge.pipeline.weights.hub import repository
from effedge.pipeline.weights.hub.repository import hub_file, is_repository, model_of_repository
from effedge.pipeline.weights.load import load_weights, size_of_input
from effedge.pipeline.weights.locate import config_file, locate_weights
from tests.pipeline.weights.hub.hub_server import COMMIT, CONFIG, HubServer

constants = pytest.importorskip("huggingface_hub.constants")

CONTENT = bytes(range(256)) * 20_000  # 5 MB
NAME = "tf_efficientnet_b0.ns_jft_in1k"
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub with one repository, timm/NAME; huggingface_hub asks it and nobody else, and has an empty cache."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as running:
        running.add(f"timm/{NAME}", {SAFE: CONTENT, PICKLED: b"another"})
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its attempts
        forget()
        yield running
        running.shutdown()
    forget()


def forget():
    """Forgets what this process has asked for, as the next command has."""
    repository._config_file.cache_clear()
    repository._weights_file.cache_clear()


def refused(weights, model="b0"):
    with pytest.raises(UserError) as caught:
        locate_weights(model, weights)
    message = str(caught.value)
    assert "\n" not in message and f"'{weights}'" in message
    return message


def large_files(tmp_path):
    """The files of the cache that are no configuration, which are small."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 5000]


@pytest.mark.parametrize("weights", [f"timm:{NAME}", f"hf-hub:timm/{NAME}", f"hf-hub:timm/{NAME}@{COMMIT}"])
def test_the_safetensors_come_once_with_config_json_beside_them(server, weights):
    file = locate_weights("b0", weights)
    assert file.name == SAFE and file.read_bytes() == CONTENT
    assert json.loads(config_file(file).read_text()) == CONFIG
    forget()
    before = len(server.requests)
    assert locate_weights("b0", weights) == file
    later = server.requests[before:]
    assert all(method == "HEAD" and path.endswith("config.json") for method, path, _ in later) and len(later) <= 1


def test_only_the_two_files_are_asked_for(server):
    locate_weights("b0", f"timm:{NAME}")
    paths = {path.removeprefix(f"/timm/{NAME}") for _, path, _ in server.requests}
    assert {path for path in paths if not path.startswith("/storage/")} == {
        "/resolve/main/config.json", f"/resolve/{COMMIT}/{SAFE}",
    }  # fmt: skip
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_the_pickle_is_taken_where_there_are_no_safetensors(server):
    server.add("me/mine", {PICKLED: CONTENT})
    file = locate_weights("b0", "hf-hub:me/mine")
    assert file.name == PICKLED and file.read_bytes() == CONTENT


def test_a_transfer_that_is_cut_goes_on_from_there(server, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", len(CONTENT) // 8)  # what is whole of these is kept
    server.cuts = 2
    assert locate_weights("b0", f"timm:{NAME}").read_bytes() == CONTENT
    ranges = [asked for _, path, asked in server.requests if path.startswith("/storage/")]
    assert ranges == [None, f"bytes={len(CONTENT) // 2}-", f"bytes={len(CONTENT) * 3 // 4}-"]


def test_a_transfer_that_never_ends_is_one_line_and_leaves_nothing(server, tmp_path):
    server.cuts = 1000
    assert "did not come" in refused(f"timm:{NAME}") and large_files(tmp_path) == []
    server.cuts = 0
    assert locate_weights("b0", f"timm:{NAME}").read_bytes() == CONTENT


@pytest.mark.parametrize("stated", [len(CONTENT) - 1000, len(CONTENT) + 1000])
def test_a_file_of_another_size_than_said_is_one_line_and_leaves_nothing(server, tmp_path, stated):
    server.stated_size = stated
    message = refused(f"timm:{NAME}")
    assert f"{SAFE} of {server.url}/timm/{NAME} did not come" in message and str(stated) in message
    assert large_files(tmp_path) == []


def test_a_file_that_was_damaged_in_the_cache_is_named(server):
    file = locate_weights("b0", f"timm:{NAME}")
    blob = file.resolve()
    blob.write_bytes(CONTENT[:-1] + b"?")
    forget()
    message = refused(f"timm:{NAME}")
    assert "SHA-256" in message and f"'{blob}'" in message and "delete it" in message
    blob.unlink()
    assert locate_weights("b0", f"timm:{NAME}").read_bytes() == CONTENT


def test_weights_of_another_model_are_refused_before_they_are_downloaded(server):
    message = refused(f"timm:{NAME}", "b1")
    assert "are of b0 by their config.json, and MODEL is b1: give MODEL=b0" in message
    server.add("me/vit", {SAFE: CONTENT}, CONFIG | {"architecture": "vit_base_patch16_224"})
    assert "architecture 'vit_base_patch16_224', which is none of effedge's models" in refused("hf-hub:me/vit")
    assert not any(path.endswith(SAFE) for _, path, _ in server.requests)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "the repository has no config.json"),
        ({"num_classes": 10}, "names no architecture, as timm's do: give"),
        ({"architectures": ["E"], "model_type": "efficientnet"}, "it is of transformers' efficientnet"),
        ({"architecture": 3}, "names no architecture"),
        (["tf_efficientnet_b0"], "names no architecture"),
    ],
)
def test_a_configuration_without_an_architecture_is_one_line(server, config, said):
    server.add("me/mine", {SAFE: CONTENT}, config)
    assert said in refused("hf-hub:me/mine")


def test_a_damaged_configuration_is_one_line(server):
    server.repositories["me/mine"] = {"config.json": b'{"architecture": "tf_eff', SAFE: CONTENT}
    message = refused("hf-hub:me/mine")
    assert "config.json' is damaged or cut short" in message


def test_a_repository_without_weights_names_those_it_may_have(server):
    server.add("me/mine", {"weights.h5": CONTENT})
    assert "no weights beside it: expected model.safetensors or pytorch_model.bin" in refused("hf-hub:me/mine")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, "GatedRepo"), "is gated or closed to you: ask for access"),
        ((403, "GatedRepo"), "is gated or closed to you: ask for access"),
        ((403, ""), "is gated or closed to you: ask for access"),
        ((401, "RepoNotFound"), "there is no repository me/mine"),
        ((404, "RepoNotFound"), "there is no repository me/mine"),
        ((401, ""), "there is no repository me/mine"),
        ((500, ""), "500 Internal Server Error"),
    ],
)
def test_a_refusal_says_what_to_do(server, tmp_path, answer, said):
    server.refusals["me/mine"] = answer
    message = refused("hf-hub:me/mine")
    assert said in message and server.url in message
    assert large_files(tmp_path) == []


def test_an_unknown_revision_is_named(server):
    assert "has no such revision" in refused(f"timm:{NAME}@v9")


@pytest.mark.parametrize("weights", ["hf-hub:", "hf-hub:one", "timm:", "timm:a/b", "hf-hub:a/b/c", "hf-hub:a/b@"])
def test_what_names_no_repository_says_the_form(server, weights):
    assert "expected hf-hub:ORG/NAME, hf-hub:ORG/NAME@REVISION or timm:NAME" in refused(weights)
    assert server.requests == []


def test_without_a_network_the_cache_is_enough(server, monkeypatch):
    file = locate_weights("b0", f"timm:{NAME}")
    closed = "http://127.0.0.1:9"  # nobody listens on the discard port
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        closed + "/{repo_id}/resolve/{revision}/{filename}")  # fmt: skip
    forget()
    assert locate_weights("b0", f"timm:{NAME}") == file
    message = refused("timm:tf_efficientnet_b1.aa_in1k", "b1")
    assert f"{closed} cannot be reached" in message and "refused" in message


def test_offline_only_the_cache_is_read(server, monkeypatch):
    server.add("me/mine", {PICKLED: CONTENT})
    files = [locate_weights("b0", weights) for weights in (f"timm:{NAME}", "hf-hub:me/mine")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget()
    before = len(server.requests)
    assert [locate_weights("b0", weights) for weights in (f"timm:{NAME}", "hf-hub:me/mine")] == files
    assert "is not in the cache" in (message := refused("timm:other")) and "HF_HUB_OFFLINE is set" in message
    assert len(server.requests) == before


def test_a_folder_with_the_same_files_needs_no_hub(server, tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    assert "is a folder without config.json" in refused(str(folder))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert "no weights beside it" in refused(str(folder))
    forget()
    (folder / PICKLED).write_bytes(b"pickled")
    assert locate_weights("b0", str(folder)) == folder / PICKLED
    forget()
    (folder / SAFE).write_bytes(CONTENT)
    assert locate_weights("b0", f"hf-hub:{folder}") == folder / SAFE
    assert "give MODEL=b0" in refused(str(folder), "d0")
    assert "no folder" in refused("hf-hub:./nowhere")
    assert server.requests == []


def test_the_client_that_is_missing_is_named(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'effedge[hub]'" in refused(f"timm:{NAME}")


def test_other_words_are_of_no_hub_and_do_not_import_its_client(tmp_path):
    assert not any(map(is_repository, ("digits", "imagenet", "timm/tf_efficientnet_b0", "C:/a.pth", "runs/hf-hub.pth")))
    code = (
        "import sys; from effedge.pipeline.weights.locate import locate_weights; locate_weights('b0', 'digits'); "
        "locate_weights('b0', 'random'); sys.exit('huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_settings_of_the_environment_hold(server, tmp_path):
    """HF_ENDPOINT and HF_HOME, as a mirror has them, in a process of its own; the error's status is 2."""
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    code = (
        "import sys; from effedge.deploy.common.cli import run; from effedge.pipeline.weights.locate import "
        "locate_weights; run(lambda: print(locate_weights('b0', sys.argv[1])))"
    )
    call = [sys.executable, "-c", code]
    found = subprocess.run([*call, f"timm:{NAME}"], env=environment, capture_output=True, text=True)
    assert found.returncode == 0 and Path(found.stdout.strip()).read_bytes() == CONTENT, found.stderr
    assert Path(found.stdout.strip()).is_relative_to(tmp_path / "home")
    failed = subprocess.run([*call, "timm:nothing"], env=environment, capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stdout == "" and len(failed.stderr.splitlines()) == 1, failed.stderr


@pytest.fixture(scope="module")
def lite0_file(tmp_path_factory):
    """A lite0 of 3 classes as timm pushes one: in safetensors, with a trainer's normalization and input of its own."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("lite0") / SAFE
    save_file(create_model("lite0", 3).state_dict(), path, {"format": "pt"})
    return path.read_bytes()


LITE0 = {
    "architecture": "tf_efficientnet_lite0",
    "num_classes": 3,
    "label_names": ["n01", "n02", "n03"],
    "label_descriptions": {"n01": "crane, a bird", "n02": "crane, a machine", "n03": "tench, Tinca tinca"},
    "pretrained_cfg": {
        "input_size": [3, 160, 160], "interpolation": "bilinear", "crop_pct": 0.95, "mean": [0.4, 0.4, 0.4],
        "std": [0.3, 0.3, 0.3],
    },
}  # fmt: skip


def test_labels_input_and_preprocessing_are_the_configurations(server, lite0_file):
    server.add("me/lite0", {SAFE: lite0_file}, LITE0)
    loaded = load_weights("lite0", "hf-hub:me/lite0")
    assert loaded.classes == 3 and loaded.labels == ["crane, a bird", "crane, a machine", "tench"]
    assert loaded.size == size_of_input("lite0", loaded) == (160, 160)
    look = loaded.preprocessing
    assert (look.mean, look.std) == ((0.4,) * 3, (0.3,) * 3) and (look.interpolation, look.crop) == ("bilinear", 0.95)
    assert model_of_repository("hf-hub:me/lite0") == "lite0"


def test_the_size_and_crop_of_timms_evaluation_are_taken_and_said_and_the_users_size_before_them(
    server, lite0_file, caplog
):
    caplog.set_level("INFO", "effedge")
    cfg = {**LITE0["pretrained_cfg"], "test_input_size": [3, 300, 300], "test_crop_pct": 1.0, "crop_mode": "squash"}
    server.add("me/squashed", {SAFE: lite0_file}, LITE0 | {"pretrained_cfg": cfg})
    loaded = load_weights("lite0", "hf-hub:me/squashed")
    assert (loaded.preprocessing.crop, loaded.preprocessing.resize) == (1.0, "stretch")
    assert size_of_input("lite0", loaded) == (300, 300)
    [line] = [record.getMessage() for record in caplog.records if "checkpoint" in record.getMessage()]
    for words in (
        "its input is 300, lite0's own 224; its test_input_size 300 is taken, not its input_size 160",
        "; its test_crop_pct 1.0 is taken, not its crop_pct 0.95",
        "; its resize is stretch, lite0's own center-crop",
    ):
        assert words in line, line
    assert size_of_input("lite0", loaded, Size(192, 192)) == (192, 192)
    assert caplog.messages[-1].endswith("its input is 300, built for 192, as SIZE says")


def test_an_engine_needs_no_model_where_the_configuration_names_it(server):
    parser = Parser()
    add_source(parser)
    for words in (["--weights", f"timm:{NAME}"], ["b0", "--weights", f"timm:{NAME}"]):
        source = read_source(parser.parse_args(words), parser)
        assert source == Checkpoint("b0", f"timm:{NAME}")
    assert names_of(source) == ["b0-timm_tf_efficientnet_b0.ns_jft_in1k"]


def test_a_configuration_of_another_number_of_classes_is_refused(server, lite0_file):
    server.add("me/more", {SAFE: lite0_file}, LITE0 | {"num_classes": 4})
    with pytest.raises(UserError, match="has 3 classes, and its configuration says num_classes 4"):
        load_weights("lite0", "hf-hub:me/more")
    server.add("me/names", {SAFE: lite0_file}, LITE0 | {"label_names": ["a", "b"]})
    with pytest.raises(UserError, match="has 3 classes, and its configuration names 2: give LABELS"):
        load_weights("lite0", "hf-hub:me/names")


def test_a_training_starts_from_a_hubs_weights_of_whatever_model(server, lite0_file):
    from effedge.pipeline.training.initial_weights import initial_file

    server.add("me/lite0", {SAFE: lite0_file}, LITE0)
    assert initial_file("det-lite0", "hf-hub:me/lite0").read_bytes() == lite0_file
    assert hub_file("lite0", "hf-hub:me/lite0") == initial_file("b3", "hf-hub:me/lite0")
