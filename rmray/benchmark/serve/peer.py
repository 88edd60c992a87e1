"""The peer: a server that runs one forward a request, as OpenRLHF's `serve_rm` does, in a process of its own.

`POST /get_reward {"query": [text, ...]}` is tokenised with padding and scored by plain transformers in one forward,
whatever else waits meanwhile; the event loop waits for it, as there. Run as a module by `serving_peer`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rmray.errors import ClusterError

ROUTE = "/get_reward"
START_S = 180.0


def score_texts(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[float]:
    """One padded forward; the head's raw scores."""
    import torch

    inputs = tokenizer(list(texts), padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        logits_N1 = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).logits
    scores: list[float] = logits_N1.squeeze(-1).double().tolist()
    return scores


def build_peer(bundle_dir: Path) -> Any:
    """The app: its model is the bundle's, loaded by plain transformers."""
    import torch
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle_dir)
    model = AutoModelForSequenceClassification.from_pretrained(bundle_dir, dtype=torch.float32).eval()
    app = FastAPI()

    async def get_reward(request: Any) -> JSONResponse:
        rewards = score_texts(model, tokenizer, (await request.json())["query"])
        return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": {}})

    get_reward.__annotations__["request"] = Request  # imported late: FastAPI reads the annotation
    app.post(ROUTE, response_model=None)(get_reward)
    return app


@contextlib.contextmanager
def serving_peer(bundle_dir: Path, *, port: int, threads: int) -> Iterator[str]:
    """Start the process and wait until it answers; the URL of its route. ClusterError where it does not start."""
    import httpx

    command = [sys.executable, "-m", __name__, str(bundle_dir), "--port", str(port), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + START_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline_s:
                why = "it did not answer in time" if process.returncode is None else f"exit code {process.returncode}"
                raise ClusterError("the server to measure beside does not start", where=" ".join(command), why=why)
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/openapi.json", timeout=5.0, trust_env=False).status_code == 200:
                    break
            time.sleep(0.2)
        yield url + ROUTE
    finally:
        process.terminate()
        process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process is ended."""
    import torch
    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    uvicorn.run(build_peer(given.bundle), host="127.0.0.1", port=given.port, log_level="error")


if __name__ == "__main__":
    main()
