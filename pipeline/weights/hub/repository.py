"""Locates weights of the Hugging Face hub, or in a folder with the files of one of its repositories.

`hf-hub:ORG/NAME` and `hf-hub:ORG/NAME@REVISION` name a repository, and `timm:NAME` is `hf-hub:timm/NAME`. A path behind
`hf-hub:` (it begins with /, ./, ../ or ~) is a folder. A repository is of timm's format (timm 1.0.31,
`timm/models/_hub.py`): a config.json that names the architecture, and model.safetensors or pytorch_model.bin.
config.json is read first, so that weights of another model are refused before they are downloaded.

huggingface_hub downloads, and keeps the files in its own cache (https://huggingface.co/docs/huggingface_hub, "Manage
the cache" and "Environment variables"): HF_HOME and HF_HUB_CACHE name the cache, HF_ENDPOINT a mirror, HF_TOKEN is for
private and gated repositories, and HF_HUB_OFFLINE=1 forbids the network. It is imported when a repository is asked for
and not before, with its telemetry off.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256
from effedge.deploy.common.messages import progress_hidden
from effedge.deploy.common.strict_json import parse_json
from effedge.pipeline.models.names import model_of_arch

PREFIXES = {"hf-hub:": "", "timm:": "timm/"}  # and what each puts in front of the name
CONFIG, SAFETENSORS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
HUB_FILES = (SAFETENSORS, PICKLE)  # the first that there is, is taken
LOCAL = ("/", "./", "../", "~")
NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Plain HTTP, which the tests cover, in place of the storage protocol Xet; HF_HUB_DISABLE_XET=0 takes that.
SETTINGS = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}


def is_repository(weights: str) -> bool:
    """Returns True for a word that names a repository of the hub, or a folder behind `hf-hub:`."""
    return weights.startswith(tuple(PREFIXES))


def hub_file(model: str, weights: str) -> Path:
    """Returns the file of the weights that `weights` names, downloaded if need be; config.json is beside it.

    Args:
        model: the model that they must be of.
        weights: `hf-hub:...` or `timm:...`, or a folder.

    Raises:
        UserError: another model's weights, no such repository, revision or file, a gated repository, no network, a
            transfer that failed, a file that is not what the hub says it is, or huggingface_hub is not installed.
    """
    said = model_of_repository(weights)
    if said != model:
        raise UserError(f"weights '{weights}' are of {said} by their {CONFIG}, and MODEL is {model}: give MODEL={said}")
    return _weights_file(weights)


def model_of_repository(weights: str) -> str:
    """Returns the model here of the architecture that config.json names; raises UserError for none."""
    config = _config_file(weights)
    try:
        values = parse_json(config.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"weights '{weights}': '{config}' is damaged or cut short: delete it and run again") from error
    values = values if isinstance(values, Mapping) else {}
    arch = values.get("architecture")
    if not isinstance(arch, str):
        kind = f" (it is of transformers' {values['model_type']})" if "model_type" in values else ""
        raise UserError(
            f"weights '{weights}': {CONFIG} names no architecture, as timm's do{kind}: give a repository of timm's "
            "format, or the path of the checkpoint's file alone"
        )
    model = model_of_arch(arch)
    if model is None:
        raise UserError(
            f"weights '{weights}' are of architecture '{arch}', which is none of effedge's models: effedge summary "
            "lists those"
        )
    return model


@functools.cache  # a command asks several times
def _config_file(weights: str) -> Path:
    """Returns the config.json of a repository or folder."""
    folder = _folder(weights)
    config = _fetch(weights, CONFIG) if folder is None else folder / CONFIG
    if folder is not None and not folder.is_dir():
        raise UserError(f"weights '{weights}': no folder '{folder}': check the path")
    if config is None:
        raise UserError(f"weights '{weights}': the repository has no {CONFIG}, which names its architecture")
    if folder is not None and not config.is_file():
        raise UserError(
            f"weights '{weights}' is a folder without {CONFIG}: expected a checkpoint's file, or a folder with the "
            "files of a hub's repository"
        )
    return config


@functools.cache
def _weights_file(weights: str) -> Path:
    """Returns the file beside config.json: the safetensors, or the pickle where there is none."""
    config = _config_file(weights)
    if _folder(weights) is not None:
        file = next((config.with_name(name) for name in HUB_FILES if config.with_name(name).is_file()), None)
    else:
        commit = config.parent.name  # its folder in the cache is named after the commit
        cached = (_fetch(weights, name, commit, in_cache=True) for name in HUB_FILES)
        downloaded = (_fetch(weights, name, commit) for name in HUB_FILES)
        file = next(filter(None, cached), None) or next(filter(None, downloaded), None)
    if file is None:
        expected = " or ".join(HUB_FILES)
        raise UserError(f"weights '{weights}' have a {CONFIG} and no weights beside it: expected {expected}")
    _check_hash(weights, file)
    return file


def _folder(weights: str) -> Path | None:
    """Returns the folder that the word names; None for a repository."""
    if not is_repository(weights):
        return Path(weights)
    path = weights.removeprefix("hf-hub:")
    return Path(path).expanduser() if path.startswith(LOCAL) else None


def _fetch(weights: str, name: str, commit: str | None = None, in_cache: bool = False) -> Path | None:
    """Returns a file of a repository in huggingface_hub's cache, downloaded if need be; None if it has no such file.

    Args:
        commit: in place of the revision that the word names.
        in_cache: look into the cache only, and return None for a file that is not there.
    """
    prefix = next(prefix for prefix in PREFIXES if weights.startswith(prefix))
    repository, at, revision = (PREFIXES[prefix] + weights.removeprefix(prefix)).partition("@")
    if not NAME.fullmatch(repository) or (at and not revision):
        raise UserError(f"weights '{weights}': expected hf-hub:ORG/NAME, hf-hub:ORG/NAME@REVISION or timm:NAME")
    hub = _import_hub(weights)
    if in_cache:
        cached = hub.try_to_load_from_cache(repository, name, revision=commit)
        return Path(cached) if isinstance(cached, str) else None
    try:
        path = hub.hf_hub_download(repository, name, revision=commit or revision or None)
    except hub.errors.RemoteEntryNotFoundError:
        return None
    except (OSError, ValueError, hub.errors.HTTPError) as error:  # ValueError: a name that no repository can have
        raise UserError(f"weights '{weights}': {_reason(hub, error, repository, name)}") from error
    return Path(path)


def _import_hub(weights: str) -> ModuleType:
    """Imports huggingface_hub, with its settings of this process; raises UserError if it is not installed."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise UserError(
            f"weights '{weights}' need the package huggingface_hub: pip install 'effedge[hub]', or give a folder with "
            "the repository's files"
        ) from error
    huggingface_hub.utils.logging.set_verbosity_error()  # the error's one line says what its warnings do
    if progress_hidden():
        huggingface_hub.utils.disable_progress_bars()
    return huggingface_hub


