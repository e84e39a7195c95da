"""How the arms treated videos that were uploaded during the experiment."""

from abtest.report.numbers import MISSING, count, percent
from abtest.report.section import Document, Section

NOTE = (
    "New: uploaded since the experiment began; of {uploaded} such videos {could} came before its last"
    " midnight and could be shown. Shown: how many of them an arm's users were shown at least so often."
    " Share: of the arm's impressions. Play rate: plays per impression, of new and of all older videos, with"
    " 95 % intervals over users."
)
ONLY_EXPLORED = "The arms were trained before and stayed as they were: they know none of these videos"


def new_videos_sections(document: Document) -> list[Section]:
    """One table with a row for each arm; none where nothing was uploaded."""
    found = document.get("new_videos")
    if found is None:
        return []
    times = list(found["arms"][0]["shown"])
    rows = [
        (
            arm["arm"],
            *(count(arm["shown"][n]) for n in times),
            _share(arm["share"], arm["impressions"]),
            _rate(arm["play_rate_new"], arm["play_rate_new_ci"]),
            _rate(arm["play_rate_older"], arm["play_rate_older_ci"]),
        )
        for arm in found["arms"]
    ]
    notes = [NOTE.format(uploaded=count(found["uploaded"]), could=count(found["could_be_shown"]))]
    if document["experiment"].get("retrain") == "frozen":
        explores = document["experiment"].get("explore_share")
        notes.append(f"{ONLY_EXPLORED}{', which come in by exploration alone' if explores else ''}.")
    headers = (
        "arm",
        *(f"shown {n}+" for n in times),
        "share of impressions",
        "play rate, new",
        "play rate, older",
    )
    return [Section("New videos", headers, rows, notes)]


def _share(value: float | None, of: int) -> str:
    """A share in percent, to what so many impressions can carry."""
    if value is None:
        return MISSING
    return percent(value, 2 * (value * (1 - value) / of) ** 0.5, sign=False)


def _rate(value: float | None, interval: list[float] | None) -> str:
    """A rate in percent with its interval, where it has one."""
    if value is None or interval is None:
        return percent(value, sign=False)
    error = (interval[1] - interval[0]) / 2
    low, high = (percent(end, error, sign=False) for end in interval)
    return f"{percent(value, error, sign=False)} ({low} to {high})"
