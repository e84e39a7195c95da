"""Uploads in a whole run: what arms can show when, what the report says of it, and the truth with them."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import statsmodels.api as sm
from click.testing import Result
from scipy import stats

from abtest.arms import ArmFeed
from abtest.report.new_videos import ONLY_EXPLORED, new_videos_sections
from baselines.base import Interactions
from warehouse.events import DAY_MS

Command = Callable[..., Result]

ARMS = ("newest", "poprec")
FIRST, DAYS, EXPLORE = 1, 2, 20
SIZES = ["--users", "100", "--warmup-days", str(FIRST), "--days", str(DAYS), "--threads", "1", "--quiet"]
MODEL = '''"""Shows the newest videos that it knows, and refuses to be told of others."""
import numpy as np

from baselines.base import without


class Newest:
    def fit(self, interactions, progress=None):
        self.n_items = interactions.n_items
        return self

    def recommend(self, users, histories, k, exclude):
        assert max(histories.max(), exclude.max(initial=0)) <= self.n_items
        newest = np.arange(self.n_items, self.n_items - 1000, -1)
        return without(np.broadcast_to(newest, (len(users), 1000)), exclude, k)
'''


@pytest.fixture(scope="module")
def run(abtest: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose arms learn on, with its truth, for which they do not, and the lives behind it."""
    home = tmp_path_factory.mktemp("uploads")
    (home / "newest_videos.py").write_text(MODEL)
    folder = home / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        result = abtest(
            *("run", "--arms", "newest=newest_videos:Newest,poprec", *SIZES, "--stage", "feed"),
            *("--uploads", "20", "--explore", str(EXPLORE), "--retrain", "own"),
            *("--looks", "final", "--out", str(folder)),
        )
        assert result.exit_code in (0, 3), result.output
        result = abtest("truth", str(folder), "--keep", "--quiet")
        assert result.exit_code == 0, result.output
    return folder


def ask(database: Path, query: str) -> list[np.ndarray]:
    """The columns of an answer."""
    with duckdb.connect(str(database), read_only=True) as db:
        return list(db.execute(query).fetchnumpy().values())


def views(database: Path, arm: str) -> list[np.ndarray]:
    """Day of the feed, item, end of the view, whether it was played, and user, of each view of an arm's users
    since their exposure."""
    return ask(
        database,
        f"SELECT (e.ts - e.value) // {DAY_MS} AS day, e.item, e.ts, p.item IS NOT NULL AS played,"
        " user FROM events e JOIN exposures x USING (user)"
        " LEFT JOIN events p ON p.user = e.user AND p.session = e.session AND p.request = e.request"
        " AND p.position = e.position AND p.kind = 2"
        f" WHERE e.kind = 1 AND arm = '{arm}' AND e.ts >= first_ts",
    )


def uploaded(folder: Path) -> np.ndarray:
    """(n_items + 1,) when each video was uploaded, row 0 padding."""
    (times,) = ask(folder / "events.duckdb", "SELECT uploaded_ts FROM items ORDER BY item")
    return np.concatenate(([0], times))


def available(folder: Path, day: int) -> int:
    return int((uploaded(folder)[1:] < day * DAY_MS).sum())