def _reason(hub: ModuleType, error: Exception, repository: str, name: str) -> str:
    """Writes why a file of a repository could not be had, and what to do about it."""
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    by_hand = "or give a folder with the repository's files"
    is_missing = isinstance(error, errors.LocalEntryNotFoundError)  # in the cache; its cause is why it did not come
    cause = error.__cause__ or error if is_missing else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, errors.GatedRepoError) or status == 403:
        return (
            f"{endpoint}/{repository} is gated or closed to you: ask for access on its page, then log in (hf auth "
            f"login, or HF_TOKEN), {by_hand}"
        )
    if isinstance(cause, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"there is no repository {repository} at {endpoint}, or it is private: check the name, or log in (hf auth "
            "login, or HF_TOKEN)"
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"{endpoint}/{repository} has no such revision: check what is behind the @"
    if is_missing and hub.constants.is_offline_mode():
        cache = hub.constants.HF_HUB_CACHE
        return f"{name} is not in the cache '{cache}', and HF_HUB_OFFLINE is set: unset it, {by_hand}"
    if isinstance(cause, errors.FileMetadataError):
        return f"{endpoint} does not answer as the hub does: check HF_ENDPOINT and the proxy, {by_hand}"
    if is_missing:
        return f"{endpoint} cannot be reached ({_first_line(cause)}): check the network, {by_hand}"
    return f"{name} of {endpoint}/{repository} did not come ({_first_line(cause)}): run again, {by_hand}"


def _first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, without the sentence's end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")


def _check_hash(weights: str, file: Path) -> None:
    """Raises UserError unless a file of the cache has the SHA-256 that the hub stores it under.

    Git LFS addresses a large file by its SHA-256; smaller files have another kind of name and are not checked.
    """
    blob = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name) and sha256(blob) != blob.name:
        raise UserError(
            f"weights '{weights}': '{blob}' is not what the hub has by its SHA-256: delete it and run again"
        )
