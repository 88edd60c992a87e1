"""Measure rmray beside its peers, in one run, on the same weights and tokens. Called by `rmray benchmark`."""
