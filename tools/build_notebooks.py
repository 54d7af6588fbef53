"""Builds the Colab notebooks from their texts: ``python tools/build_notebooks.py``.

    python tools/build_notebooks.py --check
    python tools/build_notebooks.py --repository=somebody/their_fork

A text, ``launch/colab/NAME.md``, is Markdown. Its first line names the runtime that Colab offers:

    <!-- runtime: TPU V5E1 -->

Every fenced block that begins with three backticks and ``python`` becomes a code cell, what lies
between two of them a text cell. A word after ``python`` is the cell's tag. ``{repository}`` stands
for the address on GitHub. A notebook is a function of its text alone: no outputs, no times, cells
numbered, so that texts are what people edit, read and review. With ``--check`` nothing is written,
and the exit status is 1 where a notebook is not what its text says.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

REPOSITORY = "xlsr-jax/xlsr_jax"  # on GitHub; forks name theirs with --repository
BRANCH = "main"
FOLDER = Path(__file__).resolve().parent.parent / "launch" / "colab"
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/{branch}/launch/colab/{name}.ipynb)"
)
RUNTIMES = {"TPU V5E1", "GPU T4", "GPU L4", "GPU A100"}  # Colab's names: accelerator, gpuType


def build(text: str, name: str, repository: str = REPOSITORY, branch: str = BRANCH) -> str:
    """The notebook's JSON.

    Args:
      text: see above.
      name: of the notebook, for its badge.

    Raises:
      ValueError: where the text names no runtime, has no title, or a block has no end.
    """
    from nbformat import v4

    first, _, body = text.partition("\n")
    runtime = re.fullmatch(r"<!-- runtime: (.+) -->", first)
    if not runtime or runtime[1] not in RUNTIMES:
        known = ", ".join(sorted(RUNTIMES))
        raise ValueError(f"the first line must be <!-- runtime: NAME -->, NAME one of {known}")
    title, _, rest = body.lstrip().partition("\n")
    if not title.startswith("# "):
        raise ValueError("the second line must be the title, # and words")
    badge = BADGE.format(repository=repository, branch=branch, name=name)
    whole = f"{title}\n\n{badge}\n{rest.replace('{repository}', repository)}"
    cells = []
    for number, (kind, tag, source) in enumerate(_blocks(whole)):
        make = v4.new_code_cell if kind == "code" else v4.new_markdown_cell
        metadata = {"tags": [tag]} if tag else {}
        cells.append(make(source, id=f"cell-{number:02d}", metadata=metadata))
    accelerator, machine = runtime[1].split()
    metadata = {
        "accelerator": accelerator,
        "colab": {"gpuType": machine, "provenance": []},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook = v4.new_notebook(cells=cells, metadata=metadata)
    notebook.nbformat_minor = 5  # the first with ids, whatever the library's newest
    return v4.writes(notebook) + "\n"


def _blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """("code" or "markdown", tag, source) in their order."""
    kind, tag, lines = "markdown", "", []
    for line in text.splitlines():
        opens = re.fullmatch(r"```python ?(\w*)", line) if kind == "markdown" else None
        if not opens and not (kind == "code" and line == "```"):
            lines.append(line)
            continue
        if source := "\n".join(lines).strip():
            yield kind, tag, source
        kind, tag, lines = ("code", opens[1], []) if opens else ("markdown", "", [])
    if kind == "code":
        raise ValueError("the last block of code has no end")
    if source := "\n".join(lines).strip():
        yield kind, tag, source


def wrong(path: Path, wanted: str) -> str:
    """What is wrong with a notebook, or ""."""
    if not path.exists():
        return "is missing"
    found = path.read_text(encoding="utf-8")
    if found == wanted:
        return ""
    try:
        cells = json.loads(found)["cells"]
    except (ValueError, KeyError):
        return "is no notebook"
    ran = any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    return "has outputs" if ran else "is not what its text says"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--check", action="store_true", help="write nothing; exit status 1 where one is stale")
    add("--repository", default=REPOSITORY, help="on GitHub; default %(default)s")
    add("--branch", default=BRANCH, help="that the badges open; default %(default)s")
    add("--folder", type=Path, default=FOLDER, help="of texts and notebooks")
    options = parser.parse_args(arguments)
    status = 0
    for path in sorted(options.folder.glob("*.md")):
        try:
            text = path.read_text(encoding="utf-8")
            wanted = build(text, path.stem, options.repository, options.branch)
        except ValueError as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 1
            continue
        notebook = path.with_suffix(".ipynb")
        fault = wrong(notebook, wanted)
        if fault and options.check:
            print(f"{notebook} {fault}; run python tools/build_notebooks.py", file=sys.stderr)
            status = 1
        elif fault:
            notebook.write_text(wanted, encoding="utf-8")
            print(f"{notebook} written")
    return status


if __name__ == "__main__":
    sys.exit(main())
