"""How large report.html is and how soon a browser shows it, over rows.

    python -m tests.bench.bench_page [--rows 0 10000 50000]

The file is opened from the disk in the system's Chromium, three times each. First paint is the browser's own mark.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.test_page_browser import FLAGS, NAMES, Opened, many_rows

PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 10_000, 50_000])
    rows = parser.parse_args().rows
    path = next(found for name in NAMES if (found := shutil.which(name)))
    print("rows     kB       first paint, ms")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        for count in rows:
            file = many_rows(Path(folder), count)
            paints = [Opened(browser, file).tab.evaluate(PAINT) for _ in range(3)]
            print(f"{count:<8} {file.stat().st_size / 1e3:<8.0f} {', '.join(f'{paint:.0f}' for paint in paints)}")
        browser.close()


if __name__ == "__main__":
    main()
