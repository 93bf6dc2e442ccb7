"""Tests of step-time models."""
