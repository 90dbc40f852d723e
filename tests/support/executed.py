"""Run notebooks as a reader does: in a clean kernel of this interpreter, whatever kernels the user has installed."""

import base64
import os
import re
import tempfile
from io import BytesIO
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from traitlets import default
from traitlets.config import Config

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


class OwnKernel(AsyncKernelManager):
    """Offers one kernel: the IPython of this environment."""

    @default("kernel_spec_manager")
    def _no_other_folders(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def read(name: str) -> NotebookNode:
    """The notebook as it is committed."""
    notebook: NotebookNode = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def executed(
    name: str, folder: Path, timeout_s: int = 600, ledger: Path | None = None, **parameters: object
) -> NotebookNode:
    """Run all cells in the folder, with some parameters changed; returns the notebook."""
    notebook = read(name)
    (place,) = [index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    known = re.findall(r"^(\w+) =", notebook.cells[place].source, re.MULTILINE)
    assert set(parameters) <= set(known), f"{name} has the parameters {known}"
    notebook.cells[place].source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
    environment = os.environ | {
        "IPYTHONDIR": str(folder / "ipython"),
        "QUANTGATE_LEDGER": str(ledger or folder / "ledger.sqlite"),
        "COLUMNS": "120",
    }
    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:  # a socket's path must be short
        kernel = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}
        client = NotebookClient(
            notebook,
            kernel_manager_class=OwnKernel,
            config=Config({"OwnKernel": kernel}),
            timeout=timeout_s,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=environment)
    return notebook


def printed(notebook: NotebookNode, cell: str) -> str:
    """The text of all outputs of the cell with that id."""
    (matching,) = [candidate for candidate in notebook.cells if candidate.id == cell]
    return "\n".join(words(output) for output in matching.outputs)


def words(output: NotebookNode) -> str:
    """One output's text."""
    if output.output_type == "stream":
        return str(output.text)
    data = output.get("data", {})
    return str(data.get("text/markdown") or data.get("text/html") or data.get("text/plain") or "")


def table(notebook: NotebookNode, cell: str) -> list[list[str]]:
    """The rows of the table that the cell shows, its head first."""
    rows = re.findall(r"<tr.*?>(.*?)</tr>", printed(notebook, cell), re.DOTALL)
    return [
        [re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def pictures(notebook: NotebookNode) -> dict[str, bytes]:
    """The PNG that a cell shows, by the cell's id."""
    return {
        cell.id: base64.b64decode(output.data["image/png"])
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    }


def is_drawn(png: bytes) -> bool:
    """Whether the picture is not empty: it has black lines and several colours."""
    return len(Image.open(BytesIO(png)).convert("RGB").getcolors(1_000_000) or []) > 20
