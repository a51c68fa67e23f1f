"""What the operator of Prometheus keeps of manifests, by the schemas of its custom resources."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.servers import missing

MODELS: Final = "cloudcoil-models-prometheus-operator==0.80.1.0"
"""The schemas of operator 0.80, patterns and choices included, as models of pydantic."""

KEPT: Final = Path(__file__).parent.parent.parent / ".venvs" / "operator-{}.{}".format(*sys.version_info)

PROGRAM: Final = """
import json, sys
from cloudcoil.models.prometheus_operator import v1

def kept(manifest):
    try:
        return getattr(v1, manifest["kind"]).model_validate(manifest).model_dump(
            mode="json", by_alias=True, exclude_unset=True
        )
    except ValueError as error:
        return str(error)

json.dump([kept(manifest) for manifest in json.load(sys.stdin)], sys.stdout)
"""


def taken_by_the_operator(*manifests: Any) -> list[Any]:
    """Return what is kept of each, without the fields that no schema knows; or the complaint about it."""
    _fetch_models()
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(manifests),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(KEPT)},
    )
    assert ended.returncode == 0, ended.stderr
    found: list[Any] = json.loads(ended.stdout)
    return found


def _fetch_models() -> None:
    # Not beside the tests' own packages: what the models come with would enter every run of pytest as a plugin.
    if KEPT.exists():
        return
    arriving = KEPT.with_name(f"{KEPT.name}.arriving")
    quietly = ["--quiet", "--disable-pip-version-check", "--upgrade"]
    fetch = [sys.executable, "-m", "pip", "install", *quietly, "--target", str(arriving), MODELS]
    fetched = subprocess.run(fetch, capture_output=True, text=True)
    if fetched.returncode != 0:
        missing(f"{MODELS} cannot be fetched\n{fetched.stderr}")
    arriving.rename(KEPT)
