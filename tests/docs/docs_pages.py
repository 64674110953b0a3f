"""What is on the documentation's pages? Their blocks, prose and headings, and Python blocks run as one script."""

from __future__ import annotations

import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLE = ROOT / "examples" / "own_model"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

SESSIONS = ["README.md", "docs/quickstart.md", "docs/tutorial.md", "docs/how-to/resume.md", "docs/how-to/own-cli.md"]
"""Pages whose Python blocks and commands are one session, which ``test_docs_sessions.py`` runs on small budgets."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def loaded(self) -> Any:
        """What a yaml block holds."""
        return yaml.safe_load(self.text)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path, *languages: str) -> list[Block]:
    found, start, lines = [], None, page.read_text().splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            language, text = lines[start][3:].strip(), "\n".join(lines[start + 1 : number]) + "\n"
            found.append(Block(page, start + 1, language, text))
            start = None
    assert start is None, f"{page}: the block that begins in line {start} has no end"
    return [block for block in found if not languages or block.language in languages]


def prose_of(page: Path) -> str:
    """A page without its blocks and inline code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE))


def headings_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as both GitHub and mkdocs make them."""
    titles = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.M
    )
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def file_name(block: Block) -> str | None:
    """The file that a block says it is in: ``# name.py`` or ``# name.yaml`` in its first line."""
    match = re.match(r"# (\w+\.(?:py|yaml))\n", block.text)
    return match[1] if match else None


def run_python(block: Block, script: Path, module: types.ModuleType) -> None:
    """Run a block as the next part of a script.

    Args:
        block: The block.
        script: The script's file, to which the block is appended: worker processes import it.
        module: The script's module.
    """
    with script.open("a") as file:
        file.write(block.text)
    # Empty lines before it: a traceback then names the page's own line.
    exec(compile("\n" * block.line + block.text, str(block.page), "exec"), vars(module))
