"""A run is opened again: with the settings, code, data and versions it began with, or not at all."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from abtest.days import forget_unfinished
from abtest.manifest import manifest
from abtest.metrics import metrics_from
from abtest.settings import Plan, RunSettings, claim_folder, prepare, read_config, settings_from

SAME = ("code", "data", "versions", "machine")
"""Parts of the manifest that a run must find as they were: events depend on them."""


def plan_and_folder(resume: Path | None, config: Path | None, flags: Mapping[str, Any]) -> tuple[Plan, Path]:
    """A new run and its new folder or, with `resume`, the run in that folder."""
    if resume is not None:
        return reopen(resume, config, flags), resume
    settings = settings_from(config, flags)
    plan = prepare(settings)
    return plan, claim_folder(settings)


def reopen(folder: Path, config: Path | None, flags: Mapping[str, Any]) -> Plan:
    """The plan of a run that was cut off. ValueError where it is none, is finished, or has changed.

    Settings come from its manifest; those given here again must agree with it.
    """
    path, written = _manifest(folder, "to resume")
    if written.get("finished"):
        raise ValueError(f"the run in {folder} is finished; abtest analyze {folder} prints its report")
    settings = _settings(path, written)
    given = read_config(config) if config is not None else {}
    given |= {key: value for key, value in flags.items() if value is not None}
    for key, value in given.items():
        if value != (began := getattr(settings, key)):
            raise ValueError(
                f"the run in {folder} began with {key.replace('_', '-')} {began!r}, not {value!r}; "
                "resume it without other settings, or start a new run"
            )
    plan = _unchanged(folder, written, settings, "resume it as it was")
    forget_unfinished(folder)
    return plan


def finished(folder: Path) -> Plan:
    """The plan of a run that is finished, to live its world again. ValueError where it is none or where what
    its events depend on has changed."""
    path, written = _manifest(folder, "to live again")
    if not written.get("finished"):
        raise ValueError(f"the run in {folder} is not finished; go on with abtest run --resume {folder}")
    return _unchanged(folder, written, _settings(path, written), "go back to what it was")


def _manifest(folder: Path, purpose: str) -> tuple[Path, dict[str, Any]]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"no manifest.json in {folder}, so there is no run {purpose}; start one with --out")
    return path, _read(path)


def _unchanged(folder: Path, written: Mapping[str, Any], settings: RunSettings, advice: str) -> Plan:
    """The plan that these settings make now. ValueError where code, data, versions or machine differ."""
    plan = prepare(settings)
    now = json.loads(json.dumps(manifest(plan)))
    for part in SAME:
        if now[part] != written.get(part):
            raise ValueError(
                f"the {part} of the run in {folder} has changed since it began (from {written.get(part)} to "
                f"{now[part]}); {advice}, or start a new run"
            )
    return plan


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); start the run anew") from error


def _settings(path: Path, written: dict[str, Any]) -> RunSettings:
    known = {field.name for field in fields(RunSettings)}
    found = written.get("settings", {})
    if set(found) != known:
        differing = ", ".join(sorted(known ^ set(found)))
        raise ValueError(f"{path} was written by another version (settings {differing}); start the run anew")
    declared = found.get("metrics")
    if declared is not None:
        tables = [{key: value for key, value in one.items() if value is not None} for one in declared]
        found = {**found, "metrics": metrics_from(tables, str(path))}
    return RunSettings(**found)
