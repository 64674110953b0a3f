"""Extrapolation of learning curves, and policies that stop trainings by it."""
