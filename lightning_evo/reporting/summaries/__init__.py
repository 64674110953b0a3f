"""Summaries of a run for tables: growth, savings, stacks."""
