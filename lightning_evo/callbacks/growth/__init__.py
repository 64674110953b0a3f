"""Structural growth while a network trains: when to grow, where, and everything that must follow the new parameters."""
