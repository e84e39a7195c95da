"""Figures 4 and 5 as PNG: hit rate over K, and over (m, n), on validation and on test."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recgpt.tables import Table

LINES = {"validation HR@10": "validation", "HR@10": "test", "HR@10, two steps": "test, two steps"}


def figure(tables: "Sequence[Table]") -> bytes:
    """One panel a table, side by side: the PNG's bytes. Values that are missing leave a gap."""
    import altair as alt
    import vl_convert

    panels = [_panel(table) for table in tables]
    chart: Any = alt.hconcat(*panels).resolve_scale(color="shared")
    png: bytes = vl_convert.vegalite_to_png(chart.to_json(), scale=2)
    return png


def _panel(table: "Table") -> Any:
    import altair as alt

    x = table.columns[0]
    values = [
        {x: str(row[0]), "list": name, "HR@10": row[table.columns.index(column)]}
        for row in table.rows
        for column, name in LINES.items()
        if column in table.columns and row[table.columns.index(column)] is not None
    ]
    order = [str(row[0]) for row in table.rows]
    return (
        alt.Chart(alt.Data(values=values), title=table.title)
        .mark_line(point=True)
        .encode(
            x=alt.X(f"{x}:O", sort=order, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("HR@10:Q", scale=alt.Scale(zero=False)),
            color=alt.Color("list:N", title=None),
        )
        .properties(width=300, height=220)
    )
