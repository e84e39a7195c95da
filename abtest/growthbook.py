"""GrowthBook's public assignment scheme: a flag service and this platform agree on who is in which arm.

FNV-1a of 32 bits over UTF-16 code units, as in its JavaScript SDK. Its 1,000 or 10,000 buckets are too coarse
for fine splits of large populations, so `abtest.experiment` has its own scheme by default.
"""

from collections.abc import Sequence

Range = tuple[float, float]


def fnv1a_32(text: str) -> int:
    """FNV-1a over the UTF-16 code units (a character beyond the basic plane counts as its two surrogates)."""
    units = text.encode("utf-16-le", "surrogatepass")
    h = 0x811C9DC5
    for low, high in zip(units[::2], units[1::2], strict=True):
        h = ((h ^ (low | high << 8)) * 0x01000193) & 0xFFFFFFFF
    return h


def bucket(seed: str, value: str, version: int = 2) -> float:
    """Where a user stands in [0, 1). Version 1 has 1,000 buckets, version 2 has 10,000.

    >>> bucket("seed", "a", 2)
    0.0505
    """
    if version == 1:
        return fnv1a_32(value + seed) % 1000 / 1000
    if version == 2:
        return fnv1a_32(str(fnv1a_32(seed + value))) % 10_000 / 10_000
    raise ValueError(f"hash version is {version}; allowed: 1, 2")


def ranges(n_arms: int, *, coverage: float = 1.0, weights: Sequence[float] | None = None) -> list[Range]:
    """The range of each arm. A coverage below 1 shrinks each range in place; weights that do not sum to
    .99 to 1.01, or of another number than the arms, fall back to equal ones."""
    coverage = min(max(coverage, 0.0), 1.0)
    equal = [1 / n_arms] * n_arms
    usable = weights is not None and len(weights) == n_arms and 0.99 <= sum(weights) <= 1.01
    found, start = [], 0.0
    for weight in weights if usable and weights is not None else equal:
        found.append((start, start + coverage * weight))
        start += weight
    return found


def choose(n: float, arm_ranges: Sequence[Range]) -> int | None:
    """The first range that holds n (start included, end not), or None where no range does."""
    return next((i for i, (start, end) in enumerate(arm_ranges) if start <= n < end), None)


def assign(
    seed: str,
    value: str,
    n_arms: int,
    *,
    coverage: float = 1.0,
    weights: Sequence[float] | None = None,
    version: int = 2,
) -> int | None:
    """The arm of a user, or None for one left out by the coverage or with an empty id."""
    if not value:
        return None
    return choose(bucket(seed, value, version), ranges(n_arms, coverage=coverage, weights=weights))


def in_namespace(value: str, namespace: str, start: float, end: float) -> bool:
    """Whether a user belongs to the part [start, end) of a namespace of mutually exclusive experiments."""
    return start <= bucket("__" + namespace, value, 1) < end
