"""Online A/B experiments: assignment, exposure, metrics, statistics, reports, and the command line."""
