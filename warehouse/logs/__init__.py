"""Event logs of other services: any table of events is asked the same questions where it lies."""
