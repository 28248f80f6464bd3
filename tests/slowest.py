#!/usr/bin/env python3
"""Prints the ten slowest tests of a JUnit report."""

import sys
import xml.etree.ElementTree as ElementTree

try:
    cases = ElementTree.parse(sys.argv[1]).iter("testcase")
except (OSError, ElementTree.ParseError) as error:
    sys.exit(f"slowest.py: {error}")
tests = [(float(case.get("time")), case.get("classname"), case.get("name")) for case in cases]
for seconds, binary, name in sorted(tests, reverse=True)[:10]:
    print(f"{seconds:8.1f}  {binary.removeprefix('strata_exporter::')} {name}")
