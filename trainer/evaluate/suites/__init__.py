"""One evaluation suite per file."""
