"""Sphinx settings. Nothing is fetched: no intersphinx, no web fonts, formulas as SVG."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from make import PROJECT

import pyrarchy

project = "Pyrarchy"
author = "The Pyrarchy developers"
copyright = author
release = version = pyrarchy.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "myst_nb", "formulas"]
# what is shown through _generated/project is not shown twice
exclude_patterns = ["_build", *(Path(page).name for page in PROJECT.values() if page.startswith("docs/"))]
suppress_warnings = ["myst.xref_missing", "myst.header"]  # links between files of the repository, such as LICENSE

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more: shapes, supports, units
autosummary_generate = False
add_module_names = False
python_use_unqualified_type_names = True

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # make.py has run the tutorials
nb_merge_streams = True

html_math_renderer = "svg"
html_theme = "furo"
html_title = "Pyrarchy"
html_static_path = ["_static"]
html_css_files = ["pyrarchy.css"]
html_show_sphinx = False
