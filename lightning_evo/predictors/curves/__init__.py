"""Extrapolation of learning curves, and the rules that stop trainings by it."""
