"""How staged rows enter a table so that each key is stored once. `Warehouse.record` runs these statements."""

import sqlalchemy as sa

from warehouse.schema import EXPOSURES, KEYS, STAGED, TABLES, Range

NEAR: dict[str, str] = {"events": "ts", "propensities": "session"}
"""Large tables are searched for known keys only where this column lies in the batch's own range: against all
rows the work would grow with the square of the log. A row that comes again has its old time, so it is found;
the same key at a time outside that range is not."""

CONSTANT = ("items", "users")
"""What these rows say never changes: the same key with other values is an error."""


def repeated_keys(name: str) -> sa.Select:
    """How many keys occur more than once among the staged rows."""
    staged = STAGED[name]
    repeated = (
        sa.select(sa.literal(1)).select_from(staged).group_by(*_key(staged)).having(sa.func.count() > 1)
    )
    return sa.select(sa.func.count()).select_from(repeated.subquery("repeated"))


def insert_new(name: str, near: Range | None, *, any_repeated: bool) -> sa.Insert:
    """Insert the staged rows whose keys are not stored; of staged rows with one key, the smallest."""
    table, staged = TABLES[name], STAGED[name]
    rows: sa.FromClause = _first_of_each_key(name) if any_repeated else staged
    same = [stored == new for stored, new in zip(_key(table), _key(rows, name), strict=True)]
    if near is not None:
        same.append(table.c[NEAR[name]].between(near.low, near.high))
    known = sa.exists(sa.select(sa.literal(1)).select_from(table).where(*same))
    columns = [column.name for column in table.c]
    new = sa.select(*(rows.c[column] for column in columns)).where(~known.correlate(rows))
    return table.insert().from_select(columns, new, include_defaults=False)


def differing(name: str) -> sa.Select:
    """The smallest staged key whose row is not what is stored, or what another staged row says, if any."""
    table, staged, other = TABLES[name], STAGED[name], STAGED[name].alias("other")
    (key,) = KEYS[name]
    pairs = [
        sa.select(staged.c[key])
        .join_from(staged, against, staged.c[key] == against.c[key])
        .where(sa.or_(*(staged.c[column.name] != against.c[column.name] for column in table.c)))
        for against in (table, other)
    ]
    found = sa.union_all(*pairs).subquery("differing")
    return sa.select(sa.func.min(found.c[key]))


def earlier_exposures() -> sa.Update:
    """Move stored exposures back to an earlier first moment, where a staged one tells of it."""
    staged, x = STAGED["exposures"], EXPOSURES.c
    first = (
        sa.select(*_key(staged), sa.func.min(staged.c.first_ts).label("first_ts"))
        .group_by(*_key(staged))
        .subquery("first")
    )
    same = [stored == new for stored, new in zip(_key(EXPOSURES), _key(first, "exposures"), strict=True)]
    return EXPOSURES.update().values(first_ts=first.c.first_ts).where(*same, first.c.first_ts < x.first_ts)


def _first_of_each_key(name: str) -> sa.Subquery:
    staged = STAGED[name]
    rest = [column for column in staged.c if column.name not in KEYS[name]]
    rank = sa.func.row_number().over(partition_by=_key(staged), order_by=rest or _key(staged)).label("rank")
    ranked = sa.select(*staged.c, rank).subquery("ranked")
    return (
        sa.select(*(ranked.c[column.name] for column in staged.c)).where(ranked.c.rank == 1).subquery("new")
    )


def _key(table: sa.FromClause, name: str | None = None) -> list[sa.ColumnElement]:
    names = KEYS[(name or table.name.removeprefix("incoming_"))]  # type: ignore[attr-defined]
    return [table.c[column] for column in names]
