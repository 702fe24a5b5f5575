"""The check for continuous integration that docs/alt-check.yml shows."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

WORKFLOW = Path(__file__).parents[2] / "docs" / "alt-check.yml"


@pytest.mark.parametrize(
    ("page", "passes"),
    [
        ('<img src="https://example.org/a.png" alt="A gull on a post">', True),
        ('<img src="https://example.org/a.png">', False),
        ('<img src="https://example.org/a.png" alt="I cannot see the image">', False),
    ],
)
def test_it_passes_a_site_with_proper_texts_and_no_other(
    page: str, passes: bool, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text(f'<html lang="en"><title>A</title>{page}')
    workflow = yaml.safe_load(WORKFLOW.read_text())
    steps = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    commands = [step for step in steps if step.startswith("idefiq ")]

    statuses = [
        subprocess.run(
            [sys.executable, "-m", *command.split()], cwd=tmp_path, capture_output=True
        ).returncode
        for command in commands
    ]

    assert len(commands) == 2
    assert (statuses == [0, 0]) is passes
    assert set(statuses) <= {0, 1}
