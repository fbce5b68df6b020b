"""`python -m langgraph_arbitrage.cli`, for `accelerate launch -m` or without the script on PATH."""

import sys

from langgraph_arbitrage.cli import main

sys.exit(main())
