"""Evaluation of a teacher on human fixations: data, predictions, scores, summary, page."""
