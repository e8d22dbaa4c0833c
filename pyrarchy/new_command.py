"""``pyrarchy new NAME``: a package with a model, a guide and a row to fill in, and the test that they must pass."""

import datetime
import keyword
import sys
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from string import Template

from .atomic import WriteError, write_atomically
from .faults import FolderError
from .registry import list_pairs

FILES = {"model.py": "model.py.txt", "guide.py": "guide.py.txt", "row.py": "row.py.txt"}


def run_new(name, folder="."):
    """Write the package ``NAME/`` and ``test_NAME.py``; existing files are never overwritten. Returns 0."""
    written = write_pair(name, folder)
    print("\n".join(str(path) for path in written))
    print(f"next: fill them in; run `python -m pytest test_{name}.py` and `pyrarchy check {name}.row:{name}`;")
    print(f"      then `pyrarchy fit {name}.row:{name}`")
    return 0


def write_pair(name, folder="."):
    """Write the files of a new pair and return their paths.

    :raises ValueError: when the name is no Python identifier in lower case, or something of that name is there already.
    """
    title = "".join(part.capitalize() for part in name.split("_"))
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower() or not title.isidentifier():
        raise ValueError(f"'{name}' cannot name a pair: give a Python identifier in lower case, such as my_pair")
    if name in list_pairs():
        raise ValueError(f"there is a pair called {name} already; choose another name")
    folder = Path(folder)
    package, test = folder / name, folder / f"test_{name}.py"
    for path in (package, test):
        if path.exists():
            raise ValueError(f"{path} is there already; choose another name or folder")
    # The finders are asked themselves: importlib.util.find_spec would also know what this process has imported before.
    if any(finder.find_spec(name, None) for finder in sys.meta_path):
        raise ValueError(f"'{name}' is the name of an installed module, which the pair would hide; choose another")
    words = {"name": name, "title": title, "year": datetime.date.today().year}
    templates = files("pyrarchy") / "templates"
    content = {package / "__init__.py": f'"""The pair {name}: a model, a guide and the row that joins them."""\n'}
    for target, template in FILES.items():
        content[package / target] = Template((templates / template).read_text(encoding="utf-8")).substitute(words)
    content[test] = Template((templates / "test.py.txt").read_text(encoding="utf-8")).substitute(words)
    try:
        package.mkdir(parents=True)
        for path, text in content.items():
            write_atomically(path, text.encode())
    except OSError as error:
        for path in content:  # half a package would be in the way of the next attempt
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            package.rmdir()
        if isinstance(error, WriteError):
            raise
        raise FolderError(f"{package}: cannot be made ({error.strerror}); give another --folder") from error
    return list(content)
