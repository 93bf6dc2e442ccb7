"""vLLM V1's scheduler as a pure, readable step-by-step simulation: no I/O, no clock, no logging."""
