"""What does the user see? Progress while a search runs, the leaderboard, the report page, pictures, and other tools' views.

``reporter`` tells others of a search while it runs; everything else reads what its archive has recorded.
"""
