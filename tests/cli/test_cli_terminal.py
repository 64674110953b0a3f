"""On a real terminal the search is one live display, which leaves the terminal as it was."""

from __future__ import annotations

import os
import pty
import re

import pytest
import warm
from commands import command, write


@pytest.mark.slow
def test_a_terminal_shows_one_live_display(tmp_path):
    def change(config, whole):
        config["model"]["init_args"]["misbehave"] = "slow"
        whole["evolution"]["budget"] = {"candidates": 4, "epochs": 100}

    controller, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = warm.Popen(
        command(*write(tmp_path, change)), stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:  # the terminal's other end is closed: the process has ended
            break
        if not chunk:
            break
        shown += chunk
    os.close(controller)
    assert process.wait() == 0
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).decode(errors="replace")
    for part in ("best val_acc", "completed", "of 4 candidates", "of 100 epochs", "slot", "1/2", "winner: candidate"):
        assert part in text, part
    assert "Epoch 0" not in text  # Lightning's own progress bar
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h")  # the cursor is shown again
