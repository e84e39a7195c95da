"""How numbers are written: rounded to what the data can carry, "-" where there is none."""

from math import floor, log10

MISSING = "-"
SMALLEST_P = 1e-300


def count(n: int) -> str:
    """A whole number.

    >>> count(12345)
    '12,345'
    """
    return f"{n:,}"


def number(value: float | None, error: float | None = None) -> str:
    """A value to two significant digits of its error (half its interval's width), or to three of its own.

    >>> number(1834.271, 25.2), number(0.053172, 0.0043), number(0.053172), number(None)
    ('1,834', '0.0532', '0.0532', '-')
    """
    if value is None:
        return MISSING
    decimals = _decimals(error, 2) if error else _decimals(value, 3)
    return f"{_rounded(value, decimals):,.{decimals}f}"


def percent(fraction: float | None, error: float | None = None, *, sign: bool = True) -> str:
    """A fraction in percent, to two significant digits of its error, or of its own.

    >>> percent(0.1234, 0.11), percent(0.1234, 0.013), percent(-0.00042), percent(0.5, sign=False)
    ('+12 %', '+12.3 %', '-0.042 %', '50 %')
    """
    if fraction is None:
        return MISSING
    return f"{_percent(fraction, _percent_decimals(fraction, error), sign)} %"


def margin_text(margin: float | None, kind: str) -> str:
    """A guardrail's margin: a lift in percent, or a difference.

    >>> margin_text(.02, "lift"), margin_text(.5, "absolute")
    ('2.0 %', '0.5')
    """
    if margin is None:
        return MISSING
    return percent(margin, sign=False) if kind == "lift" else f"{margin:g}"


def lift_text(lift: float | None, interval: tuple[float, float] | None, level: float) -> str:
    """A lift with its interval in words.

    >>> lift_text(.1234, (.02, .2345), .9875)
    '+12 % (98.75 % interval +2 % to +23 %)'
    """
    if interval is None:
        return f"{percent(lift)} (no interval)"
    error = (interval[1] - interval[0]) / 2
    low, high = percent(interval[0], error), percent(interval[1], error)
    return f"{percent(lift, error)} ({confidence(level)} interval {low} to {high})"


def lift_cell(lift: float | None, interval: tuple[float, float] | None) -> str:
    """A lift with its interval, short enough for a table.

    >>> lift_cell(.1234, (.02, .2345)), lift_cell(.1234, None), lift_cell(None, None)
    ('+12 % (+2, +23)', '+12 % (-)', '-')
    """
    if lift is None:
        return MISSING
    if interval is None:
        return f"{percent(lift)} ({MISSING})"
    error = (interval[1] - interval[0]) / 2
    decimals = _percent_decimals(lift, error)
    low, high = (_percent(end, decimals, True) for end in interval)
    return f"{percent(lift, error)} ({low}, {high})"


def confidence(level: float) -> str:
    """A confidence level.

    >>> confidence(.95), confidence(1 - .05 / 3)
    ('95 %', '98.33 %')
    """
    return f"{100 * level:.4g} %"


def p_value(p: float | None) -> str:
    """A p-value to two significant digits; one that underflowed is smaller than 1e-300, not 0.

    >>> p_value(.4567), p_value(.01234), p_value(.00001234), p_value(0.), p_value(None)
    ('0.46', '0.012', '1.2e-05', '< 1e-300', '-')
    """
    if p is None:
        return MISSING
    if p < SMALLEST_P:
        return "< 1e-300"
    if p < 1e-4:
        return f"{p:.1e}"
    return f"{p:.{max(2, 1 - floor(log10(p)))}f}"


def _percent_decimals(fraction: float, error: float | None) -> int:
    return _decimals(100 * (error or fraction), 2)


def _percent(fraction: float, decimals: int, sign: bool) -> str:
    return f"{_rounded(100 * fraction, decimals):{'+' if sign else ''},.{decimals}f}"


def _decimals(size: float, digits: int) -> int:
    """Decimals that show so many significant digits of a size, from 0 to 6."""
    if size == 0:
        return 0
    return min(max(digits - 1 - floor(log10(abs(size))), 0), 6)


def _rounded(value: float, decimals: int) -> float:
    return round(value, decimals) + 0.0  # no -0
