"""Checks the order of the packages by reading their imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "facespace"

# A package imports only from packages above it, also in functions and under TYPE_CHECKING. Packages on one line form
# one step and do not import each other.
ROOMS = [
    ["_lazy", "_version", "errors", "defaults"],
    ["io"],
    ["registry"],
    ["faces"],
    ["metrics"],
    ["reports"],
    ["backbones"],
    ["formats"],
    ["runtime"],
    ["datasets"],
    ["detection"],
    ["models"],
    ["embedding"],
    ["identification"],
    ["pipeline"],
    ["conversion"],
    ["clustering"],
    ["video"],
    ["alignment"],
    ["evaluation"],
    ["curation"],
    ["training"],
    ["demo", "selftest"],
    ["client"],
    ["server"],
    ["distribution"],
    ["cli"],
    ["__init__", "__main__"],
]
STEP = {room: step for step, rooms in enumerate(ROOMS) for room in rooms}
MAX_LINES = 600

# Modules (and packages with all their modules) that are covered by another module's test file.
TESTED_ELSEWHERE = {
    "alignment.batch": "alignment/test_aligner.py",
    "defaults": "test_startup.py",
    "runtime.devices": "runtime/test_torch_network.py",
    "backbones": "backbones/test_contract.py",
    "identification.stores.qdrant_changes": "identification/stores/test_qdrant.py",
    "identification.stores.qdrant_erasure": "identification/stores/test_qdrant.py",
    "identification.stores.qdrant_log": "identification/stores/test_qdrant.py",
    "identification.stores.qdrant_points": "identification/stores/test_qdrant.py",
    "identification.stores.qdrant_search": "identification/stores/test_qdrant.py",
    "server.acting": "server/routes/test_people.py",
    "training.losses": "training/losses/test_contract.py",
    "cli": "cli/test_main.py",
    "cli.legacy.facenet": "cli/legacy/test_facenet_measures.py",
    "cli.legacy.tiny": "cli/legacy/test_tiny.py",
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return `faces.face` for faces/face.py, `faces` for faces/__init__.py, and `` for the front door."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def room_of(module: str) -> str:
    return module.split(".")[0] or "__init__"


MODULES = {name_of(path): path for path in sources()}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def imports(path: Path, *, at_once: bool = False) -> Iterator[tuple[str, int]]:
    """Return the facespace modules that a file imports, with line numbers; `at_once` leaves out deferred imports.

    Deferred imports are those in functions or for type checkers only.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ):
            later.update(ast.walk(node))
    for node in ast.walk(tree):
        if at_once and node in later:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "facespace" or (node.module or "").startswith("facespace."):
                package = node.module.removeprefix("facespace").removeprefix(".")
                for alias in node.names:
                    inner = f"{package}.{alias.name}".removeprefix(".")
                    yield inner if inner in MODULES else package, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "facespace" or alias.name.startswith("facespace."):
                    yield alias.name.removeprefix("facespace").removeprefix("."), node.lineno


def test_every_package_is_in_the_list():
    assert {room_of(name) for name in MODULES} == set(STEP)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_imports_go_up_the_list(module):
    room = room_of(module)
    for imported, line in imports(MODULES[module]):
        assert imported in MODULES, f"{module}:{line} imports {imported}, which is no module of facespace"
        other = room_of(imported)
        assert other == room or STEP[other] < STEP[room], (
            f"{module}:{line} imports {imported}: the room {other} comes after {room}"
        )


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"", "__main__"}))
def test_no_module_imports_a_package_init(module):
    for imported, line in imports(MODULES[module]):
        assert imported, f"{module}:{line} imports the package's front door"
        if room_of(module) != "cli":
            assert imported not in PACKAGES, f"{module}:{line} imports the room {imported}, not a module of it"


def test_no_modules_import_each_other_in_a_circle():
    edges = {name: {imported for imported, _ in imports(path)} for name, path in MODULES.items() if name}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in edges.get(name, ()):
                visit(other, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_the_tests_read_imports_in_functions_and_for_type_checkers():
    assert "faces.drawing" in {name for name, _ in imports(MODULES["cli.shared.output"])}
    assert "faces.drawing" not in {name for name, _ in imports(MODULES["cli.shared.output"], at_once=True)}
    assert "identification.gallery" in {name for name, _ in imports(MODULES["pipeline.analyzer"])}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_root_contains_only_the_listed_modules():
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_no_module_has_a_meaningless_name():
    assert not {path.stem for path in sources()} & {"utils", "util", "helpers", "common", "base", "manager", "misc"}


@pytest.mark.parametrize("room", sorted(room for room in STEP if not room.startswith("_")))
def test_the_architecture_page_names_every_package(room):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"`{room}/`" in page or f"`{room}`" in page or f"`{room}.py`" in page


@pytest.mark.parametrize("package", sorted(PACKAGES - {""}))
def test_a_package_says_where_to_begin(package):
    doc = ast.get_docstring(ast.parse(MODULES[package].read_text(encoding="utf-8")))
    assert doc and len(doc.splitlines()) <= 8
    if package == room_of(package):
        assert "egin with" in doc or "verything is in" in doc


def exports(path: Path) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return (module, name) of the lazy exports of an `__init__`, and of the imports that type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = "facespace." + name_of(path)
    lazy, typed = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "attach":
            for module, names in ast.literal_eval(node.args[1]).items():
                lazy |= {(f"{package.rstrip('.')}.{module}", name) for name in names}
        if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "typing", "facespace._lazy"):
            assert all(alias.name == alias.asname for alias in node.names), "type checkers want `import A as A`"
            typed |= {(node.module, alias.name) for alias in node.names}
    return lazy, typed


@pytest.mark.parametrize("package", sorted(name for name in PACKAGES if room_of(name) != "cli"))
def test_exports_for_type_checkers_equal_the_lazy_exports(package):
    lazy, typed = exports(MODULES[package])
    assert lazy == typed
    modules = {name.removeprefix(f"{package}.").split(".")[0] for name in MODULES if name.startswith(f"{package}.")}
    clash = {name for _, name in lazy} & (modules if package else {name.split(".")[0] for name in MODULES})
    assert not clash, f"a name and a module are both called {clash}: which one is had depends on what was imported"


def test_every_module_has_a_test_file():
    tests = Path(__file__).parent
    missing = set()
    for name, path in MODULES.items():
        if path.name == "__init__.py" or name in ("__main__", "_version"):
            continue
        folder, _, leaf = name.rpartition(".")
        if not (tests / folder.replace(".", "/") / f"test_{leaf}.py").is_file() and not any(
            name == other or name.startswith(f"{other}.") for other in TESTED_ELSEWHERE
        ):
            missing.add(name)
    assert not missing
    for name, file in TESTED_ELSEWHERE.items():
        assert name in MODULES, f"{name} is no module any more"
        assert (tests / file).is_file(), f"{file}, which should cover {name}, is not there"
