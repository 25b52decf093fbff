"""Extract the schemas of KubeRay's custom resource definitions, without descriptions, into compressed JSON.

    python tests/support/kuberay/convert.py FOLDER

FOLDER is `ray-operator/config/crd/bases` of ray-project/kuberay. The files are written next to this script.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

NAMES = ("rayclusters", "rayjobs")
VERSION = "v1"
HERE = Path(__file__).parent


def main(folder: Path) -> None:
    for name in NAMES:
        # libyaml if available, because a file has 30,000 lines.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        spec = yaml.load((folder / f"ray.io_{name}.yaml").read_text(), Loader=loader)["spec"]
        (schema,) = [each["schema"]["openAPIV3Schema"] for each in spec["versions"] if each["name"] == VERSION]
        definition = {
            "apiVersion": f"{spec['group']}/{VERSION}",
            "kind": spec["names"]["kind"],
            "schema": without_descriptions(schema),
        }
        content = json.dumps(definition, sort_keys=True, separators=(",", ":")).encode()
        # Without a time stamp, so that the same definition gives the same file.
        (HERE / f"{name}.json.gz").write_bytes(gzip.compress(content, mtime=0))


def without_descriptions(schema: Any) -> Any:
    """Return a schema without the descriptions of its fields; a field may itself be called description."""
    if isinstance(schema, list):
        return [without_descriptions(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: {field: without_descriptions(each) for field, each in value.items()}
        if name == "properties"
        else without_descriptions(value)
        for name, value in schema.items()
        if name != "description"
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
