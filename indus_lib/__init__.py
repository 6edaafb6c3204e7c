"""IndusAgent, reproduced: Sample -> Episode -> Reward -> Table (arXiv 2605.20682)."""

__version__ = "0.1.0"
