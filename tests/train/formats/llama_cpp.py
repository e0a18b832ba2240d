"""llama.cpp itself on a GGUF file: python -m tests.train.formats.llama_cpp FILE < requests > answers

It runs in a process of its own, because it ends its process where it meets what it does not expect.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from data_pipelines.tokenizer.llama_cpp import ids_of

TIMEOUT_S = 60.0  # a small file takes 1 s


def ask_llama_cpp(
    path: Path, *, prompts: list[list[int]], texts: list[str]
) -> tuple[list[list[float]], list[list[int]]]:
    """Log-probabilities of every token after each prompt, and the ids of each text."""
    command = [sys.executable, "-m", "tests.train.formats.llama_cpp", str(path)]
    requests = json.dumps({"prompts": prompts, "texts": texts})
    done = subprocess.run(command, input=requests, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return answers["log_probs"], answers["ids"]


def main(path: str) -> None:
    requests = json.load(sys.stdin)
    server = _server(path)
    log_probs = [_log_probs(server, prompt) for prompt in requests["prompts"]]
    print(json.dumps({"log_probs": log_probs, "ids": [ids_of(server, text) for text in requests["texts"]]}))


def _server(path: str) -> Any:
    import xllamacpp

    api: Any = xllamacpp
    params = api.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.n_gpu_layers = 64, 1, 1, 0
    params.warmup, params.fit_params, params.verbosity = False, False, -1
    # float32 throughout, where its defaults would round keys and values to float16
    params.cache_type_k = params.cache_type_v = api.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = api.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return api.Server(params)


def _log_probs(server: Any, prompt: list[int]) -> list[float]:
    request = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 100_000, "cache_prompt": False}
    (content,) = server.handle_completions(request)["choices"][0]["logprobs"]["content"]
    by_id = {entry["id"]: entry["logprob"] for entry in content["top_logprobs"]}
    return [by_id[token_id] for token_id in range(len(by_id))]


if __name__ == "__main__":
    main(sys.argv[1])
