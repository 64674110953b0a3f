"""The graph of a network: its traced operations, the kinds of its layers, and the channels that layers share.

Internal to ``functional``: inheriting and growing read networks through it.
"""
