"""Where a gallery keeps its vectors: `sqlite`, one file."""
