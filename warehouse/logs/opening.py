"""From a place and a mapping to the tables of a log, its columns checked and the form of its times told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from warehouse.logs.columns import Column, LogMapping, find_column
from warehouse.logs.places import Database
from warehouse.logs.tables import LogTables
from warehouse.logs.times import form_of


def tables_of(
    database: Database,
    events: str,
    assignment: str | None,
    mapping: LogMapping,
    ignored_arms: Sequence[str],
    exposure_event: str | None,
) -> LogTables:
    """The log's tables. LookupError or ValueError where the mapping does not fit their columns."""
    columns = database.columns(events)
    shown = f"the log ({database.name})"
    for name in (mapping.user, mapping.ts, mapping.event, mapping.value, mapping.id, mapping.ingest):
        if name is not None:
            find_column(columns, name, shown)
    source = _clause(events, columns)
    if exposure_event is not None and mapping.event is None:
        raise ValueError(f"exposure is event {exposure_event!r}; map the column of kinds, event=")
    if exposure_event is not None and mapping.ts is None:
        raise ValueError("exposure by an event needs times; map them, ts=")
    ts_form = (
        form_of(database, source, columns[mapping.ts], mapping.ts_unit) if mapping.ts is not None else None
    )
    ingest_form = (
        form_of(database, source, columns[mapping.ingest], mapping.ts_unit) if mapping.ingest else None
    )
    assigned = assigned_form = None
    assigned_kind = columns[mapping.user].kind
    if assignment is None:
        for key in ("assignment_user", "assignment_arm", "assignment_ts"):
            if getattr(mapping, key) is not None:
                raise ValueError(f"the mapping has {key} and there is no assignment table; give --assignment")
        for name in (mapping.arm, *mapping.segments) if mapping.arm else mapping.segments:
            find_column(columns, name, shown)
    else:
        own = database.columns(assignment)
        mapping = replace(
            mapping,
            assignment_user=find_column(own, mapping.assignment_user or mapping.user, "the assignment").name,
            assignment_arm=find_column(own, mapping.assignment_arm or mapping.arm, "the assignment").name,
            assignment_ts=_assignment_ts(mapping, own, ts_form),
        )
        for name in mapping.segments:
            find_column(own, name, "the assignment")
        assigned = _clause(assignment, own)
        assigned_kind = own[mapping.assignment_user or ""].kind
        if mapping.assignment_ts is not None:
            assigned_form = form_of(database, assigned, own[mapping.assignment_ts], mapping.ts_unit)
    return LogTables(
        source,
        assigned,
        mapping,
        columns,
        ts_form,
        ingest_form,
        tuple(ignored_arms),
        exposure_event,
        assigned_form,
        ids_as_text=assigned_kind != columns[mapping.user].kind,
        assignment_user_kind=assigned_kind,
    )


def _assignment_ts(mapping: LogMapping, own: Mapping[str, Column], ts_form: str | None) -> str | None:
    if mapping.assignment_ts is not None:
        if ts_form is None:
            raise ValueError("assignment_ts is mapped and ts is not; map the events' times too, ts=")
        return find_column(own, mapping.assignment_ts, "the assignment").name
    return mapping.ts if mapping.ts in own else None


def _clause(table: str, columns: Iterable[str]) -> sa.TableClause:
    named = sa.sql.quoted_name(table, quote=True)
    return sa.table(named, *(sa.column(sa.sql.quoted_name(name, quote=True)) for name in columns))
