"""A platform at midnight as one file, from which another process lives the next day.

Arrays in a safetensors file: the rows of the platform's users in its state, the sessions in flight with what
the feeds remember of them, and the rows of views that end after midnight. Draws need no state, and what the
feeds learned each night comes from `simulator.shards`, as it is shared by all users.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.platform import Platform
from simulator.state import State
from simulator.world import World

Arrays = dict[str, NDArray[Any]]

_SESSIONS = ("session", "start_ts", "busy_until", "request", "served")


def save(platform: Platform, path: Path) -> None:
    """Write the platform as it is after a day; a crash leaves no half file under this name. OSError where
    it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    rows = slice(platform.users.start, platform.users.stop)
    arrays: Arrays = {f"state.{f.name}": getattr(platform.state, f.name)[rows] for f in fields(State)}
    sessions = platform.sessions
    arrays |= {f"sessions.{name}": getattr(sessions, name)[rows] for name in _SESSIONS}
    inside = rows.start + np.flatnonzero(sessions.session[rows] >= 0)
    arrays |= {"inside": inside, "since": sessions.since[inside]}
    arrays |= {"arm": platform.arm[rows], "exposed": platform.exposed[rows]}
    arrays |= {"expected": platform.expected_now[rows]}
    for arm, memory in enumerate(platform.memories):
        users = memory.users()
        arrays[f"memory.{arm}"] = users
        arrays |= {f"memory.{arm}.{i:02d}": array for i, array in enumerate(memory.of(users))}
    arrays |= {f"journal.{name}": array for name, array in platform.journal.pending().items()}
    header = {
        "day": platform.day,
        "impressions": platform.impressions,
        "first": rows.start,
        "last": rows.stop,
    }
    partial = path.with_name(path.name + ".partial")
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(plain, partial, metadata={"header": json.dumps(header)})
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error}") from error
    partial.replace(path)


def restore(platform: Platform, path: Path) -> None:
    """Make a new platform of the same users go on where the saved one stopped."""
    arrays, header = _read(path)
    assert (header["first"], header["last"]) == (platform.users.start, platform.users.stop), header
    rows = slice(header["first"], header["last"])
    _fill(platform.state, arrays, rows)
    platform.day, platform.impressions = header["day"], header["impressions"]
    sessions = platform.sessions
    for name in _SESSIONS:
        getattr(sessions, name)[rows] = arrays[f"sessions.{name}"]
    sessions.since[arrays["inside"]] = arrays["since"]
    sessions.foresee(platform.world, arrays["inside"])
    platform.arm[rows], platform.exposed[rows] = arrays["arm"], arrays["exposed"]
    platform.expected_now[rows] = arrays["expected"]
    for arm, memory in enumerate(platform.memories):
        users = arrays[f"memory.{arm}"]
        if len(users):
            names = sorted(name for name in arrays if name.startswith(f"memory.{arm}."))
            memory.keep(users, tuple(arrays[name] for name in names))
    prefix = "journal."
    pending = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    platform.journal.take_back(pending)


def state_of(world: World, paths: list[Path]) -> State:
    """The state of the users that these files hold, without the sessions that were open."""
    state = State.blank(world)
    for path in paths:
        arrays, header = _read(path)
        _fill(state, arrays, slice(header["first"], header["last"]))
    return state


def _fill(state: State, arrays: Mapping[str, NDArray[Any]], rows: slice) -> None:
    for field in fields(State):
        getattr(state, field.name)[rows] = arrays[f"state.{field.name}"]


def _read(path: Path) -> tuple[Arrays, dict[str, int]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            header = json.loads(file.metadata()["header"])
            return {name: file.get_tensor(name) for name in list(file.keys())}, header
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path} is no readable snapshot ({error}); start the run anew") from error
