"""Real vLLM servers on a CPU: their environment, their model, and the command to start one."""
