"""Reading a data set back: the logic of the preview, stats and index commands, and readers that others share."""
