"""A module during whose import Ctrl-C is pressed, and which doesn't let the exception through."""

import os
import signal
from contextlib import suppress

from toys import ToyNet

with suppress(BaseException):
    os.kill(os.getpid(), signal.SIGINT)


class Net(ToyNet):
    """A toy."""
