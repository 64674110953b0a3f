"""Small building blocks that several rooms share and that belong to none of them, and the package's version.

Nothing is re-exported here: ``random_state_torch`` and ``compiled`` import torch; the other modules need nothing but NumPy
and the standard library, and rooms without torch import only those.
"""

__version__ = "0.1.0"
