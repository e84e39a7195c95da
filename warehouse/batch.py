"""A batch on its way in: rows checked against the record they claim to be, and a hash of what they say."""

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.events import Kind
from warehouse.schema import RANGES, RECORDS, arrow_schema


def checked(name: str, table: pa.Table) -> pa.Table:
    """The rows in the schema of the table `name`; ValueError tells the column and value that do not fit."""
    schema = arrow_schema(RECORDS[name])
    if not isinstance(table, pa.Table):
        raise ValueError(f"{name} is a {type(table).__name__}; give an Arrow table")
    if sorted(table.column_names) != sorted(schema.names):
        raise ValueError(f"{name} have columns {table.column_names}; they need exactly {schema.names}")
    columns = [_cast(name, field, table[field.name]) for field in schema]
    for field, column in zip(schema, columns, strict=True):
        _check_range(name, field, column)
    return pa.Table.from_arrays(columns, schema=schema)


def content_hash(tables: Mapping[str, pa.Table]) -> str:
    """A hash of the rows of checked tables in their order; how they are cut into chunks does not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tables):
        table = tables[name]
        digest.update(f"{name} {table.num_rows};".encode())
        for column in table.columns:
            digest.update(_bytes(column))
    return digest.hexdigest()


def packed_rows(block: pa.RecordBatch) -> bytes:
    """Rows of integers as little-endian records one after the other, so that block borders leave no trace."""
    dtype = np.dtype([(field.name, field.type.to_pandas_dtype()) for field in block.schema]).newbyteorder("<")
    rows = np.empty(block.num_rows, dtype=dtype)
    for name, column in zip(block.schema.names, block.columns, strict=True):
        rows[name] = column.to_numpy(zero_copy_only=False)
    return rows.tobytes()


def _cast(name: str, field: pa.Field, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.null_count:
        raise ValueError(
            f"column {field.name!r} of {name} has {column.null_count} nulls; every value is needed"
        )
    if pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        raise ValueError(f"column {field.name!r} of {name} holds {column.type}; it needs {field.type}")
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {field.name!r} of {name} does not fit {field.type}: {error}") from error


def _check_range(name: str, field: pa.Field, column: pa.ChunkedArray) -> None:
    if not len(column):
        return
    if pa.types.is_string(field.type):
        if pc.min(pc.binary_length(column)).as_py() == 0:
            raise ValueError(f"column {field.name!r} of {name} holds an empty name; give every row one")
    elif field.name in RANGES:
        low, high = RANGES[field.name]
        found = pc.min_max(column).as_py()
        wrong = found["min"] if found["min"] < low else found["max"]
        if not low <= wrong <= high:
            known = (
                f" ({', '.join(f'{kind.value} {kind.name}' for kind in Kind)})"
                if field.name == "kind"
                else ""
            )
            raise ValueError(
                f"{field.name} {wrong} in {name} is outside {low} to {high}{known}; correct the row"
            )


def _bytes(column: pa.ChunkedArray) -> bytes:
    if pa.types.is_string(column.type):
        values = column.to_pylist()
        return "".join(f"{len(value)}:{value}" for value in values).encode()
    values = column.to_numpy()
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
