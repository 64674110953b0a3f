"""The network as a graph: traced operations, kinds of layers, and the channels that layers share."""
