"""The documentation: ``python -m sphinx -W -b html docs docs/_build``."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

project = "aioproc"
copyright = "2026, the aioproc authors"
try:
    release = metadata.version("aioproc")
except metadata.PackageNotFoundError:  # not installed
    release = "of this clone"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "aioproc"

default_role = "py:obj"  # a link where there is something to link to
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_custom_sections = ["If cancelled", "If a peer dies", "Cost"]

doctest_global_setup = "from aioproc import *"
