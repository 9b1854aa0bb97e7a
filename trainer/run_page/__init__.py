"""The page of a run, `index.html`, which shows while a model trains what it has learned so far."""
