"""Attention maps of models, with the read-out as trained and refit, and their scores against human attention."""
