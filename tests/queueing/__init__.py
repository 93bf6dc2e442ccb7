"""Queues, pools and admission: pure decisions."""
