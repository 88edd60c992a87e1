"""Training: an exact loop over planned steps. `trainer` is its door to Ray; everything else runs without Ray."""
