"""How near the twin comes to what it stands for: stock Vidur, emulated engines, real vLLM."""
