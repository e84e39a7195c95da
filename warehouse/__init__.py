"""Where events and exposures are kept, and the questions that an experiment asks of them."""
