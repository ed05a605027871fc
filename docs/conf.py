"""The site: `make docs` builds it into build/docs; every warning is an error."""

import dataclasses
import os
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# What the command line says: the one of this environment, on so many columns.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["COLUMNS"] = "72"

project = "sgdstab_fast"
author = "The sgdstab_fast developers"
project_copyright = author
release = version_of("sgdstab_fast")
version = release

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.programoutput",
]
exclude_patterns = ["gallery/**/*.ipynb", "gallery/**/*.py", "gallery/**/*.json", "sg_execution_times.rst"]
templates_path = ["_templates"]

# Pages are Markdown with formulas, definition lists and cards; headings have anchors.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# What a function says of itself is its page.
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
default_role = "py:obj"  # a name between backticks is a link where it has a page

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "gallery_hooks.Order",
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib", "gallery_hooks.limit_time"),
    "reset_modules_order": "both",
    "doc_module": ("sgdstab_fast",),
    "backreferences_dir": "reference/generated/examples",
    "reference_url": {"sgdstab_fast": None},
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "plot_gallery": "True",
}

html_theme = "pydata_sphinx_theme"
html_title = "sgdstab_fast"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "sgdstab_fast"},
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 8,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
}
html_sidebars = {"index": [], "start": []}


MADE_BY_USERS = ("Kernel", "Recurrence")


def as_text(app, what, name, value, options, lines):
    """Take |x| and names that end in _ for what they are, which reStructuredText would not."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            # what is between backticks stays as it is
            parts = re.split(r"(`+[^`]*`+)", line)
            parts[::2] = [re.sub(r"\||(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def without_constructor(app, what, name, value, options, signature, annotation):
    """Leave out how a result is made: functions return it."""
    return ("", None) if dataclasses.is_dataclass(value) and name.rpartition(".")[2] not in MADE_BY_USERS else None


def setup(app):
    """Register what is of this site alone, before numpydoc reads docstrings."""
    app.connect("autodoc-process-docstring", as_text, priority=400)
    app.connect("autodoc-process-signature", without_constructor)
