"""A network with secrets among its arguments, one that depends on them, and one that tells them when it fails."""

from __future__ import annotations

from lightning_evo.reporting.reporter import Reporter
from toys import ToyNet

KEY = "kk-6f1e2d3c4b5a"
PASSWORD = "hunter22"
CHOICES = ("first-access-t0ken", "second-access-t0ken")
SECRETS = (KEY, PASSWORD, *CHOICES)


class SecretNet(ToyNet):
    """A toy."""

    def __init__(
        self,
        width: int = 4,
        api_key: str = "",
        url: str = "",
        access_token: str = "",
        num_tokens: int = 7,
        pad_token: str = "<pad>",
        fail: bool = False,
    ) -> None:
        super().__init__(width=width)
        self.save_hyperparameters()
        if fail:
            raise ConnectionError(f"401 for {url} with {api_key}, token={access_token!r}")
        assert api_key == KEY
        assert PASSWORD in url
        assert access_token in CHOICES


class Listener(Reporter):
    """Writes down whatever a user's own reporter is told."""

    def start(self, search):
        self._write(search.description, search.config, search.space)

    def asked(self, candidate):
        self._write(candidate)

    def running(self, trainings, state):
        self._write(trainings, state)

    def told(self, candidate, result, state):
        self._write(candidate, result, state.best)

    def _write(self, *told):
        with open("told.txt", "a") as file:
            print(*map(repr, told), file=file)
