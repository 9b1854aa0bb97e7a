"""Measurements of a run, and studies of many runs: Table 1, and the search for the weights of the attention loss."""
