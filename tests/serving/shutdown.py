"""Take all of Serve down, for good. Called by fixtures that started it."""

from __future__ import annotations

from tests.waiting import wait_for


def shut_serve_down() -> None:
    """Returns when the controller is gone. `serve.shutdown` gives up after half a minute, while a replica still
    answers, and at once where a busy controller does not say for five seconds that it lives: whoever starts Serve next
    would find the old one, on its port."""
    from ray import serve
    from ray.serve.context import _get_global_client

    def is_gone() -> bool:
        serve.shutdown()
        return _get_global_client(raise_if_no_controller_running=False) is None

    wait_for(is_gone, timeout_s=300, what="the end of Serve")
