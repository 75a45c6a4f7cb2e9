"""Real servers for tests and benches, as plain context managers; tests/conftest.py makes fixtures of them."""
