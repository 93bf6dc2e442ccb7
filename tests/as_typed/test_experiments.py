"""Studies and their figures. Each script runs in its smallest size, on the digital twin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.as_typed.claims import types, types_each
from tests.as_typed.shell import Shell
from tests.as_typed.sources import ABLATION, MAIN_PLOT, PLOT, SCRIPTS

VARIABLE = "ASTROLABE_STUDY_OPTIONS"
SMALL = "--quick --requests 20 --seeds 1 --processes 1"
NO_CAPACITY = f"{SMALL} --no-capacity"
MAIN = f"{SMALL} --systems round_robin,astrolabe"
HERE = "bash exp/end_to_end_exp_scripts/"


def check_study(shell: Shell, command: str, options: str, *, above: bool) -> Path:
    """Type a study's script; its results, which must be whole: no failed run, figures, a page."""
    printed = shell.type(command, env={VARIABLE: options}, above=above).out
    results = Path(printed.splitlines()[-1])
    summary = json.loads((results / "summary.json").read_text())
    assert summary["cases"]
    assert not any(case.get("error") for case in summary["cases"])
    figures = [one for one in results.glob("figures/*.png") if one.stat().st_size > 10_000]
    assert figures
    assert all(one.with_suffix(".pdf").exists() for one in figures)
    assert "<html" in (results / "report.html").read_text()
    return results


def check_plot(shell: Shell, source: str, results: Path, figures: set[str]) -> None:
    """Type a source's plotting command over these results, laid where it looks for them. Its
    scripts lie in ``analysis/`` of the project here."""
    words = source.split()
    folder = shell.checkout.parent / words[words.index("--system-name") - 3]
    shutil.copytree(results, folder, dirs_exist_ok=True)
    pictures = shell.checkout.parent / words[words.index("--system-name") - 1]
    shell.type_instead(
        source,
        source.replace("experiments_analysis/", "astrolabe/analysis/"),
        because="the folder has another name here, as docs/from_the_sources.md says",
        above=True,
    )
    assert figures <= {one.name for one in pictures.iterdir()}


@pytest.mark.slow
@types(SCRIPTS + "a30_main/main_experiment.sh", MAIN_PLOT)
def test_the_main_experiment_and_its_figures(shell: Shell) -> None:
    """Curves, capacities and distributions, under the names that the source gives."""
    results = check_study(shell, SCRIPTS + "a30_main/main_experiment.sh", MAIN, above=True)
    wanted = {f"{name}.{kind}" for name in ("qps", "linear", "cdf") for kind in ("png", "pdf")}
    check_plot(shell, MAIN_PLOT, results, wanted)


@pytest.mark.slow
@types("bash exp/end_to_end_exp_scripts/a30_main/main_experiment.sh --quick")
def test_the_readmes_study(shell: Shell) -> None:
    """The same script from the checkout, as the README types it."""
    check_study(
        shell, HERE + "a30_main/main_experiment.sh --quick", f"{MAIN} --no-capacity", above=False
    )


@pytest.mark.slow
@types_each(
    (
        SCRIPTS + "ablation/po2_ablation_exp.sh",
        f"python experiments_analysis/po2_plot.py --data-dir {ABLATION}/po2 {PLOT}",
    ),
    (
        SCRIPTS + "ablation/burstiness_exp.sh",
        f"python experiments_analysis/burstiness_plot.py --data-dir {ABLATION}/burstiness {PLOT}",
    ),
    (
        SCRIPTS + "ablation/error_heatmap_exp.sh",
        "python experiments_analysis/prediction_error_plot.py"
        f" --data-dir {ABLATION}/prediction_error {PLOT}",
    ),
    (
        SCRIPTS + "ablation/cpu_tracking_experiment.sh",
        "python experiments_analysis/cpu_overhead_plot.py"
        f" --data-dir {ABLATION}/cpu_tracker/sharegpt/min_new_request_latency {PLOT}",
    ),
    (
        SCRIPTS + "a100_supplementary/full_comparison.sh",
        "python experiments_analysis/llumnix_comparison_plot.py"
        f" --data-dir {ABLATION}/llumnix_compare {PLOT}",
    ),
)
def test_a_sources_study_and_its_figure(shell: Shell, commands: tuple[str, str]) -> None:
    """The script runs, and the source's own command draws what it left."""
    script, plot = commands
    results = check_study(shell, script, NO_CAPACITY, above=True)
    check_plot(shell, plot, results, {one.name for one in results.glob("figures/*")})


@pytest.mark.slow
@types_each(
    (SCRIPTS + "ablation/auto_provision_exp.sh",),
    (SCRIPTS + "ablation/extension_experiment.sh",),
)
def test_a_sources_study(shell: Shell, commands: tuple[str]) -> None:
    """The script runs and draws its own figures."""
    check_study(shell, commands[0], NO_CAPACITY, above=True)


@pytest.mark.slow
@types_each(
    (HERE + "mixed/pools_experiment.sh",),
    (HERE + "hetero/unequal_fleet.sh",),
    (HERE + "prefix/multi_turn.sh",),
    (HERE + "slo/goodput.sh",),
)
def test_a_study_of_the_readmes_table(shell: Shell, commands: tuple[str]) -> None:
    """The script runs and draws its figures."""
    check_study(shell, commands[0], NO_CAPACITY, above=False)
