"""rmray: train, evaluate and serve reward models for RLHF on Ray."""

__version__ = "0.1.0"
