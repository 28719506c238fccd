"""The API reference: a page for each package with the names that its `__init__` exports, made from the docstrings.

Before Sphinx reads the sources, `write_pages` writes docs/api/PACKAGE.rst, which git ignores. The exports of a package
are lazy, so each name is looked up to find out whether it is a class, a function or a value. Docstrings are plain text with
`code` in backticks, doctests and indented blocks; `to_rst` turns them into reStructuredText, in which code that names a
class or function of these pages is a link.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx

import facespace

MODULES = ["facespace.errors"]  # modules without exports that have a page, too
_CODE = re.compile(r"(`[^`]+`)")
_SPECIAL = re.compile(r"([\\*_|@])")
# Types as autodoc writes them, and as the code does: numpy's alias, and numbers without pydantic's bounds.
_PLACE = r"~?(?:\w+\.)*"
_SHORTER = [
    (
        re.compile(rf"{_PLACE}ndarray\[tuple\[{_PLACE}Any, \.\.\.\], {_PLACE}dtype\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\]"),
        r"~numpy.typing.NDArray[\1]",
    ),
    (re.compile(rf"{_PLACE}Annotated\[([^,\[\]]+), [^\[\]]*\]"), r"\1"),
]
links: dict[str, str] = {}  # what docstrings call an object, and the name under which it is documented


def packages() -> list[ModuleType]:
    """Return the packages that export names, the front door first."""
    found = [facespace]
    for module in pkgutil.walk_packages(facespace.__path__, "facespace."):
        if module.ispkg:
            package = importlib.import_module(module.name)
            if getattr(package, "__all__", None):
                found.append(package)
    return found


def homes(modules: list[ModuleType]) -> dict[int, str]:
    """Return the page of each exported object by its id: that of its module, or of the innermost package around it."""
    found: dict[int, str] = {}
    for package in modules:
        for name in package.__all__:
            value = getattr(package, name)
            module = getattr(value, "__module__", None) or ""
            if module in MODULES:
                found[id(value)] = module
            elif package is not facespace and (id(value) not in found or module.startswith(f"{package.__name__}.")):
                found[id(value)] = package.__name__
    return found


def entry(package: str, name: str, value: Any) -> str:
    """Return the directive that documents one name."""
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, BaseException) else "class"
        bases = "" if value.__bases__ == (object,) else "   :show-inheritance:\n"
        return f".. auto{kind}:: {package}.{name}\n   :members:\n   :exclude-members: model_config\n{bases}"
    if callable(value) and hasattr(value, "__name__"):
        return f".. autofunction:: {package}.{name}\n"
    return f".. autodata:: {package}.{name}\n   :no-value:\n"


def page(package: ModuleType, places: dict[int, str]) -> str:
    """Return the page of a package: its docstring, then every name that it exports."""
    title = package.__name__
    parts = [f"{title}\n{'=' * len(title)}\n", f".. automodule:: {title}\n   :no-members:\n"]
    elsewhere = []
    for name in package.__all__:
        value = getattr(package, name)
        home = places.get(id(value), title)
        if home == title:
            parts.append(entry(title, name, value))
        else:
            elsewhere.append(f"   * - :py:obj:`{name} <{home}.{name}>`\n     - {first_line(value)}\n")
    if elsewhere:
        parts.insert(2, ".. list-table::\n   :widths: auto\n\n" + "".join(elsewhere))
    return "\n".join(parts)


def first_line(value: Any) -> str:
    """Return the first paragraph of an object's docstring, as reStructuredText on one line."""
    paragraph = (inspect.getdoc(value) or "").split("\n\n")[0]
    return inline(" ".join(paragraph.split()))


def inline(text: str, package: str = "") -> str:
    """Return a paragraph of a docstring as reStructuredText; `package` is where its names are looked up first.

    >>> links["Face"] = "facespace.faces.Face"
    >>> print(inline("Take `Face.box` and **kwargs, if `n > 0`."))
    Take :py:obj:`Face.box <facespace.faces.Face>` and \\*\\*kwargs, if ``n > 0``.
    """
    parts = _CODE.split(text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = _SPECIAL.sub(r"\\\1", part)
        else:
            name = part[1:-1]
            target = target_of(name.removesuffix("()"), package)
            parts[i] = f":py:obj:`{name} <{target}>`" if target else f"`{part}`"
    return "".join(parts)


def target_of(name: str, package: str) -> str:
    """Return where a name of a docstring is documented, or nothing."""
    for whole in (f"{package}.{name}", f"facespace.{name}", name):
        if found := links.get(whole):
            return found
    owner, _, _member = name.rpartition(".")
    return target_of(owner, package) if owner else ""


def fill_links(modules: list[ModuleType], places: dict[int, str]) -> None:
    """Fill `links` with the exported objects: by their module, and classes also by their bare name."""
    for package in modules:
        for name in package.__all__:
            value = getattr(package, name)
            target = f"{places.get(id(value), package.__name__)}.{name}"
            module = getattr(value, "__module__", None)
            for whole in (f"{package.__name__}.{name}", f"{module}.{name}" if module else ""):
                links.setdefault(whole, target)
            if inspect.isclass(value):
                links.setdefault(name, target)
    links.pop("", None)


def to_rst(lines: list[str], package: str = "") -> list[str]:
    """Return a docstring as reStructuredText: paragraphs, doctests, lists and indented blocks of code.

    >>> to_rst(["A:", "", "    x = 1"])
    ['A:', '', '.. code-block:: python', '', '    x = 1', '']
    """
    made: list[str] = []
    paragraphs = re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).strip("\n"))
    for is_code, group in itertools.groupby(paragraphs, lambda paragraph: paragraph.startswith(" ")):
        if is_code:
            code = textwrap.dedent("\n\n".join(group))
            made += [f".. code-block:: {'python' if is_python(code) else 'text'}", ""]
            made += [*textwrap.indent(code, "    ").splitlines(), ""]
            continue
        for paragraph in group:
            text = paragraph if paragraph.startswith(">>>") else inline(paragraph, package)
            made += [*text.splitlines(), ""]
    return made


def is_python(code: str) -> bool:
    """Return whether a block is Python's code, not a formula or a drawing."""
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def convert_docstring(_app: Sphinx, what: str, name: str, value: Any, _options: Any, lines: list[str]) -> None:
    """Let autodoc see reStructuredText; a value has no docstring but that of its type, which is left out."""
    if what == "data":
        lines.clear()
        return
    module = name if what == "module" else getattr(value, "__module__", None) or ""
    lines[:] = to_rst(lines, module if what == "module" else module.rpartition(".")[0])


def shorten_types(
    _app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write types as the code does: `NDArray[float32]`, and `int` for a number with bounds."""

    def shorter(text: str | None) -> str | None:
        for pattern, replacement in _SHORTER if text else []:
            text = pattern.sub(replacement, text or "")
        return text

    return shorter(signature), shorter(returns)


def write_pages(app: Sphinx) -> None:
    """Write the page of each package into docs/api, and remove those of packages that are gone."""
    folder = Path(app.srcdir) / "docs" / "api"
    folder.mkdir(exist_ok=True)
    modules = packages()
    places = homes(modules)
    fill_links(modules, places)
    texts = {package.__name__: page(package, places) for package in modules}
    for name in MODULES:
        texts[name] = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :members:\n   :show-inheritance:\n"
    for name, text in texts.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.rst"):
        if path.stem not in texts:
            path.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before the sources are read, and convert docstrings."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", convert_docstring)
    app.connect("autodoc-process-signature", shorten_types)
    return {"parallel_read_safe": True}
