"""Who may import whom (README, "Who may import whom"), and what must stay out of a cold start."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"abtest", "recgpt", "simulator", "baselines", "warehouse"}
ALLOWED = {
    "abtest": {"recgpt", "baselines", "simulator", "warehouse"},
    "recgpt": {"baselines"},
    "simulator": {"warehouse"},
    "baselines": set(),
    "warehouse": set(),
}
SCHEMA_ONLY = {"warehouse.events", "warehouse.schema"}
HEAVY = {"torch", "scipy", "statsmodels", "sqlalchemy", "duckdb", "pyarrow"}
HOMELESS = {"utils", "common", "helpers", "core", "managers", "misc"}


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        foreign = {name.split(".")[0] for name in imported_modules(path)} & OURS - {package}
        assert foreign <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {foreign - ALLOWED[package]}"


def test_the_simulator_knows_nothing_of_the_warehouse_but_the_schema() -> None:
    for path in (ROOT / "simulator").rglob("*.py"):
        for name in imported_modules(path):
            if name.split(".")[0] == "warehouse":
                assert any(name == module or name.startswith(module + ".") for module in SCHEMA_ONLY), (
                    path,
                    name,
                )


def test_the_statistics_know_nothing_of_ours() -> None:
    for path in (ROOT / "abtest/stats").rglob("*.py"):
        for name in imported_modules(path):
            assert name.split(".")[0] not in OURS or name.startswith("abtest.stats"), (path, name)


def test_no_module_is_a_drawer_for_everything() -> None:
    assert not [path for package in OURS for path in (ROOT / package).rglob("*") if path.stem in HOMELESS]


@pytest.mark.parametrize(
    "module", ["abtest.cli", "recgpt.cli", "baselines", "abtest.metrics", "abtest.experiment"]
)
def test_a_cold_start_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not HEAVY & set(loaded.stdout.split())


def test_the_global_random_generators_stay_untouched() -> None:
    forbidden = {"np.random.seed", "np.random.rand", "random.seed", "torch.manual_seed"}
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden:
                    guarded = "fork_rng" in path.read_text(encoding="utf-8")
                    assert guarded, (path, node.lineno)
