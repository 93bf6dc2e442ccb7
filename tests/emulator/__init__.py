"""Tests of the engine emulator."""