def test_nobody_is_shown_a_video_before_the_midnight_after_its_upload(run: Path) -> None:
    times = uploaded(run)
    assert (np.diff(times[available(run, 0) :]) >= 0).all()
    for database in (run / "events.duckdb", run / "lives/arm-1.duckdb", run / "lives/arm-2.duckdb"):
        item, begun = ask(database, "SELECT item, ts - value FROM events WHERE kind = 1")
        assert (times[item] < begun // DAY_MS * DAY_MS).all()
        assert (item > available(run, FIRST)).any()


def test_an_arm_that_learns_on_shows_the_videos_of_the_day_before(run: Path) -> None:
    day, item, *_ = views(run / "events.duckdb", "newest")
    for k in range(FIRST, FIRST + DAYS):
        known = np.isin(item[day == k], np.arange(available(run, k) - 999, available(run, k) + 1))
        assert known.mean() == pytest.approx(1 - EXPLORE / 100, abs=0.06), k
    new = uploaded(run)[item] >= FIRST * DAY_MS
    assert new[day == FIRST + 1].mean() > 0.6


def test_an_arm_that_stays_as_it_was_shows_new_videos_by_its_exploration_alone(run: Path) -> None:
    """Their share is that of the slots times theirs in what is hardly shown, within four standard errors."""
    for i, arm in enumerate(ARMS):
        day, item, *_ = views(run / f"lives/arm-{i + 1}.duckdb", arm)
        new, expected = item > available(run, FIRST), np.zeros(len(item))
        for k in range(FIRST, FIRST + DAYS):
            (often,) = ask(
                run / "events.duckdb",
                f"SELECT item FROM events WHERE kind = 1 AND ts < {k * DAY_MS}"
                " GROUP BY item HAVING count(*) >= 100",
            )
            hardly = available(run, k) - len(often)
            expected[day == k] = EXPLORE / 100 * (available(run, k) - available(run, FIRST)) / hardly
        assert not new[day == FIRST].any()
        error = (expected * (1 - expected)).sum() ** 0.5
        assert abs(new.sum() - expected.sum()) < 4 * error
        assert new.sum() > 30


def test_the_report_counts_what_plain_sql_counts(run: Path) -> None:
    document = json.loads((run / "report.json").read_text())
    found, start = document["new_videos"], FIRST * DAY_MS
    times, end = uploaded(run), (FIRST + DAYS) * DAY_MS
    assert found["since_ts"] == document["experiment"]["start_ts"] == start
    assert found["uploaded"] == ((times >= start) & (times < end)).sum()
    assert found["could_be_shown"] == ((times >= start) & (times < end - DAY_MS)).sum()
    for arm in found["arms"]:
        _, item, _, played, user = views(run / "events.duckdb", arm["arm"])
        new = times[item] >= start
        counts = np.array(list(Counter(item[new].tolist()).values()))
        assert (arm["impressions"], arm["new_impressions"]) == (len(item), new.sum())
        assert arm["shown"] == {str(n): (counts >= n).sum() for n in (1, 10, 100)}
        assert arm["share"] == new.mean()
        assert arm["play_rate_new"] == played[new].mean()
        assert arm["play_rate_older"] == played[~new].mean()
        assert arm["play_rate_new_ci"] == pytest.approx(clustered(played[new], user[new]), rel=1e-9)
        assert arm["play_rate_older_ci"] == pytest.approx(clustered(played[~new], user[~new]), rel=1e-9)
    newest, poprec = found["arms"]
    assert newest["shown"]["10"] > poprec["shown"]["10"]


def clustered(played: np.ndarray, user: np.ndarray) -> list[float]:
    """The 95 % interval of a mean of views, by regression with errors clustered by user."""
    code = np.unique(user, return_inverse=True)[1]
    fit = sm.OLS(played.astype(float), np.ones(len(code))).fit(
        cov_type="cluster", cov_kwds={"groups": code, "use_correction": False}, use_t=False
    )
    n = code.max() + 1
    half = stats.t.ppf(0.975, n - 1) * fit.bse[0] * (n / (n - 1)) ** 0.5
    return [fit.params[0] - half, fit.params[0] + half]


def test_every_report_has_the_section_and_runs_without_uploads_have_none(
    run: Path, finished_run: Path, abtest: Command
) -> None:
    document = json.loads((run / "report.json").read_text())
    again = abtest("analyze", str(run), "--json")
    assert json.loads(again.output)["new_videos"] == document["new_videos"]
    (newest, _) = document["new_videos"]["arms"]
    (line,) = [x for x in (run / "report.md").read_text().splitlines() if x.startswith("| newest | ")][1:]
    assert line.startswith(f"| newest | {newest['shown']['1']:,} | {newest['shown']['10']:,} | ")
    (section,) = new_videos_sections(document)
    assert not [note for note in section.notes if ONLY_EXPLORED in note]
    assert json.loads((finished_run / "report.json").read_text())["new_videos"] is None
    assert "New videos" not in (finished_run / "report.md").read_text()


def test_an_arm_that_was_never_shown_has_no_rates(run: Path) -> None:
    document = json.loads((run / "report.json").read_text())
    empty = {"shown": {"1": 0, "10": 0, "100": 0}, "share": None, "impressions": 0, "new_impressions": 0}
    arm = {"arm": "a", **empty, "play_rate_new": None, "play_rate_older": None}
    arm |= {"play_rate_new_ci": None, "play_rate_older_ci": None}
    told = {**document, "experiment": {**document["experiment"], "retrain": "frozen", "explore_share": 0.0}}
    (section,) = new_videos_sections({**told, "new_videos": {**document["new_videos"], "arms": [arm]}})
    assert section.rows == [("a", "0", "0", "0", "-", "-", "-")]
    assert section.notes[-1] == f"{ONLY_EXPLORED}."


def test_users_live_in_the_run_as_in_the_life_under_their_arm_until_it_learns(run: Path) -> None:
    for i, arm in enumerate(ARMS):
        first, life = views(run / "events.duckdb", arm), views(run / f"lives/arm-{i + 1}.duckdb", arm)
        own = {row for row in zip(*first, strict=True) if row[0] == FIRST}
        assert len(own) > 300
        assert own <= set(zip(*life, strict=True))


def test_a_run_with_uploads_can_be_exported(run: Path, abtest: Command, tmp_path: Path) -> None:
    result = abtest("export", str(run), "--out", str(tmp_path / "feeds.parquet"))
    assert result.exit_code == 0, result.output


def test_a_model_is_told_nothing_of_videos_that_it_does_not_know() -> None:
    told: list[np.ndarray] = []

    class Attentive:
        def fit(self, interactions: Interactions, progress: Any = None) -> "Attentive":
            return self

        def recommend(self, users: np.ndarray, histories: np.ndarray, k: int, exclude: np.ndarray) -> Any:
            told.extend((histories[:1], exclude[:1]))
            return np.tile(np.arange(1, k + 1), (len(users), 1))

    feed = ArmFeed(Attentive(), None, stage="feed", n_items=20)
    histories, shown, user = np.array([[5, 21, 9, 30, 0]]), np.array([[21, 5]]), np.array([0])
    memory = feed.begin(user, histories, shown, user)
    feed.serve(user, memory, user, user, np.array([[22, 7]]), user)
    assert told[0].tolist() == [[5, 9, 0, 0, 0]]
    assert told[1].tolist() == [[0, 5, 0, 7]]
