"""Everything that candidates import, imported once: for the server that workers are forked from.

What a worker inherits is left out of the garbage collection after each candidate; what it imports by itself is not, and
makes each collection take milliseconds longer.
"""

from lightning_evo.utils.lazy import load_all

load_all("lightning_evo.training", "lightning_evo.callbacks", "lightning_evo.swarms")
