"""What does the user see? Progress while a search runs, and the leaderboard of what it has recorded."""
