"""`python -m langgraph_arbitrage.cli`, for `accelerate launch -m` and where no script is found."""

import sys

from langgraph_arbitrage.cli import main

sys.exit(main())
