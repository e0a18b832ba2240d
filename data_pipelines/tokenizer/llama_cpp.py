"""llama.cpp's reading of a text: python -m data_pipelines.tokenizer.llama_cpp FILE < texts > ids

It runs in a process of its own, because it ends its process where it meets what it does not expect.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen


def ids_by_llama_cpp(gguf: Path, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text by the tokenizer of a GGUF file. Raises ValueError where that cannot be asked."""
    if not gguf.is_file():
        raise ValueError(f"--gguf={gguf} does not exist; write one with python -m train.export --format gguf")
    if find_spec("xllamacpp") is None:
        raise ValueError("--gguf asks llama.cpp, not installed; pip install -c launch/constraints.txt -e '.[gguf]'")
    command = [sys.executable, "-m", "data_pipelines.tokenizer.llama_cpp", str(gguf)]
    done = subprocess.run(command, input=json.dumps(list(texts)), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.splitlines() or ["without a word"])[-1]
        raise ValueError(f"--gguf={gguf}: llama.cpp ended with {done.returncode}: {last}; export the model again")
    return json.loads(done.stdout.splitlines()[-1])


def _main(path: str) -> None:
    import xllamacpp

    api: Any = xllamacpp
    params = api.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = path, 64, 1, 0
    params.warmup, params.fit_params, params.verbosity = False, False, -1
    server = api.Server(params)
    print(json.dumps([ids_of(server, text) for text in json.load(sys.stdin)]))


def ids_of(server: Any, text: str) -> list[int]:
    """The ids of a text by a server of xllamacpp."""
    body = json.dumps({"content": text, "add_special": True, "parse_special": False}).encode()
    request = Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        return json.load(answer)["tokens"]


if __name__ == "__main__":
    _main(sys.argv[1])
