"""The last module that the forkserver preloads: it imports the user's modules, when all is there that they may change."""

from lightning_evo.execution.user_modules import import_in_server

__all__: list[str] = []

import_in_server()
