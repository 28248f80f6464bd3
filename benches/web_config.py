#!/usr/bin/python3
"""Measures the CPU cost of TLS, client certificates and basic authentication per scrape, with a
keep-alive connection and with a new connection per scrape.

    benches/web_config.py [--rounds N] [--strata PATH]

Requires openssl. Default host collectors; the bcrypt hash has cost 12 and is verified once, before the
measurement.
"""

import argparse
import base64
import http.client
import ssl
import statistics
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from host import HEADERS, ROOT, Exporter

# The hash of "test" from the documentation of exporter-toolkit.
HASH = "$2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay"
BATCH = 20


class ConfiguredExporter(Exporter):
    """An exporter with or without a web configuration."""

    def __init__(self, name, strata, config, client, password):
        self.client, self.password = client, password
        command = [str(strata), "--no-collector.libvirt", "--engine.socket="]
        if config:
            command.append(f"--web.config.file={config}")
        super().__init__(name, command)

    def connect(self):
        if self.client is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.client)

    def wait(self, command):
        self.connection = self.connect()
        super().wait(command)

    def scrape(self, deadline=10):
        headers = {**HEADERS, "X-Prometheus-Scrape-Timeout-Seconds": str(deadline)}
        if self.password:
            headers["Authorization"] = "Basic " + base64.b64encode(self.password.encode()).decode()
        self.connection.request("GET", "/metrics", headers=headers)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 200:
            sys.exit(f"{self.name} returned status {response.status}: {body[:200]!r}")

    def batch(self, is_kept):
        """CPU time per scrape, in milliseconds."""
        before = self.cpu()
        for _ in range(BATCH):
            if not is_kept:
                self.connection.close()
                self.connection = self.connect()
            self.scrape()
        return (self.cpu() - before) / BATCH * 1000


def openssl(scratch, *words):
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=scratch)


def certificates(scratch):
    """Creates a CA and one certificate for server and client, on P-256."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(scratch, "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca", "-days", "1", "-subj", "/CN=ca")
    openssl(scratch, "req", *curve, "-keyout", "key", "-out", "request", "-subj", "/CN=bench")
    (scratch / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    signed = ["-CA", "ca", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names"]
    openssl(scratch, "x509", "-req", "-in", "request", "-out", "cert", *signed)


def configured_exporters(scratch, strata):
    tls = "tls_server_config:\n  cert_file: cert\n  key_file: key\n"
    clients = "  client_ca_file: ca\n  client_auth_type: RequireAndVerifyClientCert\n"
    users = f"basic_auth_users:\n  prometheus: {HASH}\n"
    plain, shown = (ssl.create_default_context(cafile=scratch / "ca") for _ in range(2))
    shown.load_cert_chain(scratch / "cert", scratch / "key")
    for name, text, client, password in [
        ("none", None, None, None),
        ("basic authentication", users, None, "prometheus:test"),
        ("TLS", tls, plain, None),
        ("TLS, basic authentication", tls + users, plain, "prometheus:test"),
        ("TLS, client certificates", tls + clients, shown, None),
    ]:
        config = scratch / f"{len(name)}.yml" if text else None
        if config:
            config.write_text(text)
        yield ConfiguredExporter(name, strata, config, client, password)


def main():
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--strata", default=ROOT / "target/release/strata_exporter", type=Path)
    arguments = parser.parse_args()
    exporters = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            certificates(Path(scratch))
            for exporter in configured_exporters(Path(scratch), arguments.strata):
                exporters.append(exporter)
                exporter.batch(True)
            results = {(exporter.name, is_kept): [] for exporter in exporters for is_kept in (True, False)}
            for _ in range(arguments.rounds):
                for is_kept in (True, False):
                    for exporter in exporters:
                        results[exporter.name, is_kept].append(exporter.batch(is_kept))
            print("| web configuration | keep-alive | new connection | RSS |")
            print("|---|---|---|---|")
            for exporter in exporters:
                kept, new = (statistics.median(results[exporter.name, is_kept]) for is_kept in (True, False))
                print(f"| {exporter.name} | {kept:.2f} ms | {new:.2f} ms | {exporter.memory():.1f} MB |")
        finally:
            for exporter in exporters:
                exporter.stop()


if __name__ == "__main__":
    main()
