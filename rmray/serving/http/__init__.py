"""The HTTP side: routes over a scoring backend, behind middleware that asks for a key and bounds what comes in.

Knows nothing of Ray: the backend is a protocol, and tests give it one that scores in the process.
"""

from rmray.serving.http.app import HttpLimits, build_http_app
from rmray.serving.http.backend import ScoringBackend
from rmray.serving.http.keys import ApiKeys, read_api_keys

__all__ = ["ApiKeys", "HttpLimits", "ScoringBackend", "build_http_app", "read_api_keys"]
