"""`python -m workers.cli` is `scada-engine`; the demo starts its children this way."""

from workers.cli import main

main()
