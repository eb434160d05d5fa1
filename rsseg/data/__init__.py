"""From scene table to batches."""
