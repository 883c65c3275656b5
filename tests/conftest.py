"""What several test files share: headless Chromium, and a test with one silent thread."""

import shutil
import tempfile

import pytest


@pytest.fixture(scope="session")
def chromium():
    """A function that gives headless Chromium with a new profile and more flags.

    Without Chromium and its driver the test is skipped.

    Chromium and its profile go when the tests have ended."""
    opened = []

    def start(*flags):
        webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
        binary = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        driver = shutil.which("chromedriver")
        if not (binary and driver):
            pytest.skip("no chromium with chromedriver on this machine")
        profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        always = "headless no-sandbox disable-gpu disable-quic no-first-run"
        always += " disable-background-networking disable-component-update disable-sync"
        always += " disable-dev-shm-usage"
        for flag in [*always.split(), f"user-data-dir={profile.name}", *flags]:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        opened.append((chrome, profile))
        return chrome

    yield start
    for chrome, profile in opened:
        chrome.quit()
        profile.cleanup()


@pytest.fixture
def one_silent_thread(monkeypatch):
    """One thread, no progress bars."""
    import torch

    monkeypatch.setenv("REPLEARN_STATIC", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
