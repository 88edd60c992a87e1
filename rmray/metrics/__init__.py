"""Figures of scores, in numpy, scipy and scikit-learn: ranking, intervals, calibration, bias, best-of-N, baselines.

They take arrays and numbers and know nothing of batches, tokenizers, configs or records. Import the module that holds
what you need, `rmray.metrics.summary` for all figures of scored pairs at once.
"""
