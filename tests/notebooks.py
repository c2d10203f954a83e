"""The cells of a notebook, run without Jupyter."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebook.ipynb"


def read_cells(path: Path = NOTEBOOK) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def run_cell(source: str, name: str, namespace: dict[str, Any]) -> Any:
    """Run a cell in a namespace: the value of its last line where that is an expression, as a notebook shows it."""
    body = ast.parse(source, name).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), name, "exec"), namespace)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), namespace)


def run_notebook(namespace: dict[str, Any]) -> dict[str, Any]:
    """Run every code cell in order: what each shows, by the cell's id."""
    cells = [cell for cell in read_cells() if cell["cell_type"] == "code"]
    return {cell["id"]: run_cell(source_of(cell), cell["id"], namespace) for cell in cells}
