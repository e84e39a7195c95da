"""From the rows of a database to the sums of a panel, of all users and by stratum."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations_with_replacement, islice
from typing import Any

from warehouse.events import DAY_MS
from warehouse.panel.ask import BETWEEN, Ask
from warehouse.panel.blocks import Block, Blocks
from warehouse.panel.sums import PanelSums


def read(
    ask: Ask,
    members: Iterable[Sequence[Any]],
    days: Iterable[Sequence[Any]],
    crossed: Iterable[Sequence[Any]],
    groups: Sequence[Iterable[Sequence[Any]]] = (),
    factors: Mapping[str, Fraction] | None = None,
) -> PanelSums:
    """The rows of `statements.of_members`, `of_days` and `crossed` as sums; those of `of_totals` by group and
    arm as the sums of groups."""
    return PanelSums(
        ask,
        _blocks(ask, members, 1),
        _blocks(ask, days, 2),
        _blocks(ask, crossed, 3),
        [_grouped(rows) for rows in groups],
        factors or {},
    )


def read_one_day(
    ask: Ask,
    totals: Iterable[Sequence[Any]],
    groups: Sequence[Iterable[Sequence[Any]]] = (),
    factors: Mapping[str, Fraction] | None = None,
) -> PanelSums:
    """The rows of `statements.of_totals` by (arm, cohort_ts) as the sums of a panel of one day."""
    k = 1 + len(ask.before) + len(ask.past)
    n_sums, n_plain = len(ask.columns), len(ask.plain)
    members, days, crossed = [], [], []
    for arm, cohort, *numbers in totals:
        sums, plain, mixed = (
            numbers[k : k + n_sums],
            dict(zip(ask.plain, numbers[k + n_sums :], strict=False)),
            numbers[k + n_sums + n_plain :],
        )
        members.append((arm, cohort, *numbers[:k]))
        days.append((arm, cohort, cohort, *sums, *mixed))
        both = [plain[pair] if pair in plain else plain[pair[::-1]] for pair in ask.inner_plain]
        crossed.append((arm, cohort, cohort, cohort, *both))
    return read(ask, members, days, crossed, groups, factors)


def read_abreast(
    ask: Ask,
    rows: Iterable[Sequence[Any]],
    groups: Sequence[Iterable[Sequence[Any]]] = (),
    factors: Mapping[str, Fraction] | None = None,
) -> PanelSums:
    """The rows of `abreast.sums_of` as the sums of a panel."""
    day_ts = [ask.start_ts + k * DAY_MS for k in range(ask.n_days)]
    n_past, n_day = 1 + len(ask.before) + len(ask.past), len(ask.inner) + len(ask.inner_mixed)
    members, days, crossed = [], [], []
    for arm, cohort, *numbers in rows:
        rest = iter(numbers)
        members.append((arm, cohort, *islice(rest, n_past)))
        days += [(arm, cohort, day, *islice(rest, n_day)) for day in day_ts]
        crossed += [
            (arm, cohort, day, later, *islice(rest, len(ask.inner_plain)))
            for day, later in combinations_with_replacement(day_ts, 2)
        ]
    return read(ask, members, days, crossed, groups, factors)


def by_stratum(sums: PanelSums) -> tuple[PanelSums, dict[str, PanelSums]]:
    """Sums whose arms are cells of arm and stratum: those of the arms, and those of each stratum's users."""
    strata = sorted({cell.partition(BETWEEN)[2] for cell in sums.members})
    groups = [{value: _added_by_arm(cells) for value, cells in group.items()} for group in sums.groups]
    return _of_cells(sums, None, groups), {name: _of_cells(sums, name) for name in strata}


def _of_cells(
    sums: PanelSums, stratum: str | None, groups: Sequence[Mapping[str, Mapping[str, Sequence[int]]]] = ()
) -> PanelSums:
    """The sums by arm of a stratum; of all for None."""

    def joined(cells: Blocks) -> Blocks:
        found: dict[str, list[Block]] = {}
        for cell, block in cells.items():
            arm, _, of = cell.partition(BETWEEN)
            if stratum in (None, of):
                found.setdefault(arm, []).append(block)
        return {arm: Block.joined(blocks) for arm, blocks in found.items()}

    return replace(
        sums,
        members=joined(sums.members),
        days=joined(sums.days),
        crossed=joined(sums.crossed),
        groups=groups,
    )


def _added_by_arm(cells: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for cell, numbers in cells.items():
        arm = cell.partition(BETWEEN)[0]
        found[arm] = [a + b for a, b in zip(found.get(arm, [0] * len(numbers)), numbers, strict=True)]
    return found


def _blocks(ask: Ask, rows: Iterable[Sequence[Any]], n_keys: int) -> Blocks:
    by_arm: dict[str, list[tuple[tuple[int, ...], Sequence[int]]]] = {}
    for arm, *rest in rows:
        key = tuple((int(ts) - ask.start_ts) // DAY_MS + 1 for ts in rest[:n_keys])
        by_arm.setdefault(arm, []).append((key, _whole(rest[n_keys:])))
    return {arm: Block(found) for arm, found in by_arm.items()}


def _grouped(rows: Iterable[Sequence[Any]]) -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = {}
    for value, arm, *numbers in rows:
        found.setdefault("" if value is None else str(value), {})[arm] = _whole(numbers)
    return found


def _whole(numbers: Iterable[Any]) -> list[int]:
    """Whole numbers; OverflowError where the database left the integers, as SQLite does beyond 64 bits."""
    found = list(numbers)
    if not all(isinstance(value, int) for value in found):
        raise OverflowError("a sum does not fit the integers of the database")
    return found
