"""Freed memory is used again without a fault of a page."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import torch
from rmray.models.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        tensors = [torch.ones(12_000_000) for _ in range(3)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("unsupported")
    sys.exit()
faults()
print(faults())
"""


def faults(mode: str) -> int:
    """Pages that 30 tensors of 48 MB make the system hand out, after others of that size were freed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    if done.stdout.strip() == "unsupported":
        pytest.skip("this C library has no mallopt")
    return int(done.stdout)


def test_freed_memory_is_used_again() -> None:
    assert faults("keep") < 1000 < faults("leave")
