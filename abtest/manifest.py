"""What is needed to run an experiment again: settings, seeds, versions, code and data hashes."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from abtest.settings import Plan
from abtest.world import left_out

PACKAGES = ("click", "duckdb", "numpy", "pyarrow", "scipy", "simpy", "sqlalchemy", "statsmodels", "torch")


def manifest(plan: Plan) -> dict[str, Any]:
    """What is needed to run it again: settings, seeds, versions, code hash, threads, data."""
    path = plan.settings.log or plan.settings.sequences
    data = None
    if path is not None:
        data = {"path": path, "hash": _hash_files(Path(path)), "left_out": left_out(plan.log)}
    return {
        "settings": asdict(plan.settings),
        "experiment": asdict(plan.experiment),
        "code": code_hash(),
        "data": data,
        "versions": versions(),
        "machine": {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "system": platform.system(),
        },
        "threads": plan.settings.threads,
    }


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    return {"short-video-lab": version("short-video-lab"), **{name: version(name) for name in PACKAGES}}


def code_hash() -> str:
    """Hash of the sources of the five packages."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=16)
    for package in ("abtest", "baselines", "recgpt", "simulator", "warehouse"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _hash_files(place: Path) -> str:
    """Hash of a file, or of the Parquet files of a folder."""
    digest = hashlib.blake2b(digest_size=16)
    for path in [place] if place.is_file() else sorted(place.glob("*.parquet")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
