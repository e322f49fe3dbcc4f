"""The core stays pure: what it imports, module by module."""

import ast
import sys
from pathlib import Path

import pytest

import routing

FOLDER = Path(routing.__file__).parent
#: What the core may use of others.
LIBRARIES = {"numpy", "scipy", "sklearn", "routing"}
#: What of the standard library reads or changes the world, or hides a state.
IMPURE = {
    "asyncio",
    "ctypes",
    "datetime",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "pickle",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
    "warnings",
}


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_module_of_the_core_imports_nothing_impure(path: Path) -> None:
    """It needs numpy, scipy, scikit-learn, and of the standard library what reads no clock, file or state."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}

    assert not roots & IMPURE
    assert roots <= LIBRARIES | sys.stdlib_module_names


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_module_of_the_core_draws_from_no_global_generator(path: Path) -> None:
    """Randomness is an argument: of ``np.random`` only generators that are given a seed are named."""
    tree = ast.parse(path.read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "random"
        and isinstance(node.value.value, ast.Name)
        and node.value.value.id == "np"
    }

    assert used <= {"Generator", "PCG64", "default_rng"}


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_module_of_the_core_says_what_it_is_for(path: Path) -> None:
    """Every first line is a sentence."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))

    assert docstring
    assert docstring.splitlines()[0].strip()
