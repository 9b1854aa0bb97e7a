"""Reading a data set back: the logic of the verify, preview and stats commands."""
