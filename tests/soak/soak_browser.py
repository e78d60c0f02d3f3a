"""A person's first hour in the browser: two runs from Prefect's form, all pages, and a rollback.

    PYTHONPATH=. python tests/soak/soak_browser.py [--screenshots FOLDER]

`anime-genre up` runs in a new workspace on the built-in site. The first run is started from Prefect's form; then its
artifacts, MLflow, TensorBoard and the page are opened. The second run trains with another seed, and goes live because
the form says so. Then the deployment `rollback` brings the first model back. Each step waits for what its page should
show, and fails if it does not. Screenshots of all steps are kept with `--screenshots`.
"""

import argparse
import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from infra.local.site.drawing import poster_jpeg
from infra.local.site.invented_titles import invented_titles
from tests.browser import chromium_browser
from tests.up import Up

_PAGE_SECONDS = 60  # for a page to show something, on a busy machine
_RUN_SECONDS = 900


@dataclass
class Visitor:
    """A person with a browser window, who takes a screenshot of each step."""

    page: Page
    addresses: Mapping[str, str]
    screenshots: Path
    began: float = field(default_factory=time.monotonic)
    steps: int = 0

    def keep(self, step: str) -> None:
        """Take a screenshot, and print the step with the seconds since the start."""
        self.steps += 1
        self.page.wait_for_timeout(1000)  # until charts are drawn
        self.page.screenshot(path=self.screenshots / f"{self.steps:02} {step}.png", full_page=True)
        print(f"{time.monotonic() - self.began:5.0f} s  {step}", flush=True)

    def see(self, text: str, seconds: float = _PAGE_SECONDS) -> None:
        """Wait for a text that matches an expression."""
        expect(self.page.get_by_text(re.compile(text)).first).to_be_visible(timeout=seconds * 1000)

    def run_deployment(self, name: str, values: Mapping[str, str] | None = None, promote: str = "") -> None:
        """Start a run with the form of a deployment, wait for its end and look at its artifacts."""
        page, runs_before = self.page, self._runs(name).count()
        page.goto(f"{self.addresses['Prefect']}/deployments")
        page.locator("a[href*='/deployments/deployment/']", has_text=re.compile(f"^{name}$")).first.click()
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Custom run").click()
        for label, value in (values or {}).items():
            self._field(label).locator("input, textarea").first.fill(value)
        if promote:
            self._field("Promote").locator(".p-select-button__icon").click()
            page.locator(".p-select-option", has_text=promote).first.click()
        self.keep(f"form of {name}")
        page.get_by_role("button", name="Submit").click()
        page.get_by_text("Next Run").wait_for()
        deadline = time.monotonic() + _PAGE_SECONDS
        while self._runs(name).count() == runs_before:  # it gets its name when it begins
            assert time.monotonic() < deadline, f"no run of {name} begins"
        self._runs(name).first.click()
        page.get_by_text("Job Variables").wait_for()  # the list of runs is left
        ended = page.get_by_text(re.compile("^(Completed|Failed|Crashed|Cancelled)$")).first
        expect(ended).to_be_visible(timeout=_RUN_SECONDS * 1000)
        assert ended.inner_text() == "Completed", f"the run of {name}: {ended.inner_text()}"
        page.get_by_text("Artifacts", exact=True).click()
        self.see("^summary$")
        self.keep(f"artifacts of {name}")

    def _runs(self, name: str) -> Locator:
        """The runs of a deployment that have begun, newest first."""
        self.page.goto(f"{self.addresses['Prefect']}/runs")
        self.page.get_by_text("Items per page").first.wait_for()
        self.page.wait_for_timeout(2000)
        return self.page.locator("a[href*='/runs/flow-run/']", has_text=re.compile(rf"^{name} 20"))

    def _field(self, label: str) -> Locator:
        title = self.page.locator("label", has_text=re.compile(rf"^\s*{label}( \(Optional\))?\s*$")).first
        return title.locator("xpath=ancestor::div[contains(@class, 'schema-form-property')][1]")

    def predict(self, poster: Path, version: str) -> None:
        """Predict the genres of a poster with the page, and look at its page about the model."""
        page = self.page
        page.goto(self.addresses["Page"])
        page.set_input_files("input[type=file]", poster)
        page.get_by_role("button", name="Predict genres").click()
        self.see(f"Predicted by model version {version}")
        self.keep(f"genres by version {version}")
        page.get_by_role("link", name="Model", exact=True).click()
        self.see("It learned from posters")
        self.keep(f"model version {version}")


def visit(visitor: Visitor, poster: Path) -> None:
    """Use everything once, in the order of a first hour."""
    page, addresses = visitor.page, visitor.addresses
    page.goto(addresses["Page"])
    visitor.see("No model has been trained yet")
    visitor.keep("page before the first run")

    visitor.run_deployment("retrain", {"Epochs": "6", "Trials": "1"})
    page.get_by_text("summary", exact=True).first.click()
    visitor.see("Model of this run")
    visitor.keep("summary")
    page.goto(addresses["MLflow"])
    visitor.see(r"built-in 20.* posters")
    visitor.keep("runs in MLflow")
    page.get_by_text(re.compile(r"built-in 20.* posters")).first.click()
    visitor.see("weighted_f1")
    visitor.keep("a run in MLflow")
    page.goto(f"{addresses['MLflow'].partition('/#')[0]}/#/models")
    visitor.see("anime-genre-built-in")
    visitor.keep("models in MLflow")
    page.goto(f"{addresses['TensorBoard']}/#timeseries")
    visitor.see("learning_rate")
    visitor.keep("TensorBoard")
    visitor.predict(poster, "1")

    visitor.run_deployment("retrain", {"Epochs": "2", "Trials": "1", "Seed": "1"}, promote="always")
    visitor.predict(poster, "2")
    visitor.run_deployment("rollback")
    visitor.predict(poster, "1")


def main() -> int:
    """Run all steps; a step that fails ends the script with its error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshots", type=Path, help="folder to keep them in")
    screenshots = parser.parse_args().screenshots
    with (
        tempfile.TemporaryDirectory(prefix="browser-") as folder,
        chromium_browser() as browser,
        Up(Path(folder) / "workspace") as up,
    ):
        kept = screenshots or Path(folder) / "screenshots"
        kept.mkdir(parents=True, exist_ok=True)
        poster = Path(folder) / "poster.jpg"
        poster.write_bytes(poster_jpeg(invented_titles()[0]))
        visitor = Visitor(browser.new_page(viewport={"width": 1300, "height": 1000}), up.addresses, kept)
        visitor.page.set_default_timeout(_PAGE_SECONDS * 1000)
        try:
            visit(visitor, poster)
            up.stop(signal.SIGINT, 130)
        except BaseException:
            visitor.keep("where it failed")
            raise
    print(f"{visitor.steps} steps in {time.monotonic() - visitor.began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
