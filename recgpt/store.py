"""Where the results of cells are kept: one JSON file that several processes may add to.

The store keeps settings, seconds, metrics and each user's rank, so that any two cells can be compared user by
user later, and logs every evaluation on test.
"""

import base64
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.base import Ids

if TYPE_CHECKING:
    from recgpt.cells import Cell


class Store:
    """The cells that have been run, in one JSON file; several processes may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cells(self) -> dict[str, dict[str, Any]]:
        """Results by the key of their cell. Raises ValueError for a file that is no store."""
        found: dict[str, dict[str, Any]] = self._read()["cells"]
        return found

    def log(self) -> list[dict[str, Any]]:
        """Every evaluation on test that was ever put, in order."""
        found: list[dict[str, Any]] = self._read()["log"]
        return found

    def put(self, cell: "Cell", result: Mapping[str, Any]) -> None:
        """Keep a result; one of the same cell and settings stays as it is, and the new one is only logged."""
        with self._locked():
            document = self._read()
            before = document["cells"].get(cell.key)
            counts = before is None or before["settings_hash"] != result["settings_hash"]
            line = {name: result[name] for name in ("settings_hash", "commit")}
            hr = result["test"]["seen"]["one_step"]["hr@10"]
            document["log"].append({"cell": cell.key, **line, "test hr@10": hr, "counts": counts})
            if counts:
                document["cells"][cell.key] = dict(result)
            self._write(document)

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"cells": {}, "log": []}
        try:
            document: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            if not {"cells", "log"} <= set(document):
                raise ValueError("it has no cells and log")
            if not all(isinstance(cell, dict) for cell in document["cells"].values()):
                raise ValueError("not all of its cells are objects")
        except ValueError as error:
            raise ValueError(f"{self.path} is no store of cells ({error}); name another file") from error
        return document

    def _write(self, document: dict[str, Any]) -> None:
        """A line a cell, so that a change of one is a change of one line."""
        cells = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(document["cells"].items()))
        log = ",\n".join(json.dumps(line) for line in document["log"])
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        partial.write_text(f'{{"cells": {{\n{cells}\n}},\n"log": [\n{log}\n]}}\n', encoding="utf-8")
        partial.replace(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(self.path.name + ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def pack(ranks: Ids) -> str:
    """Ranks of up to 255 as text: a byte each, compressed (about 4 kB for 20,000 users).

    >>> unpack(pack(np.array([0, 3, 20]))).tolist()
    [0, 3, 20]
    """
    small = np.where(ranks > 255, 0, ranks).astype(np.uint8)
    return base64.b85encode(zlib.compress(small.tobytes(), 9)).decode()


def unpack(text: str) -> Ids:
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8).astype(np.int64)
