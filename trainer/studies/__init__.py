"""Many training runs that answer one question: the search for lambda and beta, and Table 1."""
