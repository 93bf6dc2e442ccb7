"""Quotas: how many requests and tokens a minute each API key may use, over several gateways."""
