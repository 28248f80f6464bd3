#!/usr/bin/env python3
"""Renders a page of a running exporter as an SVG.

    docs/pictures/make.py [--url URL] [--width PX] [--height PX] [--wait SECONDS]
                          [--replace TEXT=OTHER]... FILE

Requires chromium, chromedriver and pdftocairo (Debian's chromium-driver, poppler-utils).
page.svg shows an exporter with a few containers and domains; host names were replaced.
"""

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PORT = 9515
PIXELS_PER_INCH = 96

REPLACE = """
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode())
    for (const [text, other] of arguments[0])
        texts.currentNode.data = texts.currentNode.data.replaceAll(text, other);
"""


def request_driver(method, path, body=None):
    data = json.dumps(body or {}).encode() if method == "POST" else None
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["value"]


def wait_until_ready():
    for _ in range(100):
        try:
            if request_driver("GET", "/status")["ready"]:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("make.py: chromedriver does not respond")


def print_to_pdf(arguments):
    """The page as a single-page PDF."""
    flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"]
    wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": flags}}}
    session = f"/session/{request_driver('POST', '/session', {'capabilities': wanted})['sessionId']}"

    def devtools(command, **parameters):
        body = {"cmd": command, "params": parameters}
        return request_driver("POST", f"{session}/goog/cdp/execute", body)

    width, height = arguments.width, arguments.height
    devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    devtools("Emulation.setEmulatedMedia", media="screen")
    request_driver("POST", f"{session}/url", {"url": arguments.url})
    # Wait until the graphs have some data.
    time.sleep(arguments.wait)
    request_driver("POST", f"{session}/execute/sync", {"script": REPLACE, "args": [arguments.replace]})
    paper = {"paperWidth": width / PIXELS_PER_INCH, "paperHeight": height / PIXELS_PER_INCH}
    margins = {f"margin{side}": 0 for side in ["Top", "Bottom", "Left", "Right"]}
    pdf = devtools("Page.printToPDF", printBackground=True, pageRanges="1", **paper, **margins)
    request_driver("DELETE", session)
    return base64.b64decode(pdf["data"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:9100/", help="default %(default)s")
    parser.add_argument("--width", type=int, default=1280, help="in pixels; default %(default)s")
    parser.add_argument("--height", type=int, default=900, help="in pixels; default %(default)s")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait before rendering")
    parser.add_argument("--replace", action="append", default=[], type=lambda it: it.split("=", 1), help="texts to replace")
    parser.add_argument("file", type=Path, help="the SVG to write")
    arguments = parser.parse_args()
    driver = subprocess.Popen(["chromedriver", f"--port={PORT}"], stdout=subprocess.DEVNULL)
    try:
        wait_until_ready()
        pdf = print_to_pdf(arguments)
    finally:
        driver.terminate()
        driver.wait()
    with tempfile.NamedTemporaryFile(suffix=".pdf") as sheet:
        sheet.write(pdf)
        sheet.flush()
        subprocess.run(["pdftocairo", "-svg", sheet.name, arguments.file], check=True)


if __name__ == "__main__":
    main()
