"""Averaging the weights of a swarm: particle swarm rules, their acceptance by validation, and model soups."""
