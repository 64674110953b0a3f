"""Pages that lead a reader from command to command are followed, on small budgets: each step works after those before it."""

from __future__ import annotations

import re

import pytest
import yaml
from docs_pages import EXAMPLE, ROOT, SESSIONS, blocks_of, file_name, run_python
from sessions import run_here, run_line, shell_lines_of, shortened

# Other tests run these: they install, never end by themselves, or need more results than a small budget gives.
ELSEWHERE = re.compile(
    r"pip install|git clone|source |tensorboard |wandb |optuna-dashboard |lightning-evo (predictor |report .*--watch)"
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", SESSIONS)
def test_a_page_can_be_followed_from_its_first_command_to_its_last(page, workplace, main_module):
    (workplace / "configs").symlink_to(ROOT / "configs")
    (workplace / "own_model.py").write_text((ROOT / "examples" / "own_model" / "own_model.py").read_text())
    (workplace / "page.py").touch()  # workers import the main module
    # The first page that is read runs as its readers run it; the others need not pay for importing Lightning each time.
    run = run_line if page == "README.md" else run_here
    ran = 0
    for block in blocks_of(ROOT / page, "python", "yaml", "bash"):
        name = file_name(block)
        if name:
            (workplace / name).write_text(block.text)
        elif block.language == "python":
            run_python(block, workplace / "page.py", main_module)
        for line in shell_lines_of(block.text) if block.language == "bash" else []:
            if not ELSEWHERE.search(line):
                run(shortened(line, workplace), workplace)
                ran += 1
    assert ran >= 3


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_configs_on_a_page_are_those_of_the_example(page):
    shown = {name: block.loaded for block in blocks_of(ROOT / page, "yaml") if (name := file_name(block))}
    assert shown == {name: yaml.safe_load((EXAMPLE / name).read_text()) for name in ("config.yaml", "search.yaml")}


def test_a_fit_is_cut_to_a_small_budget_and_other_commands_are_left_alone(workplace):
    fit = "lightning-evo fit --config config.yaml"
    assert shortened(fit, workplace) == f"{fit} --trainer.max_epochs=2"
    search = shortened(f"{fit} --config search.yaml", workplace)
    assert "--evolution.budget.candidates=4" in search
    more = shortened(f"{fit} --config search.yaml --evolution.budget.candidates 128", workplace)
    assert more.index("candidates=6") > more.index("candidates 128")  # the last one counts
    assert shortened("lightning-evo leaderboard runs/x", workplace) == "lightning-evo leaderboard runs/x"


def test_comments_are_no_part_of_a_command():
    block = "# first\nlightning-evo leaderboard runs/x  # best first\n\nlightning-evo fit \\\n    --config a.yaml\n"
    assert shell_lines_of(block) == ["lightning-evo leaderboard runs/x", "lightning-evo fit      --config a.yaml"]


def test_a_command_that_fails_fails_its_page(tmp_path):
    with pytest.raises(AssertionError, match="exit code 3"):
        run_line("exit 3", tmp_path)
