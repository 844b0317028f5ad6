"""Build the site of docs/ into site/: `python -m scripts.site`, or `make docs`.

The site is plain files that open from a disk: no fonts, scripts or pictures from elsewhere, no telemetry. Links that lead
out of docs/ go to the repository. Every link is checked.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/codecswap/codecswap/blob/main"
BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
"""Pages at the top of the repository that are pages of the site, too."""
SECTIONS = {
    "Choose": ("benchmarks", "models", "gdn", "rewrite"),
    "Train": ("prepare", "training", "performance", "reliability"),
    "Evaluate": ("evaluation", "report"),
    "Deploy": (
        "deploy",
        "quantization",
        "archives",
        "npu",
        "rockchip",
        "ethos-u",
        "qualcomm",
        "openvino",
        "phones",
        "c",
        "page",
    ),
    "Reference": ("options", "api", "bitstream", "CHANGELOG"),
    "Contribute": ("CONTRIBUTING", "architecture", "SECURITY"),
}
"""The site's pages but for the first, in order; those of docs/ that are in no section come last, under More."""
CONFIG = """[project]
site_name = "codecswap"
site_description = "Replace the decoder layers of a learned image codec that an NPU cannot run"
docs_dir = "docs"
site_dir = "site"
use_directory_urls = false
nav = {nav}
[project.extra]
generator = false
[project.theme]
font = false
features = ["navigation.tabs", "content.code.copy", "toc.follow"]
"""
LINK = re.compile(r"\]\(([^)\s]+)\)")


def main() -> int:
    """Build site/; returns the exit code."""
    faults = build(ROOT / "site")
    print("\n".join(faults) or f"Written: {ROOT / 'site' / 'index.html'}. Every link leads somewhere.")
    return bool(faults)


def build(target: Path) -> list[str]:
    """Build the site into the folder ``target``, which is replaced; returns what is wrong with it, a line each."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(ROOT / "docs", folder / "docs")
        for name in BESIDE:
            shutil.copy(ROOT / name, folder / "docs")
        for page in (folder / "docs").rglob("*.md"):
            page.write_text(_linked(page, folder / "docs"), "utf-8")
        (folder / "zensical.toml").write_text(CONFIG.format(nav=_nav(folder / "docs")), "utf-8")
        command = [sys.executable, "-m", "zensical", "build", "--clean"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            return [(done.stderr or done.stdout).strip()]
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder / "site", target)
    return check(target)


def check(site: Path) -> list[str]:
    """Links of a built site that lead nowhere, and what a page would load from another host; a line each."""
    pages = {path.resolve(): _Page(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    faults = []
    for path, page in pages.items():
        name = path.name
        faults += [f"{name} loads {address}" for address in page.loaded if re.match(r"(https?:)?//", address)]
        for address in page.loaded + page.links:
            if re.match(r"[a-z]+:|//", address):
                continue
            place, fragment = urldefrag(unquote(address))
            there = (path.parent / place).resolve() if place else path
            there = there / "index.html" if there.is_dir() else there
            if not there.exists():
                faults.append(f"{name} links to {address}, which is not there")
            elif fragment and there in pages and fragment not in pages[there].ids:
                faults.append(f"{name} links to {address}, where there is no such heading")
    for style in site.rglob("*.css"):
        faults += [
            f"{style.name} loads {address}"
            for address in re.findall(r"url\((https?:[^)]+)\)", style.read_text("utf-8"))
        ]
    return sorted(set(faults))


class _Page(HTMLParser):
    """Links, loaded files and identifiers of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what one tag has."""
        values = {name: value for name, value in attrs if value}
        self.ids.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "src" in values:
            self.loaded.append(values["src"])
        elif tag == "link" and "href" in values and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(values["href"])


def _nav(docs: Path) -> str:
    """The list of pages, as TOML."""
    there = {str(path.relative_to(docs).with_suffix("")) for path in docs.rglob("*.md")} - {"index"}
    notes = sorted(name for name in there if name.startswith("notes/"))
    more = sorted(there - {name for names in SECTIONS.values() for name in names} - set(notes))
    sections = {**SECTIONS, "More": tuple(more), "Notes": tuple(notes)}
    entries = ['{ "Start" = "index.md" }']
    for title, names in sections.items():
        if pages := [f"{name}.md" for name in names if name in there]:
            entries.append(f"{{ {json.dumps(title)} = {json.dumps(pages)} }}")
    return f"[{', '.join(entries)}]"


def _linked(page: Path, docs: Path) -> str:
    """A page's text with its links out of docs/ led to the repository, or to the page of the site."""
    place = page.relative_to(docs)
    top = place.name in BESIDE

    def lead(match: re.Match[str]) -> str:
        address, _, fragment = match[1].partition("#")
        if ":" in address:
            return match[0]
        ending = (
            f"#{re.sub('-+', '-', fragment)}" if fragment else ""
        )  # GitHub keeps repeated hyphens, the site does not
        if not address:
            return f"]({ending})"
        there = (ROOT / (place.parent if top else Path("docs") / place.parent) / address).resolve().relative_to(ROOT)
        within = there.name if str(there) in BESIDE else None
        if there.parts[0] == "docs":
            within = str(there.relative_to("docs"))
        up = "../" * (len(place.parts) - 1)
        return f"]({up + within if within else f'{REPOSITORY}/{there}'}{ending})"

    return LINK.sub(lead, page.read_text("utf-8"))


if __name__ == "__main__":
    sys.exit(main())
