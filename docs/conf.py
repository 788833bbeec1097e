"""How Sphinx makes the site of these documents: ``python3 .ci/tox -e docs``."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

_ROOT = Path(__file__).resolve().parent.parent
_SOURCE = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]

project = "beanpool"
author = "the beanpool authors"
project_copyright = "2026, the beanpool authors"
release = version = importlib.metadata.version("beanpool")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_argparse_cli",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist"]
# Links between documents name headings, as they do where the repository is read.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"beanpool {release}"
html_theme_options = {
    "source_view_link": f"{_SOURCE}/blob/main/docs/{{filename}}",
    "source_edit_link": f"{_SOURCE}/edit/main/docs/{{filename}}",
}
html_static_path = ["_static"]
html_css_files = ["beanpool.css"]
html_show_sphinx = False

# Packages whose __all__ is public.
_PUBLIC = (
    *("beanpool", "beanpool.admin", "beanpool.testing", "beanpool.worker"),
    *("beanpool.contrib.dramatiq", "beanpool.contrib.prometheus"),
)


def _miss_nothing(app: Sphinx, environment: BuildEnvironment) -> None:
    """Warn of each public name that the reference does not have: as an error, for all warnings are."""
    entries = environment.domains.python_domain.objects
    for package in _PUBLIC:
        for name in importlib.import_module(package).__all__:
            if f"{package}.{name}" not in entries:
                logging.getLogger(__name__).warning("no page has an entry of %s.%s", package, name)


def _tell_machines(app: Sphinx, failed: Exception | None) -> None:
    """Give the site the repository's llms.txt, whose links lead to the pages' sources there."""
    if failed is None and app.builder.name == "html":
        text = (_ROOT / "llms.txt").read_text(encoding="utf-8")
        Path(app.outdir, "llms.txt").write_text(
            re.sub(r"\(docs/([\w-]+\.md)\)", r"(_sources/\1.txt)", text), encoding="utf-8"
        )


def setup(app: Sphinx) -> None:
    """Register what is done beside the pages."""
    app.connect("env-check-consistency", _miss_nothing)
    app.connect("build-finished", _tell_machines)
