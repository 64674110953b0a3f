"""Prediction of a candidate's fitness from its genome, before any training."""
