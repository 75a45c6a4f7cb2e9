"""Tests mirror the modules that they test; tests/README.md says how to run them."""
