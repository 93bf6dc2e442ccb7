"""The compiled part of the twin: engines as arrays, and what their sidecars see of them."""
