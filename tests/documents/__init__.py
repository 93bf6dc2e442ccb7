"""Tests of pages in docs/ that claim something of the code."""
