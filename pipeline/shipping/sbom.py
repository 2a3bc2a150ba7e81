"""Lists what a bundle was made by and what it needs on the board: a software bill of materials, CycloneDX 1.6 in JSON.

`metadata.tools` are the packages that made the ONNX and the bundle, by the records of the stages; `components` are what
is in the bundle and what the board has to bring. A component that the board brings has no version, as any of a range
will do: its property "effedge:versions" says which. The engine that is built there says the rest, in its manifest.json.

No library writes it: cyclonedx-python-lib would bring seven packages to each host for one list, whose form
tests/pipeline/shipping/test_sbom.py holds against the specification's schema with it.

Source: https://cyclonedx.org/docs/1.6/json/; ECMA-424 (1st edition, June 2024).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import effedge
from effedge.deploy.common.files import sha256
from effedge.deploy.common.outputs import read_dict
from effedge.engines.install import LEAST_PILLOW
from effedge.engines.stage import record_path
from effedge.engines.targets import Target

NAME = "sbom.cdx.json"
VERSIONS = "effedge:versions"
NUMPY, PILLOW, PYTHON = ">=1.17", f">={LEAST_PILLOW[0]}.{LEAST_PILLOW[1]}", ">=3.8"
TENSORRT = ("tensorrt", "tensorrt_rtx")  # NVIDIA's: JetPack or apt brings them, or a wheel


def recorded_tools(artefact: Path) -> list[str]:
    """Returns "NAME VERSION" of each package that made an artefact or what that was made from, by their records.

    A record counts only if it vouches for its file, so there are none for a file of the user's own.
    """
    digest = sha256(artefact)
    if read_dict(record_path(artefact)).get("sha256") != digest:
        return []
    records = recorded_stages(artefact.parent, digest)
    return sorted({f"{name} {version}" for record in records for name, version in record["key"]["tools"].items()})


def recorded_stages(folder: Path, digest: str) -> list[dict[str, Any]]:
    """Returns the stages' records in a folder that lead to the artefact with this SHA-256, the last stage first.

    Each is as engines/stage.py wrote it, with "artefact", the name of the file that it is of. Damaged ones are left
    out.
    """
    made_as = {}
    for path in folder.glob("*.json"):
        record = read_dict(path)
        key = record.get("key")
        parts = [key.get(name) for name in ("inputs", "options", "tools")] if isinstance(key, dict) else [None]
        if isinstance(record.get("sha256"), str) and all(isinstance(part, dict) for part in parts):
            made_as[record["sha256"]] = {**record, "artefact": path.stem}
    waiting, found = [digest], []
    while waiting:
        record = made_as.pop(waiting.pop(0), {})
        if record:
            found.append(record)
            waiting += [value for value in record["key"]["inputs"].values() if isinstance(value, str)]
    return found


def bill_of_materials(
    content: Mapping[str, Any], target: Target, tools: Sequence[str], models: Mapping[str, bytes]
) -> bytes:
    """Writes the bill of materials of a bundle. The same arguments make the same bytes.

    Args:
        content: of bundle.json.
        tools: "NAME VERSION" of each package that made the bundle.
        models: the ONNX files and their weights, by name in the bundle.
    """
    needed = [
        needs("python", PYTHON, "application"),
        needs("numpy", NUMPY),
        needs("pillow", PILLOW),
        needs(
            target.distributions[0] if target.backend == "tensorrt_rtx" else target.backend,
            " or ".join(f"{prefix}*" for prefix in target.versions) or "any",
            supplier="NVIDIA" if target.backend in TENSORRT else "",
        ),
    ]
    own = [
        package("effedge", effedge.__version__),
        *(model(name, data, content) for name, data in sorted(models.items())),
    ]
    bundle = {"type": "application", "bom-ref": "bundle", "name": content["name"]}
    bill: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [package(*tool.split(" ", 1)) for tool in tools]},
            "component": bundle,
        },
        "components": [*own, *needed],
        "dependencies": [{"ref": "bundle", "dependsOn": [entry["bom-ref"] for entry in (*own, *needed)]}],
    }
    digest = hashlib.sha256(json.dumps(bill).encode()).hexdigest()
    bill["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, f"effedge bundle {digest}").urn
    return (json.dumps(bill, indent=1) + "\n").encode()


def package(name: str, version: str) -> dict[str, Any]:
    """Makes the entry of a Python package, with its package URL (purl, which spells names as PEP 503 does)."""
    entry: dict[str, Any] = {"type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version}
    if name == "effedge":
        return {**entry, "licenses": [{"license": {"id": "Apache-2.0"}}]}
    return {**entry, "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"}


def needs(name: str, versions: str, kind: str = "library", supplier: str = "") -> dict[str, Any]:
    """Makes the entry of what the board has to bring."""
    entry: dict[str, Any] = {"type": kind, "bom-ref": f"board:{name}", "name": name, "scope": "required"}
    if supplier:
        entry["supplier"] = {"name": supplier}
    return {**entry, "properties": [{"name": VERSIONS, "value": versions}]}


def model(name: str, data: bytes, content: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the entry of an ONNX, or of a file of its weights."""
    named = {key: content[key] for key in ("model", "weights", "precision")}
    return {
        "type": "machine-learning-model" if name.endswith(".onnx") else "data",
        "bom-ref": name,
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}],
        "properties": [{"name": f"effedge:{key}", "value": str(value)} for key, value in named.items()],
    }
