#!/usr/bin/env python3
"""Makes a picture of a page of a running exporter, as an SVG.

    docs/pictures/make.py [--url URL] [--width PX] [--height PX] [--wait SECONDS]
                          [--replace TEXT=OTHER]... FILE

Takes chromium, chromedriver and pdftocairo (Debian's chromium-driver, poppler-utils).
page.svg shows an exporter with a few containers and guests; names of the machine that it
was made on were replaced.
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


def ask(method, path, body=None):
    data = json.dumps(body or {}).encode() if method == "POST" else None
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["value"]


def until_ready():
    for _ in range(100):
        try:
            if ask("GET", "/status")["ready"]:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("make.py: chromedriver does not answer")


def printed(arguments):
    """The page as a PDF of one sheet."""
    flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"]
    wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": flags}}}
    session = f"/session/{ask('POST', '/session', {'capabilities': wanted})['sessionId']}"

    def tools(command, **parameters):
        body = {"cmd": command, "params": parameters}
        return ask("POST", f"{session}/goog/cdp/execute", body)

    width, height = arguments.width, arguments.height
    tools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    tools("Emulation.setEmulatedMedia", media="screen")
    ask("POST", f"{session}/url", {"url": arguments.url})
    # For lines to have some length.
    time.sleep(arguments.wait)
    ask("POST", f"{session}/execute/sync", {"script": REPLACE, "args": [arguments.replace]})
    paper = {"paperWidth": width / PIXELS_PER_INCH, "paperHeight": height / PIXELS_PER_INCH}
    margins = {f"margin{side}": 0 for side in ["Top", "Bottom", "Left", "Right"]}
    pdf = tools("Page.printToPDF", printBackground=True, pageRanges="1", **paper, **margins)
    ask("DELETE", session)
    return base64.b64decode(pdf["data"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:9100/", help="default %(default)s")
    parser.add_argument("--width", type=int, default=1280, help="in pixels; default %(default)s")
    parser.add_argument("--height", type=int, default=900, help="in pixels; default %(default)s")
    parser.add_argument("--wait", type=float, default=0, help="seconds to look on before")
    parser.add_argument("--replace", action="append", default=[], type=lambda it: it.split("=", 1), help="names to change")
    parser.add_argument("file", type=Path, help="the SVG to write")
    arguments = parser.parse_args()
    driver = subprocess.Popen(["chromedriver", f"--port={PORT}"], stdout=subprocess.DEVNULL)
    try:
        until_ready()
        pdf = printed(arguments)
    finally:
        driver.terminate()
        driver.wait()
    with tempfile.NamedTemporaryFile(suffix=".pdf") as sheet:
        sheet.write(pdf)
        sheet.flush()
        subprocess.run(["pdftocairo", "-svg", sheet.name, arguments.file], check=True)


if __name__ == "__main__":
    main()
