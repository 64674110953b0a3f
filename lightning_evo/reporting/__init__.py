"""What the user sees: progress of a running search, the leaderboard, the report page, figures, exports, W&B and TensorBoard.

``reporter`` passes a search on while it runs; everything else reads what its archive has recorded. See README.md.
"""
