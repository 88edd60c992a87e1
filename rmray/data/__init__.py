"""From rows to token ids on disk and on to batches: sources, render, prepare, order, packing, stream, batch."""
