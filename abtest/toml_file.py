"""TOML files that people write: known keys and kinds of values only, and one sentence on what is wrong."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """The Python type of a value, and what to call it. A truth value is no number."""

    type: type | UnionType
    words: str


TEXT = Kind(str, "text")
WHOLE = Kind(int, "a whole number")
NUMBER = Kind(float | int, "a number")


def read_toml(path: Path, keys: Mapping[str, Kind]) -> dict[str, Any]:
    """The file's keys and values. ValueError names the file and the first key that is wrong."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    for key, value in found.items():
        if key not in keys:
            raise ValueError(f"{path}: unknown key {key!r}; known keys: {', '.join(sorted(keys))}")
        if not isinstance(value, keys[key].type) or (isinstance(value, bool) and keys[key].type is not bool):
            raise ValueError(f"{path}: {key} = {value!r} is not {keys[key].words}")
    return found
