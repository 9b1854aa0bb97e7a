"""Studies that consist of many training runs: Table 1, and the search for the weights of the attention loss."""
