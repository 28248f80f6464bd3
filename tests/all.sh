#!/bin/bash
# Installs what the tests need, then runs all of them and whatever else must hold
# before a change is good. Ends at the first thing that is wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Not everyone has those of root, where some of what the tests start is.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# step COMMAND...: runs it, and says how long it took.
step() {
    local started=$SECONDS
    echo "== $*"
    "$@"
    echo "== took $((SECONDS - started)) s"
}

step tests/setup.sh packages

# Most of the machine's building is waiting for packages: compile meanwhile. It is a
# group of processes of its own, so that it can be ended with all it started.
# (sudo asks for passwords in the foreground only.)
((EUID == 0)) || step tests/setup.sh machine
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
log=$target/setup.log
set -m
{
    tests/setup.sh tools && tests/setup.sh machine
} >"$log" 2>&1 &
machine=$!
set +m
trap 'kill -- "-$machine" 2>/dev/null || true' EXIT

step cargo fmt --check
step cargo clippy --all-targets --all-features -- -D warnings
# The program of the image, which is to have everything in itself.
step cargo rustc -p strata_exporter --bin strata_exporter -- -C target-feature=+crt-static
install -D "$target/debug/strata_exporter" "$target/static/strata_exporter"
step cargo test --no-run
step cargo build --release
echo "== cargo-deb, cargo-deny and the machine"
if ! wait "$machine"; then
    cat "$log"
    echo "cargo-deb, cargo-deny or the machine for tests/v2_machine was not built"
    exit 1
fi
trap - EXIT
# Without advisories, which are fetched from elsewhere.
step "$target/tools/bin/cargo-deny" check licenses bans sources

if ((EUID == 0)); then
    # A test that cannot run is a failure.
    export STRATA_TEST_REQUIRE=1
else
    echo "== not root: what needs it is skipped"
fi
step cargo test
step cargo test --features virt --lib --test libvirt_virt
step fuzz/run.sh 5
step benches/host.py --short --strata "$target/release/strata_exporter"
step benches/web_config.py --rounds 2 --strata "$target/release/strata_exporter"
step benches/soak.py --short --strata "$target/release/strata_exporter"
if ((EUID == 0)); then
    step benches/containers.py --short --strata "$target/release/strata_exporter"
    step benches/memory.py --short --strata "$target/release/strata_exporter"
    step benches/domains.py --short --strata "$target/release/strata_exporter"
    step benches/history.py --short --strata "$target/release/strata_exporter"
fi

echo "all passed in $SECONDS s"
