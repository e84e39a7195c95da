"""A panel: what each analysed user did on each day of an experiment, and the additive sums of it.

Two relations hold it. `members` has a row for each analysed user: user, arm, cohort_ts (the day of the first
exposure), p0, p1, ... (totals before the experiment) and g0, g1, ... (groups, such as a country). `days` has
a row for each user and day with events: user, day_ts and x0, x1, ....

`ask` says what to sum, `summed` asks a database for it, once, by arm, cohort and day; every view adds those
few rows up (`sums.PanelSums`).
"""
