"""The documentation builds without a warning, and its reference leads somewhere."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_pages import DOCS, ROOT

PACKAGE = ROOT / "lightning_evo"
REFERENCE = re.compile(r":(?:class|func|meth|attr|data|mod|exc):`~?(?:[^`<]+ <)?(lightning_evo\.[\w.]+)>?`")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built documentation."""
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    nowhere = "http://127.0.0.1:9"  # whoever wants the network fails
    environment = os.environ | dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
    environment |= {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


def html(page: Path) -> str:
    return page.read_text()


@pytest.mark.slow
def test_it_builds_with_warnings_as_errors_and_holds_every_page(site):
    built = {path.parent.relative_to(site).as_posix() for path in site.rglob("index.html")}
    assert built == {
        path.relative_to(DOCS).with_suffix("").as_posix() if path.name != "index.md" else "."
        for path in DOCS.rglob("*.md")
    }


@pytest.mark.slow
def test_docstrings_are_rendered_and_their_references_are_links(site):
    text = html(site / "api" / "index.html")
    assert not re.search(r":(class|func|meth|attr|mod|exc):", text)
    assert "<autoref" not in text
    assert re.search(r'<a class="autorefs autorefs-internal"[^>]*href="#lightning_evo\.genome\.Gene"', text)
    for target in re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), re.M):
        assert f'id="{target}"' in text, f"{target} is not in the reference"


@pytest.mark.slow
def test_diagrams_are_kept_for_the_browser_to_draw(site):
    assert '<pre class="mermaid"><code>flowchart' in html(site / "architecture" / "index.html")


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//[^"]*"', html(page))
        loaded += re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//[^"]*"', html(page))
        assert loaded == [], page


def references() -> list[tuple[str, Path]]:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for target in REFERENCE.findall(file.read_text()):
            found.setdefault(target, file)
    return sorted(found.items())


def leads_somewhere(target: str) -> bool:
    """Whether the dotted name is a module, something in one, or what a class says that its objects have."""
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            there = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            if not hasattr(there, name):
                return name in getattr(there, "__annotations__", {})
            there = getattr(there, name)
        return True
    return False


def test_what_docstrings_refer_to_exists():
    every = references()
    assert len(every) > 50
    assert [f"{file.relative_to(ROOT)}: {target}" for target, file in every if not leads_somewhere(target)] == []


def test_a_reference_to_nothing_is_noticed():
    assert leads_somewhere("lightning_evo.genome.Gene.sample")
    assert not leads_somewhere("lightning_evo.genome.Gene.samples")
    assert not leads_somewhere("lightning_evo.genomes.Gene")
